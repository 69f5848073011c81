//! `huddle` in a container, with the capabilities and mounts of `packaging/Containerfile` and no more.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::debian::{self, DEBIAN, package, printed};

const CONTAINERFILE: &str = include_str!("../../../packaging/Containerfile");

/// The capabilities of the Containerfile, as setpriv(1) has them.
fn capabilities() -> String {
    let given =
        CONTAINERFILE.split_ascii_whitespace().find_map(|word| word.strip_prefix("--cap-add=")).unwrap();
    given.split(',').map(|name| format!("+{}", name.to_lowercase())).collect::<Vec<_>>().join(",")
}

struct Host {
    dir: tempfile::TempDir,
    vm: Child,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tree, state) = (dir.path().join("huddle"), dir.path().join("state"));
        let unpacked =
            Command::new("dpkg-deb").arg("-x").arg(package("huddle").unwrap()).arg(&tree).status().unwrap();
        assert!(unpacked.success());
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self { dir, vm: Command::new("sleep").arg("600").spawn().unwrap() }
    }

    fn container(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boot_installed/container.sh");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--ipc", "sh"]).arg(script);
        command.args([Path::new(DEBIAN), self.dir.path(), &self.dir.path().join("state")]);
        command.args([&capabilities(), "/usr/bin/huddle"]).args(arguments);
        // Tests run side by side, each on processes of its own.
        command
            .env("HUDDLE_HOST_LOCK", "/run/huddle/host")
            .env_remove("HUDDLE_LOG")
            .env_remove("HUDDLE_STATE_DIR");
        command.stdin(Stdio::null());
        command
    }

    /// A loop whose first round is done, and what it logged until then.
    fn run(&self) -> (Child, String) {
        let vm = format!("a={}", self.vm.id());
        let mut run = self.container(&["run", "--policy", "spread", "--vm", &vm]);
        let mut child = run.stderr(Stdio::piped()).spawn().unwrap();
        let (mut lines, mut log) = (BufReader::new(child.stderr.take().unwrap()).lines(), String::new());
        for line in lines.by_ref().map(Result::unwrap) {
            log += &format!("{line}\n");
            if line.contains("round 1: ") {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        (child, log)
    }

    fn cpus(&self) -> CpuSet {
        sched_getaffinity(Pid::from_raw(self.vm.id().cast_signed())).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.vm.kill();
        let _ = self.vm.wait();
    }
}

#[test]
fn a_container_pins_measures_and_undoes() {
    if debian::is_skipped() {
        return;
    }
    let host = Host::new();
    let everywhere = host.cpus();
    let (mut huddle, log) = host.run();
    assert!(log.contains("round 1: 1 VM, "), "{log}");
    for missing in ["is unavailable", "not confined", "CAP_"] {
        assert!(!log.contains(missing), "{log}");
    }
    assert_ne!(host.cpus(), everywhere, "{log}");
    kill(Pid::from_raw(huddle.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(huddle.wait().unwrap().success());
    assert_eq!(host.cpus(), everywhere);

    // A container that is killed leaves its journal to the next one.
    let (mut huddle, log) = host.run();
    assert_ne!(host.cpus(), everywhere, "{log}");
    huddle.kill().unwrap();
    huddle.wait().unwrap();
    assert_ne!(host.cpus(), everywhere);
    let restored = host.container(&["restore"]).output().unwrap();
    assert!(printed(&restored).contains("1 change undone"), "{}", printed(&restored));
    assert_eq!(host.cpus(), everywhere);
}
