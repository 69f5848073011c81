//! `huddle-analysis fleet` on sketches of three hosts.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::path::Path;
use std::process::{Command, Output};

use huddle_model::schema::{HostRow, Manifest, Rows, SketchFact, SketchRow};
use huddle_record::{RecordTarget, Recorder, RecorderLimits};
use huddle_testing::sample;
use serde_json::Value;

const GIB: u64 = 1 << 30;

/// A VM with the first number of each range of contents that it holds, and how many.
struct Held {
    vm: &'static str,
    uuid: Option<u128>,
    contents: Vec<(i64, i64)>,
    apart: Option<&'static str>,
}

fn held(vm: &'static str, contents: &[(i64, i64)]) -> Held {
    Held { vm, uuid: None, contents: contents.to_vec(), apart: None }
}

/// A host of 16 GiB and 8 CPUs with VMs of 4 GiB, as `huddle sketch` records it.
fn record(root: &Path, host: &str, begin_us: i64, seed_check: &str, vms: &[Held]) {
    record_with(root, host, begin_us, seed_check, vms, Some(8));
}

fn record_with(
    root: &Path,
    host: &str,
    begin_us: i64,
    seed_check: &str,
    vms: &[Held],
    host_cpus: Option<u32>,
) {
    let sketches = SketchFact {
        one_in: 1024,
        hash: "siphash-2-4".into(),
        seed: "lab".into(),
        seed_check: seed_check.into(),
        page_bytes: 4096,
    };
    let run = format!("20261201T000000Z-{begin_us}");
    let manifest =
        Manifest { host: host.into(), run: run.clone(), sketches: Some(sketches), ..sample::manifest() };
    let dir = RecordTarget::Fleet { root: root.into(), host: host.into(), run }.dir();
    let mut rows = Rows::default();
    for of in vms {
        let uuid = of.uuid.map(|number| huddle_model::vm::Uuid::from_u128(number).into());
        rows.hosts.push(HostRow {
            begin_us,
            end_us: begin_us + 1,
            host_cpus,
            host_cores: None,
            host_caches: Some(2),
            host_cache_bytes: None,
            host_memory_bytes: Some(16 * GIB),
            vm: Some(of.vm.into()),
            vm_kind: None,
            uuid,
            vm_owner: None,
            vm_vcpus: Some(2),
            vm_memory_bytes: Some(4 * GIB),
            vm_apart: of.apart.map(str::to_owned),
            vm_pages_read: Some(1 << 20),
            vm_pages_zero: Some(0),
            vm_not_sketched: None,
        });
        rows.sketches.extend(of.contents.iter().flat_map(|(first, count)| *first..first + count).map(
            |hash| SketchRow { begin_us, end_us: begin_us + 1, vm: of.vm.into(), vm_kind: None, uuid, hash },
        ));
    }
    let recorder = Recorder::start(&dir, manifest, RecorderLimits::default()).unwrap();
    recorder.send_rows(rows);
    recorder.finish().unwrap();
}

fn fleet(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle-analysis"));
    command.arg("fleet").arg(root).args(arguments).output().unwrap()
}

