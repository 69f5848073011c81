//! A real VM as the runner uses it. QEMU and the images of `cargo xtask experiment microbench --guest
//! qemu` are needed; a test that misses them says that it is skipped.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod boot_support;

use std::path::Path;
use std::time::Duration;

use boot_support::image;
use huddle_experiments::guest::qemu::{Accelerator, QemuGuestSpec};
use huddle_experiments::guest::{Guest, GuestData, GuestError, Pace, Reader, TimeLimits};
use huddle_experiments::interrupt::Interrupt;
use huddle_guest::chase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_vm_reads_what_it_says_and_shows_its_console_when_it_dies() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let spec = QemuGuestSpec {
        name: "v1",
        image: &image,
        accelerator: Accelerator::Tcg,
        memory_mib: 128,
        vcpus: 1,
        console: dir.path().join("console.log"),
        plugin: None,
        limits: TimeLimits { ready: Duration::from_secs(180), answer: Duration::from_secs(30) },
        interrupt: Interrupt::default(),
    };
    let mut guest = spec.start().unwrap();
    guest.wait_ready().unwrap();
    guest.load(GuestData { seed: 5, own_seed: 6, kib: 256, cold: None }).unwrap();
    guest.start(Pace { burst_reads: 1000, idle_us: 100 }, false).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let total = guest.stop_reading().unwrap()[0];
    let mut data = vec![0; 256 * 128];
    chase::fill(&mut data, 5);
    assert!(total.reads > 0);
    assert_eq!(chase::walk(&data, 0, total.reads) as u64, total.position);

    std::fs::write(&spec.console, "the last output\n").unwrap();
    let pid = guest.pid();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let error = guest.read().unwrap_err();
    assert!(matches!(error, GuestError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("the last output"), "{error}");
    drop(guest);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
