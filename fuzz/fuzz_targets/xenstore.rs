//! Answers of xenstored: no more is given than came, and never more than the protocol allows.
#![no_main]

use huddle_xen::xenstore::reply::{MAX_PAYLOAD, Reply, read};
use libfuzzer_sys::fuzz_target;

/// `struct xsd_sockmsg`.
const HEADER: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let mut left = bytes;
    match read(&mut left, 1) {
        Ok(Reply::Value(payload)) => {
            assert!(payload.len() <= MAX_PAYLOAD);
            // The payload is what was read last, and nothing after it was touched.
            let read = &bytes[..bytes.len() - left.len()];
            assert!(read.len() >= HEADER + payload.len() && read.ends_with(&payload));
        }
        Ok(Reply::Error(name)) => assert!(name.len() <= MAX_PAYLOAD),
        Err(_) => {}
    }
});
