//! The real program on recordings that the real recorder wrote.

// Helpers of integration tests are not known as tests to Clippy.
#![allow(clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use huddle_model::schema::{Manifest, RecordingGap, SCHEMA_VERSION, Table};
use huddle_model::view::View;
use huddle_record::{QueueLimit, RecordTarget, Recorder, RecorderLimits, SegmentLimits};
use huddle_testing::older::forget_checksums;
use huddle_testing::sample;
use polars::prelude::{Column, CsvReader, DataFrame, DataType, ParquetReader, ParquetWriter, SerReader};
use serde_json::Value;

const VMS: usize = 3;

/// Records these rounds, each as a segment of its own.
fn record(run: &Path, rounds: impl Iterator<Item = View>) {
    let limits = RecorderLimits {
        segment: SegmentLimits { max_bytes: u64::MAX, max_age: Duration::ZERO },
        queue: QueueLimit(1000),
        ..Default::default()
    };
    let recorder = Recorder::start(run, sample::manifest(), limits).unwrap();
    let views: Vec<View> = rounds.collect();
    sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
    recorder.finish().unwrap();
}

/// A run of four rounds; its directory's name holds what globs and partitions are made of.
fn recording() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run [1]*=x");
    record(&run, (1..=4).map(|round| sample::view(round, VMS)));
    (dir, run)
}

fn analysis(arguments: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_huddle-analysis")).args(arguments).arg(path).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `validate` finds wrong, having checked that its exit code says so.
fn wrong(run: &Path) -> String {
    let output = analysis(&["validate", "--format", "json"], run);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), ""), "{}", text(&output.stdout));
    let report = &json(&output)["runs"][0];
    let problems: Vec<&str> =
        report["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect();
    assert!(!problems.is_empty());
    problems.join("\n")
}

fn usable_rows(run: &Path, table: &str) -> u64 {
    let report = json(&analysis(&["validate", "--format", "json"], run));
    let tables = report["runs"][0]["usable"].as_array().unwrap().clone();
    tables.iter().find(|found| found["table"] == table).unwrap()["rows"].as_u64().unwrap()
}

#[test]
fn a_summary_gives_the_numbers_of_the_rounds() {
    let (_dir, run) = recording();
    let output = analysis(&["summary", "--format", "json", "--top", "2"], &run);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let document = json(&output);
    assert_eq!(document["schema"], "huddle/recording-summary/1");
    let found = &document["runs"][0];

    // Against the rounds themselves.
    let rates: Vec<f64> =
        (1..=4).map(|round| sample::view(round, VMS).round.matrix.value().unwrap().rate(0, 1)).collect();
    assert!(rates[0] != rates[3]);
    let pair = &found["top_pairs"][0];
    assert_eq!((pair["vm"].as_str(), pair["other"].as_str()), (Some("vm0"), Some("vm1")));
    assert!((pair["mean_rate"].as_f64().unwrap() - rates.iter().sum::<f64>() / 4.0).abs() < 1e-12);
    assert_eq!(pair["last_rate"].as_f64(), Some(rates[3]));
    assert_eq!((pair["rounds"].as_u64(), pair["last_shared_frames"].as_u64()), (Some(4), Some(204)));
    assert_eq!((found["pairs"].as_u64(), found["top_pairs"].as_array().unwrap().len()), (Some(6), 2));

    let rounds = &found["rounds"];
    assert_eq!((rounds["count"].as_u64(), rounds["changed"].as_u64()), (Some(4), Some(2)));
    assert_eq!((rounds["without_pinning"].as_u64(), rounds["without_sharing"].as_u64()), (Some(2), Some(0)));
    assert_eq!(rounds["pin_unavailable"], "dry run: affinities are left as they are");
    assert_eq!(rounds["last_end_us"].as_u64(), Some(sample::view(4, VMS).round.end_unix_us));
    assert_eq!(rounds["own_cpu_us"].as_u64(), Some(40));
    assert_eq!(found["events"]["lifecycle"].as_u64(), Some(4));

    assert_eq!(found["vms"].as_array().unwrap().len(), VMS);
    assert_eq!(found["vms"][2]["pid"].as_u64(), Some(102));
    let placed = found["placements"].as_array().unwrap();
    assert_eq!(placed.len(), VMS);
    assert!(placed.iter().all(|placed| placed["applied"] == true && placed["domain"].is_u64()), "{placed:?}");
    assert_eq!(found["tables"]["sharing"]["rows_written"].as_u64(), Some(4 * 6));
    assert_eq!(found["tables"]["sharing"]["rows_lost"].as_u64(), Some(0));
}

