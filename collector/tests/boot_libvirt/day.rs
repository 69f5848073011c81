//! A day of a domain beside a loop with trials: it is defined, started, grows, is suspended, saved and restored, and
//! goes, and all that is left of huddle in the end is nothing.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use huddle_testing::ksm::Ksm;
use huddle_testing::readers_loop;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DOMAINS, Definition, host, set, wait_until};

/// The time between two things that an operator does.
const STEP: Duration = Duration::from_millis(1800);

/// The domain that comes and goes.
const VISITOR: Definition =
    Definition { name: "huddle-visitor", uuid: "5f1b7a52-7a0c-4f0e-8d3e-0a6f6f3c1d03" };

const SETTINGS: &str = "[discover]\nexclude = [{ owner = \"root\" }]\n\
    [trial]\nblocks = 8\ncool_down_s = 0\nhold_s = 0\nsettle_s = 1\nleast_gain = 0.0\nload_limit = 1000.0\n\
    moves_per_hour = 1000000\n";

#[test]
fn a_loop_with_trials_stands_by_and_leaves_what_libvirt_set() {
    let Some(host) = host(true) else { return };
    let [a, b] = DOMAINS.map(|definition| definition.uuid);
    std::fs::write(host.path("huddle.toml"), SETTINGS).unwrap();
    let _ksm = Ksm::start();
    let before = [a, b].map(|uuid| host.agreed(uuid));
    let reports = host.path("reports");
    let log = std::fs::File::create(host.path("run.log")).unwrap();
    let mut command = host.placing(&["run", "--trial", "reported", "--policy", "random"]);
    command.args(["--window", "0.2", "--min-interval", "0", "--report-socket"]).arg(&reports);
    let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let log = || std::fs::read_to_string(host.path("run.log")).unwrap();
    wait_until("the first round", log, || log().contains("round 1:"));
    let is_over = AtomicBool::new(false);
    let visitor = VISITOR.uuid;
    let image = host.path("image");
    let image = image.to_str().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                report(&reports);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Ends the reports also where one of these fails.
        let _over = SetOnDrop(&is_over);
        let step = |args: &[&str]| {
            host.libvirt.virsh(args);
            std::thread::sleep(STEP);
        };
        host.libvirt.define(&VISITOR);
        step(&["start", visitor]);
        step(&["setvcpus", visitor, "3", "--live"]);
        step(&["vcpupin", visitor, "0", &host.all.first().unwrap().to_string(), "--live"]);
        step(&["suspend", visitor]);
        step(&["resume", visitor]);
        step(&["save", visitor, image]);
        step(&["restore", image]);
        assert_eq!(host.libvirt.affinities(visitor).len(), 3);
        assert_eq!(host.libvirt.pins(visitor)[&0], set(&[host.all.first().unwrap()]));
        step(&["destroy", visitor]);
        step(&["undefine", visitor]);
        // What libvirt does to those that stay.
        step(&["vcpupin", b, "1", &host.all.iter().last().unwrap().to_string(), "--live"]);
        step(&["suspend", a]);
        step(&["resume", a]);
    });
    assert!(child.try_wait().unwrap().is_none(), "the loop ended by itself: {}", log());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", log());
    let log = log();
    assert!(!log.contains("ERROR"), "{log}");
    assert!(log.contains(VISITOR.name), "the visitor was not noticed: {log}");
    assert!(log.lines().any(readers_loop::is_decision), "nothing was tried: {log}");
    for (uuid, before) in [a, b].into_iter().zip(before) {
        let after = host.agreed(uuid);
        for (vcpu, cpus) in &after {
            assert_eq!(*cpus, host.libvirt.pins(uuid)[vcpu], "vCPU {vcpu} of {uuid}: {log}");
        }
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    }
    assert_eq!(host.agreed(b)[&1], set(&[host.all.iter().last().unwrap()]));
}

/// Sets a flag when it goes.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A report of both domains that stay, by their UUIDs.
fn report(path: &Path) {
    let socket = UnixDatagram::unbound().unwrap();
    if socket.connect(path).is_ok() {
        for definition in &DOMAINS {
            let _ = socket.send(format!("{} 1000\n", definition.uuid).as_bytes());
        }
    }
}
