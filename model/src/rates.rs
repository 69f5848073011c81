//! Rates from counter readings: MPKI, miss ratio, misses per second, instructions per cycle.
//!
//! Definitions, with `d` a difference between two readings of one group:
//! - MPKI = 1000 * d(LLC misses) / d(instructions)
//! - miss ratio = d(LLC misses) / d(LLC references)
//! - IPC = d(instructions) / d(cycles)
//! - misses per second = d(LLC misses) scaled / wall time between the middles of the two readings
//!
//! The members of a group run on the PMU at the same times, so their ratios are valid without scaling. Values
//! for the whole interval (sums over vCPUs, misses per second) are scaled by `time_enabled / time_running`,
//! which assumes that the uncounted part was like the counted one (perf_event_open(2)); the sample is then
//! flagged as multiplexed.
//!
//! Unknown values are unavailable with a reason: a missing event, a group that was never on the PMU, a
//! counter that was reset, a denominator of 0. None of these is a rate of 0.

use serde::{Deserialize, Serialize};

use crate::availability::Availability;
use crate::counters::{CounterRole, GroupReading};

/// Growth of a thread's CPU time from which it surely ran between two readings, in nanoseconds. The kernel brings the
/// time of a running thread up to date at its tick, 10 ms at most, and `/proc` counts in units of 10 ms.
pub const SURELY_RAN_NS: u64 = 30_000_000;

/// Why a thread has no counts that was off the CPU all the time: it caused none.
pub const DID_NOT_RUN: &str = "the thread did not run";

/// Differences between two readings of one group, scaled to the whole interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CounterDelta {
    /// Wall time between the middles of the two readings, in seconds.
    pub interval_s: f64,
    /// How long the group was enabled while its thread ran; how long the thread ran, where the group was not even
    /// enabled in that time.
    pub time_enabled_ns: u64,
    /// How long of that it was on the PMU.
    pub time_running_ns: u64,
    cycles: Availability<f64>,
    instructions: Availability<f64>,
    llc_references: Availability<f64>,
    llc_misses: Availability<f64>,
}

impl CounterDelta {
    /// The difference of two readings of the same group of the same thread.
    pub fn between(earlier: &GroupReading, later: &GroupReading) -> Self {
        Self::of_thread(earlier, later, None)
    }

    /// Likewise, of a thread that the kernel says ran for `ran_ns` between the readings. Where the group was not even
    /// enabled in a time in which the thread ran for [`SURELY_RAN_NS`], it was never on the PMU.
    pub fn of_thread(earlier: &GroupReading, later: &GroupReading, ran_ns: Option<u64>) -> Self {
        let times = elapsed(earlier, later, ran_ns);
        let of = |role: CounterRole| {
            let times = times.as_ref().map_err(|missed| missed.reason.clone())?;
            let (Some(before), Some(after)) = (earlier.counts.get(role), later.counts.get(role)) else {
                return Err(format!("{} are not counted", role.name()));
            };
            let counted =
                grown(before, after).ok_or_else(|| format!("the counter of {} was reset", role.name()))?;
            Ok::<f64, String>(counted as f64 * times.scale())
        };
        let (interval_s, time_enabled_ns, time_running_ns) = match &times {
            Ok(times) => (times.interval_s, times.enabled_ns, times.running_ns),
            Err(missed) => (middle_s(later) - middle_s(earlier), missed.enabled_ns, 0),
        };
        Self {
            interval_s,
            time_enabled_ns,
            time_running_ns,
            cycles: of(CounterRole::Cycles).into(),
            instructions: of(CounterRole::Instructions).into(),
            llc_references: of(CounterRole::LlcReferences).into(),
            llc_misses: of(CounterRole::LlcMisses).into(),
        }
    }

    /// A vCPU without two readings: its thread ended, or its events did not open.
    pub fn unavailable(reason: &str) -> Self {
        let none = || Availability::Unavailable(reason.to_owned());
        Self {
            interval_s: 0.0,
            time_enabled_ns: 0,
            time_running_ns: 0,
            cycles: none(),
            instructions: none(),
            llc_references: none(),
            llc_misses: none(),
        }
    }

