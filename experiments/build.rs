//! Compiles the git revision into the programs.

fn main() {
    huddle_revision::emit(&[
        "model",
        "ebpf/abi",
        "ebpf/huddle.bpf.o",
        "collector/host",
        "collector/sharing",
        "collector/observe",
        "collector/xen",
        "experiments/guest",
    ]);
}
