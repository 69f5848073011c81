//! huddle in dom0: finds the domains, measures what they share, plans, pins, and restores.

use std::collections::BTreeMap;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::trial;
use huddle_testing::emulated::host::EmulatedHost;
use huddle_testing::emulated::trials::Shared;

const SOON: Duration = Duration::from_secs(60);

/// A scan of all domains: some seconds in an emulator that has the machine for itself.
const SCAN: Duration = Duration::from_secs(180);

/// Pages of the data that `a1` and `a2` have in common: 8 MiB.
const DATA_PAGES: u64 = 2048;

pub fn trials(host: &Shared) -> Vec<Trial> {
    vec![
        trial("domains_are_found", host, domains_are_found),
        trial("the_matrix_is_exact_to_the_page", host, the_matrix_is_exact_to_the_page),
        trial("a_plan_is_pinned_and_restored", host, a_plan_is_pinned_and_restored),
        trial("a_loop_that_is_killed_is_restored", host, a_loop_that_is_killed_is_restored),
        trial("soft_affinity_and_cpupools_are_kept_to", host, soft_affinity_and_cpupools_are_kept_to),
        trial("a_domain_may_end_in_the_middle", host, a_domain_may_end_in_the_middle),
        trial("a_hanging_xenstore_is_not_waited_for", host, a_hanging_xenstore_is_not_waited_for),
        trial("what_xen_cannot_do_is_reported", host, what_xen_cannot_do_is_reported),
        trial(
            "without_its_libraries_xl_lists_and_restores",
            host,
            without_its_libraries_xl_lists_and_restores,
        ),
    ]
}

fn json(dom0: &mut EmulatedHost, command: &str, limit: Duration) -> Value {
    let text = dom0.run(command, limit).success();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
}

/// Hard and soft affinity of each vCPU of the three domains, as `xl` reports it.
fn affinities(dom0: &mut EmulatedHost) -> BTreeMap<String, (String, String)> {
    let text = dom0.run("xl vcpu-list", SOON).success();
    let line = |line: &str| {
        let (rest, soft) = line.rsplit_once(" / ")?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let vcpu = format!("{}/{}", words[0], words[2]);
        Some((vcpu, ((*words.last()?).to_owned(), soft.trim().to_owned())))
    };
    text.lines().skip(1).filter_map(line).filter(|(vcpu, _)| !vcpu.starts_with("Domain-0")).collect()
}

fn hard(dom0: &mut EmulatedHost, vcpu: &str) -> String {
    affinities(dom0)[vcpu].0.clone()
}