#[test]
fn a_summary_reads_well_and_keeps_the_terminal_safe() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut view = sample::view(1, VMS);
    Arc::make_mut(&mut Arc::make_mut(&mut view.round).vms)[2].name = "evil\u{1b}[2J,\nname".into();
    record(&run, std::iter::once(view));
    let output = analysis(&["summary"], &run);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let shown = text(&output.stdout);
    for words in [
        "20261123T060233Z-1 on h",
        "2023-11-14T22:13:20Z to ",
        "rounds    1; nothing was pinned in any; ",
        "in 1 of them nothing was pinned; last because: dry run",
        "25.1 %",
        "no: dry run",
        "evil\\u{1b}[2J,\\nname",
        "Recorded; 0 rows lost",
    ] {
        assert!(shown.contains(words), "{words:?} is missing from\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'));
}

#[test]
fn a_tree_of_hosts_is_read_run_by_run() {
    let dir = tempfile::tempdir().unwrap();
    for (host, run, rounds) in [("a", "r1", 1), ("a", "r2", 2), ("b", "r1", 3)] {
        let target = RecordTarget::Fleet { root: dir.path().into(), host: host.into(), run: run.into() };
        record(&target.dir(), (1..=rounds).map(|round| sample::view(round, VMS)));
    }
    let document = json(&analysis(&["summary", "--format", "json"], dir.path()));
    let counts: Vec<u64> = document["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["rounds"]["count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [1, 2, 3]);
    assert_eq!(analysis(&["validate"], dir.path()).status.code(), Some(0));
    // One damaged run among them is enough.
    fs::write(dir.path().join("host=b/run=r1/ksm/segment-000002.parquet"), "PAR1").unwrap();
    assert_eq!(analysis(&["validate"], dir.path()).status.code(), Some(1));
}

#[test]
fn a_run_without_a_round_is_summed_up_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), std::iter::empty());
    let output = analysis(&["summary"], dir.path());
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("No VM was recorded."), "{}", text(&output.stdout));
    assert_eq!(analysis(&["validate"], dir.path()).status.code(), Some(0));
}

#[test]
fn a_whole_recording_is_called_whole() {
    let (_dir, run) = recording();
    let output = analysis(&["validate"], &run);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let shown = text(&output.stdout);
    assert!(shown.contains(": intact\n"), "{shown}");
    assert!(shown.contains("usable  sharing: 24 rows in 4 segments, rounds 1 to 4\n"), "{shown}");
    assert_eq!(shown.matches("usable").count(), 7, "{shown}");
}

#[test]
fn a_killed_recording_says_what_is_left() {
    let (_dir, run) = recording();
    let manifest = run.join("manifest.json");
    let mut left: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    left["end_us"] = Value::Null;
    fs::write(&manifest, left.to_string()).unwrap();
    fs::write(run.join("sharing/.segment-000005.parquet.tmp"), "PAR1").unwrap();
    let problems = wrong(&run);
    assert!(problems.contains("has no end") && problems.contains("000005.parquet.tmp is an open segment"));
    assert_eq!(usable_rows(&run, "sharing"), 24);
    let output = analysis(&["summary"], &run);
    assert!(text(&output.stdout).contains("no end recorded (it still runs, or was killed); last round"));
}

