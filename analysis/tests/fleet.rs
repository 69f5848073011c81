//! `huddle-analysis fleet` on sketches of three hosts.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test: what fails, panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use huddle_model::fleet::FleetOverview;
use huddle_model::id::VmKind;
use huddle_model::rng::Rng;
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
    kind: Option<VmKind>,
    vmid: Option<u32>,
}

fn held(vm: &'static str, contents: &[(i64, i64)]) -> Held {
    Held { vm, uuid: None, contents: contents.to_vec(), apart: None, kind: None, vmid: None }
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
            vm_kind: of.kind,
            uuid,
            vm_vmid: of.vmid,
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
    command.args(["fleet", arguments[0]]).arg(root).args(&arguments[1..]).output().unwrap()
}

fn json(root: &Path, arguments: &[&str]) -> Value {
    json_of(&fleet(root, &[arguments, &["--format", "json"]].concat()))
}

fn json_of(output: &Output) -> Value {
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
    let found = json(dir.path(), &["propose"]);
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
    let one = json(dir.path(), &["propose", "--moves", "1"]);
    assert_eq!(one["saved_bytes"], 500 * 1024 * 4096_u64, "the pair that shares more: {one}");
    // Standard error of 500 of 1,024 times as many: 22.35 of them.
    let error = one["saved_more_standard_error_bytes"].as_u64().unwrap();
    assert!((93_000_000..94_500_000).contains(&error), "{error}");
    let nothing = json(dir.path(), &["propose", "--memory-share", "0.1"]);
    assert_eq!(nothing["moves"].as_array().unwrap().len(), 0, "no host has room");
    let table = String::from_utf8(fleet(dir.path(), &["propose"]).stdout).unwrap();
    assert!(
        table.contains("3 hosts with 5 VMs") && table.contains("2 moves bring 3200 MiB more together"),
        "{table}"
    );
}

