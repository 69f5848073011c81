//! `misses` and the section of `report` beside it, on results that the microbenchmark wrote and that were cut down by hand.

// Helpers of integration tests are not known as tests to Clippy.
#![allow(clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use huddle_model::stats::rank_correlation;
use serde_json::{Value, json};

/// The directory of the fixtures, of which results have relative paths.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn ask_in(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_huddle-analysis")).current_dir(dir).args(arguments).output().unwrap()
}

/// What a command that succeeds writes.
fn told(dir: &Path, arguments: &[&str]) -> String {
    let output = ask_in(dir, arguments);
    assert_eq!(
        (output.status.code(), std::str::from_utf8(&output.stderr).unwrap()),
        (Some(0), ""),
        "{arguments:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(dir: &Path, name: &str) -> Value {
    let text = told(dir, &["misses", name, "--format", "json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["schema"], "huddle/misses/1");
    assert_eq!(
        document["runs"].as_array().unwrap().len(),
        1,
        "the sizes of a scan are not runs of their own"
    );
    document["runs"][0].clone()
}

/// The report's page and the figures beside it.
fn report(dir: &Path, name: &str) -> (String, PathBuf, tempfile::TempDir) {
    let out = tempfile::tempdir().unwrap();
    let (page, figures) = (out.path().join("report.html"), out.path().join("figures"));
    let arguments = ["report", name, "-o", page.to_str().unwrap(), "--figures", figures.to_str().unwrap()];
    told(dir, &arguments);
    (fs::read_to_string(page).unwrap(), figures, out)
}

fn figure(figures: &Path, name: &str) -> String {
    fs::read_to_string(figures.join(format!("experiment0-{name}.svg"))).unwrap()
}

/// A copy of a fixture in which each result was changed.
fn changed(name: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path, change: &dyn Fn(&mut Value)) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let (entry, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if entry.is_dir() {
                copy(&entry, &target, change);
                continue;
            }
            let mut result: Value = serde_json::from_str(&fs::read_to_string(entry).unwrap()).unwrap();
            change(&mut result);
            fs::write(target, result.to_string()).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&fixtures().join(name), &dir.path().join(name), &change);
    dir
}

/// An estimate, so many misses of a thousand as recommended and opposed.
fn estimate(recommended: f64, opposed: f64) -> Value {
    json!({"available": {
        "caches": {"name": "two caches", "size_bytes": 2 << 20, "ways": 16, "line_bytes": 64}, "reads": "cyclic",
        "arms": {"recommended": recommended, "opposed": opposed}, "vms": [],
        "ratios": {"opposed_over_recommended": opposed / recommended},
        "time_ratios": {"opposed_over_recommended": (1.0 + opposed / 200.0) / (1.0 + recommended / 200.0)},
        "miss_over_hit": 6.0,
    }})
}

#[test]
fn an_experiment_that_timed_nothing_has_simulated_misses_alone() {
    insta::assert_snapshot!("paper", told(&fixtures(), &["misses", "paper"]));
    let found = json_of(&fixtures(), "paper");
    let size = &found["sizes"][0];
    let arms: Vec<&str> = size["arms"]["available"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arm| {
            assert!(arm["time"]["unavailable"].as_str().unwrap().contains("--untimed"), "never 0: {arm}");
            assert!(arm["counted_misses"].get("available").is_none());
            arm["arm"].as_str().unwrap()
        })
        .collect();
    assert_eq!(arms, ["recommended", "opposed", "not_merged", "not_merged_opposed", "random"]);
    assert_eq!((&found["greatest"], &found["rank_correlations"]), (&Value::Null, &Value::Null));

    let (html, figures, _out) = report(&fixtures(), "paper");
    for words in ["<h3>Simulated misses</h3>", "SIMULATED, not counted", "one of 8 sets", "no time", "mru_n"]
    {
        assert!(html.contains(words), "{words} is missing");
    }
    for (name, groups) in [("simulated-vms", ["vm1", "vm4"]), ("simulated-caches", ["cache 0", "cache 1"])] {
        let svg = figure(&figures, name);
        assert!(groups.iter().all(|group| svg.contains(&format!(">{group}<"))), "{name}");
    }
    insta::assert_snapshot!("paper_simulated_svg", figure(&figures, "simulated"));
    assert!(!figures.join("experiment0-sizes.svg").exists(), "one size");
}

#[test]
fn counted_misses_are_in_the_unit_of_simulated_ones() {
    let estimate =
        |median: f64| json!({"n": 6, "median": median, "ci95": [median, median], "unit": "misses/read"});
    let dir = changed("paper", |result| {
        result["llc_misses"] = json!({"available": {"opposed": estimate(0.5), "kernel": estimate(0.25)}});
        result["simulated"]["arms"]["evil"] =
            json!({"n": 6, "median": 1.0, "ci95": null, "unit": "misses/1000 reads"});
    });
    let found = json_of(dir.path(), "paper");
    let arms = found["sizes"][0]["arms"]["available"].as_array().unwrap();
    let arm = |name: &str| arms.iter().find(|arm| arm["arm"] == name).unwrap();
    assert_eq!(arm("opposed")["counted_misses"]["available"]["median"], 500.0);
    assert_eq!(arm("opposed")["counted_misses"]["available"]["unit"], "misses/1000 reads");
    assert!(arm("random")["counted_misses"]["unavailable"].as_str().unwrap().contains("not counted"));
    assert!(arm("kernel")["simulated_misses"]["unavailable"].as_str().unwrap().contains("not simulated"));
    let order: Vec<&str> = arms.iter().map(|arm| arm["arm"].as_str().unwrap()).collect();
    let expected = ["recommended", "opposed", "not_merged", "not_merged_opposed", "kernel", "random", "evil"];
    assert_eq!(order, expected);
}

/// Three denominators: the reads of the data, those of the whole guest, and requests.
#[test]
fn counted_misses_of_other_reads_stay_in_their_unit() {
    for (origin, unit, told_as, simulated_unit) in [
        ("emulator", "misses/read", "misses/read of the loop", "misses/1000 reads of the whole guest"),
        ("emulator", "misses/request", "misses/request", "misses/1000 reads of the whole guest"),
        ("known_reads", "misses/request", "misses/request", "misses/1000 reads"),
    ] {
        let dir = changed("paper", |result| {
            let counted = json!({"n": 6, "median": 0.5, "ci95": null, "unit": unit});
            result["llc_misses"] = json!({"available": {"opposed": counted}});
            result["simulated"]["origin"] = json!(origin);
        });
        let found = json_of(dir.path(), "paper");
        let arm = &found["sizes"][0]["arms"]["available"][1];
        let counted = &arm["counted_misses"]["available"];
        assert_eq!((counted["median"].as_f64(), &counted["unit"]), (Some(0.5), &json!(unit)), "{origin}");
        assert_eq!(arm["simulated_misses"]["available"]["unit"], simulated_unit, "{origin} {unit}");
        let text = told(dir.path(), &["misses", "paper"]);
        for heading in [
            "predicted misses/1000 reads  ".to_owned(),
            format!("SIMULATED {simulated_unit} [95 %]"),
            format!("counted LLC {told_as}, any kind [95 %]"),
        ] {
            assert!(text.contains(&heading), "{heading}: {text}");
        }
    }
}

#[test]
fn what_a_scan_lost_is_that_of_all_sizes() {
    let dir = changed("scan", |result| {
        let Some(blocks) = result.pointer_mut("/simulated/blocks").and_then(Value::as_array_mut) else {
            return;
        };
        blocks.iter_mut().for_each(|block| block["lost"] = json!(1));
        blocks[0]["without_frame"] = json!(10);
    });
    let found = json_of(dir.path(), "scan");
    let (simulation, count) = (&found["simulation"]["available"], sizes(&found).len());
    assert!(count > 1);
    let of = |name: &str| simulation[name].as_u64().unwrap() as usize;
    assert_eq!((of("blocks"), of("lost"), of("without_frame")), (6 * count, 6 * count, 10 * count));
}

#[test]
fn reads_at_random_are_not_compared_with_the_time_of_a_ring() {
    let dir = changed("scan", |result| {
        if let Some(origin) = result.pointer_mut("/simulated/origin") {
            *origin = json!("random_reads");
        }
    });
    let found = json_of(dir.path(), "scan");
    let why = &found["rank_correlations"]["simulated_and_measured"]["unavailable"];
    assert!(why.as_str().unwrap().contains("read a ring"), "{why}");
}

/// The ratio of a size, by its name in `effect`; `None` where it is unavailable.
fn effect(size: &Value, name: &str) -> Option<f64> {
    let found = size["effect"][name].get("available")?;
    found.as_f64().or_else(|| found["value"].as_f64())
}

fn sizes(found: &Value) -> &Vec<Value> {
    found["sizes"].as_array().unwrap()
}

#[test]
fn a_scan_has_each_size_with_its_arms_and_the_greatest_effect() {
    insta::assert_snapshot!("scan", told(&fixtures(), &["misses", "scan"]));
    let found = json_of(&fixtures(), "scan");
    let greatest = |name: &str| {
        let of = |size: &&Value| effect(size, name).unwrap();
        let most = sizes(&found).iter().max_by(|one, other| of(one).total_cmp(&of(other))).unwrap();
        most["data_kib"].clone()
    };
    assert_eq!(found["greatest"]["measured_kib"], greatest("measured_time"));
    assert_eq!(found["greatest"]["simulated_kib"], greatest("simulated_time"));
    assert_eq!(found["greatest"]["predicted_kib"], Value::Null);
    for size in sizes(&found) {
        let arms = size["arms"]["available"].as_array().unwrap();
        let recommended = &arms[0];
        assert_eq!(recommended["time"]["available"]["unit"], "ns/read");
        assert!(recommended["simulated_misses"]["available"]["n"] == 6 && size["valid"] == true);
    }
    // Cut down to fewer sizes than the field in the file is of.
    let pairs: Vec<(f64, f64)> = sizes(&found)
        .iter()
        .map(|size| (effect(size, "simulated_time").unwrap(), effect(size, "measured_time").unwrap()))
        .collect();
    let correlation = &found["rank_correlations"]["simulated_and_measured"]["available"];
    assert_eq!(correlation.as_f64(), rank_correlation(&pairs));

    let (html, figures, _out) = report(&fixtures(), "scan");
    for words in
        ["Opposed over recommended by size of data", "Rank correlation (Spearman)", "SIMULATED, not counted"]
    {
        assert!(html.contains(words), "{words} is missing");
    }
    assert!(!html.contains("NaN"));
    let svg = figure(&figures, "sizes");
    assert_eq!(
        svg.matches("class=\"greatest\"").count(),
        2,
        "of what was measured and of what was simulated"
    );
    assert_eq!(svg.matches("class=\"interval\"").count(), 2 * sizes(&found).len());
    insta::assert_snapshot!("scan_sizes_svg", svg);
}

#[test]
fn predictions_of_a_scan_are_beside_the_others() {
    // As much as the data: the largest size has the greatest effect.
    let dir = changed("scan", |result| {
        let of = |kib: f64| (kib / 100.0, kib / 10.0);
        if let Some(sizes) = result.get_mut("sizes").and_then(Value::as_array_mut) {
            for size in sizes {
                let (recommended, opposed) = of(size["data_kib"].as_f64().unwrap());
                let estimate = &estimate(recommended, opposed)["available"];
                size["predicted_misses"] = estimate["ratios"]["opposed_over_recommended"].clone();
                size["predicted_time"] = estimate["time_ratios"]["opposed_over_recommended"].clone();
            }
        } else {
            let (recommended, opposed) = of(result["config"]["data_kib"].as_f64().unwrap());
            result["predicted"] = estimate(recommended, opposed);
        }
    });
    let found = json_of(dir.path(), "scan");
    assert_eq!(found["prediction"]["available"]["reads"], "cyclic");
    let last = sizes(&found).last().unwrap();
    assert_eq!(found["greatest"]["predicted_kib"], last["data_kib"]);
    assert!((effect(last, "predicted_misses").unwrap() - 10.0).abs() < 1e-9);
    let arm = &last["arms"]["available"][1];
    assert_eq!(
        (&arm["arm"], arm["predicted_misses"]["available"].as_f64()),
        (&json!("opposed"), Some(307.2))
    );
    assert!(found["rank_correlations"]["predicted_and_measured"]["available"].is_number());
    let text = told(dir.path(), &["misses", "scan"]);
    assert!(
        text.contains(
            "PREDICTED, an estimate from sizes alone: caches of two caches (2 MiB in 16 ways each)"
        ),
        "{text}"
    );
    let (_, figures, _out) = report(dir.path(), "scan");
    let svg = figure(&figures, "sizes");
    assert_eq!(svg.matches("class=\"greatest\"").count(), 3);
    assert_eq!(svg.matches("class=\"interval\"").count(), 2 * sizes(&found).len(), "an estimate has none");
    assert!(svg.contains("PREDICTED misses, as time"), "{svg}");
}

#[test]
fn why_there_is_no_prediction_is_told() {
    let why = "the size of the cache of domain 0 is unknown";
    let dir = changed("paper", |result| result["predicted"] = json!({"unavailable": why}));
    let text = told(dir.path(), &["misses", "paper"]);
    assert!(text.contains(&format!("no ratio of predicted time: {why}\n")), "{text}");
    let found = json_of(dir.path(), "paper");
    assert_eq!(found["sizes"][0]["effect"]["predicted_time"]["unavailable"], why);
}

#[test]
fn rows_of_csv_are_the_figures_of_json() {
    let found = json_of(&fixtures(), "scan");
    let csv = told(&fixtures(), &["misses", "scan", "--format", "csv"]);
    let mut lines = csv.lines();
    let heading = "directory,data_kib,of,figure,source,value,ci95_low,ci95_high,n,unit,why_none";
    assert_eq!(lines.next(), Some(heading));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.splitn(11, ',').collect()).collect();
    let arms: usize =
        sizes(&found).iter().map(|size| size["arms"]["available"].as_array().unwrap().len()).sum();
    assert_eq!(rows.len(), arms * 4 + sizes(&found).len() * 5);
    for size in sizes(&found) {
        let kib = size["data_kib"].to_string();
        let row = |of: &str, figure: &str, source: &str| {
            rows.iter().find(|row| row[1..5] == [kib.as_str(), of, figure, source]).unwrap()
        };
        let measured = row("opposed_over_recommended", "time", "measured");
        let ratio = &size["effect"]["measured_time"]["available"];
        assert_eq!(measured[5].parse::<f64>().ok(), ratio["value"].as_f64());
        assert_eq!(measured[6].parse::<f64>().ok(), ratio["ci95"][0].as_f64());
        assert_eq!((measured[8], measured[9], measured[10]), ("6", "ratio", ""));
        let simulated = row("recommended", "misses", "simulated");
        let of_arm = &size["arms"]["available"][0]["simulated_misses"]["available"];
        assert_eq!(simulated[5].parse::<f64>().ok(), of_arm["median"].as_f64());
        let predicted = row("recommended", "misses", "predicted");
        assert_eq!(&predicted[5..10], ["", "", "", "", ""], "never 0");
        assert!(predicted[10].contains("no estimate"));
    }
}

#[test]
fn what_of_a_scan_cannot_be_read_is_a_dash_with_its_reason() {
    let dir = changed("scan", |_| {});
    let scan = dir.path().join("scan");
    let lost = json_of(dir.path(), "scan")["sizes"][0]["data_kib"].to_string();
    fs::remove_dir_all(scan.join(format!("data-{lost}-kib"))).unwrap();
    let found = json_of(dir.path(), "scan");
    let first = &sizes(&found)[0];
    assert!(first["arms"]["unavailable"].as_str().unwrap().contains("cannot read"), "{first}");
    assert!(effect(first, "measured_time").is_some(), "the scan itself has it");
    assert!(found["simulation"].get("available").is_some(), "of the next size");
    let (html, ..) = report(dir.path(), "scan");
    assert!(html.contains("no figures of arms of"), "told in the report too");

    let path = scan.join("summary.json");
    let result: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut result = result.clone();
        change(&mut result);
        fs::write(&path, result.to_string()).unwrap();
    };
    for name in ["../scan", "/etc", "", ".", "a/b"] {
        with(&|result| result["sizes"][1]["directory"] = json!(name));
        let found = json_of(dir.path(), "scan");
        let why = sizes(&found)[1]["arms"]["unavailable"].as_str().unwrap();
        assert!(why.contains("is not the name of a directory below"), "{name}: {why}");
    }
    let size = result["sizes"][0].clone();
    for (sizes, words) in [
        (json!(vec![size; 1001]), "a scan of 1001 sizes, expected 1000 at most"),
        (json!("many"), "not the result of a scan over data sizes"),
    ] {
        with(&|result| result["sizes"] = sizes.clone());
        let output = ask_in(dir.path(), &["misses", "scan"]);
        let said = std::str::from_utf8(&output.stderr).unwrap();
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(words), "{said}");
    }
    // Its other parts are reported.
    let (html, ..) = report(dir.path(), "scan");
    assert!(html.contains("not the result of a scan over data sizes"));
}

