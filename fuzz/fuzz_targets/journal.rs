//! The journal of changes: any bytes are read, and what was read is read again when it is written anew.
#![no_main]

use huddle_host::pin::journal::{Header, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parsed = parse(bytes);
    assert!(parsed.keep_bytes <= bytes.len());
    // Where the end of a line was changed, one line holds two entries.
    assert!(parsed.entries.len() <= bytes.len() / 9, "an entry is a part of the file");
    assert!(parsed.damage.iter().all(|damage| damage.line <= parsed.lines));
    // What is cut off there loses nothing, and is no damage that was not there before.
    let kept = parse(&bytes[..parsed.keep_bytes]);
    assert_eq!((&kept.entries, &kept.damage), (&parsed.entries, &parsed.damage));

    let header = Header { schema: "huddle/journal/3".into(), boot_id: "a boot".into() };
    let mut written = serde_json::to_string(&header).expect("a header is JSON");
    for change in &parsed.entries {
        written.push('\n');
        written += &serde_json::to_string(change).expect("a change is JSON");
    }
    written.push('\n');
    let again = parse(written.as_bytes());
    assert_eq!((again.entries, again.damage), (parsed.entries, Vec::new()));
});
