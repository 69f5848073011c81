//! What each command needs, by the table of docs/privileges.md, and what it drops.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use huddle_testing::output::say;

const TABLE: &str = include_str!("../../docs/privileges.md");
const MATRIX: &str = "vm,a,b\na,-,50\nb,50,-\n";
const TOPOLOGY: &str = r#"{"domains":[{"id":0,"cpus":[0],"size_bytes":1048576,"node":0},
    {"id":1,"cpus":[1],"size_bytes":1048576,"node":0}]}"#;

/// A line of the table.
struct Line {
    arguments: Vec<String>,
    needs: BTreeSet<String>,
}

fn lines() -> Vec<Line> {
    let (_, section) = TABLE.split_once("## What each command needs").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let lines = rows.map(|row| {
        let (command, rest) = row.split_once("` | ").unwrap();
        let needs = rest.split(" | ").next().unwrap();
        let needs = match needs {
            "nothing" => BTreeSet::new(),
            needs => needs.split(", ").map(str::to_owned).collect(),
        };
        Line { arguments: command.split(' ').map(str::to_owned).collect(), needs }
    });
    lines.collect()
}

/// Processes of root that are treated as VMs, a copy of the program that anybody may run, and a state
/// directory of the user nobody.
struct Host {
    dir: tempfile::TempDir,
    processes: [Child; 2],
}

const NOBODY: u32 = 65534;

impl Host {
    fn new() -> Self {
        let open = PermissionsExt::from_mode(0o755);
        let dir = tempfile::Builder::new().permissions(open).tempdir().unwrap();
        huddle_testing::copy_program(Path::new(env!("CARGO_BIN_EXE_huddle")), &dir.path().join("huddle"));
        std::fs::write(dir.path().join("matrix"), MATRIX).unwrap();
        std::fs::write(dir.path().join("topology"), TOPOLOGY).unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
        let seed = dir.path().join("seed");
        std::fs::write(&seed, "00112233445566778899aabbccddeeff").unwrap();
        std::fs::set_permissions(&seed, PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&seed, Some(NOBODY), Some(NOBODY)).unwrap();
        let processes = [0; 2].map(|_| Command::new("sleep").arg("600").spawn().unwrap());
        Self { dir, processes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a line of the table as nobody with these capabilities.
    fn run(&self, line: &Line, capabilities: &BTreeSet<String>) -> Output {
        let names = capabilities.iter().map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap()));
        let set = names.map(|name| name.to_lowercase()).collect::<Vec<_>>().join(",");
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        if !set.is_empty() {
            command.args(["--inh-caps", &set, "--ambient-caps", &set]);
        }
        command.arg(self.path("huddle"));
        let mut file = "";
        for argument in &line.arguments {
            match argument.as_str() {
                "CONFIG" => _ = command.arg(self.path("config.toml")),
                // Each run makes a directory of its own.
                "DIR" => _ = command.arg(tempfile::TempDir::new_in(self.path("state")).unwrap().path()),
                "FILE" => _ = command.arg(self.path(file)),
                argument => _ = command.arg(argument),
            }
            file = argument.trim_start_matches('-');
        }
        match line.arguments[0].as_str() {
            "run" => _ = command.args(["--policy", "spread", "--rounds", "1", "--window", "0.1"]),
            // They share nothing, so a policy that goes by sharing would leave them where they are.
            "pin" => _ = command.args(["--policy", "spread"]),
            // By processor time of its own alone it would take seconds.
            "matrix" if line.arguments.iter().any(|argument| argument == "content") => {
                _ = command.args(["--cpu-share", "1"])
            }
            _ => {}
        }
        let declared = line.arguments.iter().any(|argument| argument == "--config");
        if !declared && !matches!(line.arguments[0].as_str(), "doctor" | "restore") {
            for (name, process) in ["a", "b"].iter().zip(&self.processes) {
                command.arg("--vm").arg(format!("{name}={}", process.id()));
            }
        }
        command
            .env("HUDDLE_STATE_DIR", self.path("state"))
            .env("HUDDLE_HOST_LOCK", self.path("host"))
            .env_remove("HUDDLE_LOG");
        command.stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
    say("skipped: needs root, to give capabilities");
    false
}

#[test]
fn each_command_works_with_the_capabilities_of_the_table_and_not_without() {
    if !is_root() {
        return;
    }
    let lines = lines();
    assert!(lines.len() >= 11, "the table of docs/privileges.md has another form");
    let pin = lines.iter().find(|line| line.arguments == ["pin"]).unwrap();
    for line in &lines {
        let host = Host::new();
        if line.arguments[0] == "restore" {
            let pinned = host.run(pin, &pin.needs);
            assert!(pinned.status.success(), "{}", String::from_utf8_lossy(&pinned.stderr));
        }
        for missing in &line.needs {
            let mut less = line.needs.clone();
            less.remove(missing);
            let output = host.run(line, &less);
            let stderr = String::from_utf8_lossy(&output.stderr);
            // Newer kernels let CAP_SYS_ADMIN do what else CAP_SYS_PTRACE is needed for.
            if missing == "CAP_SYS_PTRACE" && less.contains("CAP_SYS_ADMIN") && output.status.success() {
                continue;
            }
            // `vms` lists what it sees, and a loop goes on with the parts that work; both with the reason.
            let in_part = matches!(line.arguments[0].as_str(), "vms" | "run");
            assert!(
                in_part || !output.status.success(),
                "{:?} works without {missing}: {stderr}",
                line.arguments
            );
            assert!(stderr.contains(missing), "{:?} without {missing}: {stderr}", line.arguments);
        }
        let output = host.run(line, &line.needs);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?} with {:?}: {stderr}", line.arguments, line.needs);
    }
}