fn json(root: &Path, arguments: &[&str]) -> Value {
    let output = fleet(root, &[arguments, &["--format", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Two hosts with one of each pair; the third is empty but for a VM with nothing in common.
fn two_pairs(root: &Path) {
    let (web, database) = ((1_000, 500), (5_000, 300));
    record(root, "h1", 10, "00", &[held("web1", &[web]), held("db1", &[database])]);
    record(root, "h2", 10, "00", &[held("web2", &[web, (9_000, 5)]), held("db2", &[database])]);
    record(root, "h3", 10, "00", &[held("alone", &[(20_000, 900)])]);
}

#[test]
fn moves_bring_together_what_shares() {
    let dir = tempfile::tempdir().unwrap();
    two_pairs(dir.path());
    let found = json(dir.path(), &[]);
    assert_eq!(found["schema"], "huddle/fleet-moves/1");
    assert_eq!((&found["hosts"], &found["vms"]), (&3.into(), &5.into()));
    assert_eq!(found["saved_today_bytes"], 0);
    assert_eq!(found["saved_bytes"], 800 * 1024 * 4096_u64);
    let moves = found["moves"].as_array().unwrap();
    // A host has room for three VMs of 4 GiB in nine tenths of 16 GiB, so one host can hold at most three of the four.
    assert_eq!(moves.len(), 2, "{found}");
    let together =
        |moves: &[Value]| moves.iter().map(|one| one["saved_bytes"].as_i64().unwrap()).sum::<i64>();
    assert_eq!(together(moves), 800 * 1024 * 4096);
    let one = json(dir.path(), &["--moves", "1"]);
    assert_eq!(one["saved_bytes"], 500 * 1024 * 4096_u64, "the pair that shares more: {one}");
    // Standard error of 500 of 1,024 times as many: 22.35 of them.
    let error = one["saved_more_standard_error_bytes"].as_u64().unwrap();
    assert!((93_000_000..94_500_000).contains(&error), "{error}");
    let nothing = json(dir.path(), &["--memory-share", "0.1"]);
    assert_eq!(nothing["moves"].as_array().unwrap().len(), 0, "no host has room");
    let table = String::from_utf8(fleet(dir.path(), &[]).stdout).unwrap();
    assert!(
        table.contains("3 hosts with 5 VMs") && table.contains("2 moves bring 3200 MiB more together"),
        "{table}"
    );
}

#[test]
fn the_script_of_libvirt_has_each_move() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "h1", 10, "00", &[held("a'b", &[(1, 50)])]);
    record(dir.path(), "h2", 10, "00", &[held("c", &[(1, 50)])]);
    let script = String::from_utf8(fleet(dir.path(), &["--format", "virsh"]).stdout).unwrap();
    let migrate: Vec<&str> = script.lines().filter(|line| line.starts_with("virsh")).collect();
    assert_eq!(migrate.len(), 1, "{script}");
    assert!(migrate[0].contains(" migrate --live ") && migrate[0].contains("'qemu+ssh://h"), "{script}");
}

#[test]
fn groups_that_are_kept_apart_stay_apart() {
    let dir = tempfile::tempdir().unwrap();
    let tenant = |vm| Held { apart: Some("red,blue"), ..held(vm, &[(1_000, 500)]) };
    record(dir.path(), "h1", 10, "00", &[tenant("red")]);
    record(dir.path(), "h2", 10, "00", &[tenant("blue")]);
    assert_eq!(json(dir.path(), &[])["moves"].as_array().unwrap().len(), 0);
}

#[test]
fn the_newest_sketches_of_a_host_count_and_a_vm_is_where_it_was_seen_last() {
    let dir = tempfile::tempdir().unwrap();
    let moved = || Held { uuid: Some(7), ..held("web2", &[(1_000, 500)]) };
    record(dir.path(), "h1", 10, "00", &[held("web1", &[(1_000, 500)])]);
    record(dir.path(), "h2", 10, "00", &[moved()]);
    assert_eq!(json(dir.path(), &[])["moves"].as_array().unwrap().len(), 1);
    record(dir.path(), "h1", 20, "00", &[held("web1", &[(1_000, 500)]), moved()]);
    let found = json(dir.path(), &[]);
    assert_eq!((&found["vms"], found["moves"].as_array().unwrap().len()), (&2.into(), 0), "{found}");
    assert_eq!(found["saved_today_bytes"], 500 * 1024 * 4096_u64);
    assert!(found["left_out"][0].as_str().unwrap().contains("seen on another host later"), "{found}");
}

#[test]
fn a_host_of_unknown_size_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pair = |vm| held(vm, &[(1_000, 500)]);
    record(dir.path(), "h1", 10, "00", &[pair("a")]);
    record_with(dir.path(), "h2", 10, "00", &[pair("b")], None);
    let found = json(dir.path(), &[]);
    let moves = found["moves"].as_array().unwrap();
    assert_eq!((moves.len(), &moves[0]["to"]), (1, &"h1".into()), "{found}");
    assert!(found["left_out"][0].as_str().unwrap().contains("not known how much it may hold"), "{found}");
}

#[test]
fn sketches_of_another_seed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "h1", 10, "00", &[held("a", &[(1, 5)])]);
    record(dir.path(), "h2", 10, "ff", &[held("b", &[(1, 5)])]);
    let output = fleet(dir.path(), &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("by another seed, scale or hash"), "{stderr}");
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
}

#[test]
fn recordings_without_sketches_say_how_to_make_some() {
    let dir = tempfile::tempdir().unwrap();
    let recorder =
        Recorder::start(&dir.path().join("run"), sample::manifest(), RecorderLimits::default()).unwrap();
    recorder.finish().unwrap();
    let output = fleet(dir.path(), &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("huddle sketch --seed FILE"), "{stderr}");
}
