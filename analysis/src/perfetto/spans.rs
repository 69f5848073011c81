//! Slices that are made of several windows: where a vCPU ran, and what a trial tried.

use std::collections::BTreeMap;
use std::io::{self, Write};

use huddle_model::schema::ResidencyRow;

use super::messages::Value;
use super::ns;
use super::tracks::VmTracks;
use super::writer::{TraceWriter, Track};

/// A cache domain; `None` for CPUs in none.
type Domain = Option<u32>;

/// Where vCPUs ran, by the table residency.
#[derive(Default)]
pub(super) struct Residency {
    /// The window whose rows are being read, with its time.
    window: u64,
    time_ns: (u64, u64),
    /// What each vCPU used in each domain of it.
    used: BTreeMap<String, BTreeMap<u32, Used>>,
    open: BTreeMap<(String, u32), Open>,
}

#[derive(Default)]
struct Used {
    thread: Option<i32>,
    domains: BTreeMap<Domain, InDomain>,
}

/// Sums over the CPUs of a domain; `None` once a part of one is unavailable.
struct InDomain {
    run_ns: Option<u64>,
    clock_samples: Option<u64>,
}

/// Consecutive windows in which a vCPU ran mostly in one domain.
struct Open {
    track: Track,
    domain: Domain,
    last_window: u64,
    begin_ns: u64,
    end_ns: u64,
    windows: u64,
    run_ns: u64,
    elsewhere_ns: u64,
    /// Whether the times are known.
    is_timed: bool,
}

impl Residency {
    /// Adds a row; those of a window follow each other.
    pub(super) fn add<W: Write>(
        &mut self,
        out: &mut TraceWriter<W>,
        tracks: &mut VmTracks,
        row: ResidencyRow,
    ) -> io::Result<()> {
        if row.window != self.window {
            self.close_window(out, tracks)?;
            self.window = row.window;
            self.time_ns = (ns(row.begin_us), ns(row.end_us));
        }
        let used = self.used.entry(row.vm).or_default().entry(row.vcpu).or_default();
        used.thread = row.thread;
        let domain = used.domains.entry(row.domain);
        let sums = domain.or_insert(InDomain { run_ns: Some(0), clock_samples: Some(0) });
        let add = |sum: Option<u64>, more: Option<u64>| Some(sum?.saturating_add(more?));
        sums.run_ns = add(sums.run_ns, row.run_ns);
        sums.clock_samples = add(sums.clock_samples, row.clock_samples);
        Ok(())
    }

    /// Writes what is left; whether there was a row.
    pub(super) fn finish<W: Write>(
        mut self,
        out: &mut TraceWriter<W>,
        tracks: &mut VmTracks,
    ) -> io::Result<bool> {
        self.close_window(out, tracks)?;
        self.open.into_values().try_for_each(|open| open.write(out))?;
        Ok(self.window > 0)
    }

