//! What is measured of processes, with the privilege for it and without.

use super::*;

#[test]
fn a_process_named_as_a_vm_is_shown() {
    let huddle = Huddle::new();
    let process = Process::start();
    let vms = huddle.json(&["vms", "--vm", &format!("web={}", process.pid())]);
    let vm = &vms["vms"][0];
    assert_eq!(
        (vm["name"].as_str(), vm["process"]["id"].as_i64()),
        (Some("web"), Some(process.0.id().into()))
    );
    assert_eq!(vm["vcpus"].as_array().unwrap().len(), 1);
    assert!(
        vm["cannot_merge"][0].as_str().is_some(),
        "sleep marks nothing mergeable, which is reported: {vm}"
    );

    let config = huddle.file("c.toml", &format!("[[vm]]\nname = \"db\"\npid = {}\n", process.pid()));
    let vms = huddle.json(&["vms", "--config", &config]);
    assert!(vms["vms"].as_array().unwrap().iter().any(|vm| vm["name"] == "db"), "{vms}");
}

#[test]
fn without_the_privilege_frames_are_not_computed_with() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    // The user nobody may read the files of its own process, but sees no frame numbers in them.
    let mut sleep = Command::new("sleep");
    let process = Process(sleep.arg("600").uid(65534).gid(65534).spawn().unwrap());
    // The binary may be below a directory that the user nobody may not enter.
    let copy =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let copy = copy.unwrap();
    let binary = copy.path().join("huddle");
    huddle_testing::copy_program(std::path::Path::new(env!("CARGO_BIN_EXE_huddle")), &binary);
    for command in ["matrix", "plan"] {
        let output = Command::new(&binary)
            .args([command, "--vm", &format!("a={}", process.pid())])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains("CAP_SYS_ADMIN"), "{stderr}");
        assert_eq!(output.stdout, b"");
    }
    drop(huddle);
}

/// Contents need no frame numbers, only permission to read the memory.
#[test]
fn contents_are_measured_with_permission_to_read_them() {
    if skipped_without_root() {
        return;
    }
    let copy =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let copy = copy.unwrap();
    let binary = copy.path().join("huddle");
    huddle_testing::copy_program(std::path::Path::new(env!("CARGO_BIN_EXE_huddle")), &binary);
    let nobody = |program: &Path| {
        let mut command = Command::new(program);
        command.uid(65534).gid(65534);
        command
    };
    let theirs = [0; 2].map(|_| Process(nobody(Path::new("sleep")).arg("600").spawn().unwrap()));
    let roots = Process::start();
    let content = |processes: &[(&str, &Process)], by: &mut Command| {
        by.args(["matrix", "--method", "content", "--cpu-share", "1", "--format", "json"]);
        for (name, process) in processes {
            by.args(["--vm", &format!("{name}={}", process.pid())]);
        }
        by.output().unwrap()
    };
    let output = content(&[("root", &roots)], &mut nobody(&binary));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{stderr}");
    let last = stderr.trim_end().lines().next_back().unwrap();
    assert!(last.contains("CAP_SYS_PTRACE") && last.contains("\"root\""), "{stderr}");
    // Beside one that may be read it is left out.
    let output = content(&[("a", &theirs[0]), ("root", &roots)], &mut nobody(&binary));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && stderr.contains("root is left out: its memory cannot be read"),
        "{stderr}"
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = found["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str()).collect();
    assert_eq!(names, [Some("a")]);

    let pair = [("a", &theirs[0]), ("b", &theirs[1])];
    let by_root = content(&pair, &mut Command::new(&binary));
    let by_root: Value = serde_json::from_slice(&by_root.stdout).unwrap();
    assert_eq!((&by_root["method"], &by_root["coverage"]), (&"content".into(), &1.0.into()));
    assert!(by_root["shared_frames"][0][1].as_u64().unwrap() > 0, "two of one program: {by_root}");
    // With Yama only a parent may read.
    let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    if yama.is_ok_and(|scope| scope.trim() != "0") {
        say("skipped in part: kernel.yama.ptrace_scope keeps users from their own processes");
        return;
    }
    let by_nobody = content(&pair, &mut nobody(&binary));
    let stderr = String::from_utf8_lossy(&by_nobody.stderr).into_owned();
    assert!(by_nobody.status.success(), "{stderr}");
    let by_nobody: Value = serde_json::from_slice(&by_nobody.stdout).unwrap();
    assert_eq!(
        (&by_nobody["vms"], &by_nobody["shared_frames"]),
        (&by_root["vms"], &by_root["shared_frames"])
    );

    let args = ["--vm", &format!("a={}", theirs[0].pid()), "--vm", &format!("b={}", theirs[1].pid())];
    let sampled = ["matrix", "--method", "content", "--sample", "0.5", "--memory-mib", "1"];
    let table = Command::new(&binary).args([&sampled[..], &args].concat()).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("95 % interval") && table.contains("50.0 % of contents compared"), "{table}");
    let json =
        Command::new(&binary).args([&sampled[..], &args, &["--format", "json"]].concat()).output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["rate_error"][0][1].as_f64().unwrap() > 0.0, "{json}");
    let rate = |field: &str| json[field][0][1].as_f64().unwrap();
    assert!(rate("rate_low") <= rate("rate") && rate("rate") <= rate("rate_high"), "{json}");
    assert_eq!(json["coverage"], 0.5, "{json}");
}
