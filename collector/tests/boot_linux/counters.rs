//! Counters against what is known.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use huddle_testing::emulated::host::EmulatedHost;
use huddle_testing::readers_loop::is_decision;
use huddle_testing::recording::{self, number};

use crate::host::{Doctor, names_the_processor};
use crate::sharing::{ksm_off, ksm_on};
use crate::terminal::shows_a_recording;
use crate::{HUDDLE, RUN, SOON, Test, end, recorded, run_for, start, start_with};

pub const TESTS: &[Test] = &[
    ("the_counters_are_what_is_known", the_counters_are_what_is_known),
    ("rates_of_stand_ins_are_exact_and_shown", rates_of_stand_ins_are_exact),
    ("misses_are_sampled_by_the_chosen_event", misses_are_sampled_by_the_chosen_event),
    ("events_that_the_pmu_has_not_are_never_counted", events_that_the_pmu_has_not),
    ("a_vcpu_that_ends_is_counted_until_then", a_vcpu_that_ends_is_counted_until_then),
    ("beside_pinned_counters_nothing_is_counted_and_this_is_said", beside_pinned_counters),
    ("a_planted_difference_is_found_kept_and_replayed", a_planted_difference),
];

/// A load that leaves most of the time to others: while two processors run, each sees the other's instructions, too.
const LOAD: &str = "spin --turns 100000 --sleep-us 2000";

/// The architecture's instructions and cycles stand in for what this PMU does not have: misses and look-ups.
const STAND_INS: &str = "--event llc_misses=r08 --event llc_references=r11";

fn the_counters_are_what_is_known(host: &mut EmulatedHost) {
    let checked = host.run("huddle-check pmu::", Duration::from_secs(600));
    println!("{}{}", checked.stdout, checked.stderr);
    checked.success();
}

/// Instructions, cycles, look-ups and misses of the windows of a recording.
fn counted(directory: &Path) -> Vec<[Option<f64>; 4]> {
    let names = ["instructions", "cycles", "llc_references", "llc_misses"];
    recording::rows(&directory.join("counters"))
        .iter()
        .map(|row| names.map(|name| number(row, name)))
        .collect()
}

fn rates_of_stand_ins_are_exact(host: &mut EmulatedHost) {
    let pid = start(host, LOAD);
    run_for(host, 5, &format!("--vm a={pid} --window 0.5 {STAND_INS} --record /tmp/exact"));
    end(host, &[pid]);
    let directory = recorded(host, "/tmp/exact");
    assert_eq!(sampled_by(directory.path()), "r08");
    let rows = counted(directory.path());
    println!("{rows:?}");
    assert!(rows.len() >= 8, "{rows:?}");
    for row in rows {
        let [instructions, cycles, references, misses] = row.map(Option::unwrap);
        assert!(instructions > 1e6, "{instructions}");
        // The same event: 1,000 of 1,000. The members of a group are enabled, and read, one after the other, and the
        // thread may run meanwhile, for about 100 instructions.
        assert!((misses / instructions - 1.0).abs() <= 1e-5, "MPKI: {misses} of {instructions}");
        assert!((references / cycles - 1.0).abs() <= 1e-5, "{references} of {cycles}");
        let (ipc, miss_ratio) = (instructions / cycles, misses / references);
        assert!((ipc - 1.0).abs() < 5e-4 && (miss_ratio - 1.0).abs() < 5e-4, "{ipc} {miss_ratio}");
    }
    names_the_processor(host, directory.path());
    shows_a_recording(host, "/tmp/exact");
}

