//! vCPUs that their owner bound, with the real `huddle`: they are left and named once, unless the option says otherwise.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use huddle_testing::output::say;
use huddle_testing::own_state;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How the note about VM `a` begins.
const NOTE: &str = "a: vCPU 0 is left as its owner bound it";

/// Two processes as VMs, of which the first is bound.
struct Scene {
    dir: tempfile::TempDir,
    processes: [Child; 2],
}

impl Drop for Scene {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Scene {
    fn huddle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command.args(args).envs(own_state(self.dir.path())).env_remove("HUDDLE_LOG");
        // They share nothing, so a policy that goes by sharing would leave them where they are.
        command.args(["--policy", "spread"]);
        for (name, process) in ["a", "b"].iter().zip(&self.processes) {
            command.args(["--vm", &format!("{name}={}", process.id())]);
        }
        command
    }

    fn ran(&self, args: &[&str]) -> String {
        let output = self.huddle(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        said(&output)
    }

    fn now(&self) -> [Vec<usize>; 2] {
        self.processes.each_ref().map(|process| cpus(process.id().cast_signed()))
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn cpus(pid: i32) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(pid)).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

fn bind(pid: i32, to: &[usize]) {
    let mut set = CpuSet::new();
    for cpu in to {
        set.set(*cpu).unwrap();
    }
    sched_setaffinity(Pid::from_raw(pid), &set).unwrap();
}

fn restore(dir: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
    assert!(command.arg("restore").envs(own_state(dir)).output().unwrap().status.success());
}

#[test]
fn what_an_owner_bound_is_left_and_named_once_and_an_option_pins_it() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        return say("skipped: needs root (CAP_SYS_ADMIN for frame numbers)");
    }
    let all = cpus(0);
    let [first, second, ..] = all[..] else { return say("skipped: needs two usable CPUs") };
    let processes = [(); 2].map(|()| Command::new("sleep").arg("600").spawn().unwrap());
    let scene = Scene { dir: tempfile::tempdir().unwrap(), processes };
    bind(scene.processes[0].id().cast_signed(), &[second]);
    let before = [vec![second], all.clone()];
    // From here on what is started is as with `taskset`: huddle plans with the first CPU alone.
    bind(0, &[first]);

    assert_eq!(scene.ran(&["vms"]).matches(NOTE).count(), 1);
    let vms: Value = serde_json::from_str(&scene.ran(&["vms", "--format", "json"])).unwrap();
    assert_eq!(vms["vms"][0]["vcpus"][0]["binding"]["kind"], "affinity", "{vms}");
    assert!(vms["vms"][1]["vcpus"][0].get("binding").is_none(), "{vms}");
    assert_eq!(scene.ran(&["plan"]).matches(NOTE).count(), 1);

    assert_eq!(scene.ran(&["pin"]).matches(NOTE).count(), 1);
    assert_eq!(scene.now(), [vec![second], vec![first]]);
    // What huddle pinned is no binding.
    assert_eq!(scene.ran(&["vms"]).matches("left as").count(), 1);
    assert_eq!(scene.ran(&["pin"]).matches("left as").count(), 1);
    restore(scene.dir.path());
    assert_eq!(scene.now(), before);

    scene.ran(&["pin", "--override-bindings"]);
    assert_eq!(scene.now(), [vec![first], vec![first]]);
    restore(scene.dir.path());
    assert_eq!(scene.now(), before);

    let mut child = scene.huddle(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut notes = 0;
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap) {
        notes += line.matches(NOTE).count();
        if line.contains("round 1:") {
            assert_eq!(scene.now(), [vec![second], vec![first]]);
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!((notes, scene.now()), (1, before));
    bind(0, &all);
}
