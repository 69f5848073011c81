//! The microbenchmark in dom0 of a real Xen, in QEMU: see `collector/testing/src/emulated`, whose host this is. Debian's
//! Xen has no memory sharing, so what is measured is the placebo; that nothing can be merged is said.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::emulated::host::{EmulatedHost, File};
use huddle_testing::emulated::programs::stripped;
use huddle_testing::emulated::trials::{self, Shared};
use libtest_mimic::Trial;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_huddle-experiment");

const SOON: Duration = Duration::from_secs(60);

/// Some domains that are made one after the other and boot, in an emulator.
const RUN: Duration = Duration::from_secs(420);

/// Waits until the runner measures, which it never does when it has ended.
const WAIT_FOR_BLOCK: &str = "for try in $(seq 1 240); do grep -q 'block 1 ' /tmp/run.log && exit 0; \
                              pidof huddle-experiment >/dev/null || break; sleep 1; done; cat /tmp/run.log; exit 1";

/// Two domains that hold the same data: enough where nothing is compared.
const PAIR: &str = "guest = \"xen\"\ndata = [\"A\", \"A\"]\nflavours = [\"generic\", \"generic\"]\nmemory_mib = 112\n\
                    arms = [\"recommended\"]\ndata_kib = [256]\nseconds_per_arm = 1.0\nrepetitions = 1\n";

/// Four, and all arms.
const ALL: &str = "guest = \"xen\"\ndomain_type = \"pv\"\nmerge = false\ndata = [\"A\", \"A\", \"B\", \"B\"]\n\
                   flavours = [\"generic\", \"generic\", \"generic\", \"generic\"]\nmemory_mib = 112\ndata_kib = [512]\n\
                   arms = [\"recommended\", \"opposed\", \"kernel\", \"random\", \"not_merged\", \"control\"]\n\
                   seconds_per_arm = 1.0\nsettle_seconds = 0.2\nrepetitions = 2\n";

fn main() {
    trials::run(|host| {
        vec![
            trial("a_placebo_runs_from_end_to_end", host, a_placebo_runs_from_end_to_end),
            trial("a_killed_runner_leaves_no_domain", host, a_killed_runner_leaves_no_domain),
            trial("an_interrupted_runner_leaves_no_domain", host, an_interrupted_runner_leaves_no_domain),
            trial("a_xen_without_memory_sharing_says_so", host, a_xen_without_memory_sharing_says_so),
        ]
    })
}

fn trial(name: &str, host: &Shared, test: fn(&mut EmulatedHost)) -> Trial {
    trials::trial(name, host, ("xen", PROGRAM), boot, test)
}

fn boot(image: &Path) -> EmulatedHost {
    let begin = Instant::now();
    let program = |path, of: &Path| File { path, mode: 0o755, content: stripped(of) };
    // With its 40 MB as they are, dom0 would not have room for all files.
    let huddle = File { path: "root/huddle.gz", mode: 0o644, content: compressed(&stripped(&huddle())) };
    let files = [
        huddle,
        program("usr/bin/huddle-experiment", Path::new(PROGRAM)),
        File { path: "root/pair.toml", mode: 0o644, content: PAIR.into() },
        File { path: "root/all.toml", mode: 0o644, content: ALL.into() },
    ];
    let mut dom0 = EmulatedHost::boot(image, &files);
    let images = "mkdir -p /tmp/images/generic && ln -s /guest/vmlinux /tmp/images/generic/vmlinuz && \
                  ln -s /guest/initrd /tmp/images/generic/initrd && \
                  gunzip -c /root/huddle.gz >/tmp/huddle && rm /root/huddle.gz && chmod +x /tmp/huddle";
    dom0.run(images, SOON).success();
    eprintln!("Xen was up after {:.1?}", begin.elapsed());
    dom0
}

/// `huddle` beside the program that is tested; built where only this package was.
fn huddle() -> PathBuf {
    let program = Path::new(PROGRAM).with_file_name("huddle");
    if !program.exists() {
        let build = ["build", "--package", "huddle", "--bin", "huddle"];
        assert!(Command::new(env!("CARGO")).args(build).status().unwrap().success());
    }
    program
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip is of every Debian");
    let mut input = gzip.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).unwrap());
        let output = gzip.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    })
}

fn command(spec: &str, more: &str) -> String {
    format!(
        "huddle-experiment microbench --spec /root/{spec}.toml --images /tmp/images --out /tmp/run --format json {more}"
    )
}

/// Nothing but dom0 is left, no journal and no guard, within `limit`.
fn assert_is_as_it_was(dom0: &mut EmulatedHost, limit: Duration) {
    assert_no_domain_is_left(dom0, limit);
    let journals = dom0.run("cat /run/huddle/journal* 2>/dev/null", SOON).stdout;
    assert!(!journals.contains("vm1"), "{journals}");
}

fn assert_no_domain_is_left(dom0: &mut EmulatedHost, limit: Duration) {
    let seconds = limit.as_secs();
    let gone = format!(
        "for try in $(seq 1 {seconds}); do \
         [ $(xl list | wc -l) = 2 ] && ! pidof huddle-experiment >/dev/null && exit 0; sleep 1; done; \
         xl list; ps; exit 1"
    );
    dom0.run(&gone, limit + SOON).success();
}

