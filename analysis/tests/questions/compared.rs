//! Arms of trials, policies and runs, compared.

use super::*;

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

/// Neither is a flaw of no sample where it is known of none.
#[test]
fn flaws_that_were_not_observed_are_not_told_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let unobserved = |mut view: View| {
        if let Availability::Available(seen) = &mut view.observation {
            let none = || Availability::Unavailable("no probe".to_owned());
            let seen = Arc::make_mut(seen);
            for vcpu in &mut seen.vcpus {
                (vcpu.migrations, vcpu.domain_migrations) = (none(), none());
            }
            // Of the first VM it is known what KSM did.
            seen.merging.iter_mut().skip(1).for_each(|merging| merging.breaks = none());
        }
        view
    };
    record(dir.path(), sample::manifest(), (1..=16).map(|round| unobserved(observed(round, 3))));
    let run = dir.path().to_str().unwrap();
    let flags = &json(&["compare", run])["arms"][0]["samples"];
    let counts = ["samples", "migrated", "without_moves", "broken", "without_breaks"];
    assert_eq!(counts.map(|name| flags[name].as_u64().unwrap()), [24, 0, 24, 0, 16]);
    let told = ask(&["compare", run]);
    let line = stdout(&told).lines().find(|line| line.contains("before") && line.contains(" of 8"));
    let cells: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!(cells[cells.len() - 4..], ["-", "0", "of", "8"], "{cells:?}");
    let summed = json(&["summary", run]);
    let first = &summed["runs"][0]["counted"][0]["samples"];
    assert_eq!((first["without_moves"].as_u64(), first["without_breaks"].as_u64()), (Some(16), Some(0)));
    let told = ask(&["summary", run]);
    let line = stdout(&told).lines().find(|line| line.starts_with("vm1") && line.contains("1 to 16"));
    let cells: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!(cells[cells.len() - 2..], ["-", "-"], "{cells:?}");
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
