//! Command lines of processes, which anybody can write: what is shown of them cannot upset a terminal.
#![no_main]

use huddle_host::discover::cmdline::{CommandLine, args, qmp_sockets, vm_name, vm_uuid};
use huddle_host::discover::config_file::as_args;
use huddle_model::text::is_plain;
use huddle_model::vm::VmmKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let args = args(&text);
    for kind in [VmmKind::QemuKvm, VmmKind::Firecracker, VmmKind::CloudHypervisor, VmmKind::Crosvm] {
        let line = CommandLine::of(kind, &args);
        assert!(line.monitors.len() <= args.len());
        if let Some(name) = vm_name(kind, &args) {
            assert!(name.chars().all(is_plain) && !name.trim().is_empty() && name.len() <= 4096);
        }
    }
    if let Some(uuid) = vm_uuid(VmmKind::QemuKvm, &args) {
        let written = uuid.to_string();
        assert!(args.iter().any(|arg| arg.eq_ignore_ascii_case(&written)));
    }
    let configured = as_args(&text);
    assert!(qmp_sockets(&configured).len() <= configured.len());
    let sockets = qmp_sockets(&args);
    assert!(sockets.len() <= args.len());
});