    /// Makes the count of one role unavailable, because `reason` says that it cannot be trusted.
    pub fn withhold(&mut self, role: CounterRole, reason: String) {
        *match role {
            CounterRole::Cycles => &mut self.cycles,
            CounterRole::Instructions => &mut self.instructions,
            CounterRole::LlcReferences => &mut self.llc_references,
            CounterRole::LlcMisses => &mut self.llc_misses,
        } = Availability::Unavailable(reason);
    }

    /// A difference computed before, as in a recording: the counts are scaled already.
    pub fn recorded(
        interval_s: f64,
        (time_enabled_ns, time_running_ns): (u64, u64),
        count: impl Fn(CounterRole) -> Availability<f64>,
    ) -> Self {
        Self {
            interval_s,
            time_enabled_ns,
            time_running_ns,
            cycles: count(CounterRole::Cycles),
            instructions: count(CounterRole::Instructions),
            llc_references: count(CounterRole::LlcReferences),
            llc_misses: count(CounterRole::LlcMisses),
        }
    }

    /// The scaled count of one role in the interval.
    pub fn count(&self, role: CounterRole) -> &Availability<f64> {
        match role {
            CounterRole::Cycles => &self.cycles,
            CounterRole::Instructions => &self.instructions,
            CounterRole::LlcReferences => &self.llc_references,
            CounterRole::LlcMisses => &self.llc_misses,
        }
    }

    /// Whether the group had to share the PMU, so that counts are estimates.
    pub fn is_multiplexed(&self) -> bool {
        self.time_running_ns < self.time_enabled_ns
    }

    /// The rates of this one vCPU.
    pub fn rates(&self) -> Rates {
        Rates::of(std::slice::from_ref(self))
    }
}

/// Rates of a vCPU, a VM or a cache domain over one interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// LLC misses per 1000 instructions.
    pub mpki: Availability<f64>,
    /// LLC misses per LLC reference.
    pub miss_ratio: Availability<f64>,
    /// LLC misses per second of wall time: a sum over the vCPUs ([`sum_over_vcpus`]).
    pub misses_per_s: Availability<f64>,
    /// Instructions per cycle.
    pub ipc: Availability<f64>,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// vCPUs that are missing from some rate above.
    pub vcpus_missing: usize,
    /// vCPUs whose counts are scaled estimates.
    pub vcpus_multiplexed: usize,
}

impl Rates {
    /// The rates of several vCPUs together: sums over sums, each over the vCPUs that have both counts, so
    /// that no vCPU is only in a numerator or only in a denominator. What is no ratio is unavailable where it is of a vCPU.
    pub fn of(deltas: &[CounterDelta]) -> Self {
        use CounterRole::{Cycles, Instructions, LlcMisses, LlcReferences};
        let per_second = deltas.iter().map(|delta| {
            let misses = delta.llc_misses.clone();
            if delta.interval_s > 0.0 {
                misses.map(|misses| misses / delta.interval_s)
            } else {
                Availability::Unavailable(
                    misses.reason().unwrap_or("no time passed between the readings").to_owned(),
                )
            }
        });
        Self {
            mpki: ratio(deltas, LlcMisses, Instructions).map(|ratio| ratio * 1000.0),
            miss_ratio: ratio(deltas, LlcMisses, LlcReferences),
            misses_per_s: sum_over_vcpus(per_second),
            ipc: ratio(deltas, Instructions, Cycles),
            vcpus: deltas.len(),
            vcpus_missing: deltas
                .iter()
                .filter(|delta| CounterRole::ALL.iter().any(|role| delta.count(*role).value().is_none()))
                .count(),
            vcpus_multiplexed: deltas.iter().filter(|delta| delta.is_multiplexed()).count(),
        }
    }
}

struct Times {
    interval_s: f64,
    enabled_ns: u64,
    running_ns: u64,
}

impl Times {
    fn scale(&self) -> f64 {
        self.enabled_ns as f64 / self.running_ns as f64
    }
}

/// Why there are no counts, and how long there should have been some: of a group that was never on the PMU.
struct Missed {
    reason: String,
    enabled_ns: u64,
}

