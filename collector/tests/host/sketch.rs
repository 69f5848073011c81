//! `huddle sketch` of processes whose contents are known.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use huddle_model::fleet::{Scale, Sketch};
use huddle_testing::own_state;
use huddle_testing::recording::{columns, number, rows, text};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::tenant::Tenant;
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("sketch_tells_what_vms_of_different_runs_have_in_common", tells_what_is_in_common),
        trial("sketches_are_part_of_the_recording_of_a_loop", are_part_of_a_recording),
        trial("sketch_refuses_a_seed_that_is_no_secret", refuses_a_seed_that_is_no_secret),
    ]
}

fn huddle(dir: &Path, arguments: &[&str]) -> Output {
    let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"));
    huddle.args(arguments).envs(own_state(dir)).output().unwrap()
}

/// A run for each VM, as if they were on different hosts.
fn tells_what_is_in_common() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let made = huddle(dir.path(), &["sketch", "--make-seed", &path("lab.seed")]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let sketched = |name: &str, spec: &str| {
        let tenant = Tenant::start(name, spec);
        let (vm, fleet) = (format!("{name}={}", tenant.pid()), path("fleet"));
        let arguments =
            ["sketch", "--seed", &path("lab.seed"), "--fleet", &fleet, "--one-in", "2", "--cpu-share", "1"];
        let output = huddle(dir.path(), &[&arguments[..], &["--format", "json", "--vm", &vm]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let run = report["dir"].as_str().unwrap().to_owned();
        assert!(run.starts_with(&fleet) && run.contains("/host=") && run.contains("/run="), "{run}");
        let table = Path::new(&run).join("sketches");
        assert!(rows(&table).iter().all(|row| text(row, "vm") == name));
        let hashes = columns(&table, ["hash"]).into_iter();
        let own: BTreeSet<u64> = hashes.map(|[hash]| u64::try_from(hash.unwrap()).unwrap()).collect();
        let hosts = rows(&Path::new(&run).join("hosts"));
        assert_eq!(hosts.len(), 1);
        assert_eq!(text(&hosts[0], "vm"), name);
        assert!(number(&hosts[0], "host_memory_bytes").unwrap() > 1e8);
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(Path::new(&run).join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["sketches"]["seed"], "lab");
        assert_eq!(manifest["sketches"]["one_in"], 2);
        assert_eq!(report["vms"][0]["kept"], own.len());
        let zero = number(&hosts[0], "vm_pages_zero").unwrap();
        (Sketch::of_hashes(Scale::new(2).unwrap(), own), zero, manifest["sketches"]["seed_check"].clone())
    };
    let (a, zero, check) = sketched("a", "set:1:4000,set:2:2000,zeros:0:300,copies:5:900");
    let (b, _, same_check) = sketched("b", "set:1:4000,set:3:500");
    assert_eq!(check, same_check);
    assert!(zero >= 300.0, "{zero}");
    // 6,001 contents beside the few pages of the program itself; 900 equal ones count once.
    assert!((5600..6600).contains(&a.contents()), "{}", a.contents());
    let found = a.containment_in(&b).unwrap();
    assert!((0.62..0.71).contains(&found.rate), "two thirds: {found:?}");
    assert!(found.standard_error < 0.02, "{found:?}");
    let found = b.containment_in(&a).unwrap();
    assert!((0.85..0.92).contains(&found.rate), "eight ninths: {found:?}");
}

/// The configuration of a loop that makes sketches.
fn config(dir: &Path, seed: &str) -> String {
    let path = dir.join("huddle.toml");
    std::fs::write(&path, format!("[sketch]\n{seed}\none_in = 2\nevery = \"1m\"\ncpu_share = 1\n")).unwrap();
    path.display().to_string()
}

fn are_part_of_a_recording() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let seed = path("lab.seed");
    assert!(huddle(dir.path(), &["sketch", "--make-seed", &seed]).status.success());
    let (a, b) = (Tenant::start("a", "set:1:3000"), Tenant::start("b", "set:1:1000,set:2:500"));
    let config = config(dir.path(), &format!("seed = {seed:?}"));
    let vms = [&a, &b].map(|tenant| format!("{}={}", tenant.name, tenant.pid()));
    let run = path("run");
    let mut looping = Command::new(env!("CARGO_BIN_EXE_huddle"))
        .args(["--config", &config, "run", "--dry-run", "--record", &run, "--vm", &vms[0], "--vm", &vms[1]])
        .envs(own_state(dir.path()))
        .env_remove("HUDDLE_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(looping.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("sketches recorded: ")), "the log has ended without sketches");
    kill(Pid::from_raw(looping.id() as i32), Signal::SIGTERM).unwrap();
    let rest: Vec<String> = log.collect();
    assert!(looping.wait().unwrap().success(), "{rest:?}");

    let rows = rows(&Path::new(&run).join("sketches"));
    let sketch = |name: &str| {
        let of_vm = rows.iter().filter(|row| text(row, "vm") == name);
        let hashes = of_vm.map(|row| number(row, "hash").unwrap() as u64);
        hashes.collect::<BTreeSet<u64>>().len() as f64 * 2.0
    };
    // Their own pages, beside those of the program.
    assert!((2800.0..3700.0).contains(&sketch("a")), "{}", sketch("a"));
    assert!((1400.0..2200.0).contains(&sketch("b")), "{}", sketch("b"));
    let hosts = huddle_testing::recording::rows(&Path::new(&run).join("hosts"));
    assert_eq!(hosts.len(), 2);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(Path::new(&run).join("manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["sketches"]["one_in"], &manifest["sketches"]["seed"]), (&2.into(), &"lab".into()));

    // Without a seed nothing begins.
    let config = self::config(dir.path(), "");
    let refused = path("refused");
    let output = huddle(dir.path(), &["--config", &config, "run", "--dry-run", "--record", &refused]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("[sketch] every needs the seed of the fleet"), "{stderr}");
    assert!(!Path::new(&refused).exists());
}

fn refuses_a_seed_that_is_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let seed = dir.path().join("open.seed");
    std::fs::write(&seed, "00112233445566778899aabbccddeeff\n").unwrap();
    std::fs::set_permissions(&seed, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (seed, out) = (seed.display().to_string(), dir.path().join("out"));
    let output = huddle(dir.path(), &["sketch", "--seed", &seed, "--record", &out.display().to_string()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("may be read by others (mode 0644)"), "{stderr}");
    assert!(!out.exists(), "nothing is written");
    assert_eq!(std::fs::metadata(&seed).unwrap().mode() & 0o777, 0o644, "nor changed");
}
