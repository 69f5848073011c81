use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::observation::CpuResidency;
use huddle_model::view::View;
use huddle_record::{Recorder, RecorderLimits};
use huddle_testing::sample;
use huddle_testing::sample_observed::observed;
use prost::Message as _;

use super::messages::{COUNTER, INSTANT, SLICE_BEGIN, SLICE_END, TracePacket, TrackDescriptor, TrackEvent};
use super::*;
use crate::sources::Sources;

#[derive(Clone, PartialEq, prost::Message)]
struct Whole {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<TracePacket>,
}

/// The trace of a recording of these views, with its tracks by id.
struct Decoded {
    tracks: BTreeMap<u64, TrackDescriptor>,
    events: Vec<(u64, TrackEvent)>,
}

impl Decoded {
    fn of(views: impl IntoIterator<Item = View>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut limits = RecorderLimits::default();
        limits.queue.0 = 1000;
        let recorder = Recorder::start(&run, sample::manifest(), limits).unwrap();
        let views: Vec<View> = views.into_iter().collect();
        sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
        assert_eq!(recorder.finish().unwrap().steps.steps_lost, 0);
        let decoded = Self::read(&run, &dir.path().join("trace"));
        // Written again, it is the same.
        let again = dir.path().join("again");
        write(&Sources::find(&run).unwrap().runs[0], &again).unwrap();
        assert_eq!(std::fs::read(dir.path().join("trace")).unwrap(), std::fs::read(again).unwrap());
        decoded
    }

    fn read(run: &Path, path: &Path) -> Self {
        write(&Sources::find(run).unwrap().runs[0], path).unwrap();
        let whole = Whole::decode(&*std::fs::read(path).unwrap()).unwrap();
        let mut decoded = Self { tracks: BTreeMap::new(), events: Vec::new() };
        for packet in whole.packet {
            if let Some(track) = packet.track_descriptor {
                assert!(decoded.tracks.insert(track.uuid.unwrap(), track).is_none(), "a track twice");
            } else if let Some(event) = packet.track_event {
                assert!(
                    decoded.tracks.contains_key(&event.track_uuid.unwrap()),
                    "{event:?} before its track"
                );
                decoded.events.push((packet.timestamp.unwrap(), event));
            }
        }
        decoded
    }

    /// A track with all its parents, the outermost first.
    fn name(&self, uuid: u64) -> String {
        let track = &self.tracks[&uuid];
        let process = track.process.as_ref().and_then(|process| process.process_name.clone());
        let thread = track.thread.as_ref().and_then(|thread| thread.thread_name.clone());
        let name = track.name.clone().or(process).or(thread).unwrap();
        match track.parent_uuid {
            Some(parent) => format!("{}/{name}", self.name(parent)),
            None => name,
        }
    }

    fn on<'a>(&'a self, track: &'a str) -> impl Iterator<Item = (u64, &'a TrackEvent)> {
        let is_on = move |event: &TrackEvent| self.name(event.track_uuid.unwrap()) == track;
        self.events.iter().filter(move |(_, event)| is_on(event)).map(|(at, event)| (*at, event))
    }

    /// The slices of a track: depth, begin, end and name; all must be nested, in the order of time.
    fn slices(&self, track: &str) -> Vec<(usize, u64, u64, String)> {
        let (mut open, mut done, mut last) = (Vec::new(), Vec::new(), 0);
        for (at, event) in self.on(track).filter(|(_, event)| event.r#type != Some(INSTANT)) {
            assert!(at >= last, "{track}: {at} after {last}");
            last = at;
            match event.r#type.unwrap() {
                SLICE_BEGIN => open.push((at, event.name.clone().unwrap())),
                SLICE_END => {
                    let (begin, name) = open.pop().unwrap();
                    done.push((open.len(), begin, at, name));
                }
                other => panic!("{track} has events of type {other}"),
            }
        }
        assert!(open.is_empty(), "{track}: {open:?} never end");
        done
    }

    fn values(&self, track: &str) -> Vec<(u64, f64)> {
        let value = |(at, event): (u64, &TrackEvent)| {
            assert_eq!(event.r#type, Some(COUNTER));
            (at, event.double_counter_value.unwrap())
        };
        self.on(track).map(value).collect()
    }
}