impl<T: Into<String>> From<T> for Missed {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), enabled_ns: 0 }
    }
}

fn elapsed(earlier: &GroupReading, later: &GroupReading, ran_ns: Option<u64>) -> Result<Times, Missed> {
    let grown = |before: u64, after: u64| after.checked_sub(before).ok_or("the counters were reopened");
    let enabled_ns = grown(earlier.time_enabled_ns, later.time_enabled_ns)?;
    let running_ns = grown(earlier.time_running_ns, later.time_running_ns)?;
    if later.begin_ns < earlier.end_ns {
        return Err("the later reading began before the earlier one had ended".into());
    }
    let never = |enabled_ns| Missed {
        reason:
            "the counters were never on the PMU: too many events share it, or others hold it (pinned events)"
                .to_owned(),
        enabled_ns,
    };
    match (enabled_ns, running_ns, ran_ns) {
        (0, _, Some(ran_ns)) if ran_ns >= SURELY_RAN_NS => Err(never(ran_ns)),
        (0, ..) => Err(DID_NOT_RUN.into()),
        (_, 0, _) => Err(never(enabled_ns)),
        _ => Ok(Times { interval_s: middle_s(later) - middle_s(earlier), enabled_ns, running_ns }),
    }
}

fn middle_s(reading: &GroupReading) -> f64 {
    (reading.begin_ns as f64 + reading.end_ns as f64) / 2.0 / 1e9
}

/// Growth of a counter; `None` if it was reset. A 64-bit counter that wraps drops from the upper half of its
/// range to the lower one; any other drop is a reset.
fn grown(before: u64, after: u64) -> Option<u64> {
    const HALF: u64 = 1 << 63;
    if after >= before {
        Some(after - before)
    } else if before >= HALF && after < HALF {
        Some(after.wrapping_sub(before))
    } else {
        None
    }
}

fn ratio(deltas: &[CounterDelta], above: CounterRole, below: CounterRole) -> Availability<f64> {
    let mut sums: Option<(f64, f64)> = None;
    let mut reason = None;
    for delta in deltas {
        match (delta.count(above), delta.count(below)) {
            (Availability::Available(a), Availability::Available(b)) => {
                let (above, below) = sums.unwrap_or_default();
                sums = Some((above + a, below + b));
            }
            (Availability::Unavailable(why), _) | (_, Availability::Unavailable(why)) => {
                reason.get_or_insert_with(|| why.clone());
            }
        }
    }
    match sums {
        Some((above, below)) if below > 0.0 => Availability::Available(above / below),
        Some(_) => Availability::Unavailable(format!("no {} in the interval", below.name())),
        None => Availability::Unavailable(reason.unwrap_or_else(|| "no vCPU to count".into())),
    }
}

