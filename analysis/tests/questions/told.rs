//! What a recording tells: sharing, timeline, report, export.

use super::*;

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