#[test]
fn a_loop_is_confined() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let process = format!("a={}", host.processes[0].id());
    // capabilities(7): CHOWN is bit 0, SYS_MODULE 16, SYS_ADMIN 21, SYS_NICE 23.
    for (more, kept, dropped) in
        [(&[][..], 1 << 21 | 1 << 23, 1 | 1 << 16), (&["--dry-run"], 1 << 21, 1 | 1 << 23)]
    {
        let mut command = Command::new(host.path("huddle"));
        command
            .args(["run", "--vm", &process])
            .args(more)
            .env("HUDDLE_STATE_DIR", host.path("roots"))
            .env("HUDDLE_HOST_LOCK", host.path("host"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(log.any(|line| line.contains("round 1")), "it works with the remaining privileges");
        for task in std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.unwrap().trim().to_owned()
            };
            assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                let bits = u64::from_str_radix(&field(set), 16).unwrap();
                assert_eq!(bits & (kept | dropped), kept, "{more:?}: {set} {bits:x}");
            }
        }
        let process = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_vm_that_may_not_be_read_is_left_out_and_the_others_are_measured() {
    if !is_root() {
        return;
    }
    let mut host = Host::new();
    // Of the user that huddle runs as, whose processes it may always read.
    let own = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "600"])
        .spawn()
        .unwrap();
    let mut others = std::mem::replace(&mut host.processes[1], own);
    let line = Line {
        arguments: ["matrix", "--format", "json"].map(str::to_owned).to_vec(),
        needs: BTreeSet::new(),
    };
    // The kernel shows frame numbers, and no page tables of other users.
    let frames = BTreeSet::from(["CAP_SYS_ADMIN".to_owned()]);
    // Until it runs as that user and that program.
    let name = format!("/proc/{}/comm", host.processes[1].id());
    while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = host.run(&line, &frames);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("a is left out: its memory cannot be read"), "{stderr}");
    let matrix: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = matrix["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str()).collect();
    assert_eq!(names, [Some("b")]);
    let _ = others.kill();
    let _ = others.wait();
}

/// A line of arguments; CONFIG is the configuration file of the host.
fn line(arguments: &str) -> Line {
    Line { arguments: arguments.split(' ').map(str::to_owned).collect(), needs: BTreeSet::new() }
}

