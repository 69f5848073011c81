//! BPF programs that are assembled here, loaded with bpf(2) directly, run and never attached (`BPF_PROG_RUN` of a
//! `BPF_PROG_TYPE_SYSCALL` program, Linux 5.14): a loader that first parses the kernel's types would take longer than
//! a whole scan.

pub(super) mod assembler;
pub(super) mod kernel_read;
pub(super) mod system_call;
