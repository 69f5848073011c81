//! Answers of a QMP socket, whose path comes from a command line that anybody can write.
#![no_main]

use std::io::{Read, Result, Write};

use huddle_host::discover::qmp::vcpu_threads;
use libfuzzer_sys::fuzz_target;

/// A connection that gives `sent`, then ends, and remembers whether anything was written to it.
struct Connection<'a> {
    sent: &'a [u8],
    was_asked: bool,
}

impl Read for Connection<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.sent.read(buffer)
    }
}

impl Write for Connection<'_> {
    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.was_asked = true;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut connection = Connection { sent: bytes, was_asked: false };
    let threads = vcpu_threads(&mut connection, 1 << 20);
    // Nothing is sent before QEMU has greeted, in its first line.
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let greeting = serde_json::from_slice::<serde_json::Value>(first);
    let has_greeted = greeting.is_ok_and(|greeting| greeting.get("QMP").is_some());
    assert!(has_greeted || !connection.was_asked);
    if let Ok(threads) = threads {
        assert!(connection.was_asked && threads.len() <= bytes.len());
    }
});
