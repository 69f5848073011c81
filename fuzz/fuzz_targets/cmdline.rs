//! Command lines of processes, which anybody can write: what is shown of them cannot upset a terminal.
#![no_main]

use huddle_host::discover::cmdline::{args, qmp_sockets, vm_name, vm_uuid};
use huddle_model::vm::VmmKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let args = args(&text);
    for kind in [VmmKind::QemuKvm, VmmKind::Firecracker, VmmKind::CloudHypervisor, VmmKind::Crosvm] {
        if let Some(name) = vm_name(kind, &args) {
            assert!(!name.contains(char::is_control) && !name.trim().is_empty());
            assert!(name.len() <= text.len());
        }
    }
    if let Some(uuid) = vm_uuid(VmmKind::QemuKvm, &args) {
        let written = uuid.to_string();
        assert!(args.iter().any(|arg| arg.eq_ignore_ascii_case(&written)));
    }
    let sockets = qmp_sockets(&args);
    assert!(sockets.len() <= args.len());
});
