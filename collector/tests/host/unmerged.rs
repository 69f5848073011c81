//! Equal VMs before KSM has merged anything: nothing is moved, and the reason is reported.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::ksm::Ksm;
use huddle_testing::output::say;
use huddle_testing::own_state;
use libtest_mimic::Trial;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::tenant::Tenant;
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("twins_are_not_moved_before_anything_is_merged", waits),
        trial("a_loop_places_twins_as_soon_as_they_are_merged", places),
    ]
}

/// Two pairs of equal processes: as many as a host of two CPUs with a cache each can have together.
fn twins() -> [Tenant; 4] {
    [("a", 41), ("b", 41), ("c", 42), ("d", 42)]
        .map(|(name, set)| Tenant::start(name, &format!("set:{set}:2000")))
}

/// Whether pairs are together, and apart from each other.
fn are_paired(cpus: &[Vec<usize>; 4]) -> bool {
    cpus[0] == cpus[1] && cpus[2] == cpus[3] && cpus[0] != cpus[2]
}

fn cpus(pid: i32) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(pid)).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

fn huddle(dir: &tempfile::TempDir, arguments: &[&str], tenants: &[Tenant]) -> Command {
    let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"));
    huddle.args(arguments).envs(own_state(dir.path())).env_remove("HUDDLE_LOG");
    for tenant in tenants {
        huddle.args(["--vm", &format!("{}={}", tenant.name, tenant.pid())]);
    }
    huddle
}

fn json(dir: &tempfile::TempDir, arguments: &[&str], tenants: &[Tenant]) -> Value {
    let output = huddle(dir, &[arguments, &["--format", "json"]].concat(), tenants).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn waits() {
    let ksm = Ksm::start();
    ksm.set("run", "0");
    let dir = tempfile::tempdir().unwrap();
    let tenants = twins();
    let before = tenants.each_ref().map(|tenant| cpus(tenant.pid()));
    let now = || tenants.each_ref().map(|tenant| cpus(tenant.pid()));

    for policy in ["paper", "sharing", "exact", "opposed"] {
        let pinned = json(&dir, &["pin", "--policy", policy], &tenants);
        let plan = &pinned["plan"];
        assert_eq!((&pinned["changed"], &pinned["skipped"]), (&0.into(), &0.into()), "{pinned}");
        assert_eq!((&plan["placement"], &plan["shared_total"]), (&Value::Array(Vec::new()), &0.into()));
        let waiting = plan["waiting"].as_str().unwrap();
        for words in ["nothing is merged now", "run is 0", "--method content"] {
            assert!(waiting.contains(words), "{waiting}");
        }
        assert_eq!(now(), before);
    }
    let output = huddle(&dir, &["pin"], &tenants).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.ends_with("nothing moved\n"), "{text}");
    let output = huddle(&dir, &["plan"], &tenants).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("- nothing is merged now"));
    // KSM runs, and comes to these two last.
    ksm.set("pages_to_scan", "1");
    ksm.set("sleep_millisecs", "5000");
    ksm.set("run", "1");
    let late = ["e", "f"].map(|name| Tenant::start(name, "set:43:2000"));
    let plan = json(&dir, &["plan"], &late);
    let waiting = plan["waiting"].as_str().unwrap();
    if ksm.number("full_scans") > 0 {
        assert!(waiting.contains("KSM has not come to the memory of e and f"), "{waiting}");
    } else {
        assert!(waiting.contains("full_scans is 0"), "{waiting}");
    }
    ksm.set("run", "0");

    // What was pinned stays, too: nothing is moved back either.
    let spread = json(&dir, &["pin", "--policy", "spread"], &tenants);
    if spread["plan"]["domains"].as_array().unwrap().len() < 2 {
        return say("one cache domain: pinning is not seen");
    }
    let pinned = now();
    assert!((0..4).all(|at| pinned[at] != before[at]), "{pinned:?}");
    assert_eq!(json(&dir, &["pin"], &tenants)["changed"], 0);
    assert_eq!(now(), pinned);
    assert_eq!(json(&dir, &["restore"], &[])["restored"], 4);
    assert_eq!(now(), before);

    // The contents are the answer that merging does not have yet.
    let matrix = dir.path().join("matrix.json");
    let contents = json(&dir, &["matrix", "--method", "content", "--cpu-share", "1"], &tenants);
    std::fs::write(&matrix, contents.to_string()).unwrap();
    let plan = json(&dir, &["plan", "--matrix", matrix.to_str().unwrap()], &[]);
    let domain = |at: usize| plan["placement"][at]["domain"].as_u64().unwrap();
    assert_eq!(plan["waiting"], Value::Null);
    assert!(domain(0) == domain(1) && domain(2) == domain(3) && domain(0) != domain(2), "{plan}");

    ksm.set("pages_to_scan", "20000");
    ksm.set("sleep_millisecs", "10");
    ksm.set("run", "1");
    ksm.merge(&tenants.each_ref().map(Tenant::pid));
    let merged = json(&dir, &["pin"], &tenants);
    assert_eq!((&merged["changed"], &merged["plan"]["waiting"]), (&4.into(), &Value::Null), "{merged}");
    assert!(are_paired(&now()), "{:?}", now());
    assert_eq!(json(&dir, &["restore"], &[])["restored"], 4);
}

fn places() {
    let ksm = Ksm::start();
    ksm.set("run", "0");
    let dir = tempfile::tempdir().unwrap();
    let tenants = twins();
    let before = tenants.each_ref().map(|tenant| cpus(tenant.pid()));
    let now = || tenants.each_ref().map(|tenant| cpus(tenant.pid()));
    let mut command = huddle(&dir, &["run", "--window", "0.2", "--min-interval", "0"], &tenants);
    let mut run = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut said = Vec::new();
    while !said.last().is_some_and(|line: &String| line.contains("round 1:")) {
        said.push(log.next().unwrap());
    }
    assert_eq!(said.iter().filter(|line| line.contains("nothing is merged now")).count(), 1, "{said:#?}");
    assert_eq!(now(), before);

    let rest = std::thread::spawn(move || log.collect::<Vec<String>>());
    ksm.set("run", "1");
    let plan = json(&dir, &["plan"], &tenants);
    let can_see = plan["domains"].as_array().unwrap().len() > 1;
    let until = Instant::now() + Duration::from_secs(60);
    // The first frames that are merged need not be those of all pairs.
    while can_see && !are_paired(&now()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let together = now();
    ksm.set("run", "0");
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = run.wait().unwrap();
    let rest = rest.join().unwrap();
    assert!(status.success(), "{rest:#?}");
    assert_eq!(now(), before);
    if !can_see {
        return say("one cache domain: pinning is not seen");
    }
    assert!(are_paired(&together), "{together:?}: {rest:#?}");
    assert!(rest.iter().any(|line| line.contains("vCPU threads moved")), "{rest:#?}");
}