/// The sum of a count or its rate over vCPUs; unavailable, with the first reason, where it is for one of them. A vCPU that
/// did not run ([`DID_NOT_RUN`]) adds nothing; where none ran it is not known what would have been counted.
pub fn sum_over_vcpus(values: impl Iterator<Item = Availability<f64>>) -> Availability<f64> {
    let mut total = None;
    let mut idle = None;
    for value in values {
        match value {
            Availability::Available(value) => *total.get_or_insert(0.0) += value,
            Availability::Unavailable(why) if why == DID_NOT_RUN => idle = Some(why),
            Availability::Unavailable(why) => return Availability::Unavailable(why),
        }
    }
    match total {
        Some(total) => Availability::Available(total),
        None => Availability::Unavailable(idle.unwrap_or_else(|| "no vCPU to count".into())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::counters::Counts;

    fn counts(cycles: u64, instructions: u64, llc_references: u64, llc_misses: u64) -> Counts {
        Counts {
            cycles: Some(cycles),
            instructions: Some(instructions),
            llc_references: Some(llc_references),
            llc_misses: Some(llc_misses),
        }
    }

    fn reading(at_s: u64, enabled_ns: u64, running_ns: u64, counts: Counts) -> GroupReading {
        let at_ns = at_s * 1_000_000_000;
        GroupReading {
            begin_ns: at_ns,
            end_ns: at_ns + 1000,
            time_enabled_ns: enabled_ns,
            time_running_ns: running_ns,
            counts,
        }
    }

    #[test]
    fn known_counts_give_known_rates() {
        let delta = CounterDelta::between(
            &reading(1, 100, 100, counts(1_000, 2_000, 10, 5)),
            &reading(3, 200, 200, counts(5_000, 10_000, 50, 25)),
        );
        let rates = delta.rates();
        assert_eq!(rates.mpki, Availability::Available(2.5));
        assert_eq!(rates.miss_ratio, Availability::Available(0.5));
        assert_eq!(rates.misses_per_s, Availability::Available(10.0));
        assert_eq!(rates.ipc, Availability::Available(2.0));
        assert_eq!((rates.vcpus_missing, rates.vcpus_multiplexed), (0, 0));
    }

    #[test]
    fn a_shared_pmu_scales_counts_and_flags_them_but_leaves_ratios() {
        let delta = CounterDelta::between(
            &reading(1, 0, 0, counts(0, 0, 0, 0)),
            &reading(2, 400, 100, counts(1_000, 2_000, 10, 5)),
        );
        assert_eq!(delta.count(CounterRole::LlcMisses), &Availability::Available(20.0));
        let rates = delta.rates();
        assert_eq!((rates.mpki, rates.vcpus_multiplexed), (Availability::Available(2.5), 1));
    }

    #[test]
    fn unknown_values_have_a_reason() {
        let first = reading(1, 100, 100, counts(1_000, 2_000, 10, 5));
        let why = |later: GroupReading| {
            let delta = CounterDelta::between(&first, &later);
            delta.rates().mpki.reason().unwrap_or("known").to_owned()
        };
        assert_eq!(why(reading(2, 100, 100, first.counts)), "the thread did not run");
        let after = |ran_ns| CounterDelta::of_thread(&first, &reading(2, 100, 100, first.counts), ran_ns);
        for ran_ns in [None, Some(0), Some(SURELY_RAN_NS - 1)] {
            let rates = after(ran_ns).rates();
            assert_eq!((rates.mpki.reason(), rates.vcpus_multiplexed), (Some("the thread did not run"), 0));
        }
        assert!(why(reading(2, 200, 100, first.counts)).contains("never on the PMU"));
        assert!(why(reading(2, 50, 50, first.counts)).contains("reopened"));
        assert!(why(reading(0, 200, 200, first.counts)).contains("began before"));
        assert!(why(reading(2, 200, 200, counts(2_000, 3_000, 20, 4))).contains("LLC misses was reset"));
        assert_eq!(why(reading(2, 200, 200, first.counts)), "no instructions in the interval");
        let no_llc = Counts { llc_misses: None, ..first.counts };
        assert_eq!(why(reading(2, 200, 200, no_llc)), "LLC misses are not counted");
        assert_eq!(
            CounterDelta::unavailable("the thread ended").rates().ipc.reason(),
            Some("the thread ended")
        );
        assert_eq!(Rates::of(&[]).mpki.reason(), Some("no vCPU to count"));
    }

    #[test]
    fn a_group_that_was_never_on_the_pmu_is_flagged() {
        let first = reading(1, 100, 100, counts(1_000, 2_000, 10, 5));
        // Enabled and never running; or not even enabled, while the thread ran for a second.
        let shared = CounterDelta::between(&first, &reading(2, 700, 100, first.counts));
        let held = CounterDelta::of_thread(&first, &reading(2, 100, 100, first.counts), Some(1_000_000_000));
        for (delta, enabled_ns) in [(shared, 600), (held, 1_000_000_000)] {
            assert_eq!((delta.time_enabled_ns, delta.time_running_ns), (enabled_ns, 0));
            let rates = delta.rates();
            assert_eq!((rates.vcpus_missing, rates.vcpus_multiplexed), (1, 1));
            assert!(rates.misses_per_s.reason().unwrap().contains("never on the PMU"), "{rates:?}");
        }
        // Counts that were taken are not changed by what the thread's own clock says.
        let later = reading(2, 200, 200, counts(2_000, 3_000, 30, 15));
        assert_eq!(CounterDelta::of_thread(&first, &later, Some(0)), CounterDelta::between(&first, &later));
    }

    #[test]
    fn a_withheld_count_takes_its_rates_with_it() {
        let first = reading(1, 0, 0, counts(0, 0, 0, 0));
        let mut delta = CounterDelta::between(&first, &reading(2, 10, 10, counts(1_000, 2_000, 0, 0)));
        assert_eq!(delta.rates().mpki, Availability::Available(0.0));
        delta.withhold(CounterRole::LlcMisses, "no such event".into());
        let rates = delta.rates();
        assert_eq!((rates.mpki.reason(), rates.ipc), (Some("no such event"), Availability::Available(2.0)));
    }

    #[test]
    fn a_counter_that_wraps_is_not_a_reset() {
        let delta = CounterDelta::between(
            &reading(1, 1, 1, counts(u64::MAX - 9, 0, 0, 0)),
            &reading(2, 2, 2, counts(10, 40, 0, 0)),
        );
        assert_eq!(delta.rates().ipc, Availability::Available(2.0));
    }

    #[test]
    fn a_vcpu_without_counts_is_left_out_of_ratios_and_counted() {
        let good = CounterDelta::between(
            &reading(1, 0, 0, counts(0, 0, 0, 0)),
            &reading(2, 1, 1, counts(1_000, 1_000, 10, 5)),
        );
        let rates = Rates::of(&[good.clone(), CounterDelta::unavailable("the thread ended")]);
        assert_eq!(rates.mpki, Availability::Available(5.0));
        assert_eq!((rates.vcpus, rates.vcpus_missing), (2, 1));
        // A part of the misses is not all of them.
        assert_eq!(rates.misses_per_s.reason(), Some("the thread ended"));
        // What did not run caused none.
        let idle = CounterDelta::unavailable(DID_NOT_RUN);
        let rates = Rates::of(&[idle.clone(), good, idle.clone()]);
        assert_eq!(rates.misses_per_s, Availability::Available(5.0));
        assert_eq!(Rates::of(&[idle]).misses_per_s.reason(), Some(DID_NOT_RUN));
    }

    fn any_reading() -> impl Strategy<Value = GroupReading> {
        let count = || proptest::option::of(any::<u64>());
        (any::<[u32; 4]>(), count(), count(), count(), count()).prop_map(
            |([begin, length, enabled, running], cycles, instructions, llc_references, llc_misses)| {
                GroupReading {
                    begin_ns: begin.into(),
                    end_ns: u64::from(begin) + u64::from(length),
                    time_enabled_ns: enabled.into(),
                    time_running_ns: running.into(),
                    counts: Counts { cycles, instructions, llc_references, llc_misses },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn rates_are_finite_and_not_negative_or_unavailable(earlier in any_reading(), later in any_reading()) {
            let rates = CounterDelta::between(&earlier, &later).rates();
            for rate in [rates.mpki, rates.miss_ratio, rates.misses_per_s, rates.ipc] {
                if let Availability::Available(rate) = rate {
                    prop_assert!(rate.is_finite() && rate >= 0.0, "{rate}");
                }
            }
        }

        #[test]
        fn the_rates_of_equal_vcpus_are_those_of_one(
            n in 1usize..5, cycles in 1u64..1_000_000, instructions in 1u64..1_000_000, misses in 0u64..1000,
        ) {
            let delta = CounterDelta::between(
                &reading(1, 0, 0, counts(0, 0, 0, 0)),
                &reading(2, 10, 10, counts(cycles, instructions, 1000, misses)),
            );
            let (one, many) = (delta.rates(), Rates::of(&vec![delta.clone(); n]));
            for (one, many) in [(one.mpki, many.mpki), (one.ipc, many.ipc), (one.miss_ratio, many.miss_ratio)] {
                let (one, many) = (*one.value().unwrap(), *many.value().unwrap());
                prop_assert!((one - many).abs() <= one.abs() * 1e-12);
            }
        }
    }
}
