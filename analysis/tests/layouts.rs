//! Both layouts of a fleet, read by the real program: by run, and by table.

// Helpers of integration tests are not known as tests to Clippy.
#![allow(clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use huddle_model::schema::Manifest;
use huddle_model::view::View;
use huddle_record::replay::Recording;
use huddle_record::{RecordTarget, Recorder, RecorderLimits};
use huddle_testing::sample;
use huddle_testing::sample_observed::observed;
use serde_json::Value;

fn record(target: &RecordTarget, host: &str) {
    let mut limits = RecorderLimits::default();
    limits.queue.0 = 100;
    let manifest = Manifest { host: host.into(), ..sample::manifest() };
    let recorder = Recorder::start(&target.dir(), manifest, limits).unwrap();
    let views: Vec<View> = (1..=4).map(|round| observed(round, 2)).collect();
    sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
    assert_eq!(recorder.finish().unwrap().steps.steps_lost, 0);
}

fn ask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_huddle-analysis")).args(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = ask(&[arguments, &["--format", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is below a directory, by its path.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// The summaries of all runs, without what names their directories, and when they ended.
fn summaries(root: &Path) -> Vec<Value> {
    let mut all = json(&["summary", root.to_str().unwrap()]);
    let runs = all["runs"].as_array_mut().unwrap();
    for run in runs.iter_mut() {
        run.as_object_mut().unwrap().remove("path");
        run.as_object_mut().unwrap().remove("dir");
        run.as_object_mut().unwrap().remove("end_us");
    }
    runs.clone()
}

#[test]
fn recorded_by_table_is_read_like_recorded_by_run() {
    let dir = tempfile::tempdir().unwrap();
    let [by_run, by_table] = ["by-run", "by-table"].map(|name| dir.path().join(name));
    let run = sample::manifest().run;
    for host in ["a,b", "c"] {
        let (host, run) = (host.to_owned(), run.clone());
        record(&RecordTarget::Fleet { root: by_run.clone(), host: host.clone(), run: run.clone() }, &host);
        record(&RecordTarget::ByTable { root: by_table.clone(), host: host.clone(), run }, &host);
    }
    assert_eq!(summaries(&by_run).len(), 2);
    assert_eq!(summaries(&by_run), summaries(&by_table));
    let counters = by_table.join("counters").join("host=c").join(format!("run={run}"));
    assert!(counters.join("segment-000001.parquet").is_file());
    let manifest = by_table.join("manifest").join("host=c").join(format!("run={run}"));
    assert_eq!(files(&manifest), [manifest.join("manifest.json")]);
    // A loop is replayed from it, too.
    let replayed = Recording::open(&manifest).unwrap();
    assert!(replayed.warnings().is_empty(), "{:?}", replayed.warnings());
    assert!(ask(&["validate", by_table.to_str().unwrap()]).status.success());
    // A segment that is missing or damaged is named in this layout, too.
    fs::write(counters.join("segment-000001.parquet"), "PAR1").unwrap();
    let output = ask(&["validate", by_table.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("counters"), "{said}");
}

#[test]
fn an_export_by_table_has_the_segments_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (fleet, out) = (dir.path().join("fleet"), dir.path().join("out"));
    let run = sample::manifest().run;
    for host in ["a,b", "c"] {
        record(&RecordTarget::Fleet { root: fleet.clone(), host: host.into(), run: run.clone() }, host);
    }
    let export = |from: &Path, to: &Path, more: &[&str]| {
        let arguments = [
            "export",
            from.to_str().unwrap(),
            "--format",
            "parquet",
            "--layout",
            "table",
            "-o",
            to.to_str().unwrap(),
        ];
        ask(&[&arguments[..], more].concat())
    };
    let output = export(&fleet, &out, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(summaries(&fleet), summaries(&out));
    let of = |table: &str| {
        let original = fleet.join("host=c").join(format!("run={run}")).join(table);
        let copy = out.join(table).join("host=c").join(format!("run={run}"));
        (fs::read(original.join("segment-000001.parquet")), fs::read(copy.join("segment-000001.parquet")))
    };
    let (original, copy) = of("vms");
    assert_eq!(original.unwrap(), copy.unwrap());
    // Some tables only: nobody misses the others.
    let few = dir.path().join("few");
    assert!(export(&fleet, &few, &["--table", "vms", "--table", "ksm"]).status.success());
    let tables: Vec<String> =
        fs::read_dir(&few).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(tables.len(), 3, "{tables:?}");
    let output = ask(&["validate", few.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // What is damaged is left out, and said; two recordings of one run are not mixed.
    let segment = fleet.join("host=c").join(format!("run={run}")).join("vms").join("segment-000001.parquet");
    fs::write(&segment, "PAR1").unwrap();
    let without = dir.path().join("without");
    let output = export(&fleet, &without, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("vms"), "{said}");
    assert!(!without.join("vms").join("host=c").exists());
    record(&RecordTarget::Run(fleet.join("again")), "c");
    let output = export(&fleet, &dir.path().join("mixed"), &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("of the same host and run"), "{said}");
    assert!(!dir.path().join("mixed").exists());
    assert!(files(dir.path()).iter().all(|path| !path.to_string_lossy().contains(".huddle-export")));
    // Other formats have one file a table.
    let csv = ["export", fleet.to_str().unwrap(), "--format", "csv", "--layout", "table", "-o", "/nowhere"];
    let output = ask(&csv);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--layout table is for --format parquet"), "{said}");
}