#[test]
fn damaged_and_missing_segments_are_named_and_the_rest_is_usable() {
    let (_dir, run) = recording();
    let whole = fs::read(run.join("sharing/segment-000002.parquet")).unwrap();
    let path = run.join("sharing/segment-000002.parquet");
    for length in [0, 4, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let problems = wrong(&run);
        assert!(
            problems.contains("segment-000002.parquet cannot be read") && !problems.contains('\n'),
            "{problems}"
        );
        assert_eq!(usable_rows(&run, "sharing"), 18);
    }
    let all = ["summary", "sharing", "timeline", "compare"];
    answers_of_the_rest(&run, &all, "segment-000002.parquet cannot be read");
    // A single bit, which a reader of Parquet may give another value for.
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    fs::write(&path, &flipped).unwrap();
    assert!(wrong(&run).contains("its bytes are not those that were written"));
    answers_of_the_rest(&run, &all, "its bytes are not those that were written");
    // A segment of the same recording in the place of another.
    fs::copy(run.join("sharing/segment-000003.parquet"), &path).unwrap();
    assert!(
        wrong(&run).contains("it is segment 3 of sharing of the run 20261123T060233Z-1, in the place of")
    );
    answers_of_the_rest(&run, &all, "it is segment 3 of sharing");

    fs::remove_file(&path).unwrap();
    assert!(wrong(&run).contains("sharing lacks segment 2"));
    answers_of_the_rest(&run, &all, "sharing lacks segment 2");
    fs::remove_file(run.join("vms/segment-000004.parquet")).unwrap();
    assert!(wrong(&run).contains("vms lacks segment 4"));
    fs::remove_file(run.join("ksm/segment-000001.parquet")).unwrap();
    assert!(wrong(&run).contains("ksm lacks segment 1"));
    fs::remove_dir_all(run.join("events")).unwrap();
    assert!(wrong(&run).contains("events lacks segments 1 to 4"));
    assert!(text(&analysis(&["summary"], &run).stdout).contains("events lacks segments 1 to 4"));
    fs::copy(run.join("decisions/segment-000004.parquet"), run.join("decisions/segment-000005.parquet"))
        .unwrap();
    assert!(wrong(&run).contains("decisions has segments 1 to 5"));
}

/// Of the four rounds of sharing one is lost: the questions are answered from the others, and say so.
fn answers_of_the_rest(run: &Path, questions: &[&str], lost: &str) {
    let pair = &json(&analysis(&["summary", "--format", "json"], run))["runs"][0]["top_pairs"][0];
    assert_eq!(pair["rounds"], 3, "{lost}");
    for question in questions {
        let output = analysis(&[question], run);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{question}");
        let said = text(&output.stdout);
        assert_eq!(said.matches(lost).count(), 1, "{question}: {said}");
        // What programs read is told on stderr too.
        let output = analysis(&[question, "--format", "json"], run);
        assert!(text(&output.stdout).contains(lost), "{question}");
        let said = text(&output.stderr);
        assert!(said.starts_with("huddle-analysis: left out: ") && said.contains(lost), "{question}: {said}");
        assert_eq!((output.status.code(), said.lines().count()), (Some(0), 1), "{question}: {said}");
    }
    let page = tempfile::tempdir().unwrap();
    let page = page.path().join("report.html");
    let output = analysis(&["report", "-o", page.to_str().unwrap()], run);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains(lost) && said.lines().count() == 1, "{said}");
    assert!(fs::read_to_string(page).unwrap().contains(lost));
    let out = tempfile::tempdir().unwrap();
    let exported = out.path().join("new");
    let output = analysis(&["export", "--format", "csv", "-o", exported.to_str().unwrap()], run);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("left out: ") && said.contains(lost) && said.lines().count() == 1, "{said}");
    let rows = fs::read_to_string(exported.join("sharing.csv")).unwrap().lines().count();
    assert_eq!(rows, 1 + 18);
    // Nothing but what was asked for is left there.
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
}

