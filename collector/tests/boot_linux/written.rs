//! Guests under KVM that write to what KSM has merged: KVM takes a frame of their own for them, and a scan sees it.

use std::collections::BTreeMap;

use huddle_testing::emulated::host::EmulatedHost;
use huddle_testing::recording::{self, number};

use crate::sharing::{ksm_off, ksm_on, passes};
use crate::{RUN, SOON, Test, end, json, recorded, start};

pub const ARM64: &[Test] = &[("pages_that_guests_write_to_are_shared_no_more", written_by_guests)];

pub const X86: &[Test] = &[("rounds_follow_merges_and_writes_of_kvm_guests", followed_by_rounds)];

/// Pages of each VM; two of one seed have them all in common, the one with their code too.
const PAGES: u64 = 400;

/// Names and seeds.
const VMS: [(&str, u64); 4] = [("a1", 1), ("a2", 1), ("b1", 2), ("b2", 2)];

/// The VMs, and how commands of huddle name them.
struct Guests {
    pids: [i32; 4],
    named: String,
}

impl Guests {
    fn start(host: &mut EmulatedHost) -> Self {
        let pids = VMS.map(|(name, seed)| {
            let guest = format!("guest --turns 1000 --sleep-us 20000 --pages {PAGES} --seed {seed}");
            start(host, &format!("{guest} --commands /tmp/commands-{name}"))
        });
        let named: Vec<String> =
            VMS.iter().zip(pids).map(|((name, _), pid)| format!("--vm {name}={pid}")).collect();
        Self { pids, named: named.join(" ") }
    }

    /// Has the guest of a VM write a value to pages of its own.
    fn write(&self, host: &mut EmulatedHost, name: &str, (from, count): (u64, u64), value: u64) {
        let at = VMS.iter().position(|(vm, _)| *vm == name).unwrap();
        let command = format!(
            "echo 'write {from} {count} {value}' >/tmp/commands-{name}; for try in $(seq 100); do \
             grep -q 'wrote {from} {count}$' /proc/{pid}/fd/1 && exit 0; sleep 0.1; done; cat /proc/{pid}/fd/1; exit 1",
            pid = self.pids[at]
        );
        host.run(&command, SOON).success();
    }

    /// What the VMs share by a scan of now: a1 with a2, b1 with b2, and everything across.
    fn scanned(&self, host: &mut EmulatedHost) -> [u64; 3] {
        let matrix = json(host, &format!("huddle matrix {} --format json", self.named));
        let frames =
            |one: usize, other: usize| -> u64 { matrix["shared_frames"][one][other].as_u64().unwrap() };
        [frames(0, 1), frames(2, 3), frames(0, 2) + frames(0, 3) + frames(1, 2) + frames(1, 3)]
    }

    fn end(self, host: &mut EmulatedHost) {
        end(host, &self.pids);
        host.run("rm -f /tmp/commands-*", SOON).success();
    }
}

fn written_by_guests(host: &mut EmulatedHost) {
    ksm_on(host);
    let guests = Guests::start(host);
    passes(host);
    assert_eq!(guests.scanned(host), [PAGES, PAGES, 0]);
    // To pages of one VM alone, and the same to those of both of the other pair, which merge again.
    guests.write(host, "a1", (100, 50), 7);
    guests.write(host, "b1", (10, 30), 9);
    guests.write(host, "b2", (10, 30), 9);
    ksm_off(host);
    let broken = guests.scanned(host);
    assert_eq!(broken[0], PAGES - 50);
    ksm_on(host);
    passes(host);
    assert_eq!(guests.scanned(host), [PAGES - 50, PAGES, 0]);
    guests.end(host);
    ksm_off(host);
}

fn followed_by_rounds(host: &mut EmulatedHost) {
    ksm_off(host);
    let guests = Guests::start(host);
    let options = "--dry-run --min-interval 1 --record /tmp/rounds";
    let command = format!("huddle run {} {options} >/tmp/rounds.log 2>&1 & echo $!", guests.named);
    let huddle: i32 = host.run(&command, SOON).success().trim().parse().unwrap();
    // Of pages that are all apart.
    let mut checked = vec![(next_round(host, 0), [0, 0, 0])];
    ksm_on(host);
    passes(host);
    let check = |host: &mut EmulatedHost, checked: &mut Vec<_>, right: [u64; 3]| {
        let round = next_round(host, 1);
        assert_eq!(guests.scanned(host), right, "by a scan");
        checked.push((round, right));
    };
    check(host, &mut checked, [PAGES, PAGES, 0]);
    // To pages of one VM alone, and the same to those of both of the other pair, which merge again.
    guests.write(host, "a1", (100, 50), 7);
    guests.write(host, "b1", (10, 30), 9);
    guests.write(host, "b2", (10, 30), 9);
    passes(host);
    check(host, &mut checked, [PAGES - 50, PAGES, 0]);
    guests.write(host, "a2", (100, 50), 7);
    passes(host);
    check(host, &mut checked, [PAGES, PAGES, 0]);
    host.run(&format!("kill -INT {huddle}; while kill -0 {huddle} 2>/dev/null; do sleep 0.1; done"), RUN);
    let log = host.run("cat /tmp/rounds.log", SOON);
    println!("{}", log.stdout);
    guests.end(host);
    ksm_off(host);

    let directory = recorded(host, "/tmp/rounds");
    let mut rounds: BTreeMap<u64, BTreeMap<(String, String), u64>> = BTreeMap::new();
    for row in recording::rows(&directory.path().join("sharing")) {
        assert_eq!(
            (recording::text(&row, "method"), recording::text(&row, "read_by")),
            ("merged", "page_tables")
        );
        let pair = ["vm", "other"].map(|column| recording::text(&row, column).to_owned());
        let frames = number(&row, "shared_frames").unwrap() as u64;
        rounds.entry(number(&row, "round").unwrap() as u64).or_default().insert(pair.into(), frames);
    }
    for (round, right) in checked {
        let of = |one: &str, other: &str| rounds[&round][&(one.to_owned(), other.to_owned())];
        let across = of("a1", "b1") + of("a1", "b2") + of("a2", "b1") + of("a2", "b2");
        assert_eq!([of("a1", "a2"), of("b1", "b2"), across], right, "round {round}: {rounds:?}");
    }
}

/// Waits until so many rounds have begun after the one under way, and returns the number of the last.
fn next_round(host: &mut EmulatedHost, after: u64) -> u64 {
    let count = "grep -c ' round [0-9]*: ' /tmp/rounds.log";
    let command = format!(
        "n=$(({after} + 1 + $({count}))); for try in $(seq 600); do [ $({count}) -ge $n ] && echo $n && exit 0; \
         sleep 0.1; done; cat /tmp/rounds.log; exit 1"
    );
    host.run(&command, RUN).success().trim().parse().unwrap()
}
