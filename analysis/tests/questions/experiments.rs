//! Responses, and results of experiments.

use super::*;

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