/// Page faults stand in for misses: their samples are taken where the fault is. Of the hardware's events, this PMU's
/// interrupts come too late for a loop that sleeps often.
fn misses_are_sampled_by_the_chosen_event(host: &mut EmulatedHost) {
    let pid = start(host, "spin --turns 1000 --sleep-us 8000 --faults 400");
    let events = "--event llc_misses=page-faults --event llc_references=none";
    run_for(host, 3, &format!("--vm a={pid} --window 0.3 {events} --record /tmp/sampled"));
    end(host, &[pid]);
    let directory = recorded(host, "/tmp/sampled");
    assert_eq!(sampled_by(directory.path()), "page-faults");
    let sum = |table: &str, column: &str| -> f64 {
        let rows = recording::rows(&directory.path().join(table));
        rows.iter().filter_map(|row| number(row, column)).sum()
    };
    let (samples, faults) = (sum("residency", "miss_samples"), sum("counters", "llc_misses"));
    println!("{samples} samples of {faults} faults");
    // Each stands for 10,007; the first may be of faults before, and of others.
    assert!(samples >= 6.0 && (samples - faults / 10_007.0).abs() <= 3.0, "{samples} of {faults}");
}

/// The event of the role that a recording has, whose samples were taken in every window.
fn sampled_by(recording: &Path) -> String {
    let programs = recording::rows(&recording.join("programs"));
    let of_misses: Vec<_> =
        programs.iter().filter(|row| recording::text(row, "program") == "sample_misses").collect();
    assert!(of_misses.len() >= 8, "{programs:?}");
    // Null where it is not attached, with the reason.
    let runs: Vec<f64> =
        of_misses.iter().map(|row| number(row, "runs").unwrap_or_else(|| panic!("{row:?}"))).collect();
    assert!(runs.iter().sum::<f64>() >= 1.0, "{runs:?}");
    let windows = recording::rows(&recording.join("windows"));
    recording::text(&windows[0], "llc_misses_event").to_owned()
}

fn events_that_the_pmu_has_not(host: &mut EmulatedHost) {
    // Each role has another, since every question takes a while here.
    let doctor = Doctor::ask(
        host,
        "--event llc_misses=r37 --event llc_references=event=0x108 \
         --event instructions=armv8_pmuv3/inst_retired/ --event cycles=event=0x8",
    );
    // The architecture's event, which this PMU does not list; it would open, and read 0.
    let unlisted = doctor.finding("pmu.llc_misses");
    assert_eq!(unlisted["state"], "missing", "{unlisted}");
    assert!(unlisted["value"].as_str().unwrap().contains("0x37"), "{unlisted}");
    // An event of the processor's own numbers opens; it is not event 0x08.
    let own = doctor.finding("pmu.llc_references");
    assert!(own["value"].as_str().unwrap().contains("counted nothing"), "{own}");
    for there in ["pmu.instructions", "pmu.cycles"] {
        let found = doctor.finding(there);
        assert_eq!(found["state"], "good", "{found}");
    }
    let too_large = host.run("huddle doctor --event llc_misses=event=0x10008", SOON);
    assert_eq!((too_large.code, too_large.stdout.as_str()), (2, ""), "{}", too_large.stderr);
    assert!(too_large.stderr.contains("0xffff"), "{}", too_large.stderr);
}

fn a_vcpu_that_ends_is_counted_until_then(host: &mut EmulatedHost) {
    // A tenth of a second of work in ten seconds, and one that stays.
    let short = start(host, "spin --slices 500 --turns 100000 --sleep-us 20000");
    let long = start(host, "spin --sleep-us 20000");
    // No event for misses: where instructions stand in for them, samples take most of the time of this emulator.
    let options = format!("--vm short={short} --vm long={long} --window 0.5");
    run_for(host, 12, &format!("{options} --record /tmp/ends"));
    end(host, &[long]);
    let directory = recorded(host, "/tmp/ends");
    let rows = recording::rows(&directory.path().join("counters"));
    let of = |vm: &str| -> Vec<Option<f64>> {
        let rows = rows.iter().filter(|row| recording::text(row, "vm") == vm);
        rows.map(|row| number(row, "instructions")).collect()
    };
    let (short, long) = (of("short"), of("long"));
    println!("{short:?} {long:?}");
    let all: f64 = short.iter().flatten().sum();
    assert!(all > 0.0 && all <= 1.2e8, "what ended has no more than it did: {short:?}");
    assert!(long.iter().flatten().count() >= 8, "{long:?}");
    assert_eq!(short.last(), Some(&None), "after its end there is nothing to count");
}

