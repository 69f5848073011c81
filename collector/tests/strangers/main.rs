//! The real `huddle` beside processes of an untrusted user, which do what they can to be taken for VMs and to cost time
//! and memory. The tests need root, to start processes as another user. Without root each test reports that and counts
//! as ignored, except in CI (`CI=true`), where it fails.
//!
//! These processes are this program again, under the name of QEMU: see [`stranger`].
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod stranger;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use huddle_testing::output::say;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

use stranger::{NOBODY, Stranger};

fn main() {
    stranger::run_if_one();
    let mut arguments = Arguments::from_args();
    // They count processes and measure memory.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("strangers_are_listed_with_the_reason_and_nothing_else", are_listed),
        trial("what_strangers_do_costs_little_time_and_memory", cost_little),
        trial("what_is_taken_has_limits_too", taken_ones_have_limits),
        trial("a_limit_stays_with_the_vm_that_was_meant", limits_stay),
        trial("sockets_of_others_are_not_connected_to", foreign_sockets),
        trial("a_recording_goes_on_where_descriptors_run_out", few_descriptors),
    ];
    libtest_mimic::run(&arguments, trials).exit()
}

fn trial(name: &str, test: fn()) -> Trial {
    let run = move || {
        std::panic::catch_unwind(test).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Failed::from(
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default(),
            )
        })
    };
    if nix::unistd::geteuid().is_root() {
        return Trial::test(name, run);
    }
    assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
    say(&format!("{name}: skipped: needs root, to start processes of another user"));
    Trial::test(name, run).with_ignored_flag(true)
}

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The other user has to reach the program in it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), mode).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, text: &str) -> String {
        let path = self.path("huddle.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn huddle(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command.args(args).env("HUDDLE_STATE_DIR", self.path("state")).env_remove("HUDDLE_LOG");
        command.output().unwrap()
    }

    /// Output and stderr of `huddle vms`, which has to succeed.
    fn vms(&self, args: &[&str]) -> (Value, String) {
        let output = self.huddle(&[&["vms", "--format", "json"], args].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        (serde_json::from_slice(&output.stdout).unwrap(), stderr)
    }
}

/// Those of one kind, `vms` or `left_out`, that are among `strangers`.
fn of<'a>(found: &'a Value, kind: &str, strangers: &[Stranger]) -> Vec<&'a Value> {
    let pid = |vm: &Value| vm["process"]["id"].as_u64().or(vm["id"].as_u64());
    let is_one = |vm: &&Value| strangers.iter().any(|stranger| pid(vm) == Some(stranger.pid().into()));
    found[kind].as_array().unwrap().iter().filter(is_one).collect()
}

fn are_listed() {
    let host = Host::new();
    let strangers = [Stranger::start(host.dir.path(), &["-name", "guest=we\u{202e}b\nforged  1"], "")];
    let (found, _) = host.vms(&[]);
    assert!(of(&found, "vms", &strangers).is_empty(), "{found}");
    let [left] = of(&found, "left_out", &strangers)[..] else { panic!("{found}") };
    assert_eq!((&left["name"], &left["vmm"]), (&"we\\u{202e}b\\nforged  1".into(), &"qemu_tcg".into()));
    assert_eq!(left["owner"]["uid"], NOBODY);
    assert!(left["reason"].as_str().unwrap().contains("is not in [discover] owners"), "{left}");

    let table = String::from_utf8(host.huddle(&["vms"]).stdout).unwrap();
    let row = table.lines().find(|line| line.contains("\\u{202e}")).unwrap();
    assert!(
        row.contains(&strangers[0].pid().to_string()) && row.contains("not in [discover] owners"),
        "{table}"
    );
    assert!(!table.contains('\u{202e}') && !table.lines().any(|line| line.starts_with("forged")), "{table}");

    // Processes that are left out become VMs only by configuration.
    let by_owner = host.config(&format!("[discover]\nowners = [\"{NOBODY}\"]\n"));
    let by_name = host.config("[discover]\ninclude = [\"we*\"]\n");
    for config in [by_owner, by_name] {
        let (found, _) = host.vms(&["--config", &config]);
        assert_eq!(of(&found, "vms", &strangers).len(), 1, "{found}");
    }
    let both = host.config("[discover]\ninclude = [\"we*\"]\nexclude = [{ owner = \"65534\" }]\n");
    let (found, _) = host.vms(&["--config", &both]);
    let [left] = of(&found, "left_out", &strangers)[..] else { panic!("{found}") };
    assert!(left["reason"].as_str().unwrap().contains("excluded by owner"), "{left}");
}