fn a_placebo_runs_from_end_to_end(dom0: &mut EmulatedHost) {
    let output = dom0.run(&command("all", ""), RUN);
    let stderr = output.stderr.clone();
    let summary: Value = serde_json::from_str(&output.success()).unwrap();
    assert_eq!((&summary["guest"], &summary["valid"]), (&"xen".into(), &true.into()), "{summary}");
    assert!(summary["verdict"].as_str().unwrap().starts_with("PLACEBO"), "{}", summary["verdict"]);
    assert_eq!(summary["config"]["merging_s"], Value::Null);
    // What placement goes by is there, though it is not merged.
    let rate = |key: &str| summary[key].as_f64().unwrap();
    assert!(rate("sharing_rate") > rate("sharing_rate_across"), "{summary}");
    assert_eq!(summary["matrix"]["method"], "content");
    let placement = summary["plans"]["recommended"]["placement"].as_array().unwrap();
    let domain_of = |vm: &str| &placement.iter().find(|placed| placed["vm"] == vm).unwrap()["domain"];
    assert_eq!(domain_of("vm1"), domain_of("vm2"), "{placement:?}");
    assert_ne!(domain_of("vm1"), domain_of("vm3"), "{placement:?}");
    for block in summary["blocks"].as_array().unwrap() {
        assert_eq!(block["samples"].as_array().unwrap().len(), 6);
        for guest in
            block["samples"].as_array().unwrap().iter().flat_map(|of| of["guests"].as_array().unwrap())
        {
            // As Xen counts it, and in the emulator no vCPU runs longer than the window.
            let time = &guest["host"]["cpu_time_ns"];
            let time = time.as_f64().or_else(|| time["available"].as_f64()).unwrap_or_default();
            assert!(time > 0.0 && guest["reads"].as_u64().unwrap() > 0, "{guest}");
        }
    }
    let boot = &summary["boot"]["available"]["matrix"]["vms"];
    assert_eq!(boot.as_array().map(Vec::len), Some(4), "{}", summary["boot"]);
    assert!(stderr.contains("measuring what the VMs could share after boot"), "{stderr}");
    assert_is_as_it_was(dom0, SOON);
}

fn a_killed_runner_leaves_no_domain(dom0: &mut EmulatedHost) {
    // In the middle of making the second, and while both run.
    for (until, what) in [("huddle-vm1", "made"), ("huddle-vm2", "both")] {
        let start =
            command("pair", "--domain-type pv --no-merge --repetitions 1000 >/tmp/run.log 2>&1 & echo $!");
        let pid = dom0.run(&start, SOON).success();
        let there =
            format!("for try in $(seq 1 180); do xl list | grep -q {until} && exit 0; sleep 1; done; exit 1");
        dom0.run(&there, RUN).success();
        if what == "both" {
            dom0.run(WAIT_FOR_BLOCK, RUN).success();
        }
        dom0.run(&format!("kill -9 {}", pid.trim()), SOON).success();
        assert_no_domain_is_left(dom0, Duration::from_secs(100));
        // The affinities that it set were those of domains that are gone: only its journal has them.
        let restored = dom0.run("/tmp/huddle restore --format json", SOON).success();
        let restored: Value = serde_json::from_str(&restored).unwrap();
        assert_eq!(restored["failures"], serde_json::json!([]), "{restored}");
        assert_is_as_it_was(dom0, SOON);
    }
}

fn an_interrupted_runner_leaves_no_domain(dom0: &mut EmulatedHost) {
    let start =
        command("pair", "--domain-type pv --no-merge --repetitions 1000 >/tmp/run.log 2>&1 & echo $!");
    let pid = dom0.run(&start, SOON).success();
    dom0.run(WAIT_FOR_BLOCK, RUN).success();
    let pid = pid.trim();
    dom0.run(&format!("kill -TERM {pid}; while kill -0 {pid} 2>/dev/null; do sleep 1; done"), RUN).success();
    let log = dom0.run("cat /tmp/run.log", SOON).success();
    assert!(log.contains("interrupted; the host is as it was before"), "{log}");
    assert_is_as_it_was(dom0, SOON);
}

fn a_xen_without_memory_sharing_says_so(dom0: &mut EmulatedHost) {
    // In the emulator the kernel of a PVH domain crashes at its start now and then; that says nothing of sharing.
    let run = |_| dom0.run(&command("pair", ""), RUN);
    let crashed = |output: &huddle_testing::emulated::host::Output| {
        output.stderr.contains("its kernel has shut down or crashed")
    };
    let mut outputs = (0..4).map(run);
    let output = outputs.find(|output| !crashed(output)).expect("one of four starts well");
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("built without memory sharing"), "{output:?}");
    assert!(output.stderr.contains("--no-merge"), "{output:?}");
    assert_is_as_it_was(dom0, SOON);
    let refused = dom0.run(&command("pair", "--domain-type pv"), SOON);
    assert!(refused.code == 2 && refused.stderr.contains("merges nothing of paravirtualised"), "{refused:?}");
}
