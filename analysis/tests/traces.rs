//! `export --format perfetto` of the real program.

// Helpers of integration tests are not known as tests to Clippy.
#![allow(clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use huddle_model::schema::Manifest;
use huddle_model::view::View;
use huddle_record::{RecordTarget, Recorder, RecorderLimits};
use huddle_testing::sample;
use huddle_testing::sample_observed::observed;

fn record(run: &Path, manifest: Manifest) {
    let mut limits = RecorderLimits::default();
    limits.queue.0 = 100;
    let recorder = Recorder::start(run, manifest, limits).unwrap();
    let views: Vec<View> = (1..=4).map(|round| observed(round, 2)).collect();
    sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
    assert_eq!(recorder.finish().unwrap().steps.steps_lost, 0);
}

fn export(run: &Path, out: &Path, more: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_huddle-analysis"));
    program.arg("export").arg(run).args(["--format", "perfetto", "-o"]).arg(out).args(more);
    program.output().unwrap()
}

#[test]
fn each_run_is_a_trace_named_by_host_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = dir.path().join("fleet");
    for host in ["../evil", "c"] {
        let manifest = Manifest { host: host.into(), ..sample::manifest() };
        let target = RecordTarget::Fleet { root: fleet.clone(), host: "h".into(), run: manifest.run.clone() };
        let place = if host == "c" { target.dir() } else { fleet.join("host=e").join("run=1") };
        record(&place, manifest);
    }
    let out = dir.path().join("out");
    let output = export(&fleet, &out, &[]);
    assert!(output.status.success(), "{output:?}");
    let mut names: Vec<String> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            // Recordings are their owner's alone, and so is what is made of them.
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            entry.file_name().into_string().unwrap()
        })
        .collect();
    names.sort();
    let run = sample::manifest().run;
    assert_eq!(names, [format!("___evil-{run}.pftrace"), format!("c-{run}.pftrace")]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");

    // What is there is never written over, and no table can be chosen.
    let again = export(&fleet, &out, &[]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let one = export(&fleet, &dir.path().join("one"), &["--table", "vms"]);
    assert_eq!(one.status.code(), Some(2), "{one:?}");
    assert!(String::from_utf8_lossy(&one.stderr).contains("a trace is made of all tables together"));
    assert!(!dir.path().join("one").exists());
}

#[test]
fn a_damaged_segment_is_left_out_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(&run, sample::manifest());
    let segment = run.join("residency/segment-000001.parquet");
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&segment, bytes).unwrap();
    let output = export(&run, &dir.path().join("out"), &[]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("left out: ") && said.contains("residency"), "{said}");
    // Where vCPUs ran is not known any more; where they were bound is.
    let trace = fs::read_dir(dir.path().join("out")).unwrap().next().unwrap().unwrap().path();
    let text = String::from_utf8_lossy(&fs::read(trace).unwrap()).into_owned();
    assert!(text.contains("bound to domain 0") && text.contains("vCPU 0"));
}
