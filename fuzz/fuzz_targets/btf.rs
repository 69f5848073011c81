//! The kernel's BTF: looked up in it are fields by paths that the input ends with, through unnamed members too.
#![no_main]

use huddle_observe::probes::btf::KernelTypes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(types) = KernelTypes::parse(bytes.to_vec()) else { return };
    // Names that the fuzzer can find in the comparisons.
    for name in ["a", "kvm_vcpu"] {
        for path in [&[][..], &["b"], &["a", "b"], &["", "b"]] {
            if let Ok(offset) = types.offset_bytes(name, path) {
                assert!(offset <= u32::MAX / 8, "offsets are kept in bits");
            }
        }
    }
});
