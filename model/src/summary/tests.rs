use serde_json::json;

use super::*;
use crate::stats::Estimate;

fn text() -> String {
    let vcpu = json!({"cpu_time_ns": {"available": 41}, "exits": {"available": {"12": 3}}});
    let guest = json!({"vm": "vm1", "vcpu": 0, "reads": 8, "elapsed_ns": 4, "busy_ns": 2, "host": vcpu});
    let tenant = json!({"vm": "vm2", "requests": 2, "failed": 0, "timed_out": 0, "mean_us": 1.5,
                        "requests_in_window": 3, "host": null});
    json!({
        "schema": SUMMARY_SCHEMA, "experiment": "microbench", "guest": "process",
        "arms": {"opposed": {"n": 7, "median": 4.2, "ci95": null, "unit": "reads/s"}},
        "arms_time": {"opposed": {"n": 7, "median": 0.5, "ci95": [0.4, 0.6], "unit": "s/Mreads"}},
        "ratios": {"opposed_over_recommended": {"value": 1.3, "ci95": [1.2, 1.4], "n": 7}, "other": null},
        "llc_misses": {"unavailable": "no PMU"},
        "spec": {"data": ["A", "B"]},
        "blocks": [{"number": 1, "invalid": null, "samples": [
            {"arm": "opposed", "guests": [guest], "merging": [], "occupancy": null, "cpu_share": 0.5},
            {"arm": "recommended", "tenants": [tenant]},
        ]}],
        "environment": {"hostname": "h", "governor": null, "ksm": {"run": "0"}, "later": 1},
    })
    .to_string()
}

#[test]
fn the_common_part_of_all_experiments_is_read() {
    let summary: Summary = Summary::from_json(&text()).unwrap();
    let estimate = Estimate { n: 7, median: 4.2, ci95: None };
    assert_eq!(summary.arms["opposed"], ArmFigure { estimate, unit: "reads/s".into() });
    assert_eq!((summary.ratio("opposed_over_recommended").unwrap().n, summary.ratio("other")), (7, None));
    assert_eq!((summary.data(), summary.why_no_misses()), (vec!["A", "B"], Some("no PMU")));
    assert_eq!(
        (summary.verdict.as_ref(), summary.matrix.is_none(), summary.has_result()),
        (None, true, true)
    );
    assert!(
        summary.own.contains_key("arms_time") && !summary.own.contains_key("blocks"),
        "{:?}",
        summary.own
    );
    let [guests, tenants] = &summary.blocks[0].samples[..] else { panic!("two arms") };
    assert_eq!((guests.reads_per_s(), tenants.reads_per_s()), (Some(2e9), None));
    assert_eq!(guests.seen.as_ref().unwrap().cpu_share, 0.5);
    assert!(tenants.seen.is_none() && tenants.tenants[0].mean_us == Some(1.5));
    let probe = guests.guests[0].host.as_ref().unwrap();
    // Keys of JSON are text, and these are numbers.
    assert_eq!(probe.exits.value().unwrap()[&12], 3);
    assert!(probe.counters.is_none() && probe.migrations.reason().unwrap().contains("not in the summary"));
    assert_eq!(summary.environment.unwrap().ksm["run"], "0");
}

#[test]
fn what_is_written_is_read_back() {
    let summary: Summary = Summary::from_json(&text()).unwrap();
    let written = serde_json::to_value(&summary).unwrap();
    let samples = &written["blocks"][0]["samples"];
    assert_eq!((&samples[0]["cpu_share"], &samples[0]["occupancy"]), (&json!(0.5), &json!(null)));
    for name in ["guests", "cpu_share", "merging", "plan", "seen"] {
        assert!(samples[1].get(name).is_none(), "{name} is not a field of the web experiment");
    }
    assert_eq!(written["arms"]["opposed"]["median"], 4.2);
    assert!(written.get("boot").is_none() && written.get("own").is_none());
    let again: Summary = Summary::from_json(&written.to_string()).unwrap();
    assert_eq!(serde_json::to_value(&again).unwrap(), written);
}

#[test]
fn other_texts_are_rejected_with_the_reason() {
    for (text, words) in [
        ("{\"schema\":\"huddle/summary/2\"}", "\"huddle/summary/2\""),
        ("{\"schema\":", "not an experiment's result"),
        ("{\"schema\":\"huddle/summary/1\",\"experiment\":\"x\",\"guest\":\"y\"}", "missing field `arms`"),
    ] {
        let error = Summary::<Map<String, Value>>::from_json(text).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn what_a_scan_lacks_and_what_it_has_no_value_for_are_two_things() {
    let size = |fields: Value| {
        let mut size = json!({"data_kib": 512, "directory": "data-512-kib", "valid": true, "sharing_rate": null,
                              "verdict": null});
        fields.as_object().unwrap().iter().for_each(|(name, value)| size[name] = value.clone());
        size
    };
    let ratio = json!({"value": 1.5, "ci95": null, "n": 3, "test": null});
    let scan = json!({
        "schema": SUMMARY_SCHEMA, "experiment": "microbench_scan", "guest": "process", "started_utc": null,
        "duration_s": null, "valid": true, "arms": {}, "ratios": {}, "sharing_rate": null, "environment": null,
        "simulated_rank_correlation": null,
        "sizes": [size(json!({"simulated_misses": null, "simulated_time": ratio, "predicted_time": 1.25})),
                  size(json!({"predicted_misses": null}))],
    });
    let read: ScanSummary = serde_json::from_value(scan.clone()).unwrap();
    assert_eq!((read.simulated_rank_correlation, read.predicted_rank_correlation), (Some(None), None));
    let [first, second] = &read.sizes[..] else { panic!("two sizes") };
    assert_eq!((first.simulated_misses, first.predicted_misses), (Some(None), None));
    assert_eq!((first.simulated_time.unwrap().unwrap().value, first.predicted_time), (1.5, Some(Some(1.25))));
    assert_eq!((second.simulated_misses, second.predicted_misses), (None, Some(None)));
    assert_eq!(serde_json::to_value(&read).unwrap(), scan, "what is read is written again");
}

#[test]
fn a_prediction_or_the_reason_why_there_is_none() {
    let mut text: Value = serde_json::from_str(&text()).unwrap();
    let none: Summary = Summary::from_json(&text.to_string()).unwrap();
    assert!(none.predicted.is_none() && none.predicted().is_none());
    text["predicted"] = json!({"unavailable": "the working set of vm1 is unknown"});
    let summary: Summary = Summary::from_json(&text.to_string()).unwrap();
    assert!(summary.predicted().is_none());
    assert_eq!(summary.predicted.unwrap().reason(), Some("the working set of vm1 is unknown"));
}
