//! The BPF object, built by `cargo xtask ebpf` and kept in the repository.

/// Aligned as an ELF reader needs it, which `include_bytes` alone does not guarantee.
#[repr(C, align(16))]
pub(super) struct Aligned<T: ?Sized>(pub(super) T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../../ebpf/huddle.bpf.o"));

/// The bytes of the object.
pub(super) fn bytes() -> &'static [u8] {
    &OBJECT.0
}