/// The one move of two VMs that hold the same, as commands.
fn commands(format: &str, hosts: [&str; 2], vm: impl Fn(usize) -> Held) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (number, host) in hosts.into_iter().enumerate() {
        record(dir.path(), host, 10, "00", &[vm(number)]);
    }
    let output = fleet(dir.path(), &["propose", "--format", format]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn lines_without_comments(script: &str) -> Vec<&str> {
    script.lines().filter(|line| !line.starts_with('#') && *line != "set -e").collect()
}

#[test]
fn the_script_of_libvirt_goes_by_uuid() {
    let vm = |number: usize| Held {
        uuid: Some(number as u128 + 1),
        kind: Some(VmKind::Process),
        ..held(["a'b; reboot", "c\nreboot"][number], &[(1, 50)])
    };
    let script = commands("virsh", ["h1", "h2.example.org"], vm);
    let found = lines_without_comments(&script);
    assert_eq!(found.len(), 1, "{script}");
    assert!(found[0].starts_with("virsh --connect qemu+ssh://h"), "{script}");
    assert!(found[0].contains(" --undefinesource -- 00000000-0000-0000-0000-00000000000"), "{script}");
    for hosts in [["-oProxyCommand=reboot", "h2"], ["h1", "h2 reboot"]] {
        let script = commands("virsh", hosts, vm);
        assert!(
            lines_without_comments(&script).is_empty() && script.contains("no name of a host"),
            "{script}"
        );
    }
}

#[test]
fn what_is_no_domain_of_libvirt_is_left_out_with_the_reason() {
    let script = commands("virsh", ["h1", "h2"], |number| held(["a\nreboot", "c"][number], &[(1, 50)]));
    assert!(lines_without_comments(&script).is_empty() && script.contains("has no UUID"), "{script}");
    let script = commands("virsh", ["h1", "h2"], |number| Held {
        uuid: Some(number as u128 + 1),
        kind: Some(VmKind::XenDomain),
        ..held("web", &[(1, 50)])
    });
    assert!(lines_without_comments(&script).is_empty() && script.contains("`xl migrate`"), "{script}");
}

#[test]
fn proxmox_needs_a_number() {
    // A name is no number: its owner chose it.
    let script = commands("qm", ["h1", "h2"], |number| Held {
        vmid: Some(100 + number as u32),
        ..held(["999", "998"][number], &[(1, 50)])
    });
    let found = lines_without_comments(&script);
    let is_known = |line: &str| ["qm migrate 100 h2 --online", "qm migrate 101 h1 --online"].contains(&line);
    assert!(found.len() == 1 && is_known(found[0]), "{script}");
    let script = commands("qm", ["h1", "h2"], |number| held(["100", "101"][number], &[(1, 50)]));
    assert!(
        lines_without_comments(&script).is_empty() && script.contains("no number of Proxmox VE"),
        "{script}"
    );
}

#[test]
fn openstack_gets_weights_by_server_and_host() {
    let script = commands("openstack", ["h1", "h2"], |number| Held {
        uuid: Some(number as u128 + 1),
        ..held("web", &[(1, 50), (1_000 * (number as i64 + 1), 150)])
    });
    let found: Value = serde_json::from_str(&script).unwrap();
    assert_eq!(found["schema"], "huddle/fleet-openstack/1");
    let servers = [1, 2].map(|number| &found["servers"][format!("00000000-0000-0000-0000-{number:012}")]);
    let moved: Vec<_> = servers.iter().filter(|of| of["host"] != of["proposed_host"]).collect();
    assert_eq!(moved.len(), 1, "{found}");
    for server in servers {
        for (host, weight) in server["weights"].as_object().unwrap() {
            let expected = match host {
                host if server["proposed_host"] == host.as_str() => 1.0,
                host if server["host"] == host.as_str() => 0.0,
                _ => 0.125,
            };
            assert_eq!(*weight, expected, "{found}");
        }
    }
}

#[test]
fn pairs_are_told_with_the_part_that_each_has_of_the_other() {
    let dir = tempfile::tempdir().unwrap();
    two_pairs(dir.path());
    let found = json(dir.path(), &["pairs"]);
    assert_eq!(found["schema"], "huddle/fleet-pairs/1");
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{found}");
    assert_eq!((&rows[0]["vm"], &rows[0]["other_vm"]), (&"web1".into(), &"web2".into()));
    assert_eq!(
        (&rows[0]["common"], &rows[0]["kept"], &rows[0]["other_kept"]),
        (&500.into(), &500.into(), &505.into())
    );
    assert_eq!(rows[0]["one_host"], false);
    assert_eq!(rows[0]["common_bytes"], 500 * 1024 * 4096_u64);
    assert_eq!((&rows[0]["contained"]["rate"], &rows[0]["contained"]["ci95"][1]), (&1.0.into(), &1.0.into()));
    let rate = rows[0]["other_contained"]["rate"].as_f64().unwrap();
    assert!((rate - 500.0 / 505.0).abs() < 1e-12, "{found}");
    assert_eq!(json(dir.path(), &["pairs", "--top", "1"])["rows"].as_array().unwrap().len(), 1);
    let table = String::from_utf8(fleet(dir.path(), &["pairs"]).stdout).unwrap();
    assert!(table.contains("web1") && table.contains("apart"), "{table}");
}

#[test]
fn families_are_contents_of_nearly_the_same_vms() {
    let dir = tempfile::tempdir().unwrap();
    // Twelve VMs with one library; six of each system, one of which lacks a tenth of it.
    let vms = |first: usize| -> Vec<Held> {
        (first..first + 3)
            .map(|number| {
                let system = if number < 6 { 10_000 } else { 20_000 };
                let first = if number == 5 { system + 20 } else { system };
                let own = 100_000 + 1_000 * number as i64;
                held(
                    ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"][number],
                    &[(1, 60), (first, system + 200 - first), (own, 100)],
                )
            })
            .collect()
    };
    for (host, first) in [("h1", 0), ("h2", 3), ("h3", 6), ("h4", 9)] {
        record(dir.path(), host, 10, "00", &vms(first));
    }
    let found = json(dir.path(), &["families"]);
    assert_eq!((&found["schema"], &found["max_holders"]), (&"huddle/fleet-families/1".into(), &3.into()));
    let mut rows: Vec<Vec<u64>> = (found["rows"].as_array().unwrap().iter())
        .map(|row| {
            ["kept", "held", "on_hosts", "vms", "hosts"].map(|name| row[name].as_u64().unwrap()).to_vec()
        })
        .collect();
    rows.sort();
    let expected = [vec![60, 720, 240, 12, 4], vec![200, 1180, 400, 6, 2], vec![200, 1200, 400, 6, 2]];
    assert_eq!(rows, expected, "{found}");
    let table = String::from_utf8(fleet(dir.path(), &["families"]).stdout).unwrap();
    assert!(table.contains("3 families of contents that more than 3 VMs hold"), "{table}");
    let none = String::from_utf8(fleet(dir.path(), &["families", "--max-holders", "12"]).stdout).unwrap();
    assert!(none.contains("0 families"), "{none}");
}

#[test]
fn hosts_are_told_by_what_their_vms_hold_of_a_vm() {
    let dir = tempfile::tempdir().unwrap();
    two_pairs(dir.path());
    record(dir.path(), "h4", 10, "00", &[]);
    let found = json(dir.path(), &["hosts"]);
    assert_eq!(found["schema"], "huddle/fleet-hosts/1");
    let rows: Vec<(String, u64, String, u64)> = (found["rows"].as_array().unwrap().iter())
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            let number = |name: &str| row[name].as_u64().unwrap();
            (text("vm"), number("choice"), text("other_host"), number("common"))
        })
        .collect();
    let expected = [
        ("db1", 0, "h1", 0),
        ("db1", 1, "h2", 300),
        ("web1", 0, "h1", 0),
        ("web1", 1, "h2", 500),
        ("db2", 0, "h2", 0),
        ("db2", 1, "h1", 300),
        ("web2", 0, "h2", 0),
        ("web2", 1, "h1", 500),
        ("alone", 0, "h3", 0),
    ];
    let expected =
        expected.map(|(vm, choice, host, common)| (vm.to_owned(), choice, host.to_owned(), common));
    assert_eq!(rows, expected);
    let table = String::from_utf8(fleet(dir.path(), &["hosts"]).stdout).unwrap();
    assert!(table.contains("alone") && table.contains("100.0 ± "), "{table}");
}