fn beside_pinned_counters(host: &mut EmulatedHost) {
    let pid = start(host, LOAD);
    let thread = host.run(&format!("ls /proc/{pid}/task | tail -n 1"), SOON).success();
    let taker = start(host, &format!("take-counters {}", thread.trim()));
    run_for(host, 1, &format!("--vm a={pid} --window 0.2 {STAND_INS} --record /tmp/pinned"));
    end(host, &[taker, pid]);
    let directory = recorded(host, "/tmp/pinned");
    let rows = recording::rows(&directory.path().join("counters"));
    assert!(rows.len() >= 4);
    for row in &rows {
        assert_eq!(number(row, "llc_misses"), None, "{row:?}");
        let reason = recording::text(row, "unavailable");
        assert!(reason.contains("never on the PMU"), "{reason}");
        // Flagged as a group that shares the PMU is: it was wanted while the thread ran, and never had its turn.
        let [enabled, running] =
            ["time_enabled_ns", "time_running_ns"].map(|name| number(row, name).unwrap());
        assert!(enabled > 0.0 && running == 0.0, "{enabled} {running}");
    }
}

/// Page faults stand in for misses: their number depends on where a thread runs, as that of misses does.
fn a_planted_difference(host: &mut EmulatedHost) {
    ksm_on(host);
    host.run("printf '[trial]\\nload_limit = 1000.0\\nworse_limit = 0.9\\n' >/tmp/trial.toml", SOON)
        .success();
    // Opposed: of each pair one in each domain.
    let vms = [("a1", 1, "a,0", 0), ("a2", 1, "a,1", 2), ("b1", 2, "b,0", 1), ("b2", 2, "b,1", 3)];
    let pids = vms.map(|(_, seed, beside, cpu)| {
        let load = format!(
            "spin --turns 100000 --sleep-us 3000 --pages 512 --seed {seed} --faults 10 --faults-apart 20 \
             --beside /dev/shm/{beside}"
        );
        start_with(host, &format!("taskset -c {cpu}"), &load)
    });
    let named: Vec<String> =
        vms.iter().zip(pids).map(|((name, ..), pid)| format!("--vm {name}={pid}")).collect();
    let options = "--override-bindings --event llc_misses=page-faults --event llc_references=none --trial mpki \
                   --window 0.2 --min-interval 0.5 --config /tmp/trial.toml --record /tmp/planted";
    let command = format!(
        "huddle run {} {options} 2>/tmp/log & p=$!; for try in $(seq 300); do grep -q 'kept: ' /tmp/log && break; \
         sleep 0.5; done; sleep 1; kill -INT $p; wait $p; cat /tmp/log",
        named.join(" ")
    );
    let log = host.run(&command, RUN).success();
    let affinities = pids.map(|pid| host.run(&format!("taskset -cp {pid}"), SOON).success());
    end(host, &pids);
    ksm_off(host);
    let decisions: Vec<&str> = log.lines().filter(|line| is_decision(line)).collect();
    assert!(decisions.last().is_some_and(|line| line.contains("kept: policy paper")), "{log}");
    for (affinity, (_, _, _, cpu)) in affinities.iter().zip(vms) {
        assert!(affinity.trim().ends_with(&format!(": {cpu}")), "what was before is restored: {affinity}");
    }

    let directory = recorded(host, "/tmp/planted");
    let trials = recording::rows(&directory.path().join("trials"));
    let kept = trials.iter().find(|row| recording::text(row, "outcome") == "kept").unwrap();
    let observed = number(kept, "observed_change").unwrap();
    println!("observed {observed}; {}", recording::text(kept, "reason"));
    // 10 faults instead of 20 for the same instructions; the last window before a switch has both.
    assert!((0.35..=0.55).contains(&observed), "{observed}");

    // The same recording, on a machine of another architecture.
    let replay = Command::new(HUDDLE).args(["plan", "--replay"]).arg(directory.path()).output().unwrap();
    let text = String::from_utf8_lossy(&replay.stdout);
    assert!(
        replay.status.success() && text.contains("by policy paper"),
        "{text}{}",
        String::from_utf8_lossy(&replay.stderr)
    );
}
