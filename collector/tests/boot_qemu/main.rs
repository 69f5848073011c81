//! Discovery of real QEMU processes, under KVM and TCG, with and without thread names, and of the
//! kinds of guest memory. The guests have no disk: the firmware runs, which is all that is needed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod files;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::output::say;
use serde_json::Value;

struct Qemu(Child);

impl Qemu {
    fn start(args: &[&str]) -> Self {
        Self::spawn(args, Stdio::null())
    }

    /// One with its standard input open, for its monitor.
    fn with_stdin(args: &[&str]) -> Self {
        Self::spawn(args, Stdio::piped())
    }

    fn spawn(args: &[&str], stdin: Stdio) -> Self {
        let common = ["-m", "64", "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none"];
        let child = Command::new("qemu-system-x86_64")
            .args(common)
            .args(args)
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("qemu-system-x86_64 was just found");
        Self(child)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints why a test is skipped; in CI none may be.
fn skipped(needs_kvm: bool) -> bool {
    let version = Command::new("qemu-system-x86_64").arg("--version").output();
    let reason = if version.is_err() {
        "qemu-system-x86_64 is not installed (Debian: apt-get install qemu-system-x86)"
    } else if !nix::unistd::geteuid().is_root() {
        "needs root to look into other processes"
    } else if needs_kvm && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        // A CI machine without nested virtualisation is no fault of the code.
        say("skipped: /dev/kvm cannot be opened here");
        return true;
    } else {
        return false;
    };
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {reason}");
    say(&format!("skipped: {reason}"));
    true
}

/// This VM in the output of `huddle vms`, once it satisfies `ready`.
fn vm(name: &str, ready: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let output =
            Command::new(env!("CARGO_BIN_EXE_huddle")).args(["vms", "--format", "json"]).output().unwrap();
        let vms: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = vms["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == name);
        if let Some(vm) = found.filter(|vm| ready(vm)) {
            return vm.clone();
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(begin.elapsed() < Duration::from_secs(30), "waited 30 s for {name}: {vms} {stderr}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn vcpu_names(vm: &Value) -> Vec<&str> {
    vm["vcpus"].as_array().unwrap().iter().map(|vcpu| vcpu["thread_name"].as_str().unwrap()).collect()
}

fn has_two_vcpus(vm: &Value) -> bool {
    vm["vcpus"].as_array().is_some_and(|vcpus| vcpus.len() == 2)
}

/// Bytes of guest memory of this kind.
fn memory(vm: &Value, kind: &str) -> u64 {
    let regions = vm["memory"].as_array().unwrap().iter().filter(|region| region["kind"] == kind);
    regions.map(|region| region["end"].as_u64().unwrap() - region["start"].as_u64().unwrap()).sum()
}

const GUEST_BYTES: u64 = 64 << 20;

#[test]
fn tcg_with_thread_names() {
    if skipped(false) {
        return;
    }
    let machine = ["-accel", "tcg,thread=multi", "-machine", "pc,mem-merge=on"];
    let _qemu = Qemu::start(&[&machine[..], &["-name", "guest=huddle-tcg,debug-threads=on"]].concat());
    let vm = vm("huddle-tcg", has_two_vcpus);
    assert_eq!(vm["vmm"], "qemu_tcg");
    assert_eq!(vcpu_names(&vm), ["CPU 0/TCG", "CPU 1/TCG"]);
    assert!(memory(&vm, "mergeable") >= GUEST_BYTES, "{vm}");
    assert_eq!(memory(&vm, "shared_memory"), 0);
}

#[test]
fn kvm_by_its_descriptors() {
    if skipped(true) {
        return;
    }
    let _qemu = Qemu::start(&["-accel", "kvm", "-name", "guest=huddle-kvm,debug-threads=on"]);
    let vm = vm("huddle-kvm", has_two_vcpus);
    assert_eq!(vm["vmm"], "qemu_kvm");
    assert_eq!(vcpu_names(&vm), ["CPU 0/KVM", "CPU 1/KVM"]);
}

#[test]
fn without_thread_names_qmp_is_used_and_released() {
    if skipped(false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp.sock");
    let qmp = format!("unix:{},server=on,wait=off", socket.display());
    let _qemu = Qemu::start(&[
        "-accel",
        "tcg,thread=multi",
        "-name",
        "guest=huddle-qmp,debug-threads=off",
        "-qmp",
        &qmp,
    ]);
    let found = vm("huddle-qmp", has_two_vcpus);
    assert!(vcpu_names(&found).iter().all(|name| !name.starts_with("CPU")), "{found}");

    // Another client holds the only connection: huddle reports that in time and goes on.
    let held = greeted(&socket);
    let begin = Instant::now();
    let found = vm("huddle-qmp", |_| true);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(found["vcpus"], serde_json::json!([]), "without QMP its vCPUs are not known");
    drop(held);
    vm("huddle-qmp", has_two_vcpus);
}

#[test]
fn a_qmp_socket_in_a_configuration_file_is_used() {
    if skipped(false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (config, socket) = (dir.path().join("vm.cfg"), dir.path().join("qmp.sock"));
    let text = format!(
        "# qemu config file\n[chardev \"q\"]\n  backend = \"socket\"\n  path = \"{}\"\n  server = \"on\"\n  \
         wait = \"off\"\n\n[mon \"m\"]\n  chardev = \"q\"\n  mode = \"control\"\n",
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    let name = "guest=huddle-config,debug-threads=off";
    let config = config.to_str().unwrap();
    let _qemu = Qemu::start(&["-accel", "tcg,thread=multi", "-name", name, "-readconfig", config]);
    let found = vm("huddle-config", has_two_vcpus);
    assert!(vcpu_names(&found).iter().all(|name| !name.starts_with("CPU")), "{found}");
}

#[test]
fn a_socket_of_which_qemu_is_a_client_is_left_alone() {
    if skipped(false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("manager.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let chardev = format!("socket,id=q,path={}", socket.display());
    let name = "guest=huddle-client,debug-threads=off";
    let monitor = ["-chardev", &chardev, "-mon", "chardev=q,mode=control"];
    let _qemu = Qemu::start(&[&["-accel", "tcg", "-name", name], &monitor[..]].concat());
    let (_qemu_itself, _) = listener.accept().unwrap();
    let found = vm("huddle-client", |_| true);
    assert_eq!(found["vcpus"], serde_json::json!([]), "{found}");
    listener.set_nonblocking(true).unwrap();
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "huddle did not connect"
    );
}

#[test]
fn qemu_without_a_machine_is_no_vm() {
    if skipped(false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp.sock");
    let qmp = format!("unix:{},server=on,wait=off", socket.display());
    let qemu = Qemu::start(&["-smp", "1", "-machine", "none", "-name", "huddle-none", "-qmp", &qmp]);
    let begin = Instant::now();
    while !socket.exists() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output =
        Command::new(env!("CARGO_BIN_EXE_huddle")).args(["vms", "--format", "json"]).output().unwrap();
    let vms: Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_it = |vm: &Value| vm["name"] == "huddle-none" || vm["process"]["id"] == qemu.0.id();
    assert!(!vms["vms"].as_array().unwrap().iter().any(is_it), "{vms}");
}

/// A QMP connection that has had its greeting, so that it is the one that is served.
fn greeted(socket: &Path) -> BufReader<UnixStream> {
    let mut stream = BufReader::new(UnixStream::connect(socket).unwrap());
    let mut greeting = String::new();
    stream.read_line(&mut greeting).unwrap();
    assert!(greeting.contains("QMP"), "{greeting}");
    stream
}

#[test]
fn memory_that_cannot_merge_is_reported_with_its_reason() {
    if skipped(false) {
        return;
    }
    let memfd = ["-object", "memory-backend-memfd,id=m,size=64M,share=on", "-machine", "pc,memory-backend=m"];
    let _shared = Qemu::start(
        &[&["-accel", "tcg", "-name", "guest=huddle-memfd,debug-threads=on"], &memfd[..]].concat(),
    );
    let found = vm("huddle-memfd", has_two_vcpus);
    assert_eq!(memory(&found, "shared_memory"), GUEST_BYTES, "{found}");
    assert!(found["cannot_merge"].to_string().contains("shared"), "{found}");

    let _unmarked = Qemu::start(&[
        "-accel",
        "tcg",
        "-name",
        "guest=huddle-unmarked,debug-threads=on",
        "-machine",
        "pc,mem-merge=off",
    ]);
    let found = vm("huddle-unmarked", has_two_vcpus);
    assert!(memory(&found, "anonymous") >= GUEST_BYTES, "{found}");
    assert!(found["cannot_merge"].to_string().contains("mem-merge=on"), "{found}");
}