#[test]
fn overview_and_report_have_hosts_families_and_moves() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    // Two systems and groups of two VMs, a group on two hosts.
    let vm = |name, system: i64, group: i64| held(name, &[(10_000 * system, 200), (100_000 * group, 100)]);
    record(&runs, "h1", 10, "00", &[vm("a", 1, 1), vm("b", 2, 2)]);
    record(&runs, "h2", 10, "00", &[vm("c", 1, 3), vm("d", 2, 4)]);
    record(&runs, "h3", 10, "00", &[vm("e", 1, 1), vm("f", 1, 3)]);
    record(&runs, "h<4>", 10, "00", &[vm("g", 2, 2), vm("h", 2, 4)]);
    let (overview, report) = (dir.path().join("fleet.json"), dir.path().join("fleet.html"));
    let output = fleet(&runs, &["overview", "-o", overview.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = FleetOverview::from_json(&std::fs::read_to_string(&overview).unwrap()).unwrap();
    let scale = 1024 * 4096;
    let hosts: Vec<(&str, u64, u64, u64)> = (found.hosts.iter())
        .map(|host| (host.name.as_str(), host.vms, host.held_bytes / scale, host.distinct_bytes / scale))
        .collect();
    let expected = [("h1", 2, 600, 600), ("h2", 2, 600, 600), ("h3", 2, 600, 400), ("h<4>", 2, 600, 400)];
    assert_eq!(hosts, expected);
    assert_eq!(found.families.len(), 2, "{found:?}");
    for family in &found.families {
        assert_eq!((family.bytes / scale, family.vms, family.hosts.len()), (200, 4, 3), "{found:?}");
    }
    assert!(!found.moves.is_empty());
    let alone = json_of(&fleet(&runs, &["overview", "--families", "1", "--moves", "0"]));
    assert_eq!((alone["families"].as_array().unwrap().len(), &alone["moves"]), (1, &serde_json::json!([])));
    let output = fleet(&runs, &["report", "-o", report.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(&report).unwrap();
    for words in ["4 hosts with 8 VMs", "Families by host", "Moves in order", "h&lt;4&gt;", "33.3 %"] {
        assert!(html.contains(words), "no {words:?} in {html}");
    }
}

#[test]
fn fleets_of_any_contents_are_counted_exactly() {
    const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let dir = tempfile::tempdir().unwrap();
        let hosts = 1 + rng.below(5);
        let mut all: Vec<(String, &str, BTreeSet<i64>)> = Vec::new();
        for host in 0..hosts {
            let vms: Vec<Held> = (0..rng.below(3))
                .map(|_| {
                    let first = |rng: &mut Rng| (rng.below(300) as i64, 1 + rng.below(40) as i64);
                    let ranges: BTreeMap<i64, i64> = (0..rng.below(6)).map(|_| first(&mut rng)).collect();
                    let held_ones: BTreeSet<i64> =
                        ranges.iter().flat_map(|(first, count)| *first..first + count).collect();
                    let name = NAMES[all.len()];
                    all.push((format!("h{host}"), name, held_ones.clone()));
                    held(name, &held_ones.into_iter().map(|hash| (hash, 1)).collect::<Vec<_>>())
                })
                .collect();
            record(dir.path(), &format!("h{host}"), 10, "00", &vms);
        }
        let common = |one: usize, other: usize| all[one].2.intersection(&all[other].2).count() as u64;
        let mut expected = BTreeSet::new();
        for one in 0..all.len() {
            for other in one + 1..all.len() {
                if common(one, other) >= 2 {
                    expected.insert((all[one].1.to_owned(), all[other].1.to_owned(), common(one, other)));
                }
            }
        }
        let on_host = |vm: usize, host: &str| {
            let others = (0..all.len()).filter(|other| *other != vm && all[*other].0 == host);
            let there: BTreeSet<i64> = others.flat_map(|other| all[other].2.iter().copied()).collect();
            all[vm].2.intersection(&there).count() as u64
        };
        for max_holders in ["2", "100"] {
            let found =
                json(dir.path(), &["pairs", "--top", "1000", "--of-vm", "100", "--max-holders", max_holders]);
            let rows: BTreeSet<(String, String, u64)> = (found["rows"].as_array().unwrap().iter())
                .map(|row| {
                    let text = |name: &str| row[name].as_str().unwrap().to_owned();
                    (text("vm"), text("other_vm"), row["common"].as_u64().unwrap())
                })
                .collect();
            assert!(rows.is_subset(&expected), "seed {seed}, {max_holders}: {rows:?} of {expected:?}");
            assert!(max_holders != "100" || rows == expected, "seed {seed}: {rows:?}, not {expected:?}");
            let found = json(dir.path(), &["hosts", "--max-holders", max_holders]);
            let mut others: BTreeMap<String, usize> = BTreeMap::new();
            for row in found["rows"].as_array().unwrap() {
                let vm = all.iter().position(|of| row["vm"] == of.1).unwrap();
                let host = row["other_host"].as_str().unwrap();
                assert_eq!(row["common"], on_host(vm, host), "seed {seed}: {row}");
                *others.entry(all[vm].1.to_owned()).or_default() += usize::from(row["choice"] != 0);
            }
            for (vm, of) in all.iter().enumerate().filter(|_| max_holders == "100") {
                let names = (0..hosts).map(|host| format!("h{host}")).filter(|host| *host != of.0);
                let suiting = names.filter(|host| on_host(vm, host) > 0).count();
                assert_eq!(others.get(of.1).copied().unwrap_or(0), suiting, "seed {seed}, VM {}", of.1);
            }
        }
    }
}

#[test]
fn groups_that_are_kept_apart_stay_apart() {
    // A group is a line; VMs may be of several, and of those in any order.
    for (one, other, moves) in [
        ("blue\tred", "blue\tred", 0),
        ("blue\tred\ngold\tred", "red\tsilver\nblue\tred", 0),
        ("blue\tred", "gold\tred", 1),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let tenant = |vm, apart| Held { apart: Some(apart), ..held(vm, &[(1_000, 500)]) };
        record(dir.path(), "h1", 10, "00", &[tenant("red", one)]);
        record(dir.path(), "h2", 10, "00", &[tenant("blue", other)]);
        let found = json(dir.path(), &["propose"]);
        assert_eq!(found["moves"].as_array().unwrap().len(), moves, "{one:?} and {other:?}: {found}");
    }
}

#[test]
fn the_newest_sketches_of_a_host_count_and_a_vm_is_where_it_was_seen_last() {
    let dir = tempfile::tempdir().unwrap();
    let moved = || Held { uuid: Some(7), ..held("web2", &[(1_000, 500)]) };
    record(dir.path(), "h1", 10, "00", &[held("web1", &[(1_000, 500)])]);
    record(dir.path(), "h2", 10, "00", &[moved()]);
    assert_eq!(json(dir.path(), &["propose"])["moves"].as_array().unwrap().len(), 1);
    record(dir.path(), "h1", 20, "00", &[held("web1", &[(1_000, 500)]), moved()]);
    let found = json(dir.path(), &["propose"]);
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
    let found = json(dir.path(), &["propose"]);
    let moves = found["moves"].as_array().unwrap();
    assert_eq!((moves.len(), &moves[0]["to"]), (1, &"h1".into()), "{found}");
    assert!(found["left_out"][0].as_str().unwrap().contains("not known how much it may hold"), "{found}");
}

#[test]
fn sketches_of_another_seed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "h1", 10, "00", &[held("a", &[(1, 5)])]);
    record(dir.path(), "h2", 10, "ff", &[held("b", &[(1, 5)])]);
    let output = fleet(dir.path(), &["propose"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("by another seed, scale or hash"), "{stderr}");
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
}

#[test]
fn an_old_run_of_another_seed_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "h1", 10, "ff", &[held("a", &[(1, 5)])]);
    record(dir.path(), "h1", 20, "00", &[held("a", &[(1, 50)])]);
    record(dir.path(), "h2", 10, "00", &[held("b", &[(1, 50)])]);
    assert_eq!(json(dir.path(), &["propose"])["moves"].as_array().unwrap().len(), 1);
    assert_eq!(json(dir.path(), &["pairs"])["rows"][0]["common"], 50);
}

