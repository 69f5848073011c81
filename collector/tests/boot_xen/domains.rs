//! The host itself: its domains are there, and commands in dom0 are answered as they should be.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::trial;
use huddle_testing::emulated::host::EmulatedHost;
use huddle_testing::emulated::trials::Shared;

/// More than a command of a few tenths of a second takes on a loaded machine.
const SOON: Duration = Duration::from_secs(60);

pub fn trials(host: &Shared) -> Vec<Trial> {
    vec![
        trial("the_domains_are_up", host, the_domains_are_up),
        trial("commands_are_answered_completely", host, commands_are_answered_completely),
        trial("huddle_runs_in_dom0", host, huddle_runs_in_dom0),
    ]
}

fn the_domains_are_up(dom0: &mut EmulatedHost) {
    let list = dom0.run("xl list", SOON).success();
    let names: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["Domain-0", "a1", "a2", "b1"], "{list}");
    let vcpus = dom0.run("xl vcpu-list", SOON).success();
    let of = |name: &str| vcpus.lines().filter(|line| line.split_whitespace().next() == Some(name)).count();
    assert_eq!((of("a1"), of("a2"), of("b1")), (1, 1, 1), "{vcpus}");
    let topology = dom0.run("xl info -n | grep -A4 '^cpu:'", SOON).success();
    let nodes: Vec<&str> =
        topology.lines().skip(1).filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(nodes, ["0", "0", "1", "1"], "{topology}");
}

fn commands_are_answered_completely(dom0: &mut EmulatedHost) {
    let output = dom0.run("echo \"it's\"; echo wrong >&2; exit 3", SOON);
    assert_eq!((output.code, &*output.stdout, &*output.stderr), (3, "it's\n", "wrong\n"));
    let long = dom0.run("seq 1 20000", SOON).success();
    assert_eq!(long.len(), 108_894);
    assert_eq!(long.lines().last(), Some("20000"));
    let error = dom0.try_run("echo begun; sleep 600", Duration::from_secs(2)).unwrap_err();
    assert!(error.contains("longer than 2s") && error.contains("begun"), "{error}");
    // Nor does it go on and print into the answers of others.
    let endless = "sh -c 'while :; do echo late; sleep 0.1; done' | cat";
    dom0.try_run(endless, Duration::from_secs(2)).unwrap_err();
    assert_eq!(dom0.run("sleep 1; echo next", SOON).success(), "next\n");
    let processes = dom0.run("ps", SOON).success();
    assert!(!processes.contains("echo late"), "{processes}");
    // Messages of the kernel in between are on the console only.
    let printed = dom0.run("echo '<0>huddle: hello' >/dev/kmsg; echo done", SOON).success();
    assert_eq!(printed, "done\n");
    assert!(dom0.console().contains("huddle: hello"), "{}", dom0.console());
}

fn huddle_runs_in_dom0(dom0: &mut EmulatedHost) {
    let version = dom0.run("huddle --version", SOON).success();
    assert_eq!(version.trim(), concat!("huddle ", env!("HUDDLE_VERSION")));
}
