//! The scripts of `huddle plan --format virsh|qm|xl` for real processes, run by a real shell with managers that only
//! note their arguments.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use huddle_testing::output::say;
use huddle_testing::own_state;

/// In two parts: nothing here boots a guest.
const PROGRAM: &str = concat!("qemu-", "system-x86_64");
const UUIDS: [&str; 2] = ["0b54ed5c-0c6f-4b5c-8a0e-7d1a3f9e2c01", "0b54ed5c-0c6f-4b5c-8a0e-7d1a3f9e2c02"];
/// Of the other test, which runs at the same time.
const OTHER_UUID: &str = "0b54ed5c-0c6f-4b5c-8a0e-7d1a3f9e2c03";

/// A process that is taken for QEMU with one vCPU: a shell under that name. It ends with this value.
struct Vm(Child);

impl Vm {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let program = dir.join(PROGRAM);
        if !program.exists() {
            huddle_testing::copy_program(Path::new("/bin/sh"), &program);
        }
        let script = "echo 'CPU 0/TCG' >/proc/$$/comm; echo ready; read line";
        let mut command = Command::new(program);
        command.args(["-c", script]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// `None` with the reason where this is not root, which in CI is a failure.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
            say("skipped: needs root (CAP_SYS_ADMIN for frame numbers)");
            return None;
        }
        let scene = Self { dir: tempfile::tempdir().unwrap() };
        for manager in ["virsh", "qm", "xl"] {
            let path = scene.path(manager);
            let notes = scene.path("notes");
            let note =
                format!("#!/bin/sh\n{{ printf '%s|' {manager} \"$@\"; echo; }} >>'{}'\n", notes.display());
            std::fs::write(&path, note).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(scene)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn huddle(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command.args(args).envs(own_state(self.dir.path())).env_remove("HUDDLE_LOG").output().unwrap()
    }

    /// The script of a format, and what went to stderr.
    fn script(&self, args: &[&str]) -> (String, String) {
        let output = self.huddle(&[&["plan", "--policy", "spread"], args].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        (String::from_utf8(output.stdout).unwrap(), stderr)
    }

    /// Runs a script; gives the arguments with which managers were called, one call a line.
    fn notes(&self, script: &str) -> Vec<String> {
        let _ = std::fs::remove_file(self.path("notes"));
        let file = self.path("script");
        std::fs::write(&file, script).unwrap();
        let path = format!("{}:{}", self.dir.path().display(), std::env::var("PATH").unwrap());
        let output =
            Command::new("sh").arg(file).env("PATH", path).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{script}\n{output:?}");
        let notes = std::fs::read_to_string(self.path("notes")).unwrap_or_default();
        notes.lines().map(str::to_owned).collect()
    }
}

/// The lines of a script that undo it, as its head says to find them.
fn undo(script: &str) -> String {
    let lines = script.lines().filter_map(|line| line.strip_prefix("# undo: "));
    lines.map(|line| format!("{line}\n")).collect()
}

/// CPUs of this process, which are those of its children.
fn cpus() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().to_owned()
}

#[test]
fn names_that_would_steer_a_shell_are_comments_and_nothing_else() {
    let Some(scene) = Scene::new() else { return };
    let hostile = ["guest=x\ntouch forged; $(touch forged) `touch forged` ' \" #", "guest=--help"];
    let _vms: Vec<Vm> = hostile
        .iter()
        .zip(UUIDS)
        .map(|(name, uuid)| Vm::start(scene.dir.path(), &["-name", name, "-uuid", uuid]))
        .collect();
    let (script, _) = scene.script(&["--format", "virsh"]);
    let calls = |script: &str| -> Vec<String> {
        let mut notes = scene.notes(script);
        // Other tests may have VMs of their own.
        notes.retain(|note| UUIDS.iter().any(|uuid| note.contains(uuid)));
        notes.sort();
        notes
    };
    let expected = |note: &str, uuid: &str| {
        let rest = note.strip_prefix(&format!("virsh|vcpupin|{uuid}|0|"));
        let cpus = rest.and_then(|rest| rest.strip_suffix("|--live|--config|"));
        cpus.unwrap_or_else(|| panic!("{note}: {script}")).to_owned()
    };
    let done = calls(&script);
    assert_eq!(done.len(), 2, "{script}");
    for (note, uuid) in done.iter().zip(UUIDS) {
        assert!(!expected(note, uuid).is_empty());
    }
    for (note, uuid) in calls(&undo(&script)).iter().zip(UUIDS) {
        assert_eq!(expected(note, uuid), cpus());
    }
    assert!(!scene.path("forged").exists(), "{script}");
    assert!(script.contains("\n# x\\ntouch forged; $(touch"), "{script}");
}

#[test]
fn each_format_names_what_its_manager_has_and_leaves_the_rest_with_a_reason() {
    let Some(scene) = Scene::new() else { return };
    let proxmox = Vm::start(scene.dir.path(), &["-id", "4242", "-name", "web,debug-threads=on"]);
    let libvirt = Vm::start(scene.dir.path(), &["-name", "guest=db", "-uuid", OTHER_UUID]);
    let mut plain = Command::new("sleep").arg("600").spawn().unwrap();
    let names = [("web", proxmox.0.id()), ("db", libvirt.0.id()), ("job", plain.id())];
    let names = names.map(|(name, pid)| format!("{name}={pid}"));
    let vms = ["--vm", &names[0], "--vm", &names[1], "--vm", &names[2]];
    let of = |format: &str| scene.script(&[&vms[..], &["--format", format]].concat());

    let (script, stderr) = of("qm");
    let [call] = &scene.notes(&script)[..] else { panic!("{script}") };
    assert!(call.starts_with("qm|set|4242|--affinity|"), "{call}");
    assert_eq!(scene.notes(&undo(&script)), ["qm|set|4242|--delete|affinity|"]);
    for left in ["db is left out: its command line has no VMID", "job is left out: it is a process"] {
        assert!(stderr.contains(left), "{stderr}");
    }
    assert!(script.contains(") is left out: it is a process"), "{script}");

    let (script, stderr) = of("virsh");
    assert_eq!(scene.notes(&script).len(), 1, "{script}");
    assert!(stderr.contains("web is left out: its command line has no UUID"), "{stderr}");

    let (script, stderr) = of("xl");
    assert_eq!(scene.notes(&script), [""; 0], "{script}");
    assert_eq!(stderr.matches("is left out").count(), 3, "{stderr}");
    // What the other commands and formats say does not change.
    let table = String::from_utf8(scene.huddle(&[&["plan"], &vms[..]].concat()).stdout).unwrap();
    assert!(table.starts_with("domain") || table.starts_with(" domain"), "{table}");
    plain.kill().unwrap();
    plain.wait().unwrap();
}

#[test]
fn a_script_for_a_manager_is_of_a_plan_for_this_host_only() {
    let scene = Scene { dir: tempfile::tempdir().unwrap() };
    let matrix = scene.path("m.csv");
    std::fs::write(&matrix, "vm,a\na,-\n").unwrap();
    for (args, word) in [
        (&["vms", "--format", "virsh"][..], "--format virsh is for `huddle plan`"),
        (&["pin", "--format", "qm"], "--format qm is for `huddle plan`"),
        (&["plan", "--format", "xl", "--matrix", matrix.to_str().unwrap()], "leave out --matrix"),
        (&["plan", "--format", "virsh", "--replay", "/nowhere"], "leave out --matrix"),
    ] {
        let output = scene.huddle(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{stderr}");
        assert!(!scene.path("state").exists());
    }
}