#[test]
fn recordings_without_sketches_say_how_to_make_some() {
    let dir = tempfile::tempdir().unwrap();
    let recorder =
        Recorder::start(&dir.path().join("run"), sample::manifest(), RecorderLimits::default()).unwrap();
    recorder.finish().unwrap();
    let output = fleet(dir.path(), &["propose"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("huddle sketch --seed FILE"), "{stderr}");
}

/// Two VMs of one UUID on a host: one cannot be told from the other, and both take room.
#[test]
fn a_second_vm_of_one_uuid_takes_room_and_is_not_moved() {
    let dir = tempfile::tempdir().unwrap();
    let pair = |vm, uuid| Held { uuid, ..held(vm, &[(1_000, 500)]) };
    record(dir.path(), "h1", 10, "00", &[pair("a", Some(7)), pair("b", Some(7)), held("full", &[(1, 50)])]);
    record(dir.path(), "h2", 10, "00", &[pair("c", None)]);
    let found = json(dir.path(), &["propose"]);
    let left_out = found["left_out"][0].as_str().unwrap();
    assert!(left_out.contains("has the UUID of another VM of that host"), "{found}");
    // 16 GiB, nine tenths of which may be used, hold three VMs of 4 GiB: there is no room on h1 for c.
    let moves = found["moves"].as_array().unwrap();
    assert!(moves.iter().all(|one| one["to"] != "h1"), "{found}");
}

/// Retention or damage may take the hashes and leave the host's row.
#[test]
fn a_vm_whose_hashes_are_gone_is_said_to_have_none() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "h1", 10, "00", &[held("a", &[]), held("b", &[(1, 50)])]);
    record(dir.path(), "h2", 10, "00", &[held("c", &[(1, 50)])]);
    let found = json(dir.path(), &["propose"]);
    let left_out = found["left_out"].to_string();
    assert!(left_out.contains("has no hashes in the recording"), "{found}");
    let damaged = dir.path().join("host=h2").join("run=20261201T000000Z-10").join("hosts");
    std::fs::write(damaged.join("segment-000001.parquet"), "PAR1").unwrap();
    let left_out = json(dir.path(), &["propose"])["left_out"].to_string();
    assert!(left_out.contains("host=h2"), "{left_out}");
}