/// Damage of a recording that has no checksums is found where the rows are read.
#[test]
fn an_older_recording_that_is_damaged_is_answered_from_the_rest() {
    let (_dir, run) = recording();
    forget_checksums(&run);
    let whole = analysis(&["validate"], &run);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stdout));
    assert!(text(&whole.stdout).contains("segments have no checksum, as older versions wrote them"));
    let path = run.join("sharing/segment-000002.parquet");
    let mut within = fs::read(&path).unwrap();
    within[8..200].fill(0xff);
    fs::write(&path, &within).unwrap();
    assert!(wrong(&run).contains("segment-000002.parquet cannot be read"));
    answers_of_the_rest(&run, &["summary", "sharing"], "segment-000002.parquet cannot be read");
}

#[test]
fn times_that_were_not_recorded_are_told_by_every_answer() {
    let (_dir, run) = recording();
    let path = run.join("manifest.json");
    let mut manifest = Manifest::from_json(&fs::read_to_string(&path).unwrap()).unwrap();
    let gap =
        RecordingGap { rows_lost: 7, ..RecordingGap::begin(manifest.begin_us, "the disk was full".into()) };
    manifest.gaps.push(RecordingGap { end_us: manifest.end_us, ..gap });
    fs::write(&path, manifest.to_json().unwrap()).unwrap();
    let lost = "0 windows and 7 rows are missing: the disk was full";
    assert!(wrong(&run).contains(lost));
    for question in ["summary", "sharing", "timeline", "compare"] {
        let output = analysis(&[question], &run);
        assert_eq!(output.status.code(), Some(0), "{question}");
        assert!(text(&output.stdout).contains(lost), "{question}");
    }
}

#[test]
fn what_is_no_file_is_refused_by_name_and_not_waited_for() {
    let (_dir, run) = recording();
    let pipe = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let segment = run.join("sharing/segment-000002.parquet");
    fs::remove_file(&segment).unwrap();
    pipe(&segment);
    let lost = "segment-000002.parquet cannot be read: it is a named pipe";
    assert!(wrong(&run).contains(lost));
    answers_of_the_rest(&run, &["summary", "sharing", "timeline", "compare"], lost);
    fs::remove_file(&segment).unwrap();
    std::os::unix::fs::symlink(run.join("sharing/segment-000001.parquet"), &segment).unwrap();
    let lost = "segment-000002.parquet cannot be read: it is a symbolic link";
    answers_of_the_rest(&run, &["summary", "sharing"], lost);
    for (name, question) in [("manifest.json", "summary"), ("summary.json", "compare")] {
        fs::remove_file(run.join("manifest.json")).unwrap();
        pipe(&run.join(name));
        let output = analysis(&[question], &run);
        let said = text(&output.stderr);
        assert!(said.contains("it is a named pipe, and only a regular file is read here"), "{said}");
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    }
}

#[test]
fn a_spreadsheet_takes_no_name_for_a_formula() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut view = sample::view(1, VMS);
    for (vm, name) in
        Arc::make_mut(&mut Arc::make_mut(&mut view.round).vms).iter_mut().zip(["=1+1", "-x", "a=b"])
    {
        vm.name = name.into();
    }
    record(&run, std::iter::once(view));
    let names = |more: &[&str]| {
        let out = dir.path().join(format!("out{}", more.len()));
        let words =
            [&["export", "--format", "csv", "--table", "vms", "-o", out.to_str().unwrap()], more].concat();
        let output = analysis(&words, &run);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
        let frame = CsvReader::new(fs::File::open(out.join("vms.csv")).unwrap()).finish().unwrap();
        let names = frame.column("vm").unwrap().str().unwrap().iter().flatten().map(str::to_owned);
        (names.collect::<Vec<String>>(), frame.height())
    };
    assert_eq!(names(&[]), (["=1+1", "-x", "a=b"].map(str::to_owned).into(), 3));
    assert_eq!(names(&["--for-spreadsheet"]), (["'=1+1", "'-x", "a=b"].map(str::to_owned).into(), 3));
    let out = dir.path().join("none");
    let words = ["export", "--format", "json", "--for-spreadsheet", "-o", out.to_str().unwrap()];
    let output = analysis(&words, &run);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--for-spreadsheet is for --format csv") && !out.exists());
}

