//! Compiles the git revision into the programs of this package.

fn main() {
    huddle_revision::emit(&[
        "model",
        "tui",
        "collector",
        "experiments/guest",
        "ebpf/abi",
        "ebpf/huddle.bpf.o",
        "ebpf/events.bpf.o",
    ]);
}
