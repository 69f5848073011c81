//! `huddle-analysis fleet` on generated fleets, whose true overlaps and best grouping are known.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::path::Path;
use std::process::Command;

use huddle_model::fleet::{FleetShape, GeneratedFleet};
use huddle_record::{RecordTarget, Recorder, RecorderLimits};
use huddle_testing::fleet::{PAGE_BYTES, manifest, rows, vm_name};
use serde_json::Value;

/// A fleet of VMs of 1 GiB, so that the test is short.
fn shape() -> FleetShape {
    FleetShape {
        hosts: 8,
        vms_per_host: 20,
        systems: 2,
        contents: 256_000,
        system_contents: 51_200,
        application_contents: 76_800,
        ..FleetShape::default()
    }
}

fn record(fleet: &GeneratedFleet, root: &Path) {
    for host in 0..fleet.shape().hosts {
        let manifest = manifest(fleet, host);
        let (host_name, run) = (manifest.host.clone(), manifest.run.clone());
        let target = RecordTarget::Fleet { root: root.to_owned(), host: host_name, run };
        let recorder = Recorder::start(&target.dir(), manifest, RecorderLimits::default()).unwrap();
        recorder.send_rows(rows(fleet, host));
        recorder.finish().unwrap();
    }
}

fn ask(root: &Path, question: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle-analysis"));
    let command = command.args(["fleet", question, "--format", "json"]).args(arguments).arg(root);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn bytes(fleet: &GeneratedFleet, kept: u64) -> u64 {
    kept * fleet.shape().scale.one_in() * PAGE_BYTES
}

/// The number in the name of a VM.
fn number(row: &Value, column: &str) -> u32 {
    let name = row[column].as_str().unwrap();
    let number = name.strip_prefix("vm-").unwrap().parse().unwrap();
    assert_eq!(vm_name(number), name);
    number
}

#[test]
fn proposals_bring_together_nine_tenths_of_what_the_planted_grouping_does() {
    let fleet = GeneratedFleet::new(shape()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    record(&fleet, dir.path());
    let found = ask(dir.path(), "propose", &["--moves", "1000"]);
    let of = |hosts: &[Vec<u32>]| hosts.iter().map(|vms| fleet.saved_kept(vms)).sum::<u64>();
    let today: Vec<Vec<u32>> = (0..shape().hosts).map(|host| fleet.on_host(host).to_vec()).collect();
    let planted = bytes(&fleet, of(&fleet.planted()));
    assert_eq!(found["saved_today_bytes"], bytes(&fleet, of(&today)));
    let saved = found["saved_bytes"].as_u64().unwrap();
    assert!(saved * 10 >= planted * 9, "{saved} of {planted} bytes");

    // After each move no host is beyond its room, and none has both of two that are kept apart.
    let mut hosts = today;
    let room = shape().vms_per_host as usize + 2;
    for one in found["moves"].as_array().unwrap() {
        let vm = number(one, "vm");
        let host = |column: &str| -> usize {
            one[column].as_str().unwrap().strip_prefix("host-").unwrap().parse().unwrap()
        };
        let place = hosts[host("from")].iter().position(|other| *other == vm).unwrap();
        hosts[host("from")].swap_remove(place);
        let to = &mut hosts[host("to")];
        to.push(vm);
        assert!(to.len() <= room, "{one}");
        let apart = fleet.apart(vm).is_some_and(|pair| pair.iter().all(|vm| to.contains(vm)));
        assert!(!apart, "{one}");
    }
    assert_eq!(saved, bytes(&fleet, of(&hosts)), "what is told is what the moves bring");
}

#[test]
fn the_containment_of_pairs_is_as_near_to_the_truth_as_it_says() {
    let fleet = GeneratedFleet::new(shape()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    record(&fleet, dir.path());
    let found = ask(dir.path(), "pairs", &["--top", "100000", "--of-vm", "100"]);
    let rows = found["rows"].as_array().unwrap();
    let (mut all, mut inside, mut same_application) = (0, 0, 0);
    for row in rows {
        let (a, b) = (number(row, "vm"), number(row, "other_vm"));
        let truth = fleet.containment(a, b);
        for column in ["contained", "other_contained"] {
            let ends = &row[column]["ci95"];
            all += 1;
            inside += u32::from(ends[0].as_f64().unwrap() <= truth && truth <= ends[1].as_f64().unwrap());
        }
        same_application += u32::from(fleet.application(a) == fleet.application(b));
    }
    // Each application has 45 pairs of ten VMs.
    assert_eq!(same_application, fleet.vms() / 10 * 45);
    // Pairs of one application hang together, so fewer than 95 of 100 are within by chance.
    assert!(inside * 100 >= all * 90, "{inside} of {all} intervals hold the truth");
}