    fn close_window<W: Write>(&mut self, out: &mut TraceWriter<W>, tracks: &mut VmTracks) -> io::Result<()> {
        for (vm, vcpus) in std::mem::take(&mut self.used) {
            for (vcpu, used) in vcpus {
                let Some((domain, run_ns, elsewhere_ns)) = used.most() else { continue };
                let track = tracks.vcpu(out, &vm, vcpu, used.thread, None)?.track;
                let key = (vm.clone(), vcpu);
                let open = self.open.get_mut(&key);
                let (begin_ns, end_ns) = self.time_ns;
                match open {
                    Some(open) if open.goes_on(track, domain, self.window, begin_ns) => {
                        open.end_ns = open.end_ns.max(end_ns);
                        open.last_window = self.window;
                        open.windows += 1;
                        open.run_ns += run_ns.unwrap_or(0);
                        open.elsewhere_ns += elsewhere_ns;
                        open.is_timed &= run_ns.is_some();
                    }
                    _ => {
                        let begin_ns = match self.open.remove(&key) {
                            Some(before) => {
                                let end_ns = before.end_ns;
                                before.write(out)?;
                                // Windows do not overlap, unless the clock was set back.
                                begin_ns.max(end_ns)
                            }
                            None => begin_ns,
                        };
                        let open = Open {
                            track,
                            domain,
                            last_window: self.window,
                            begin_ns,
                            end_ns: end_ns.max(begin_ns),
                            windows: 1,
                            run_ns: run_ns.unwrap_or(0),
                            elsewhere_ns,
                            is_timed: run_ns.is_some(),
                        };
                        self.open.insert(key, open);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Used {
    /// The domain in which it ran most, the CPU time there, and elsewhere; `None` if it did not run, or where is not known.
    /// Where the CPU time of some CPU is unavailable, all are compared by samples of the clock, and there is no time.
    fn most(&self) -> Option<(Domain, Option<u64>, u64)> {
        let weights = |of: fn(&InDomain) -> Option<u64>| -> Option<Vec<(Domain, u64)>> {
            self.domains.iter().map(|(domain, sums)| Some((*domain, of(sums)?))).collect()
        };
        let times = weights(|sums| sums.run_ns);
        let is_timed = times.is_some();
        let weights = times.or_else(|| weights(|sums| sums.clock_samples))?;
        let (domain, most) = *weights.iter().max_by_key(|(_, weight)| *weight)?;
        let elsewhere = || weights.iter().map(|(_, weight)| weight).sum::<u64>() - most;
        (most > 0).then(|| if is_timed { (domain, Some(most), elsewhere()) } else { (domain, None, 0) })
    }
}

impl Open {
    fn goes_on(&self, track: Track, domain: Domain, window: u64, begin_ns: u64) -> bool {
        let is_next = self.last_window.checked_add(1) == Some(window);
        self.track == track && self.domain == domain && is_next && begin_ns >= self.begin_ns
    }

    fn write<W: Write>(self, out: &mut TraceWriter<W>) -> io::Result<()> {
        let name = match self.domain {
            Some(domain) => format!("domain {domain}"),
            None => "in no cache domain".to_owned(),
        };
        let mut arguments = vec![("windows", Value::Unsigned(self.windows))];
        if self.is_timed {
            arguments.push(("cpu_time_ns", Value::Unsigned(self.run_ns)));
            arguments.push(("cpu_time_elsewhere_ns", Value::Unsigned(self.elsewhere_ns)));
        }
        out.slice(self.track, (self.begin_ns, self.end_ns), &name, self.domain.map(u64::from), arguments)
    }
}

/// One block of one arm of a trial, of which some windows were measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TrialWindow {
    pub(super) window: u64,
    pub(super) time_ns: (u64, u64),
    pub(super) trial: u32,
    pub(super) arm: String,
    pub(super) block: Option<u32>,
}

/// The trials, by the windows that were measured in them.
#[derive(Default)]
pub(super) struct Trials {
    open: Option<TrialWindow>,
    /// Until when the slice of the trial reaches.
    until_ns: u64,
}

impl Trials {
    /// Adds a window; again for each vCPU or VM in it.
    pub(super) fn add<W: Write>(
        &mut self,
        out: &mut TraceWriter<W>,
        track: Track,
        next: TrialWindow,
    ) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            let is_same = (open.trial, &open.arm, open.block) == (next.trial, &next.arm, next.block);
            let is_next = next.window == open.window || open.window.checked_add(1) == Some(next.window);
            if is_same && is_next {
                open.window = next.window;
                open.time_ns.1 = open.time_ns.1.max(next.time_ns.1);
                return Ok(());
            }
        }
        let before = self.close_block(out, track)?;
        if before != Some(next.trial) {
            self.close_trial(out, track, before)?;
            let begin_ns = next.time_ns.0.max(self.until_ns);
            out.begin(track, begin_ns, &format!("trial {}", next.trial), Vec::new())?;
        }
        self.open = Some(next);
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish<W: Write>(mut self, out: &mut TraceWriter<W>, track: Track) -> io::Result<()> {
        let before = self.close_block(out, track)?;
        self.close_trial(out, track, before)
    }

    /// Writes the open block; the trial that it is of.
    fn close_block<W: Write>(&mut self, out: &mut TraceWriter<W>, track: Track) -> io::Result<Option<u32>> {
        let Some(open) = self.open.take() else { return Ok(None) };
        let begin_ns = open.time_ns.0.max(self.until_ns);
        let end_ns = open.time_ns.1.max(begin_ns);
        let block = open.block.map(|block| ("block", Value::Unsigned(block.into())));
        out.slice(track, (begin_ns, end_ns), &open.arm, None, block.into_iter().collect())?;
        self.until_ns = end_ns;
        Ok(Some(open.trial))
    }

    fn close_trial<W: Write>(
        &mut self,
        out: &mut TraceWriter<W>,
        track: Track,
        open: Option<u32>,
    ) -> io::Result<()> {
        match open {
            Some(_) => out.end(track, self.until_ns),
            None => Ok(()),
        }
    }
}