#[test]
fn names_from_a_file_cannot_leave_their_place() {
    let evil = "<script>\u{1b}[2J";
    let dir = changed("paper", |result| {
        result["simulated"]["model"]["name"] = json!(evil);
        let figure = json!({"n": 6, "median": 1.0, "ci95": null, "unit": evil});
        result["simulated"]["arms"] = json!({evil: figure.clone()});
        result["simulated"]["vms"] = json!([{"vm": evil, "arms": {evil: figure}}]);
        result["predicted"] = json!({"unavailable": evil});
    });
    let text = told(dir.path(), &["misses", "paper"]);
    assert!(text.contains("<script>\\u{1b}") && !text.contains('\u{1b}'), "{text}");
    let (html, ..) = report(dir.path(), "paper");
    assert!(!html.contains("<script>") && !html.contains('\u{1b}'));
}

#[test]
fn without_a_simulation_the_report_has_no_section_and_recordings_have_no_misses() {
    let dir = changed("paper", |result| {
        result.as_object_mut().unwrap().remove("simulated");
    });
    let (html, ..) = report(dir.path(), "paper");
    assert!(!html.contains("Simulated misses") && !html.contains("Predicted misses"));
    let text = told(dir.path(), &["misses", "paper"]);
    assert!(text.contains("no cache was simulated"), "{text}");
    fs::write(dir.path().join("manifest.json"), "{}").unwrap();
    fs::remove_dir_all(dir.path().join("paper")).unwrap();
    let output = ask_in(dir.path(), &["misses", "."]);
    let said = std::str::from_utf8(&output.stderr).unwrap();
    assert!(said.contains("holds a recording and no result of an experiment"), "{said}");
}
