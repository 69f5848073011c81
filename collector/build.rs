//! Compiles the git revision into the program.

fn main() {
    huddle_revision::emit(&[
        "model",
        "tui",
        "ebpf/abi",
        "ebpf/huddle.bpf.o",
        "collector/host",
        "collector/sharing",
        "collector/observe",
        "collector/xen",
        "collector/record",
        "collector/engine",
    ]);
}
