//! The commands of docs/tutorial.md, as they are printed there and as a reader without VMs would give them: stand-ins are found,
//! compared, placed, measured and restored.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, reason = "tests")]

mod tutorial_support;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use huddle_testing::output::skip;
use huddle_testing::{ksm, recording};
use tutorial_support::{Block, blocks, line_of, missing, run};

/// Sections that are not for this reader.
const LEFT_OUT: [&str; 2] = ["Install", "With VMs of your own"];

#[test]
fn blocks_of_a_page_are_found_with_their_sections() {
    let page = "# t\n## A\n```sh\na\nb\n```\n```toml\nc\n```\n## B\ntext\n```sh\nd\n```\n";
    let block = |section: &str, text: &str| Block { section: section.into(), text: text.into() };
    assert_eq!(blocks(page), [block("A", "a\nb\n"), block("B", "d\n")]);
}

#[test]
fn a_reader_of_the_tutorial_reaches_its_result() {
    if let Some(reason) = missing() {
        return skip("tutorial", &reason).unwrap();
    }
    let _lock = ksm::lock();
    let ran = run(&LEFT_OUT);
    let said = &ran.said;

    // Looked at.
    let doctor = ran.output("doctor", 0);
    assert!(doctor.contains("cache.domains"), "{doctor}");
    let vms = ran.output("tutorial.toml vms", 0);
    let matrix = ran.output("matrix --method content", 0);
    for vm in ["web-1", "web-2", "db-1", "db-2"] {
        line_of(vms, vm);
        let numbers = line_of(matrix, vm).split_whitespace().skip(1);
        let most = numbers.filter_map(|cell| cell.parse().ok()).fold(0.0, f64::max);
        assert!(most > 30.0, "{vm}: {matrix}");
    }
    let plan = ran.output("plan --matrix", 0);
    assert!(plan.contains("web-1 and web-2 share"), "{plan}");

    // Placed: the VMs of a pair were bound to one domain; measured: there are windows.
    let recorded = ran.work.join("first-run");
    let mut domains: BTreeMap<String, i64> = BTreeMap::new();
    for row in recording::rows(&recorded.join("placements")) {
        if let Some(domain) = recording::number(&row, "in_force") {
            domains.insert(recording::text(&row, "vm").to_owned(), domain as i64);
        }
    }
    assert_eq!(domains.len(), 4, "all were placed: {domains:?}; {said}");
    assert_eq!((domains["web-1"], domains["db-1"]), (domains["web-2"], domains["db-2"]), "{domains:?}");
    for table in ["residency", "reported"] {
        assert!(recording::rows(&recorded.join(table)).len() > 8, "{table}: {said}");
    }
    line_of(ran.output("summary first-run", 0), "web-1");
    assert!(fs::read_to_string(ran.work.join("report.html")).unwrap().contains("<svg "));
    let traces: Vec<_> = fs::read_dir(ran.work.join("trace")).unwrap().collect();
    assert_eq!(traces.len(), 1, "{traces:?}");

    // Pinned by hand, and restored.
    let (pinned, restored) = (ran.output("tutorial.toml pin", 0), ran.output("tutorial.toml restore", 0));
    assert!(pinned.contains("4 vCPU threads changed"), "{pinned}");
    assert!(restored.contains("4 changes undone"), "{restored}");
    let affinities = |output: &str| -> Vec<String> {
        let of_vcpus = output.lines().filter(|line| line.contains("STANDIN"));
        // All but the CPU on which it ran last.
        of_vcpus.map(|line| line.rsplit_once(' ').unwrap().0.trim_end().to_owned()).collect()
    };
    assert_eq!(affinities(vms).len(), 4, "{vms}");
    assert_ne!(affinities(pinned), affinities(vms));
    assert_eq!(affinities(restored), affinities(vms));

    // The last command ends the stand-ins.
    let deadline = Instant::now() + Duration::from_secs(10);
    while ran.work.join("tutorial.toml").exists() {
        assert!(Instant::now() < deadline, "huddle-demo did not end in order: {said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