#[test]
fn other_columns_are_named() {
    let (_dir, run) = recording();
    forget_checksums(&run);
    let path = run.join("decisions/segment-000003.parquet");
    let mut frame = DataFrame::new(1, vec![Column::new("begin_us".into(), ["1"])]).unwrap();
    ParquetWriter::new(fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    let problems = wrong(&run);
    let words = &format!(
        "columns of decisions in schema version {SCHEMA_VERSION}: begin_us is Utf8, and should hold whole numbers of 64 bits"
    );
    assert!(problems.contains(words), "{problems}");
    // A segment of another table under this one's name.
    fs::copy(run.join("ksm/segment-000003.parquet"), &path).unwrap();
    let problems = wrong(&run);
    assert!(problems.contains("it is not a segment of the table decisions"), "{problems}");
    // A segment of another run, whose rows the manifest does not count.
    let other = run.with_file_name("other");
    record(&other, (1..=4).map(|round| sample::view(round, VMS - 1)));
    forget_checksums(&other);
    fs::copy(other.join("vms/segment-000002.parquet"), run.join("vms/segment-000002.parquet")).unwrap();
    assert!(wrong(&run).contains("vms has 11 rows, but the manifest counts 12"));
}

#[test]
fn time_that_runs_backwards_is_told_from_rows_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut rounds: Vec<View> = (1..=3).map(|round| sample::view(round, VMS)).collect();
    let third = Arc::make_mut(&mut rounds[2].round);
    third.begin_unix_us -= 5_000_000;
    third.end_unix_us -= 5_000_000;
    let run = dir.path().join("clock");
    record(&run, rounds.into_iter());
    let problems = wrong(&run);
    assert!(problems.contains("begin_us goes back by 4000000 us at row 1"), "{problems}");
    assert!(!problems.contains("round 3 follows"), "{problems}");
    assert_eq!(usable_rows(&run, "vms"), 9);

    let run = dir.path().join("order");
    record(&run, [2, 1].into_iter().map(|round| sample::view(round, VMS)));
    assert!(wrong(&run).contains("round 1 follows round 2"));
}

#[test]
fn manifests_that_cannot_be_used_are_refused_by_name() {
    let (_dir, run) = recording();
    let manifest = run.join("manifest.json");
    let written = fs::read_to_string(&manifest).unwrap();
    for (content, words) in [
        (with_version(&written, 99), "schema version 99"),
        (written.replace("huddle/manifest/1", "huddle/manifest/2"), "\"huddle/manifest/2\""),
        (written[..written.len() / 2].to_owned(), "not a huddle manifest"),
    ] {
        fs::write(&manifest, content).unwrap();
        assert!(wrong(&run).contains(words));
        let output = analysis(&["summary"], &run);
        let said = text(&output.stderr);
        assert!(said.matches(words).count() == 1 && said.lines().count() == 1, "{said}");
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    }
    fs::remove_file(&manifest).unwrap();
    assert!(wrong(&run).contains("the tables are checked without it"));
    assert_eq!(usable_rows(&run, "sharing"), 24);
}

#[test]
fn an_older_recording_is_read_and_newer_tables_in_it_are_named() {
    let (_dir, run) = recording();
    let manifest = run.join("manifest.json");
    let written = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, with_version(&written, 1)).unwrap();
    with_columns_of(1, &run);
    let whole = analysis(&["validate"], &run);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stdout));
    assert_eq!(analysis(&["summary"], &run).status.code(), Some(0));
    assert_eq!(usable_rows(&run, "sharing"), 24);
    fs::create_dir(run.join("windows")).unwrap();
    fs::write(run.join("windows/segment-000001.parquet"), "PAR1").unwrap();
    assert!(
        wrong(&run)
            .contains("table windows, which was added in schema version 2, but its manifest has version 1")
    );
}

