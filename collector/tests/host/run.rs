//! The real loop on real KSM: passes start rounds, and merges are recorded for the right VM.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use huddle_host::HostRoot;
use huddle_observe::probes::ksm::merging_pages;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tenant::Tenant;
use crate::trial;
use huddle_testing::ksm::Ksm;
use huddle_testing::own_state;
use huddle_testing::recording::columns;

pub fn trials() -> Vec<Trial> {
    vec![trial("run_records_the_merges_of_each_vm", records_merges)]
}

fn records_merges() {
    let ksm = Ksm::start();
    ksm.set("run", "0");
    let tenants = ["a", "b"].map(|name| Tenant::start(name, "set:1:3000,copies:7:500"));
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"));
    huddle.args(["run", "--dry-run", "--min-interval", "0", "--window", "0.2", "--record"]).arg(&run_dir);
    for tenant in &tenants {
        huddle.args(["--vm", &format!("{}={}", tenant.name, tenant.pid())]);
    }
    let mut huddle = huddle.envs(own_state(dir.path())).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(huddle.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("round 1:")));
    // The programs are attached: whatever is merged from now on is seen.
    ksm.set("run", "1");
    ksm.merge(&tenants.each_ref().map(Tenant::pid));
    let merging = tenants.each_ref().map(|tenant| merging_pages(&HostRoot::real(), tenant.pid()).unwrap());
    kill(Pid::from_raw(huddle.id() as i32), Signal::SIGINT).unwrap();
    let rest: Vec<String> = log.collect();
    assert!(huddle.wait().unwrap().success(), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("WARN") || line.contains("ERROR")), "{rest:?}");

    let rounds = columns(&run_dir.join("decisions"), ["round"]);
    assert!(rounds.len() >= 3, "passes start rounds: {rounds:?}");
    let rows =
        columns(&run_dir.join("merging"), ["vm_pid", "pages_merged", "pages_broken", "pages_merged_now"]);
    for (tenant, merging) in tenants.iter().zip(merging) {
        let of = rows.iter().filter(|row| row[0] == Some(tenant.pid().into())).collect::<Vec<_>>();
        let sum = |column: usize| of.iter().map(|row| row[column].unwrap()).sum::<i64>();
        assert_eq!(of.last().unwrap()[3], Some(merging as i64), "the kernel's count at the end");
        // A merge or two may have been in the making at some reading.
        let (merged, broken) = (sum(1), sum(2));
        assert!(broken <= 2, "nobody wrote: {broken}");
        assert_eq!(merged, merging as i64, "what was merged stays merged");
        assert!(merging >= 3500, "{merging}");
    }
    let own = columns(&run_dir.join("windows"), ["lost_ksm_events"]);
    assert!(own.iter().all(|row| row[0] == Some(0)), "{own:?}");
}
