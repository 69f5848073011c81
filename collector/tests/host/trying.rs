//! The closed loop on real processes, which report their reads and are moved by these reports.

use std::path::Path;

use huddle_testing::readers_loop::{self, Ran};
use libtest_mimic::Trial;

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_loop_moves_readers_from_the_opposed_to_the_recommended_placement", opposed),
        trial("the_loop_leaves_the_recommended_placement_alone", recommended),
        trial("the_loop_leaves_four_equal_readers_alone", equal),
        trial("the_loop_leaves_a_writer_and_reports_why", writer),
    ]
}

fn run(readers: [(u64, usize, usize); 4], wanted: &str) -> Ran {
    readers_loop::run(Path::new(env!("CARGO_BIN_EXE_huddle")), readers, wanted)
}

fn opposed() {
    let ran = run([(1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 1, 0)], "kept: ");
    let last = ran.decisions.last().unwrap();
    assert!(last.contains("kept: policy paper moves 2 vCPUs"), "{:#?}", ran.decisions);
    assert_eq!(ran.during[0], ran.during[1]);
    assert_eq!(ran.during[2], ran.during[3]);
    assert_ne!(ran.during[0], ran.during[2]);
    assert_eq!(ran.after, [Some(0), Some(1), Some(0), Some(1)], "everything is restored");
    let kept = ran.recorded.words.iter().position(|[_, outcome, _]| outcome == "kept").unwrap();
    let [proposal, _, reason] = &ran.recorded.words[kept];
    assert!(proposal.starts_with("policy paper moves 2 vCPUs"), "{proposal}");
    assert!(reason.starts_with("at least 3.0 % better"), "{reason}");
    let [Some(expected), Some(observed), low, high, Some(blocks)] = ran.recorded.changes[kept] else {
        panic!("{:?}", ran.recorded.changes)
    };
    assert!(expected > 0 && observed > 0, "{:?}", ran.recorded.changes);
    // The evidence may be there before the interval has ends, which it has from 8 blocks on.
    match (low, high) {
        (Some(low), Some(high)) => assert!(0 < low && low <= observed && observed <= high, "{low} {high}"),
        (None, None) => assert!(blocks < 8, "{:?}", ran.recorded.changes),
        _ => panic!("an interval with one end: {:?}", ran.recorded.changes),
    }
    assert!((6..=40).contains(&blocks), "{blocks}");
}

fn recommended() {
    let ran = run([(1, 0, 0), (1, 0, 0), (2, 1, 0), (2, 1, 0)], "not tried: ");
    assert!(ran.decisions[0].contains("the VMs are where the policy wants them"), "{:?}", ran.decisions);
    assert_eq!(ran.during, [Some(0), Some(0), Some(1), Some(1)]);
}

fn equal() {
    let ran = run([(1, 0, 0), (1, 1, 0), (1, 0, 0), (1, 1, 0)], "not tried: ");
    assert!(ran.decisions[0].contains("not tried: "), "{:?}", ran.decisions);
    assert_eq!(ran.during, [Some(0), Some(1), Some(0), Some(1)]);
}

fn writer() {
    // Readers 0 and 1 are together already; 2 holds what they do and writes to all of it all the time.
    let ran = run([(1, 0, 0), (1, 0, 0), (1, 1, 2000), (2, 1, 0)], "vm2 writes: ");
    let last = ran.decisions.last().unwrap();
    assert!(last.contains("pages break per second, so its sharing counts"), "{last}");
    assert_eq!(ran.during, [Some(0), Some(0), Some(1), Some(1)]);
}