/// The manifest as one of this schema version, which has none of the later tables.
fn with_version(manifest: &str, version: u32) -> String {
    let mut manifest: Value = serde_json::from_str(manifest).unwrap();
    assert_eq!(manifest["schema_version"], SCHEMA_VERSION);
    manifest["schema_version"] = version.into();
    for table in Table::ALL.iter().filter(|table| table.since() > version) {
        manifest["tables"].as_object_mut().unwrap().remove(table.name());
    }
    manifest.to_string()
}

/// Gives the segments the columns and names that this version had, and no checksum, and removes tables that it did not
/// have.
fn with_columns_of(version: u32, run: &Path) {
    forget_checksums(run);
    for table in Table::ALL.iter().filter(|table| run.join(table.name()).is_dir()) {
        if table.since() > version {
            fs::remove_dir_all(run.join(table.name())).unwrap();
            continue;
        }
        for segment in fs::read_dir(run.join(table.name())).unwrap().map(|entry| entry.unwrap().path()) {
            let mut frame = ParquetReader::new(fs::File::open(&segment).unwrap()).finish().unwrap();
            for column in table.columns() {
                match table.column_name(column.name, version) {
                    Some(name) if name == column.name => {}
                    Some(name) => _ = frame.rename(column.name, name.into()).unwrap(),
                    None => frame = frame.drop(column.name).unwrap(),
                }
            }
            ParquetWriter::new(fs::File::create(&segment).unwrap()).finish(&mut frame).unwrap();
        }
    }
}

/// A recording whose segments Polars wrote again, in other types and with a further column, gives the same answers.
#[test]
fn a_recording_that_another_program_wrote_again_gives_the_same_answers() {
    let (_dir, run) = recording();
    let questions = ["summary", "sharing", "timeline", "compare"];
    let answers = || questions.map(|question| analysis(&[question, "--format", "json"], &run));
    let original = answers();
    for table in Table::ALL.iter().filter(|table| run.join(table.name()).is_dir()) {
        for segment in fs::read_dir(run.join(table.name())).unwrap().map(|entry| entry.unwrap().path()) {
            let mut frame = ParquetReader::new(fs::File::open(&segment).unwrap()).finish().unwrap();
            let rounds = frame.column("round").unwrap().cast(&DataType::Float64).unwrap();
            frame.replace("round", rounds).unwrap();
            frame.insert_column(0, Column::new("added".into(), vec!["x"; frame.height()])).unwrap();
            ParquetWriter::new(fs::File::create(&segment).unwrap()).finish(&mut frame).unwrap();
        }
    }
    for ((question, before), after) in questions.iter().zip(original).zip(answers()) {
        assert_eq!(text(&after.stdout), text(&before.stdout), "{question}");
        let said = text(&after.stderr);
        assert!(said.contains("written by another program (\"Polars\")"), "{question}: {said}");
        assert!(
            said.contains("vms has further columns, which are not read: \"added\""),
            "{question}: {said}"
        );
    }
    assert_eq!(analysis(&["validate"], &run).status.code(), Some(0));
    // A value that its column cannot have: the segment is left out by name, and the others are used.
    let segment = run.join("decisions/segment-000002.parquet");
    let mut frame = ParquetReader::new(fs::File::open(&segment).unwrap()).finish().unwrap();
    frame.replace("round", Column::new("round".into(), [1.5])).unwrap();
    ParquetWriter::new(fs::File::create(&segment).unwrap()).finish(&mut frame).unwrap();
    let summary = analysis(&["summary", "--format", "json"], &run);
    assert_eq!(json(&summary)["runs"][0]["rounds"]["count"].as_u64(), Some(3));
    let words =
        "segment-000002.parquet cannot be read: round has 1.5 in row 1, and should hold whole numbers";
    assert!(text(&summary.stderr).contains(words), "{}", text(&summary.stderr));
}

