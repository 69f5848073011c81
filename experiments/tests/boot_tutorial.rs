//! The commands of docs/tutorial.md, as they are printed there and as a reader with VMs of their own would give them: here
//! emulated VMs of QEMU that run nothing but their firmware, which huddle finds by itself.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, reason = "tests")]

mod tutorial_support;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use huddle_testing::ksm;
use huddle_testing::output::skip;
use tutorial_support::{line_of, missing, run};

/// Sections that are not for this reader.
const LEFT_OUT: [&str; 3] = ["Install", "Without VMs", "End the stand-ins"];
const QEMU: &str = "qemu-system-x86_64";
const VMS: [&str; 4] = ["tutorial-a", "tutorial-b", "tutorial-c", "tutorial-d"];

/// A VM that is ended with this.
struct Vm(Child);

impl Vm {
    fn start(name: &str) -> Self {
        let mut qemu = Command::new(QEMU);
        qemu.args(["-accel", "tcg", "-m", "64", "-display", "none", "-net", "none", "-serial", "none"]);
        qemu.args(["-monitor", "none", "-name", &format!("{name},debug-threads=on")]);
        Self(qemu.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn missing_here() -> Option<String> {
    let has_qemu = Command::new(QEMU).arg("--version").output().is_ok_and(|output| output.status.success());
    (!has_qemu).then(|| format!("{QEMU} is missing")).or_else(missing)
}

#[test]
fn a_reader_with_vms_reaches_the_result() {
    if let Some(reason) = missing_here() {
        return skip("tutorial with VMs", &reason).unwrap();
    }
    let _lock = ksm::lock();
    let vms: Vec<Vm> = VMS.iter().map(|name| Vm::start(name)).collect();
    // Until the firmware has nothing left to do.
    std::thread::sleep(Duration::from_secs(8));
    let ran = run(&LEFT_OUT);
    drop(vms);
    let (found, matrix) = (ran.output("tutorial.toml vms", 0), ran.output("matrix --method content", 0));
    for vm in VMS {
        assert!(line_of(found, vm).contains("qemu-tcg"), "{found}");
        let numbers = line_of(matrix, vm).split_whitespace().skip(1);
        let most = numbers.filter_map(|cell| cell.parse().ok()).fold(0.0, f64::max);
        assert!(most > 30.0, "{vm} has the same firmware as the others: {matrix}");
    }
    let (pinned, restored) = (ran.output("tutorial.toml pin", 0), ran.output("tutorial.toml restore", 0));
    assert!(restored.contains(" undone"), "{restored}; {}", ran.said);
    // Other VMs of this host may be there, too.
    let affinities = |output: &str| -> Vec<String> {
        let is_ours = |line: &&str| line.contains("tutorial-") && line.contains("CPU 0/TCG");
        let of_vcpus = output.lines().filter(is_ours);
        // All but the CPU on which it ran last.
        of_vcpus.map(|line| line.rsplit_once(' ').unwrap().0.trim_end().to_owned()).collect()
    };
    assert_eq!(affinities(found).len(), VMS.len(), "{found}");
    assert_ne!(affinities(pinned), affinities(found), "{pinned}; {}", ran.said);
    assert_eq!(affinities(restored), affinities(found), "{restored}");
}