fn domains_are_found(dom0: &mut EmulatedHost) {
    let found = json(dom0, "huddle vms --format json", SOON);
    let vms = found["vms"].as_array().unwrap();
    let names: Vec<&str> = vms.iter().map(|vm| vm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a1", "a2", "b1"], "dom0 is none of them");
    for vm in vms {
        assert_eq!(vm["vmm"], "xen_pv");
        assert_eq!(vm["allowed_cpus"], serde_json::json!([0, 1, 2, 3]));
        assert_eq!(vm["memory"][0]["kind"], "domain");
        assert_eq!(vm["vcpus"][0]["affinity"], serde_json::json!([0, 1, 2, 3]));
    }
    let doctor = json(dom0, "huddle doctor --format json", SOON);
    let finding = |item: &str| {
        let findings = doctor["findings"].as_array().unwrap().iter();
        findings.clone().find(|finding| finding["item"] == item).cloned().unwrap_or_default()
    };
    assert_eq!(finding("xen.toolstack")["value"], "libxenctrl 4.17");
    assert_eq!(finding("xen.cache_monitoring")["state"], "missing", "QEMU has none");
    assert!(finding("xen.cpus")["value"].as_str().unwrap().contains("4 CPUs on 2 sockets"));
}

/// Against an independent program, on paused domains.
fn the_matrix_is_exact_to_the_page(dom0: &mut EmulatedHost) {
    for name in ["a1", "a2", "b1"] {
        dom0.run(&format!("xl pause {name}"), SOON).success();
    }
    let matrix = json(dom0, "huddle matrix --cpu-share 1 --format json", SCAN);
    let ids = "$(xl domid a1) $(xl domid a2) $(xl domid b1)";
    let counted = dom0.run(&format!("plain count {ids}"), SCAN).success();
    for name in ["a1", "a2", "b1"] {
        dom0.run(&format!("xl unpause {name}"), SOON).success();
    }
    let counted: Vec<Vec<u64>> = counted
        .lines()
        .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
        .collect();
    assert_eq!(matrix["method"], "content");
    for (i, row) in counted.iter().enumerate() {
        let vm = &matrix["vms"][i];
        assert_eq!(vm["pages_resident"], row[0], "{vm} {row:?}");
        assert_eq!(vm["frames_used"], row[1], "{vm} {row:?}");
        assert_eq!(vm["pages_zero"], row[2], "{vm} {row:?}");
        assert_eq!(vm["pid"], Value::Null, "no process of dom0 holds it");
        for j in 0..3 {
            assert_eq!(matrix["shared_frames"][i][j], row[3 + j], "{i} {j} {matrix}");
        }
    }
    // What the data adds to the base that domains of one kernel have in common.
    let shared = |i: usize, j: usize| matrix["shared_frames"][i][j].as_u64().unwrap();
    let base = shared(0, 2).max(shared(1, 2));
    let more = shared(0, 1) as i64 - base as i64;
    assert!(more.abs_diff(DATA_PAGES as i64) < DATA_PAGES / 10, "{more} {matrix}");
}

fn a_plan_is_pinned_and_restored(dom0: &mut EmulatedHost) {
    let before = affinities(dom0);
    let pinned = json(dom0, "huddle --config /tmp/all.toml pin --format json", SCAN);
    let placement = pinned["plan"]["placement"].as_array().unwrap();
    let domain_of = |vm: &str| {
        placement.iter().find(|placed| placed["vm"] == vm).map(|placed| placed["domain"].as_u64().unwrap())
    };
    assert_eq!(domain_of("a1"), domain_of("a2"), "{placement:?}");
    assert_ne!(domain_of("a1"), domain_of("b1"), "{placement:?}");
    let cpus = |vm: &str| if domain_of(vm) == Some(0) { "0-1" } else { "2-3" };
    for vm in ["a1", "a2", "b1"] {
        assert_eq!(hard(dom0, &format!("{vm}/0")), cpus(vm), "{vm}");
    }
    let again = json(dom0, "huddle vms --format json", SOON);
    assert_eq!(again["vms"][0]["vcpus"][0]["affinity"].as_array().unwrap().len(), 2, "{again}");

    // What somebody else sets is left, and the others are restored.
    dom0.run("xl vcpu-pin b1 0 1", SOON).success();
    let restored = json(dom0, "huddle restore --format json", SOON);
    assert_eq!(restored["restored"], 2, "{restored}");
    assert!(restored["notes"].to_string().contains("somebody else"), "{restored}");
    assert_eq!(hard(dom0, "b1/0"), "1");
    dom0.run("xl vcpu-pin b1 0 all", SOON).success();
    assert_eq!(affinities(dom0), before);
}

fn a_loop_that_is_killed_is_restored(dom0: &mut EmulatedHost) {
    let before = affinities(dom0);
    let start = "huddle --config /tmp/all.toml run --min-interval 5 --record /tmp/recording >/tmp/run.log 2>&1 & echo $!";
    let pid = dom0.run(start, SOON).success();
    let pid = pid.trim();
    let pinned = "until grep -q \"round 1:\" /tmp/run.log; do sleep 1; done; cat /tmp/run.log";
    let log = dom0.run(pinned, SCAN).success();
    assert!(log.contains("3 VMs") && log.contains("3 vCPUs moved"), "{log}");
    assert_eq!(hard(dom0, "a1/0"), hard(dom0, "a2/0"));
    assert_ne!(hard(dom0, "a1/0"), "all");
    dom0.run(&format!("kill -9 {pid}"), SOON).success();
    assert_ne!(affinities(dom0), before, "they are not restored yet");
    let restored = json(dom0, "huddle restore --format json", SOON);
    assert_eq!((&restored["restored"], restored["failures"].as_array().unwrap().len()), (&3.into(), 0));
    assert_eq!(affinities(dom0), before);
    dom0.run("test -s /tmp/recording/manifest.json", SOON).success();

    // These domains cannot be merged, which is reported; the loop goes on without merging.
    let log = dom0.run("huddle --config /tmp/all.toml run --merge --rounds 1 2>&1", SCAN).success();
    assert!(log.contains("memory is not merged") && log.contains("paravirtualised"), "{log}");
    assert!(log.contains("3 changes undone"), "{log}");
    assert_eq!(affinities(dom0), before);

    // The same loop, ended normally, restores everything itself.
    let log = dom0.run("huddle --config /tmp/all.toml run --rounds 1 2>&1", SCAN).success();
    assert!(log.contains("3 changes undone"), "{log}");
    assert_eq!(affinities(dom0), before);
}

fn soft_affinity_and_cpupools_are_kept_to(dom0: &mut EmulatedHost) {
    // A pool of CPU 3 alone, with b1 in it.
    dom0.run("xl cpupool-cpu-remove Pool-0 3 && xl cpupool-create 'name=\"one\"' 'sched=\"credit2\"'", SOON)
        .success();
    dom0.run("xl cpupool-cpu-add one 3 && xl cpupool-migrate b1 one", SOON).success();
    // Only now: Xen itself changes affinities of a domain that moves to another pool.
    let before = affinities(dom0);
    let found = json(dom0, "huddle vms --format json", SOON);
    assert_eq!(found["vms"][2]["allowed_cpus"], serde_json::json!([3]), "{found}");
    assert_eq!(found["vms"][0]["allowed_cpus"], serde_json::json!([0, 1, 2]), "{found}");
    let pinned = json(
        dom0,
        "huddle --config /tmp/all.toml pin --xen-affinity soft --policy opposed --format json",
        SCAN,
    );
    let now = affinities(dom0);
    assert_eq!(now["b1/0"].1, "3", "{pinned} {now:?}");
    assert_ne!(now["a1/0"].1, now["a2/0"].1, "{pinned} {now:?}");
    assert!(now.values().all(|(hard, _)| hard == "all"), "{now:?}");
    let restored = json(dom0, "huddle restore --format json", SOON);
    assert_eq!(restored["failures"], serde_json::json!([]), "{restored}");
    assert_eq!(affinities(dom0), before);
    dom0.run("xl cpupool-migrate b1 Pool-0 && xl cpupool-cpu-remove one 3", SOON).success();
    dom0.run("xl cpupool-destroy one && xl cpupool-cpu-add Pool-0 3", SOON).success();
}

fn a_domain_may_end_in_the_middle(dom0: &mut EmulatedHost) {
    dom0.run("guest late 3 14 1024", SCAN).success();
    let start = "huddle matrix --cpu-share 0.2 --format json >/tmp/matrix.json 2>/tmp/matrix.log & echo $!";
    let pid = dom0.run(start, SOON).success();
    let pid = pid.trim().to_owned();
    // It balloons, and then it ends.
    dom0.run("sleep 1; xl mem-set late 100; sleep 1; xl destroy late", SOON).success();
    dom0.run(&format!("while kill -0 {pid} 2>/dev/null; do sleep 1; done"), SCAN).success();
    let log = dom0.run("cat /tmp/matrix.log", SOON).success();
    assert!(log.contains("late is left out: it ended while it was measured"), "{log}");
    let matrix = json(dom0, "cat /tmp/matrix.json", SOON);
    assert_eq!(matrix["vms"].as_array().unwrap().len(), 3, "{matrix}");

    // A scan that is killed leaves nothing mapped: a domain of which a page is mapped cannot go.
    dom0.run("guest late 3 14 1024", SCAN).success();
    let killed = "huddle matrix --cpu-share 0.2 >/dev/null 2>&1 & sleep 2; kill -9 $!; xl destroy late";
    dom0.run(killed, SOON).success();
    let gone =
        "for try in $(seq 1 30); do [ $(xl list | wc -l) = 5 ] && exit 0; sleep 1; done; xl list; exit 1";
    dom0.run(gone, SOON).success();
}

fn a_hanging_xenstore_is_not_waited_for(dom0: &mut EmulatedHost) {
    dom0.run("kill -STOP $(cat /run/xen/xenstored.pid)", SOON).success();
    let begun = std::time::Instant::now();
    let output = dom0.run("huddle vms", SOON);
    let took = begun.elapsed();
    dom0.run("kill -CONT $(cat /run/xen/xenstored.pid)", SOON).success();
    assert!(output.stdout.contains("Domain-1"), "{output:?}");
    assert!(output.stderr.contains("did not answer within 2 s"), "{output:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

fn what_xen_cannot_do_is_reported(dom0: &mut EmulatedHost) {
    for (command, code, words) in [
        ("huddle matrix --method merged", 3, "--method content"),
        ("huddle run --ksm-run --rounds 1", 2, "KSM merges nothing"),
        ("huddle plan --cache-level 1", 3, "there is none of level 1"),
        ("huddle matrix --vm a=999999", 1, "no process 999999"),
    ] {
        let output = dom0.run(command, SCAN);
        assert_eq!(output.code, code, "{command}: {output:?}");
        assert!(output.stderr.contains(words), "{command}: {output:?}");
        assert_eq!(output.stderr.trim().lines().count(), 1, "{command}: {output:?}");
    }
}

/// xl itself keeps its libraries here; huddle finds none of the name it knows.
fn without_its_libraries_xl_lists_and_restores(dom0: &mut EmulatedHost) {
    let before = affinities(dom0);
    json(dom0, "huddle --config /tmp/all.toml pin --format json", SCAN);
    assert_ne!(affinities(dom0), before);
    let library = "/usr/lib/x86_64-linux-gnu/libxenctrl.so.4.17";
    let hide = format!("mkdir -p /opt/xen && mv {library} /usr/sbin/xl /opt/xen/");
    let script = r#"#!/bin/sh\nLD_LIBRARY_PATH=/opt/xen exec /opt/xen/xl "$@"\n"#;
    dom0.run(&format!("{hide} && printf '{script}' >/usr/sbin/xl && chmod 755 /usr/sbin/xl"), SOON).success();
    let found = json(dom0, "huddle vms --format json", SOON);
    let names: Vec<&str> =
        found["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a1", "a2", "b1"]);
    let doctor = dom0.run("huddle doctor", SOON).success();
    assert!(doctor.contains("xl 4.17"), "{doctor}");
    let matrix = dom0.run("huddle matrix", SOON);
    assert_eq!(matrix.code, 3, "{matrix:?}");
    assert!(matrix.stderr.contains("libxenctrl.so.4.17 cannot be loaded"), "{matrix:?}");
    let restored = json(dom0, "huddle restore --format json", SCAN);
    assert_eq!(
        (&restored["restored"], restored["failures"].as_array().unwrap().len()),
        (&3.into(), 0),
        "{restored}"
    );
    dom0.run(&format!("mv /opt/xen/xl /usr/sbin/xl && mv /opt/xen/libxenctrl.so.4.17 {library}"), SOON)
        .success();
    assert_eq!(affinities(dom0), before);
}
