//! A recording as a trace for Perfetto: VMs as processes, vCPUs as threads with the cache domain in which they ran,
//! placements, decisions and events as instants, trials as slices with their arms, and what was counted as counters.
//!
//! The format is Perfetto's own, in Protocol Buffers, instead of the older JSON: it has tracks that are neither a process
//! nor a thread, units and descriptions, and it can be written and read as a stream. Every slice is written when it is
//! complete, since Perfetto sorts by time. What is kept in memory is a batch of rows and the state of each vCPU.

mod messages;
mod spans;
mod tracks;
mod writer;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use huddle_model::schema::{
    CounterRow, DecisionRow, EventRow, KsmRow, Manifest, MergingRow, OccupancyRow, PlacementRow, ReportRow,
    ResidencyRow, TrialRow, VmRow,
};

use self::messages::Value;
use self::spans::{Residency, TrialWindow, Trials};
use self::tracks::{AboutVm, Counter, VmTracks, set};
use self::writer::{Argument, Kind, TraceWriter, Track};
use crate::AnalysisError;
use crate::rows::each;
use crate::run::RunDir;
use crate::text::clean;

/// The ending of the name of a trace.
pub(crate) const ENDING: &str = "pftrace";

/// Nanoseconds of a time in microseconds since the Unix epoch; times before it are the epoch.
fn ns(us: i64) -> u64 {
    u64::try_from(us).unwrap_or(0).saturating_mul(1000)
}

/// Writes the trace of `run` to the new file `path`, which only its owner can read.
///
/// # Errors
/// When the recording cannot be read, or the file cannot be written.
pub(crate) fn write(run: &RunDir, path: &Path) -> Result<(), AnalysisError> {
    let cannot =
        |error: io::Error| AnalysisError::Write { path: path.to_owned(), message: error.to_string() };
    let manifest = run.manifest()?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(cannot)?;
    let out = TraceWriter::new(BufWriter::new(file), ns(manifest.begin_us)).map_err(cannot)?;
    let mut trace = Trace { run, cannot: &cannot, out, vms: VmTracks::default() };
    trace.tables(&manifest)?;
    let Trace { mut out, vms, .. } = trace;
    vms.finish(&mut out).and_then(|()| out.finish()).map_err(cannot)
}

/// The trace of one run.
struct Trace<'a, F> {
    run: &'a RunDir,
    cannot: &'a F,
    out: TraceWriter<BufWriter<File>>,
    vms: VmTracks,
}

/// Counters of a vCPU. The recording's counts are sums over windows of different lengths, so these are rates.
const MISSES: (&str, &str) = ("LLC misses per second", "1/s");
const MPKI: (&str, &str) = ("LLC misses per 1000 instructions", "1/1000");
/// Counters of a VM.
const MERGED: (&str, &str) = ("merged pages", "pages");
const MERGES: (&str, &str) = ("pages merged per second", "pages/s");
const BREAKS: (&str, &str) = ("merged pages broken per second", "pages/s");
const OPERATIONS: (&str, &str) = ("operations per second, as reported", "1/s");
const LATENCY: (&str, &str) = ("mean latency, as reported", "us");
const OCCUPANCY: (&str, &str) = ("bytes in the last-level cache", "bytes");
/// Counters of the host.
const SHARED: (&str, &str) = ("frames shared by all pairs", "frames");
const WITHIN: (&str, &str) = ("frames shared within cache domains", "frames");
const KSM_SHARED: (&str, &str) = ("KSM: merged frames", "frames");
const KSM_SHARING: (&str, &str) = ("KSM: pages saved", "pages");

