//! The doctor, and events that are none or not here.

use super::*;

#[test]
fn doctor_answers_without_any_privilege() {
    let huddle = Huddle::new();
    let doctor = huddle.json(&["doctor"]);
    assert_eq!(doctor["schema"], "huddle/doctor/1");
    let items: Vec<&str> = doctor["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["item"].as_str().unwrap())
        .collect();
    for item in ["ksm.run", "kvm.mediated_vpmu", "resctrl", "pmu.llc_misses", "sched_switch", "kvm_entry"] {
        assert!(items.contains(&item), "{item} is not in {items:?}");
    }
    for finding in doctor["findings"].as_array().unwrap() {
        assert!(!finding["meaning"].as_str().unwrap().is_empty(), "{finding}");
        assert!(finding["state"] != "degraded" || finding["remedy"].is_string(), "{finding}");
    }
}

#[test]
fn an_event_that_is_none_is_wrong_usage() {
    let huddle = Huddle::new();
    for event in [
        "llc_misses=cache-mises",
        "misses=r1",
        "llc_misses",
        "llc_misses=cpu/event=1",
        "cycles=event=1,event=2",
    ] {
        let output = huddle.output(&["doctor", "--event", event]);
        assert_eq!(output.status.code(), Some(2), "{event}");
        assert!(
            String::from_utf8_lossy(&output.stderr)
                .contains(event.split_once('=').map_or(event, |(_, event)| event)),
            "{event}"
        );
    }
}

#[test]
fn an_event_that_this_host_does_not_have_has_its_reason() {
    let huddle = Huddle::new();
    let finding = |event: &str| {
        let doctor = huddle.json(&["doctor", "--event", event]);
        let findings = doctor["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["item"] == "pmu.llc_misses").unwrap()
    };
    let missing = finding("llc_misses=no_such_pmu/event=1/");
    assert_eq!(missing["state"], "missing");
    let reason = missing["value"].as_str().unwrap();
    assert!(reason.contains("this host has no PMU no_such_pmu"), "{reason}");
    // A PMU of another kind is addressed by its own number and layout, on any host of x86 that has it.
    if Path::new("/sys/bus/event_source/devices/msr/events/tsc").exists() {
        let output = huddle.output(&["doctor", "--event", "llc_misses=msr/umask=1/"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("no field umask; its fields are event"), "{error}");
        assert!(finding("llc_misses=msr/tsc/")["value"].as_str().unwrap().contains("msr/tsc/"));
    }
}