/// When the window of a round of the sample begins, in nanoseconds.
fn begin(round: u64) -> u64 {
    (1_700_000_000 + round) * 1_000_000_000
}

#[test]
fn vms_are_processes_and_vcpus_their_threads() {
    let trace = Decoded::of((1..=4).map(|round| observed(round, 3)));
    let processes: BTreeSet<_> = trace
        .tracks
        .values()
        .filter_map(|track| track.process.as_ref())
        .map(|process| (process.process_name.clone().unwrap(), process.pid.unwrap()))
        .collect();
    let expected = [("vm0", 100), ("vm1", 101), ("vm2", 102)];
    assert_eq!(processes, expected.map(|(name, pid)| (name.to_owned(), pid)).into());
    let threads: BTreeSet<_> = trace
        .tracks
        .values()
        .filter_map(|track| track.thread.as_ref())
        .map(|thread| (thread.pid.unwrap(), thread.tid.unwrap()))
        .collect();
    assert_eq!(threads, [(100, 1100), (101, 1101), (102, 1102)].into());
    // Consecutive windows in one domain are one slice.
    let slices = trace.slices("vm0/vCPU 0");
    assert_eq!(slices, [(0, begin(1), begin(5), "domain 0".to_owned())]);
    let instants: Vec<_> = trace
        .on("vm0/vCPU 0")
        .filter(|(_, event)| event.r#type == Some(INSTANT))
        .map(|(_, event)| event.name.as_deref().unwrap())
        .collect();
    // Odd rounds of the sample bind nothing.
    assert_eq!(instants, ["bound to domain 0", "no longer bound", "bound to domain 0"]);
}

#[test]
fn trials_are_slices_with_their_blocks_and_arms() {
    let trace = Decoded::of((1..=4).map(|round| observed(round, 2)));
    let slices = trace.slices("huddle on h/trials");
    let arms: Vec<_> =
        slices.iter().map(|(depth, from, to, name)| (*depth, *from, *to, name.as_str())).collect();
    assert_eq!(
        arms,
        [
            (1, begin(1), begin(2), "before"),
            (1, begin(2), begin(3), "paper"),
            (1, begin(3), begin(4), "before"),
            (1, begin(4), begin(5), "paper"),
            (0, begin(1), begin(5), "trial 1"),
        ]
    );
    let rounds = trace.slices("huddle on h/rounds");
    assert_eq!(rounds.len(), 4);
    assert_eq!(trace.on("huddle on h/decisions").count(), 1);
    assert_eq!(trace.on("huddle on h/events").count(), 4);
}

#[test]
fn what_is_unavailable_for_a_time_ends_a_counter_and_is_never_zero() {
    let misses = "vm0/vCPU 0/LLC misses per second";
    let views = |rounds: [u64; 4]| rounds.into_iter().map(|round| observed(round, 2));
    let whole = Decoded::of(views([1, 2, 3, 4])).values(misses);
    assert_eq!(whole.len(), 5, "{whole:?}");
    assert!(whole[..4].iter().all(|(_, value)| *value > 0.0) && whole[4].1.is_nan(), "{whole:?}");
    assert_eq!(whole[4].0, begin(5));
    // The third window is missing.
    let trace = Decoded::of(views([1, 2, 4, 5]));
    let values = trace.values(misses);
    let at: Vec<u64> = values.iter().map(|(at, _)| *at).collect();
    assert_eq!(at, [1, 2, 3, 4, 5, 6].map(begin));
    let gaps: Vec<bool> = values.iter().map(|(_, value)| value.is_nan()).collect();
    assert_eq!(gaps, [false, false, true, false, false, true]);
    let slices: Vec<_> = trace.slices("vm0/vCPU 0").into_iter().map(|(_, from, to, _)| (from, to)).collect();
    assert_eq!(slices, [(begin(1), begin(3)), (begin(4), begin(6))]);

    // A counter that is unavailable everywhere has no track.
    let without = Decoded::of((1..=3).map(|round| {
        let mut view = observed(round, 2);
        let mut window = view.observation.value().map(|window| (**window).clone()).unwrap();
        for vcpu in &mut window.vcpus {
            vcpu.counters = huddle_model::rates::CounterDelta::unavailable("no PMU");
        }
        view.observation = Availability::Available(Arc::new(window));
        view
    }));
    assert!(
        without
            .tracks
            .values()
            .all(|track| { track.name.as_deref().is_none_or(|name| !name.contains("LLC misses")) })
    );
    assert_eq!(without.values("vm0/merged pages").len(), 2, "one value, and its end");
}

/// CPU time of a vCPU, and elsewhere, as arguments of the slices on its track.
fn cpu_times(trace: &Decoded) -> Vec<(String, Option<u64>, Option<u64>)> {
    let value = |event: &TrackEvent, name: &str| {
        let found = event.debug_annotations.iter().find(|about| about.name.as_deref() == Some(name));
        found.map(|about| match about.value {
            Some(Value::Unsigned(value)) => value,
            ref other => panic!("{name} is {other:?}"),
        })
    };
    let slices = trace.on("vm0/vCPU 0").filter(|(_, event)| event.r#type == Some(SLICE_BEGIN));
    slices
        .map(|(_, event)| {
            let name = event.name.clone().unwrap();
            (name, value(event, "cpu_time_ns"), value(event, "cpu_time_elsewhere_ns"))
        })
        .collect()
}

/// Round 1 of the sample, in which vCPUs ran on these CPUs: number, CPU time, samples of the clock.
fn ran_on(cpus: &[(u32, Option<u64>, Option<u64>)]) -> Decoded {
    let mut view = observed(1, 1);
    let mut window = view.observation.value().map(|window| (**window).clone()).unwrap();
    let of_cpu = |(cpu, run_ns, clock_samples): &(u32, Option<u64>, Option<u64>)| CpuResidency {
        cpu: *cpu,
        run_ns: *run_ns,
        clock_samples: *clock_samples,
        ..CpuResidency::default()
    };
    window.vcpus[0].residency = Availability::Available(cpus.iter().map(of_cpu).collect());
    view.observation = Availability::Available(Arc::new(window));
    Decoded::of([view])
}

#[test]
fn cpu_time_of_which_a_part_is_unavailable_is_unavailable() {
    // CPUs 7 and 8 are in no cache domain.
    let whole = ran_on(&[(7, Some(300), Some(3)), (8, Some(200), Some(2)), (0, Some(400), Some(9))]);
    let none = || "in no cache domain".to_owned();
    assert_eq!(cpu_times(&whole), [(none(), Some(500), Some(400))]);
    // Of a part in either order; then samples of the clock say where it ran most.
    for cpus in [
        [(7, Some(500), Some(3)), (8, None, Some(2)), (0, Some(400), Some(4))],
        [(8, None, Some(2)), (7, Some(500), Some(3)), (0, Some(400), Some(4))],
    ] {
        assert_eq!(cpu_times(&ran_on(&cpus)), [(none(), None, None)], "{cpus:?}");
    }
    // Nor is it known by part of the samples.
    assert_eq!(cpu_times(&ran_on(&[(7, None, Some(9)), (8, None, None), (0, Some(400), Some(4))])), []);
}

#[test]
fn where_vcpus_are_bound_is_shown_if_it_was_not_recorded_where_they_ran() {
    let trace = Decoded::of((1..=5).map(|round| sample::view(round, 2)));
    let names: Vec<String> = trace.slices("vm0/vCPU 0").into_iter().map(|(.., name)| name).collect();
    // In rounds 2 and 4 of the sample.
    assert_eq!(names, ["bound to domain 0", "bound to domain 0"]);
}