impl<F: Fn(io::Error) -> AnalysisError> Trace<'_, F> {
    fn tables(&mut self, manifest: &Manifest) -> Result<(), AnalysisError> {
        let name = format!("huddle on {}", clean(&manifest.host));
        let description =
            format!("run {} of huddle {}", clean(&manifest.run), clean(&manifest.huddle_version));
        // Before the VMs.
        let all = self.out.track(&name, &Kind::Plain, None, -1, Some(description)).map_err(self.cannot)?;
        self.vms()?;
        let is_known = self.residency()?;
        self.placements(!is_known)?;
        let trials = self.plain("trials", all, 1)?;
        self.counters(trials)?;
        self.of_vms()?;
        let rounds = self.plain("rounds", all, 0)?;
        let mut of_host = BTreeMap::new();
        self.decisions(rounds, all, &mut of_host)?;
        self.ksm(all, &mut of_host)?;
        of_host
            .into_values()
            .try_for_each(|counter: Counter| counter.finish(&mut self.out))
            .map_err(self.cannot)?;
        let verdicts = self.plain("decisions", all, 2)?;
        self.verdicts(verdicts)?;
        let events = self.plain("events", all, 3)?;
        self.events(events)
    }

    fn plain(&mut self, name: &str, parent: Track, rank: i32) -> Result<Track, AnalysisError> {
        self.out.track(name, &Kind::Plain, Some(parent), rank, None).map_err(self.cannot)
    }

    fn vms(&mut self) -> Result<(), AnalysisError> {
        let Self { run, cannot, out, vms, .. } = self;
        each(run, |row: VmRow| {
            let about = || {
                let uuid = row.uuid.map(|uuid| format!(", UUID {}", uuid.as_str()));
                let uuid = uuid.unwrap_or_default();
                let description = format!("{}, {} vCPUs{uuid}", clean(&row.vmm.to_string()), row.vcpus);
                AboutVm { pid: row.pid, domid: row.domid, description: Some(description) }
            };
            vms.vm(out, &row.vm, about).map(drop).map_err(&**cannot)
        })?;
        // The threads of vCPUs.
        each(run, |row: PlacementRow| {
            vms.vcpu(out, &row.vm, row.vcpu, row.thread, row.vm_pid).map(drop).map_err(&**cannot)
        })
    }

    /// Where vCPUs ran; whether that was recorded.
    fn residency(&mut self) -> Result<bool, AnalysisError> {
        let Self { run, cannot, out, vms, .. } = self;
        let mut residency = Residency::default();
        each(run, |row: ResidencyRow| residency.add(out, vms, row).map_err(&**cannot))?;
        residency.finish(out, vms).map_err(&**cannot)
    }

    /// Where vCPUs are bound, at the end of the rounds in which that changed; as slices where it was not recorded where they
    /// ran.
    fn placements(&mut self, as_slices: bool) -> Result<(), AnalysisError> {
        let Self { run, cannot, out, vms, .. } = self;
        // The domain in force, and since when.
        let mut in_force: BTreeMap<(String, u32), (Option<u32>, u64)> = BTreeMap::new();
        let mut end_ns = 0;
        each(run, |row: PlacementRow| {
            let track = vms.vcpu(out, &row.vm, row.vcpu, row.thread, row.vm_pid).map_err(&**cannot)?.track;
            // Before version 6 only the plan was recorded, and whether it was applied.
            let now = row.in_force.or(row.domain.filter(|_| row.applied == Some(true)));
            end_ns = ns(row.end_us).max(end_ns);
            let key = (row.vm, row.vcpu);
            let before = in_force.get(&key).copied();
            if before.is_some_and(|(domain, _)| domain == now) || (before.is_none() && now.is_none()) {
                return Ok(());
            }
            if let (true, Some((Some(domain), since_ns))) = (as_slices, before) {
                let name = format!("bound to domain {domain}");
                out.slice(track, (since_ns, end_ns), &name, Some(domain.into()), Vec::new())
                    .map_err(&**cannot)?;
            }
            in_force.insert(key, (now, end_ns));
            let name = match now {
                Some(domain) => format!("bound to domain {domain}"),
                None => "no longer bound".to_owned(),
            };
            let mut arguments = vec![("round", Value::Unsigned(row.round))];
            arguments.extend(row.domain.map(|domain| ("planned_domain", Value::Unsigned(domain.into()))));
            arguments.extend(text("cpus", row.cpus));
            arguments.extend(text("not_applied_reason", row.not_applied_reason));
            out.instant(track, end_ns, &name, arguments).map_err(&**cannot)
        })?;
        if as_slices {
            for ((vm, vcpu), (domain, since_ns)) in in_force {
                let Some(domain) = domain else { continue };
                let track = vms.vcpu(out, &vm, vcpu, None, None).map_err(&**cannot)?.track;
                let name = format!("bound to domain {domain}");
                out.slice(track, (since_ns, end_ns), &name, Some(domain.into()), Vec::new())
                    .map_err(&**cannot)?;
            }
        }
        Ok(())
    }

    fn counters(&mut self, trials_track: Track) -> Result<(), AnalysisError> {
        let Self { run, cannot, out, vms, .. } = self;
        let mut trials = Trials::default();
        each(run, |row: CounterRow| {
            let time_ns = (ns(row.begin_us), ns(row.end_us));
            if let (Some(trial), Some(arm)) = (row.trial, row.arm) {
                let arm = clean(&arm);
                let next = TrialWindow { window: row.window, time_ns, trial, arm, block: row.block };
                trials.add(out, trials_track, next).map_err(&**cannot)?;
            }
            let vcpu = vms.vcpu(out, &row.vm, row.vcpu, row.thread, row.vm_pid).map_err(&**cannot)?;
            let interval_ns = row.interval_ns.filter(|interval| *interval > 0);
            let a_second = row.llc_misses.zip(interval_ns).map(|(misses, ns)| misses * 1e9 / ns as f64);
            let instructions = row.instructions.filter(|instructions| *instructions > 0.0);
            let mpki = row.llc_misses.zip(instructions).map(|(misses, of)| 1000.0 * misses / of);
            for (counter, value) in [(MISSES, a_second), (MPKI, mpki)] {
                set(out, &mut vcpu.counters, vcpu.track, counter, time_ns, value).map_err(&**cannot)?;
            }
            Ok(())
        })?;
        trials.finish(out, trials_track).map_err(&**cannot)
    }

    /// What was counted of VMs.
    fn of_vms(&mut self) -> Result<(), AnalysisError> {
        let Self { run, cannot, out, vms, .. } = self;
        each(run, |row: MergingRow| {
            let time_ns = (ns(row.begin_us), ns(row.end_us));
            let rate = |pages: Option<u64>| pages.and_then(|pages| a_second(pages as f64, time_ns));
            let merged = row.pages_merged_now.map(|pages| pages as f64);
            let values =
                [(MERGED, merged), (MERGES, rate(row.pages_merged)), (BREAKS, rate(row.pages_broken))];
            values
                .into_iter()
                .try_for_each(|(counter, value)| vms.set(out, &row.vm, counter, time_ns, value))
                .map_err(&**cannot)
        })?;
        each(run, |row: ReportRow| {
            let time_ns = (ns(row.begin_us), ns(row.end_us));
            let values = [(OPERATIONS, a_second(row.operations as f64, time_ns)), (LATENCY, row.latency_us)];
            values
                .into_iter()
                .try_for_each(|(counter, value)| vms.set(out, &row.vm, counter, time_ns, value))
                .map_err(&**cannot)
        })?;
        // Of one window: what a VM has in all caches together.
        let mut open: BTreeMap<String, ((u64, u64), Option<f64>)> = BTreeMap::new();
        each(run, |row: OccupancyRow| {
            let time_ns = (ns(row.begin_us), ns(row.end_us));
            let bytes = row.llc_bytes.map(|bytes| bytes as f64);
            match open.get_mut(&row.vm) {
                // A sum of which a part is unavailable is unavailable.
                Some((time, sum)) if *time == time_ns => *sum = sum.zip(bytes).map(|(sum, more)| sum + more),
                _ => {
                    if let Some((time, sum)) = open.insert(row.vm.clone(), (time_ns, bytes)) {
                        vms.set(out, &row.vm, OCCUPANCY, time, sum).map_err(&**cannot)?;
                    }
                }
            }
            Ok(())
        })?;
        open.into_iter()
            .try_for_each(|(vm, (time, sum))| vms.set(out, &vm, OCCUPANCY, time, sum))
            .map_err(&**cannot)
    }

    fn decisions(
        &mut self,
        rounds: Track,
        all: Track,
        of_host: &mut BTreeMap<&'static str, Counter>,
    ) -> Result<(), AnalysisError> {
        let Self { run, cannot, out, .. } = self;
        let mut until_ns = 0;
        // A value of a round holds until the next one.
        let mut before: Option<(u64, [Option<u64>; 2])> = None;
        each(run, |row: DecisionRow| {
            let begin_ns = ns(row.begin_us).max(until_ns);
            let end_ns = ns(row.end_us).max(begin_ns);
            until_ns = end_ns;
            let within = row.shared_within_frames;
            let now = (end_ns, [row.shared_total_frames, within]);
            if let Some((since_ns, values)) = before.replace(now) {
                for (counter, value) in [SHARED, WITHIN].into_iter().zip(values) {
                    let value = value.map(|frames| frames as f64);
                    set(out, of_host, all, counter, (since_ns, end_ns), value).map_err(&**cannot)?;
                }
            }
            let mut arguments = Vec::new();
            arguments.extend(text("policy", row.policy));
            arguments.extend(text("pinning", row.pinning));
            arguments
                .extend(row.threads_changed.map(|count| ("threads_changed", Value::Unsigned(count.into()))));
            arguments.extend(text("sharing_unavailable", row.sharing_unavailable));
            arguments.extend(text("plan_unavailable", row.plan_unavailable));
            arguments.extend(text("pin_unavailable", row.pin_unavailable));
            arguments.extend(text("reasons", row.reasons));
            let name = format!("round {}", row.round);
            out.begin(rounds, begin_ns, &name, arguments).map_err(&**cannot)?;
            if row.changed == Some(true) {
                out.instant(rounds, end_ns, "placement changed", Vec::new()).map_err(&**cannot)?;
            }
            out.end(rounds, end_ns).map_err(&**cannot)
        })?;
        if let Some((since_ns, values)) = before {
            for (counter, value) in [SHARED, WITHIN].into_iter().zip(values) {
                let value = value.map(|frames| frames as f64);
                set(out, of_host, all, counter, (since_ns, since_ns), value).map_err(&**cannot)?;
            }
        }
        Ok(())
    }

    fn ksm(
        &mut self,
        all: Track,
        of_host: &mut BTreeMap<&'static str, Counter>,
    ) -> Result<(), AnalysisError> {
        let Self { run, cannot, out, .. } = self;
        let mut before: Option<(u64, [Option<u64>; 2])> = None;
        let mut write =
            |out: &mut TraceWriter<BufWriter<File>>, since_ns, until_ns, values: [Option<u64>; 2]| {
                for (counter, value) in [KSM_SHARED, KSM_SHARING].into_iter().zip(values) {
                    let value = value.map(|pages| pages as f64);
                    set(out, of_host, all, counter, (since_ns, until_ns), value).map_err(&**cannot)?;
                }
                Ok(())
            };
        each(run, |row: KsmRow| {
            let end_ns = ns(row.end_us);
            match before.replace((end_ns, [row.pages_shared, row.pages_sharing])) {
                Some((since_ns, values)) => write(out, since_ns, end_ns, values),
                None => Ok(()),
            }
        })?;
        before.map_or(Ok(()), |(since_ns, values)| write(out, since_ns, since_ns, values))
    }

    fn verdicts(&mut self, track: Track) -> Result<(), AnalysisError> {
        let Self { run, cannot, out, .. } = self;
        each(run, |row: TrialRow| {
            let mut arguments = vec![
                ("proposal", Value::Text(clean(&row.proposal))),
                ("reason", Value::Text(clean(&row.reason))),
                ("objective", Value::Text(clean(&row.objective))),
                ("blocks", Value::Unsigned(row.blocks)),
            ];
            arguments.extend(row.trial.map(|trial| ("trial", Value::Unsigned(trial.into()))));
            for (name, value) in [
                ("expected_change", row.expected_change),
                ("observed_change", row.observed_change),
                ("observed_low", row.observed_low),
                ("observed_high", row.observed_high),
            ] {
                arguments.extend(value.map(|value| (name, Value::Double(value))));
            }
            let name = format!("{}: {}", clean(&row.outcome), clean(&row.proposal));
            out.instant(track, ns(row.begin_us), &name, arguments).map_err(&**cannot)
        })
    }

    fn events(&mut self, track: Track) -> Result<(), AnalysisError> {
        let Self { run, cannot, out, .. } = self;
        each(run, |row: EventRow| {
            let mut arguments = vec![("message", Value::Text(clean(&row.message)))];
            arguments.extend(text("vm", row.vm));
            out.instant(track, ns(row.at_us), &clean(&row.kind), arguments).map_err(&**cannot)
        })
    }
}

/// An argument of text, if there is one.
fn text(name: &'static str, value: Option<String>) -> Option<Argument> {
    value.map(|text| (name, Value::Text(clean(&text))))
}

/// A count of a window as a rate; `None` for a window without a length.
fn a_second(count: f64, (begin_ns, end_ns): (u64, u64)) -> Option<f64> {
    let length_ns = end_ns.checked_sub(begin_ns).filter(|length| *length > 0)?;
    Some(count * 1e9 / length_ns as f64)
}

#[cfg(test)]
mod tests;