/// `HUDDLE_STRANGERS=10` makes them ten times as large.
fn scale() -> usize {
    std::env::var("HUDDLE_STRANGERS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn cost_little() {
    let host = Host::new();
    let dir = host.dir.path();
    let long = format!("guest={}", "n".repeat(120_000));
    let mut strangers: Vec<Stranger> = Vec::new();
    strangers.push(Stranger::start(dir, &["-name", "line"], &format!("line={}", (256 << 20) * scale())));
    strangers.extend((0..20 * scale()).map(|_| Stranger::start(dir, &["-name", &long], "")));
    strangers.push(Stranger::start(dir, &["-name", "threads"], &format!("threads={}", 1_200 * scale())));
    strangers.push(Stranger::start(dir, &["-name", "map"], "reserve_gib=65536"));
    strangers.extend((0..2).map(|_| Stranger::start(dir, &["-name", "maps"], "mappings=30000")));
    strangers.extend((0..30 * scale()).map(|at| {
        let path = dir.join(format!("mute-{at}"));
        let monitor = format!("unix:{},server=on", path.display());
        Stranger::start(dir, &["-name", "mute", "-qmp", &monitor], &format!("mute={}", path.display()))
    }));

    // First left out, then included by configuration.
    let taken = host.config(&format!("[discover]\nowners = [\"{NOBODY}\"]\n"));
    for args in [&[][..], &["--config", &taken]] {
        let begin = Instant::now();
        let (found, stderr) = host.vms(args);
        let (took, peak_kib) = (begin.elapsed(), getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss());
        let (vms, left) = (of(&found, "vms", &strangers), of(&found, "left_out", &strangers));
        say(&format!(
            "{} strangers, scale {}, {args:?}: {took:?}, at most {} MiB; {} taken, {} left out",
            strangers.len(),
            scale(),
            peak_kib >> 10,
            vms.len(),
            left.len()
        ));
        assert!(peak_kib < 200 << 10, "{peak_kib} KiB");
        assert!(took < Duration::from_secs(10), "{took:?}");
        let of_name = |kind: &[&Value], name: &str| {
            kind.iter().filter(|vm| vm["name"].as_str().unwrap().starts_with(name)).count()
        };
        match args {
            [] => assert_eq!((vms.len(), left.len()), (0, strangers.len()), "{stderr}"),
            _ => {
                for name in ["map", "maps"] {
                    assert!(of_name(&left, name) >= 1 && of_name(&vms, name) == 0, "{name}: {stderr}");
                }
                let line = left.iter().find(|vm| vm["reason"].as_str().unwrap().contains("command line"));
                assert!(line.is_some(), "{stderr}");
                assert!(of_name(&vms, "mute") + of_name(&left, "mute") > 0, "{stderr}");
            }
        }
        assert!(found["vms"].as_array().unwrap().iter().all(|vm| vm["name"].as_str().unwrap().len() <= 256));
    }
    if let Some(reason) = huddle_testing::ksm::missing() {
        say(&format!("no round is run: {reason}"));
        return;
    }
    // A complete round with all of them: measured, planned with, and not pinned.
    let round = host.huddle(&["run", "--dry-run", "--rounds", "1", "--config", &taken]);
    let (stderr, peak_kib) =
        (String::from_utf8(round.stderr).unwrap(), getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss());
    assert!(round.status.success(), "{stderr}");
    let line = stderr.lines().find(|line| line.contains("round 1:")).unwrap();
    say(&format!("{line}; at most {} MiB", peak_kib >> 10));
    assert!(peak_kib < 200 << 10, "{peak_kib} KiB");
}

fn taken_ones_have_limits() {
    let host = Host::new();
    let dir = host.dir.path();
    let strangers = [
        Stranger::start(dir, &["-name", "threads"], "threads=60"),
        Stranger::start(dir, &["-name", "maps"], "mappings=400"),
        Stranger::start(dir, &["-name", "plain"], ""),
    ];
    let config = host
        .config(&format!("[discover]\nowners = [\"{NOBODY}\"]\n[limits]\nthreads = 50\nmappings = 300\n"));
    let (found, stderr) = host.vms(&["--config", &config]);
    let names =
        |kind| of(&found, kind, &strangers).iter().map(|vm| vm["name"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((names("vms"), names("left_out")), (vec!["plain"], vec!["threads", "maps"]), "{stderr}");
    for limit in ["more than 50 threads ([limits] threads)", "more than 300 mappings ([limits] mappings)"] {
        assert_eq!(stderr.matches(limit).count(), 1, "{stderr}");
    }
}

fn limits_stay() {
    let host = Host::new();
    let dir = host.dir.path();
    let start = |user, name| Stranger::start_as(user, dir, &["-name", name], "threads=1");
    let (web, db) = (start(0, "huddle-web"), start(0, "huddle-db"));
    let stranger = start(NOBODY, "huddle-web");
    let topology = host.path("topology.json");
    std::fs::write(&topology, r#"{"domains":[{"id":0,"cpus":[0]},{"id":1,"cpus":[1]}]}"#).unwrap();
    let plan = |config: &str| {
        let config = host.config(config);
        let topology = topology.to_str().unwrap();
        host.huddle(&["plan", "--format", "json", "--topology", topology, "--config", &config])
    };
    let domain = |plan: &Value, pid: u32| {
        let placement = plan["placement"].as_array().unwrap();
        let place = placement.iter().find(|place| place["pid"].as_u64() == Some(pid.into()));
        place.map(|place| place["domain"].as_u64().unwrap())
    };
    let trusted = format!("[discover]\nowners = [\"{NOBODY}\"]\n");

    // The stranger is no VM, so the name means one.
    let output = plan("[plan]\napart = [[\"huddle-web\", \"huddle-db\"]]\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let planned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(domain(&planned, web.pid()).is_some());
    assert_ne!(domain(&planned, web.pid()), domain(&planned, db.pid()));
    assert_eq!(domain(&planned, stranger.pid()), None);

    // It is a VM, so the name is ambiguous.
    let output = plan(&format!("{trusted}[plan]\napart = [[\"huddle-web\", \"huddle-db\"]]\n"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("2 VMs here are called that") && stderr.contains("name one by OWNER:NAME"),
        "{stderr}"
    );

    // Nothing is merged here, and this policy does without.
    let limits =
        format!("policy = \"spread\"\n{trusted}[plan]\napart = [[\"root:huddle-web\", \"huddle-db\"]]\n");
    let output = plan(&limits);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let planned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_ne!(domain(&planned, web.pid()), domain(&planned, db.pid()));
    assert!(domain(&planned, stranger.pid()).is_some());
}

fn foreign_sockets() {
    let host = Host::new();
    let dir = host.dir.path();
    let path = host.path("secret");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let link = host.path("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(NOBODY), Some(NOBODY)).unwrap();
    let monitor = |path: &Path| format!("unix:{},server=on", path.display());
    let strangers = [
        Stranger::start(dir, &["-name", "direct", "-qmp", &monitor(&path)], ""),
        Stranger::start(dir, &["-name", "link", "-qmp", &monitor(&link)], ""),
    ];
    let config = host.config(&format!("[discover]\nowners = [\"{NOBODY}\"]\n"));
    let (found, stderr) = host.vms(&["--config", &config]);
    assert_eq!(of(&found, "vms", &strangers).len(), 2, "{stderr}");
    assert!(stderr.contains("belongs to user 0, not to user 65534"), "{stderr}");
    assert!(stderr.contains("link is a link that belongs to user 65534"), "{stderr}");
    let none = listener.accept().unwrap_err().kind();
    assert_eq!(none, std::io::ErrorKind::WouldBlock, "huddle did not connect");
}

/// Counters take descriptors by vCPU; what has to go on has a reserve.
fn few_descriptors() {
    let host = Host::new();
    let dir = host.dir.path();
    for (limit, vms, threads) in [(1500, 1, 2000), (512, 300, 1)] {
        let what = format!("{vms} VMs of {threads} vCPUs");
        let names = (0..vms).map(|number| format!("vm{number}"));
        let start =
            |name: String| Stranger::start_as(0, dir, &["-name", &name], &format!("threads={threads}"));
        let strangers: Vec<Stranger> = names.map(start).collect();
        let recording = host.path(&what);
        let mut command = Command::new("prlimit");
        command.args([format!("--nofile={limit}:{limit}").as_str(), env!("CARGO_BIN_EXE_huddle")]);
        command.args(["run", "--dry-run", "--rounds", "1", "--window", "0.2"]);
        command.arg("--record").arg(&recording).args(["--config", &host.config("")]);
        let output = command.env("HUDDLE_STATE_DIR", host.path("state")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{what}: {said}");
        assert!(!said.contains("os error 24"), "{what}: {said}");
        let windows = huddle_testing::recording::rows(&recording.join("windows"));
        assert!(!windows.is_empty(), "{what}: {said}");
        let vms = huddle_testing::recording::rows(&recording.join("vms"));
        assert!(vms.len() >= strangers.len(), "{what}: {} rows of VMs", vms.len());
    }
}