#[test]
fn a_column_that_had_another_name_is_read_by_that_of_its_version() {
    let (dir, run) = recording();
    let manifest = run.join("manifest.json");
    let written = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, with_version(&written, 2)).unwrap();
    // Version 2 named the column `run`. A segment that says its own version is read by that.
    with_columns_of(2, &run);
    let whole = analysis(&["validate"], &run);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stdout));
    fs::write(&manifest, &written).unwrap();
    let missing =
        format!("does not have the columns of ksm in schema version {SCHEMA_VERSION}: ksm_run is missing");
    assert!(wrong(&run).contains(&missing));
    fs::write(&manifest, with_version(&written, 2)).unwrap();
    let out = dir.path().join("out");
    let arguments = ["export", "--format", "csv", "--table", "ksm", "-o", out.to_str().unwrap()];
    assert_eq!(analysis(&arguments, &run).status.code(), Some(0));
    let heading = fs::read_to_string(out.join("ksm.csv")).unwrap();
    assert!(heading.lines().next().unwrap().contains(",unavailable,ksm_run,full_scans,"), "{heading}");
}

#[test]
fn bad_input_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for (path, words) in [("", "has no recording"), ("file", "is a file"), ("none", "cannot read")] {
        for command in ["summary", "validate"] {
            let output = analysis(&[command], &dir.path().join(path));
            let said = text(&output.stderr);
            assert!(said.contains(words) && said.lines().count() == 1, "{said}");
            assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_huddle-analysis")).arg("summary").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// A recording that version 3 wrote (`collector/record/fixtures`): all questions are answered as before, and what it
/// does not say is null.
#[test]
fn a_recording_of_version_3_is_read_as_before() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../collector/record/fixtures/schema-3");
    let whole = analysis(&["validate"], &run);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stdout));
    let found = &json(&analysis(&["summary", "--format", "json"], &run))["runs"][0];
    let vms: Vec<_> = found["vms"].as_array().unwrap().iter().map(|vm| (&vm["vm"], &vm["pid"])).collect();
    let expected =
        [("dom5", 5), ("vm0", 100), ("vm1", 101)].map(|(vm, pid)| (Value::from(vm), Value::from(pid)));
    assert_eq!(vms, expected.iter().map(|(vm, pid)| (vm, pid)).collect::<Vec<_>>());
    assert!(
        found["vms"].as_array().unwrap().iter().all(|vm| vm["uuid"].is_null() && vm["vm_kind"].is_null())
    );
    assert_eq!(found["rounds"]["count"].as_u64(), Some(4));
    let compared = json(&analysis(&["compare", "--format", "json"], &run));
    let arms: Vec<_> =
        compared["arms"].as_array().unwrap().iter().map(|arm| (&arm["name"], &arm["places"])).collect();
    let expected =
        [("before", 2), ("paper", 2)].map(|(name, places)| (Value::from(name), Value::from(places)));
    assert_eq!(arms, expected.iter().map(|(name, places)| (name, places)).collect::<Vec<_>>());
}

/// A recording that version 4 wrote, of two processes.
#[test]
fn a_recording_of_version_4_is_read_as_before() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../collector/record/fixtures/schema-4");
    let whole = analysis(&["validate"], &run);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stdout));
    let found = &json(&analysis(&["summary", "--format", "json"], &run))["runs"][0];
    let vms: Vec<_> = found["vms"].as_array().unwrap().iter().map(|vm| vm["vm"].as_str().unwrap()).collect();
    assert_eq!(vms, ["db", "web"]);
    let sharing = analysis(&["sharing", "--format", "json"], &run);
    assert_eq!(sharing.status.code(), Some(0), "{}", text(&sharing.stderr));
}

/// A recording that version 5 wrote, of three processes.
#[test]
fn a_recording_of_version_5_is_read_as_before() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../collector/record/fixtures/schema-5");
    let whole = analysis(&["validate"], &run);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stdout));
    let found = &json(&analysis(&["summary", "--format", "json"], &run))["runs"][0];
    let vms: Vec<_> = found["vms"].as_array().unwrap().iter().map(|vm| vm["vm"].as_str().unwrap()).collect();
    assert_eq!(vms, ["cache", "db", "web"]);
    let sharing = analysis(&["sharing", "--format", "json"], &run);
    assert_eq!(sharing.status.code(), Some(0), "{}", text(&sharing.stderr));
}