fn capabilities(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Root's processes that are declared as VMs, with these settings.
fn declare(host: &Host, settings: &str) {
    let vms = ["a", "b"].iter().zip(&host.processes);
    let vms: String =
        vms.map(|(name, process)| format!("[[vm]]\nname = \"{name}\"\npid = {}\n", process.id())).collect();
    std::fs::write(host.path("config.toml"), format!("{settings}{vms}")).unwrap();
}

/// Frame numbers and no page tables, and the other way round: nothing is known of the memory, which is not to say that
/// it is empty.
#[test]
fn vms_that_may_not_be_read_are_unavailable_and_never_planned_with() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    for held in [
        &["CAP_SYS_ADMIN", "CAP_SYS_NICE"][..],
        &["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_NICE"],
        &["CAP_SYS_PTRACE", "CAP_SYS_NICE"],
    ] {
        let held = capabilities(held);
        for arguments in [
            "matrix",
            "matrix --format json",
            "matrix --method content",
            "plan",
            "plan --policy opposed",
            "pin",
            "pin --dry-run",
        ] {
            let output = host.run(&line(arguments), &held);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                (output.status.code(), output.stdout.len()),
                (Some(3), 0),
                "{arguments} {held:?}: {stderr}"
            );
            assert!(stderr.contains("CAP_"), "{arguments} {held:?}: {stderr}");
        }
        // They are listed, as what they are.
        let output = host.run(&line("vms"), &held);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(table.contains("cannot be read") && !table.contains("none found"), "{held:?}: {table}");
        let output = host.run(&line("vms --format json"), &held);
        let vms: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(vms["memory_hidden"], serde_json::json!(["a", "b"]), "{held:?}: {vms}");
    }
    // A loop says so with each method, and moves nothing.
    for method in ["merged", "content"] {
        declare(&host, &format!("policy = \"spread\"\n[sharing]\nmethod = \"{method}\"\n"));
        let output =
            host.run(&line("run --config CONFIG"), &capabilities(&["CAP_SYS_ADMIN", "CAP_SYS_NICE"]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("sharing is unavailable") && stderr.contains("CAP_SYS_PTRACE"),
            "{method}: {stderr}"
        );
        assert!(stderr.contains("no plan") && stderr.contains("0 changes undone"), "{method}: {stderr}");
    }
}

/// To read contents takes both, because the files have mode 0600 and 0400, and the processes are of another user.
#[test]
fn contents_need_both_of_their_capabilities_and_no_more() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let content = line("matrix --method content --format json");
    for (held, missing) in
        [("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"), ("CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")]
    {
        let output = host.run(&content, &capabilities(&[held]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{held}: {stderr}");
        assert!(stderr.contains(missing), "{held}: {stderr}");
    }
    let both = capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    let output = host.run(&content, &both);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let matrix: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(matrix["vms"][0]["pages_resident"].as_u64().unwrap() > 0, "{matrix}");
    // Neither does a loop that reads contents need the numbers of frames.
    declare(&host, "policy = \"paper\"\n[sharing]\nmethod = \"content\"\ncpu_share = 1.0\n");
    let output = host.run(&line("run --dry-run --config CONFIG"), &both);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("round 1: "), "{stderr}");
    assert!(!stderr.contains("sharing is unavailable"), "{stderr}");
}

/// A container of two users: what may be read of it is not the whole.
#[test]
fn a_container_with_a_process_that_may_not_be_read_is_left_out() {
    if !is_root() {
        return;
    }
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let Some(cgroups) = places.into_iter().find(|at| at.join("cgroup.controllers").exists()) else {
        return say("skipped: needs cgroup version 2");
    };
    let host = Host::new();
    let group = cgroups.join(format!("huddle-test-{}", std::process::id()));
    std::fs::create_dir(&group).unwrap();
    let mut own = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "600"])
        .spawn()
        .unwrap();
    let name = format!("/proc/{}/comm", own.id());
    while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let join = |pid: u32| std::fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
    let leave = |pid: u32| std::fs::write(cgroups.join("cgroup.procs"), pid.to_string()).unwrap();
    join(own.id());
    let vm =
        format!("[[vm]]\nname = \"box\"\ncgroup = \"{}\"\n", group.file_name().unwrap().to_str().unwrap());
    std::fs::write(host.path("config.toml"), vm).unwrap();
    let frames = capabilities(&["CAP_SYS_ADMIN"]);
    let matrix = |arguments: &str| {
        let output = host.run(&line(arguments), &frames);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let results = ["matrix --config CONFIG", "matrix --method content --config CONFIG"].map(|arguments| {
        let alone = matrix(arguments);
        join(host.processes[0].id());
        let with_another = matrix(arguments);
        leave(host.processes[0].id());
        (arguments, alone, with_another)
    });
    let _ = own.kill();
    let _ = own.wait();
    std::fs::remove_dir(&group).unwrap();
    for (arguments, alone, with_another) in results {
        assert_eq!(alone.0, Some(0), "{arguments}: {}", alone.1);
        assert_eq!(with_another.0, Some(3), "{arguments}: {}", with_another.1);
        assert!(with_another.1.contains("\"box\""), "{arguments}: {}", with_another.1);
    }
}
