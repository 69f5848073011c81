//! `compare`, `sharing`, `timeline`, `report` and `export` of the real program, on recordings that the real
//! recorder wrote.

// Helpers of integration tests are not known as tests to Clippy.
#![allow(clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::rates::CounterDelta;
use huddle_model::schema::{Finding, Manifest, Rows, Table};
use huddle_model::stats::{BlockSums, TrialCompared, compare_blocks, compare_trial};
use huddle_model::trial::Objective;
use huddle_model::view::View;
use huddle_record::{RecordTarget, Recorder, RecorderLimits};
use huddle_testing::sample_observed::{ARMS, observed};
use huddle_testing::{sample, sample_observed};
use serde_json::Value;

fn record(run: &Path, manifest: Manifest, rounds: impl Iterator<Item = View>) {
    let mut limits = RecorderLimits::default();
    limits.queue.0 = 1000;
    let recorder = Recorder::start(run, manifest, limits).unwrap();
    let views: Vec<View> = rounds.collect();
    sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
    assert_eq!(recorder.finish().unwrap().steps.steps_lost, 0);
}

fn ask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_huddle-analysis")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.extend(["--format", "json"]);
    let output = ask(&all);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{arguments:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_offline_comparison_comes_to_the_numbers_of_the_live_one() {
    let dir = tempfile::tempdir().unwrap();
    let rounds: Vec<View> = (1..=16).map(|round| observed(round, 3)).collect();
    record(dir.path(), sample::manifest(), rounds.iter().cloned());
    let told = json(&["compare", dir.path().to_str().unwrap()]);
    assert_eq!((told["by"].as_str(), told["baseline"].as_str()), (Some("trial"), Some("before")));

    // As the loop does it: windows into blocks, blocks into pairs.
    for (objective, measure) in [
        (Objective::Mpki, "mpki"),
        (Objective::MissRatio, "miss_ratio"),
        (Objective::Ipc, "ipc"),
        (Objective::Reported, "throughput"),
    ] {
        let mut blocks = vec![[BlockSums::default(); 2]; 8];
        for view in &rounds {
            let seen = view.observation.value().unwrap();
            let trial = seen.trial.as_ref().unwrap();
            let arm = ARMS.iter().position(|arm| *arm == trial.arm).unwrap();
            blocks[trial.block as usize][arm].add(seen);
        }
        let value = |block: &BlockSums| *block.value(objective).value().unwrap();
        let pairs: Vec<(f64, f64)> =
            blocks.iter().map(|[before, after]| (value(before), value(after))).collect();
        let live = compare_trial(&pairs, objective.more_is_better()).unwrap();
        let changes = told["changes"].as_array().unwrap();
        let offline = changes.iter().find(|change| change["measure"] == measure).unwrap();
        let offline: TrialCompared =
            serde_json::from_value(offline["compared"]["available"].clone()).unwrap();
        let near = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert!(near(offline.change.median, live.change.median), "{measure}: {offline:?} {live:?}");
        let (ends, other) = (offline.change.ci95.unwrap(), live.change.ci95.unwrap());
        assert!(near(ends[0], other[0]) && near(ends[1], other[1]), "{measure}: {ends:?} {other:?}");
        assert_eq!(offline.change.n, live.change.n, "{measure}");
        assert!(near(offline.evidence_better / live.evidence_better, 1.0), "{measure}");
    }
    // The sample's arms differ by 20 % in MPKI.
    let change = &told["changes"][0]["compared"]["available"]["change"];
    assert!((change["median"].as_f64().unwrap() - 0.2).abs() < 0.001, "{change}");
    // Flaws are counted, not dropped: of 3 VMs one is multiplexed, one moved in `before`, one had breaks.
    let flags: Vec<Vec<u64>> = (0..2)
        .map(|arm| {
            let flags = &told["arms"][arm]["samples"];
            ["samples", "without_misses", "multiplexed", "migrated", "broken"]
                .map(|name| flags[name].as_u64().unwrap())
                .to_vec()
        })
        .collect();
    assert_eq!(flags, [[24, 0, 8, 8, 1], [24, 0, 8, 0, 1]]);
}

/// Two trials of one recording, of 8 blocks with a small change and of 3 with a great one: the change of both together
/// would be that of neither.
#[test]
fn trials_are_never_pooled() {
    let dir = tempfile::tempdir().unwrap();
    let second = |mut view: View| {
        if let Availability::Available(seen) = &mut view.observation {
            let seen = Arc::make_mut(seen);
            let trial = seen.trial.as_mut().unwrap();
            if trial.block >= 8 {
                (trial.trial, trial.block) = (2, trial.block - 8);
                let factor = if trial.arm == ARMS[1] { 3 } else { 1 };
                seen.reported.iter_mut().for_each(|report| report.operations *= factor);
            }
        }
        view
    };
    record(dir.path(), sample::manifest(), (1..=22).map(|round| second(observed(round, 3))));
    let run = dir.path().to_str().unwrap();
    let told = json(&["compare", run]);
    let places = |trial: u64| {
        let arms = told["arms"].as_array().unwrap().iter().filter(|arm| arm["trial"] == trial);
        arms.map(|arm| arm["places"].as_u64().unwrap()).collect::<Vec<u64>>()
    };
    assert_eq!((places(1), places(2)), (vec![8, 8], vec![3, 3]));
    let change = |trial: u64| {
        let mut changes = told["changes"].as_array().unwrap().iter();
        let found = changes.find(|change| change["trial"] == trial && change["measure"] == "throughput");
        let change = &found.unwrap()["compared"]["available"]["change"];
        (change["n"].as_u64().unwrap(), change["median"].as_f64().unwrap(), change["ci95"].is_null())
    };
    let ((n_first, first, _), (n_second, second, has_no_interval)) = (change(1), change(2));
    assert!(n_first == 8 && (first - 0.15).abs() < 0.005, "{first}");
    assert!(n_second == 3 && (second - 2.44).abs() < 0.02 && has_no_interval, "{second}");
    let shown = ask(&["compare", run]);
    let shown = stdout(&shown);
    assert!(shown.contains("trial  arm "), "{shown}");
    // Each kind of caveat is one sentence.
    let notes: Vec<&str> = shown.lines().filter(|line| line.starts_with("note: ")).collect();
    for kind in ["too few blocks", "drift", "outliers", "scaled estimates", "moved between caches"] {
        let count = notes.iter().filter(|note| note.contains(kind)).count();
        assert!(count <= 1, "{kind}: {notes:#?}");
    }
    assert!(notes[0].contains("too few blocks for an interval"), "{notes:#?}");
}

#[test]
fn arms_are_trials_policies_or_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (host, rounds) in [("a", 6), ("b", 8)] {
        let manifest = Manifest { host: host.into(), ..sample::manifest() };
        let target =
            RecordTarget::Fleet { root: dir.path().into(), host: host.into(), run: manifest.run.clone() };
        record(&target.dir(), manifest, (1..=rounds).map(|round| observed(round, 2)));
    }
    let pattern = dir.path().join("host=*/run=*");
    let pattern = pattern.to_str().unwrap();
    // Each trial by itself: the runs have one each.
    let by_trial = json(&["compare", pattern]);
    let arms = by_trial["arms"].as_array().unwrap();
    let blocks: Vec<(&str, u64, u64)> = arms
        .iter()
        .map(|arm| {
            (arm["name"].as_str().unwrap(), arm["trial"].as_u64().unwrap(), arm["places"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(blocks, [("before", 1, 3), ("paper", 1, 3), ("before", 1, 4), ("paper", 1, 4)]);
    assert!(
        arms[0]["run"].as_str().unwrap().ends_with("on a")
            && arms[2]["run"].as_str().unwrap().ends_with("on b")
    );
    assert_eq!(json(&["compare", pattern, "--by", "arm"]), by_trial);
    let by_run = json(&["compare", pattern, "--by", "run"]);
    assert_eq!(by_run["arms"].as_array().unwrap().len(), 2);
    let compared = &by_run["changes"][0]["compared"]["available"];
    assert_eq!(compared["method"], "block_bootstrap");
    // Six windows are too few stretches for a p value, and one sentence says so for all measures.
    assert!(compared["p_value"].is_null() && compared["change"]["ci95"].is_null(), "{compared}");
    let warnings: Vec<&str> =
        by_run["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap()).collect();
    assert_eq!(warnings.iter().filter(|warning| warning.contains("no interval and no p value")).count(), 1);
    assert!(warnings.iter().any(|warning| warning.starts_with("the recordings are not paired by block")));
    let by_policy = json(&["compare", pattern, "--by", "policy"]);
    let names: Vec<&str> =
        by_policy["arms"].as_array().unwrap().iter().map(|arm| arm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["paper", "not pinned"]);

    let output = ask(&["compare", pattern, "--baseline", "none"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no arm \"none\"") && stderr(&output).contains("\"before\""));
    let output = ask(&["compare", dir.path().join("x=*").to_str().unwrap()]);
    assert!(stderr(&output).contains("matches no recording"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
}

#[test]
fn sharing_and_timeline_say_what_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().to_str().unwrap();
    record(dir.path(), sample::manifest(), (1..=9).map(|round| observed(round, 3)));
    let rate = |round: u64| sample::view(round, 3).round.matrix.value().unwrap().rate(0, 1);
    let sharing = &json(&["sharing", run])["runs"][0];
    assert_eq!((sharing["round"].as_u64(), sharing["rates"][0][1].as_f64()), (Some(9), Some(rate(9))));
    assert_eq!((sharing["vms"][2].as_str(), &sharing["rates"][1][1]), (Some("vm2"), &Value::Null));
    let mean = (1..=9).map(rate).sum::<f64>() / 9.0;
    assert!((sharing["mean_rates"][0][1].as_f64().unwrap() - mean).abs() < 1e-12);
    let third = &json(&["sharing", run, "--round", "3"])["runs"][0];
    assert_eq!(third["rates"][0][1].as_f64(), Some(rate(3)));
    let output = ask(&["sharing", run, "--round", "77"]);
    assert!(stderr(&output).contains("no sharing in round 77"), "{}", stderr(&output));

    let timeline = &json(&["timeline", run, "--points", "3"])["runs"][0];
    assert_eq!(timeline["windows_a_point"].as_u64(), Some(3));
    let points = timeline["points"].as_array().unwrap();
    assert_eq!((points.len(), timeline["vms"]["vm1"].as_array().unwrap().len()), (3, 3));
    // Windows 1 to 3: 10, 8 and 10 (and 1 %) misses per 1000 instructions, of equal lengths.
    let first = points[0]["mpki"].as_f64().unwrap();
    assert!((first - (10.0 + 8.0 + 10.1) / 3.0).abs() < 0.01, "{first}");
    let kinds: Vec<&str> = timeline["moments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|moment| moment["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "placement").count(), 4);
    assert_eq!(kinds.iter().filter(|kind| **kind == "decision").count(), 1);
    let output = ask(&["timeline", run]);
    assert!(stdout(&output).contains("kept: paper: 2 VMs to one domain"), "{}", stdout(&output));
}

#[test]
fn a_report_has_every_figure_and_every_caveat_and_loads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let evil = "<script>alert(1)</script>,\n\"q\"";
    let finding = |item: &str, state: &str| Finding {
        area: "a".into(),
        item: item.into(),
        state: state.into(),
        value: "v".into(),
        meaning: format!("meaning of {item}"),
        remedy: Some("do <this>".into()),
    };
    let findings = vec![finding("ksm.run", "degraded"), finding("pmu", "missing"), finding("fine", "good")];
    let manifest = Manifest { findings: Some(findings), config: Some(evil.into()), ..sample::manifest() };
    record(
        &run,
        manifest,
        (1..=12).map(|round| {
            let mut view = observed(round, 3);
            Arc::make_mut(&mut Arc::make_mut(&mut view.round).vms)[2].name = evil.into();
            view
        }),
    );
    let page = dir.path().join("report.html");
    let figures = dir.path().join("figures");
    let output = ask(&[
        "report",
        run.to_str().unwrap(),
        "-o",
        page.to_str().unwrap(),
        "--figures",
        figures.to_str().unwrap(),
    ]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let html = fs::read_to_string(&page).unwrap();
    for words in [
        "meaning of ksm.run",
        "meaning of pmu",
        "do &lt;this&gt;",
        "2 of 3 findings",
        "&lt;script&gt;",
        "NMI watchdog",
    ] {
        assert!(html.contains(words), "{words} is missing");
    }
    for bad in ["<script", "<img", "<link", "url(", "src=", "meaning of fine"] {
        assert!(!html.contains(bad), "{bad}");
    }
    let mut names: Vec<String> = fs::read_dir(&figures)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "arms-ipc.svg",
        "arms-latency.svg",
        "arms-miss-ratio.svg",
        "arms-mpki.svg",
        "arms-throughput.svg",
        "blocks-ipc.svg",
        "blocks-latency.svg",
        "blocks-miss-ratio.svg",
        "blocks-mpki.svg",
        "blocks-throughput.svg",
        "changes.svg",
        "latency.svg",
        "observed.svg",
        "predicted.svg",
        "run0-mpki-frames.svg",
        "run0-mpki.svg",
        "run0-residency.svg",
        "run0-sharing-last.svg",
        "run0-sharing-mean.svg",
        "run0-sharing-read.svg",
    ];
    assert_eq!(names, expected);
    assert_eq!(html.matches("<svg ").count(), expected.len());
    assert_eq!(html.matches("</desc>").count(), expected.len());
    for name in names {
        let svg = fs::read_to_string(figures.join(&name)).unwrap();
        assert!(
            svg.starts_with("<?xml") && svg.contains("role=\"img\"") && svg.contains("<style>"),
            "{name}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
}

#[test]
fn what_is_missing_is_said_and_the_rest_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    // A name, how its rounds are, and what the report and the comparison must say.
    let none = |round: u64| {
        let mut view = observed(round, 2);
        let Availability::Available(seen) = &mut view.observation else { unreachable!() };
        let seen = Arc::make_mut(seen);
        seen.vcpus
            .iter_mut()
            .for_each(|vcpu| vcpu.counters = CounterDelta::unavailable("no PMU in this guest"));
        seen.reported.clear();
        view
    };
    let one_arm = |round: u64| observed(2 * round, 2);
    let nan = |round: u64| {
        let mut view = observed(round, 2);
        let Availability::Available(seen) = &mut view.observation else { unreachable!() };
        let seen = Arc::make_mut(seen);
        seen.reported.iter_mut().for_each(|report| report.latency_us = Some(f64::NAN));
        view
    };
    let all = |rounds: u64, make: &dyn Fn(u64) -> View| (1..=rounds).map(make).collect::<Vec<_>>();
    let cases = [
        ("empty", Vec::new(), "No VM was recorded.", "nothing to compare"),
        ("plain", all(4, &|round| sample::view(round, 2)), "No counters were recorded", "nothing to compare"),
        ("uncounted", all(4, &none), "No MPKI", "have no LLC misses"),
        ("one-arm", all(4, &one_arm), "Sharing in round", "only one arm"),
        ("nan", all(4, &nan), "no distribution of response times", "too few blocks for an interval"),
        ("one-sample", all(1, &|round| observed(round, 1)), "MPKI over time", "only one arm"),
    ];
    for (name, rounds, in_report, in_comparison) in cases {
        let run = dir.path().join(name);
        record(&run, sample::manifest(), rounds.into_iter());
        let page = dir.path().join(format!("{name}.html"));
        let (run, page) = (run.to_str().unwrap(), page.to_str().unwrap());
        for command in ["summary", "compare", "sharing", "timeline", "validate"] {
            let output = ask(&[command, run]);
            assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{name} {command}");
            assert!(!stdout(&output).contains("NaN"), "{name} {command}: {}", stdout(&output));
        }
        let comparison = ask(&["compare", run]);
        assert!(stdout(&comparison).contains(in_comparison), "{name}: {}", stdout(&comparison));
        let output = ask(&["report", run, "-o", page]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{name}");
        let html = fs::read_to_string(page).unwrap();
        assert!(html.contains(in_report) && !html.contains("NaN"), "{name}");
    }

    // A damaged table costs its own sections only.
    let run = dir.path().join("one-arm");
    fs::write(run.join("counters/segment-000001.parquet"), "PAR1").unwrap();
    let page = dir.path().join("damaged.html");
    let output = ask(&["report", run.to_str().unwrap(), "-o", page.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("segment-000001.parquet cannot be read") && html.contains("Sharing in round"));
    // Where nothing can be written, nothing is left.
    let output = ask(&["report", run.to_str().unwrap(), "-o", "/proc/none/report.html"]);
    let said: Vec<&str> = stderr(&output).lines().collect();
    assert_eq!((output.status.code(), said.len()), (Some(1), 2), "{said:?}");
    assert!(said[0].contains("left out: ") && said[1].contains("cannot write /proc/none/"), "{said:?}");
}

#[test]
fn an_export_is_read_back_row_by_row() {
    use polars::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    let fleet = dir.path().join("fleet");
    for host in ["a,b", "c"] {
        let manifest = Manifest { host: host.into(), ..sample::manifest() };
        let target =
            RecordTarget::Fleet { root: fleet.clone(), host: host.into(), run: manifest.run.clone() };
        record(&target.dir(), manifest, (1..=5).map(|round| observed(round, 2)));
    }
    for (format, ending) in [("csv", "csv"), ("parquet", "parquet"), ("json", "jsonl")] {
        let out = dir.path().join(format);
        let arguments = ["export", fleet.to_str().unwrap(), "--format", format, "-o", out.to_str().unwrap()];
        let output = ask(&arguments);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
        // All but `responses`, `sketches` and `hosts`, which no loop writes.
        assert_eq!(fs::read_dir(&out).unwrap().count(), Table::ALL.len() - 3);
        let path = |table: &str| out.join(format!("{table}.{ending}"));
        let read = |table: &str| -> DataFrame {
            let file = fs::File::open(path(table)).unwrap();
            match format {
                "csv" => CsvReader::new(file).finish().unwrap(),
                "parquet" => ParquetReader::new(file).finish().unwrap(),
                _ => JsonReader::new(file).with_json_format(JsonFormat::JsonLines).finish().unwrap(),
            }
        };
        let events = read("events");
        assert_eq!(events.height(), 10, "{format}");
        let messages = events.column("message").unwrap().str().unwrap().get(0).map(str::to_owned);
        assert_eq!(messages.as_deref(), Some("round \"1\",\nwith a newline"), "{format}");
        let hosts = events.column("host").unwrap().str().unwrap();
        assert_eq!((hosts.get(0), hosts.get(9)), (Some("a,b"), Some("c")), "{format}");
        let ksm = read("ksm");
        assert!(ksm.column("run_id").is_ok() && ksm.column("ksm_run").is_ok(), "{format}");
        let merging = read("merging");
        assert_eq!(merging.column("merges_failed").unwrap().null_count(), merging.height(), "{format}");
        // What is there is never written over.
        let again = ask(&arguments);
        assert_eq!(again.status.code(), Some(1));
        assert!(stderr(&again).contains("it is not empty"), "{}", stderr(&again));
    }
}

/// Tables as trees of their own, with the recorder's segments in them.
#[test]
fn an_export_by_table_has_the_segments_of_all_runs() {
    use polars::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    let fleet = dir.path().join("fleet");
    for host in ["a,b", "c"] {
        let manifest = Manifest { host: host.into(), ..sample::manifest() };
        let target =
            RecordTarget::Fleet { root: fleet.clone(), host: host.into(), run: manifest.run.clone() };
        record(&target.dir(), manifest, (1..=5).map(|round| observed(round, 2)));
    }
    let out = dir.path().join("tables");
    let arguments = |format| {
        ["export", fleet.to_str().unwrap(), "--format", format, "--layout", "table", "-o"].map(String::from)
    };
    let export = |format, out: &Path| {
        let arguments = [&arguments(format)[..], &[out.to_str().unwrap().to_owned()]].concat();
        ask(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let output = export("parquet", &out);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let run = sample::manifest().run;
    let copied = out.join(format!("events/host=a%2Cb/run={run}/segment-000001.parquet"));
    let recorded = fleet.join(format!("host=a%2Cb/run={run}/events/segment-000001.parquet"));
    assert_eq!(fs::read(copied).unwrap(), fs::read(recorded).unwrap(), "segments are as they were recorded");
    let path = PlRefPath::try_from_path(&out.join("events")).unwrap();
    let arguments = ScanArgsParquet { hive_options: HiveOptions::new_enabled(), ..Default::default() };
    let events = LazyFrame::scan_parquet(path, arguments).unwrap().collect().unwrap();
    let mut hosts: Vec<Option<&str>> = events.column("host").unwrap().str().unwrap().iter().collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!((events.height(), hosts), (10, vec![Some("a,b"), Some("c")]));
    let output = export("csv", &dir.path().join("csv"));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--layout table is for --format parquet"), "{}", stderr(&output));
    // Two of one name would have one place.
    let copy = dir.path().join("fleet/copy");
    fs::create_dir(&copy).unwrap();
    let status = Command::new("cp").arg("-r").arg(fleet.join("host=c")).arg(&copy).status().unwrap();
    assert!(status.success());
    let output = export("parquet", &dir.path().join("twice"));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("of the same host and run"), "{}", stderr(&output));
}

/// A recording of what a load generator timed in these blocks of an experiment, and nothing else.
fn record_responses(run: &Path, blocks: u64) {
    let mut all = Rows::default();
    for round in 1..=2 * blocks {
        all.responses.extend(sample_observed::responses(&observed(round, 1)).responses);
    }
    for row in &mut all.responses {
        row.arm = row.arm.as_ref().map(|arm| if arm == ARMS[0] { "opposed" } else { "recommended" }.into());
        // Experiments count from 1, and have no trials.
        (row.block, row.trial) = (row.block.map(|block| block + 1), None);
    }
    let recorder = Recorder::start(run, sample::manifest(), RecorderLimits::default()).unwrap();
    recorder.send_rows(all);
    recorder.finish().unwrap();
}

#[test]
fn single_responses_are_compared_rather_than_means_of_windows() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let recorder = Recorder::start(&run, sample::manifest(), RecorderLimits::default()).unwrap();
    let (mut all, mut before) = (Vec::new(), None);
    for round in 1..=16 {
        let view = observed(round, 2);
        let rows = sample_observed::responses(&view);
        all.extend(rows.responses.clone());
        recorder.send_rows(rows);
        let step = view.updates_since(before.as_ref());
        recorder.send(step.into());
        before = Some(view);
    }
    recorder.finish().unwrap();
    let told = json(&["compare", run.to_str().unwrap()]);
    for (arm, name) in told["arms"].as_array().unwrap().iter().zip(ARMS) {
        assert_eq!((arm["latency_of"].as_str(), arm["failed"].as_u64()), (Some("responses"), Some(8 * 2)));
        // 18 of each window's 20: one timed out, one is an error.
        let mut good: Vec<f64> = all
            .iter()
            .filter(|row| row.arm.as_deref() == Some(name) && row.failure.is_none())
            .map(|row| row.latency_us.unwrap())
            .collect();
        assert_eq!(arm["latencies"].as_u64(), Some(good.len() as u64));
        good.sort_by(f64::total_cmp);
        let at = [0.5, 0.9, 0.95, 0.99, 0.995, 0.999];
        let expected = huddle_model::stats::quantiles(&good, &at).unwrap();
        let found: Vec<f64> = serde_json::from_value(arm["latency_quantiles_us"].clone()).unwrap();
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?} {expected:?}");
    }
    let latency = told["changes"].as_array().unwrap().iter().find(|c| c["measure"] == "latency_us").unwrap();
    let latency = &latency["compared"]["available"];
    assert_eq!((latency["method"].as_str(), latency["change"]["n"].as_u64()), (Some("evidence"), Some(8)));
    assert!(latency["change"]["median"].as_f64().unwrap() > 0.1);
    let text = ask(&["compare", run.to_str().unwrap()]);
    let text = stdout(&text);
    assert!(text.contains("of single good responses") && text.contains("had no good response"));

    // Without them it is said that the quantiles are those of means.
    let means = dir.path().join("means");
    record(&means, sample::manifest(), (1..=4).map(|round| observed(round, 2)));
    let text = ask(&["compare", means.to_str().unwrap()]);
    assert!(stdout(&text).contains("the tail within a window is not in them"), "{}", stdout(&text));
    let both = ask(&["compare", run.to_str().unwrap(), means.to_str().unwrap()]);
    assert!(stdout(&both).contains("1 of 2 recordings have no single responses"), "{}", stdout(&both));
}

/// The result of an experiment in which two VMs that share read 30 % faster as recommended; block 3 is invalid.
fn summary_json(blocks: u64) -> Value {
    use serde_json::json;
    let block = |number: u64| {
        let sample = |arm: &str, reads: u64| {
            let guest = |vm: &str| {
                json!({"vm": vm, "vcpu": 0, "reads": reads, "elapsed_ns": 500_000_000, "busy_ns": 400_000_000,
                       "host": {"cpu_time_ns": {"available": 410_000_000}}})
            };
            json!({"arm": arm, "guests": [guest("vm0"), guest("vm1")], "cpu_share": 1.0})
        };
        let reads = 1_000_000 + 10_000 * number;
        json!({"number": number, "samples": [sample("opposed", reads), sample("recommended", reads * 13 / 10)],
               "invalid": (number == 3).then_some("merging did not hold")})
    };
    let matrix = sample::view(1, 2).round.matrix.value().unwrap().clone();
    json!({
        "schema": "huddle/summary/1", "experiment": "microbench", "guest": "process",
        "started_utc": "2026-11-23T13:25:01Z", "duration_s": 66.4, "valid": false,
        "invalid_blocks": ["block 3: merging did not hold"],
        "arms": {"opposed": {"n": 7, "median": 4.2e6, "ci95": [4.1e6, 4.3e6], "unit": "reads/s"},
                 "recommended": {"n": 7, "median": 5.4e6, "ci95": null, "unit": "reads/s"}},
        "arms_time": {"opposed": {"n": 7, "median": 0.48, "ci95": [0.47, 0.49], "unit": "s/Mreads"}},
        "llc_misses": {"unavailable": "no PMU in this guest"},
        "ratios": {"opposed_over_recommended": {"value": 1.3, "ci95": [1.2, 1.4], "n": 7}, "kernel_over_recommended": null},
        "verdict": "placed as recommended the guests read 1.30 times as fast",
        "boot": {"unavailable": "stand-ins have no operating system"},
        "spec": {"data": ["A", "<b>"]}, "matrix": matrix,
        "plans": {"opposed": {"policy": "opposed", "placement": [{"vm": "vm0", "vcpu": 0, "domain": 1}], "shared_within": 0}},
        "blocks": (1..=blocks).map(block).collect::<Vec<_>>(),
        "environment": {"hostname": "h", "governor": null, "ksm": {"run": "0"}},
        "disturbances": ["in arm opposed guests got 62 % of their CPUs", "the host was not idle",
                         "in arm recommended guests got 71 % of their CPUs"],
    })
}

#[test]
fn the_result_of_an_experiment_is_compared_by_its_blocks_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let experiment = dir.path().join("exp");
    fs::create_dir(&experiment).unwrap();
    fs::write(experiment.join("summary.json"), summary_json(8).to_string()).unwrap();
    record_responses(&experiment.join("recording"), 8);
    let path = experiment.to_str().unwrap();
    let told = json(&["compare", path]);
    assert_eq!((told["baseline"].as_str(), told["arms"][0]["places"].as_u64()), (Some("opposed"), Some(7)));
    let throughput = |number: u64| 2.0 * (1_000_000 + 10_000 * number) as f64 / 0.5;
    let expected: Vec<(f64, f64)> = [1, 2, 4, 5, 6, 7, 8]
        .into_iter()
        .map(|n| (throughput(n), 2.0 * ((1_000_000 + 10_000 * n) * 13 / 10) as f64 / 0.5))
        .collect();
    let live = compare_blocks(&expected, true).unwrap();
    let change = |measure: &str, arm: &str| {
        let changes = told["changes"].as_array().unwrap();
        let found = changes.iter().find(|one| one["measure"] == measure && one["arm"] == arm).unwrap();
        serde_json::from_value::<huddle_model::stats::Compared>(found["compared"]["available"].clone())
            .unwrap()
    };
    assert_eq!(change("throughput", "recommended"), live);
    let cpu = change("cpu_time_ns", "recommended").change.median;
    assert!((cpu - (1.0 - 1.0 / 1.3)).abs() < 1e-6, "{cpu}");
    // The response times are those of its recording: 18 of 20 a block, none of the invalid one.
    for arm in told["arms"].as_array().unwrap() {
        assert_eq!(
            (arm["latency_of"].as_str(), arm["latencies"].as_u64()),
            (Some("responses"), Some(18 * 7))
        );
    }
    assert_eq!(change("latency_us", "recommended").change.n, 7);
    // The same table beside the result, without a manifest, as the web experiment writes it.
    fs::rename(experiment.join("recording/responses"), experiment.join("responses")).unwrap();
    fs::remove_dir_all(experiment.join("recording")).unwrap();
    assert_eq!(json(&["compare", path]), told);
    let warnings = told["warnings"].to_string();
    assert!(
        warnings.contains("left out: block 3") && warnings.contains("no PMU in this guest"),
        "{warnings}"
    );

    let (page, figures) = (dir.path().join("report.html"), dir.path().join("figures"));
    let output = ask(&["report", path, "-o", page.to_str().unwrap(), "--figures", figures.to_str().unwrap()]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let html = fs::read_to_string(&page).unwrap();
    for words in [
        "read 1.30 times as fast",
        "Possible disturbance: the host was not idle",
        "in arm opposed guests got 62 % of their CPUs (and 1 more like it).",
        "480.0 [470.0, 490.0]",
        "Execution time in ns/read",
        "<title>block 8</title>",
        "1.300 [1.200, 1.400]",
        "no PMU in this guest",
        "Execution time by arm",
        "opposed over recommended",
        "domain 1: vm0/0",
        "vm1 holds data &lt;b&gt;",
        "stand-ins have no operating system",
        "- (not recorded)",
        "Response times by arm",
    ] {
        assert!(html.contains(words), "{words} is missing");
    }
    assert!(!html.contains("NaN") && !html.contains("<b>") && !html.contains("s/Mreads"));
    assert!(!html.contains("guests got 71 %"), "a kind is told once");
    // A line for each of the 7 valid blocks, in each of its figures.
    let lines = |name: &str| {
        let svg = fs::read_to_string(figures.join(format!("experiment0-{name}.svg"))).unwrap();
        svg.matches("<title>block ").count()
    };
    assert_eq!((lines("blocks-throughput"), lines("blocks-latency")), (7, 7));
    let order =
        |text: &str| text.find(">recommended<").zip(text.find(">opposed<")).map(|(one, other)| one < other);
    for name in ["arms-throughput", "blocks-throughput"] {
        let svg = fs::read_to_string(figures.join(format!("experiment0-{name}.svg"))).unwrap();
        assert_eq!(order(&svg), Some(true), "{name}");
    }
    let names: Vec<_> = fs::read_dir(&figures).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    for name in ["arms-throughput", "arms-time", "sharing", "latency", "ratios", "changes"] {
        assert!(names.contains(&format!("experiment0-{name}.svg").into()), "{name}: {names:?}");
    }
    // Together with a recording each is compared by itself.
    let run = dir.path().join("run");
    record(&run, sample::manifest(), (1..=4).map(|round| observed(round, 2)));
    let both = json(&["compare", path, run.to_str().unwrap()]);
    assert_eq!(
        (both["schema"].as_str(), both["runs"].as_array().unwrap().len()),
        (Some("huddle/comparisons/1"), 2)
    );
}

#[test]
fn a_result_that_cannot_be_used_is_refused_and_one_with_little_in_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        fs::create_dir_all(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("summary.json"), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let page = dir.path().join("report.html");
    let page = page.to_str().unwrap();
    let newer = write("newer", "{\"schema\":\"huddle/summary/2\"}".into());
    let cut = write("cut", summary_json(8).to_string()[..200].to_owned());
    let armless =
        write("armless", "{\"schema\":\"huddle/summary/1\",\"experiment\":\"x\",\"guest\":\"y\"}".into());
    for (path, words) in [
        (&newer, "\"huddle/summary/2\""),
        (&cut, "not an experiment's result"),
        (&armless, "missing field `arms`"),
    ] {
        for arguments in [vec!["compare", path], vec!["report", path, "-o", page]] {
            let output = ask(&arguments);
            let said = stderr(&output);
            assert!(said.contains(words) && said.lines().count() == 1, "{said}");
            assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""));
        }
    }
    assert!(!Path::new(page).exists());
    let only = write("only", summary_json(1).to_string());
    for command in ["summary", "sharing", "timeline", "validate"] {
        let output = ask(&[command, &only]);
        let said = stderr(&output);
        assert!(said.contains("the result of an experiment and no recording"), "{command}: {said}");
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1));
    }
    // One block, no block, and blocks whose form nobody knows: the rest is reported.
    let mut strange = summary_json(2);
    for block in strange["blocks"].as_array_mut().unwrap() {
        block["samples"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|one| one["guests"] = serde_json::json!([]));
    }
    let mut empty = summary_json(0);
    empty["arms"] = serde_json::json!({});
    for (name, result, words) in [
        ("one", summary_json(1), "too few blocks for an interval (1, and 6 are needed)"),
        ("none", empty, "has no valid block"),
        ("strange", strange, "no workload reported anything"),
    ] {
        let path = write(name, result.to_string());
        let output = ask(&["compare", &path]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{name}");
        assert!(stdout(&output).contains(words), "{name}: {}", stdout(&output));
        let output = ask(&["report", &path, "-o", page]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{name}");
        assert!(fs::read_to_string(page).unwrap().contains("Sharing with data"), "{name}");
    }
}
