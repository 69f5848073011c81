//! Method `events`: what VMs share, kept current between full readings of the page tables.
//!
//! A baseline reads where every page of every VM is, as the scan does, and keeps it as a graph of frames and
//! VMs ([`graph`], [`pages`]). From then on the kernel reports changes ([`FrameChanges`]): each merge by ksmd
//! with its page and frame, and each write fault of a watched process, by which a page leaves its merged
//! frame. [`EventsGraph::bring_up_to_date`] applies the reported changes, so its cost depends on them.
//! Reading only the page tables of merged memory would cost the share of memory that is merged, whether
//! anything changed or not; the benchmark `events` measures both.
//!
//! Not reported: memory given back or unmapped (reported late, and only when a whole frame goes), swapped out
//! or moved, writes by other processes, KSM disabled for a range, memory touched for the first time. So each
//! update also reads some random pages again, and compares the resident memory of each process with the
//! graph; too many differences, like lost events, make the graph [`Stale`], and only a new baseline repairs
//! that. The exact drift from a fresh scan is [`Drift`].
//!
//! On hosts without the tracepoints (x86-64, Linux 6.4 and CONFIG_MEMCG are needed) starting fails with the
//! reason, and the scan remains.

mod content;
mod drift;
mod graph;
mod pages;
mod ranges;
mod read;
mod tracked_graph;

use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_host::stages::{FrameChange, FrameChangeKind, FrameChanges, StageError, StartFrameChanges};
use huddle_model::observation::ProgramCost;
use huddle_model::rng::Rng;
use huddle_model::vm::Vm;

pub use self::drift::Drift;
use self::pages::Place;
use self::tracked_graph::TrackedGraph;
use super::{Measurement, SharingError};

/// Why the graph cannot be made or updated.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// Changes cannot be followed on this host.
    #[error(transparent)]
    Changes(#[from] StageError),
    /// Page tables cannot be read.
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// There is no graph to update.
    #[error("the graph of frames has no baseline yet: read one first")]
    NoBaseline,
}

/// Settings of the graph.
#[derive(Clone, Copy, Debug)]
pub struct EventsConfig {
    /// Room for pending changes, in bytes: a power of two and a multiple of the page size. A change takes 32
    /// bytes.
    pub ring_bytes: u32,
    /// Number of random pages that each update reads again.
    pub sample_pages: usize,
    /// Share (0 to 1) of these pages on unexpected frames from which on the graph is stale.
    pub stale_share: f64,
    /// Seed of the random pages.
    pub seed: u64,
}

impl Default for EventsConfig {
    fn default() -> Self {
        // 512 pages detect 1 % of wrong ones with a standard error of 0.4 %, in half a millisecond.
        Self { ring_bytes: 16 << 20, sample_pages: 512, stale_share: 0.01, seed: 0 }
    }
}

/// Why only a new baseline can make the graph right again.
#[derive(Clone, Debug, PartialEq)]
pub enum Stale {
    /// Reported changes were lost, because they were not read in time.
    Lost {
        /// Number of lost changes since the baseline.
        events: u64,
    },
    /// Too many of the pages read again were on unexpected frames.
    Sample(Sample),
    /// A VM has clearly more or less memory than the graph.
    Resident {
        /// The VM.
        vm: String,
        /// Pages (of 4 KiB) that its processes have more, or less, than the graph.
        pages: u64,
    },
}

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost { events } => write!(f, "{events} changes of page tables were lost"),
            Self::Sample(sample) => {
                write!(f, "{} of {} pages were on other frames than expected", sample.wrong, sample.looked_at)
            }
            Self::Resident { vm, pages } => {
                write!(f, "the resident memory of {vm:?} is {pages} pages off")
            }
        }
    }
}

/// Pages that were read again and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Pages that were read.
    pub looked_at: u64,
    /// Pages among them on unexpected frames.
    pub wrong: u64,
}

impl Sample {
    /// Share of wrong pages, 0 to 1; `None` if none was read.
    pub fn wrong_share(self) -> Option<f64> {
        (self.looked_at > 0).then(|| self.wrong as f64 / self.looked_at as f64)
    }
}

/// Applied changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Pages that ksmd merged, including with the zero page.
    pub merges: u64,
    /// Faults of writes to write-protected pages.
    pub write_faults: u64,
    /// Pages that were read again because only the fact of a change was reported.
    pub reread_pages: u64,
}

/// A full reading.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// The measurement, the same as of the scan.
    pub measurement: Measurement,
    /// All pages that the graph knew before, compared with the reading: its drift page by page. Empty at the
    /// first baseline.
    pub before: Sample,
}

/// The updated matrix.
#[derive(Clone, Debug)]
pub struct Update {
    /// What VMs share now. Coverage is the share of their resident pages in the graph.
    pub measurement: Measurement,
    /// Applied changes.
    pub changes: Changes,
    /// Changes that were lost since the baseline.
    pub lost_events: u64,
    /// Result of reading some pages again: an estimate of the drift, page by page.
    pub sample: Sample,
    /// Time since the baseline.
    pub age: Duration,
    /// Why a new baseline is needed; it stays so until then.
    pub stale: Option<Stale>,
}

/// A frame-to-VM graph that is kept current. The BPF programs are attached as long as it lives.
pub struct EventsGraph {
    root: HostRoot,
    config: EventsConfig,
    probe: Box<dyn FrameChanges>,
    rng: Rng,
    /// Number of the first process of the baseline: events of earlier ones have smaller numbers.
    first_number: u32,
    kept: Option<TrackedGraph>,
}

impl EventsGraph {
    /// Attaches the programs. There is no graph until [`EventsGraph::baseline`].
    ///
    /// # Errors
    /// Why this kernel cannot report changes.
    pub fn start(
        root: HostRoot,
        config: EventsConfig,
        changes: &StartFrameChanges,
    ) -> Result<Self, EventsError> {
        let probe = changes(config.ring_bytes).map_err(EventsError::Changes)?;
        Ok(Self { root, config, probe, rng: Rng::new(config.seed), first_number: 0, kept: None })
    }

    /// Reads where all pages of `vms` are, and keeps that current from now on. An earlier baseline of the
    /// same processes is updated first and compared page by page.
    ///
    /// # Errors
    /// As [`super::MergedScan::measure`]; a map of the probe cannot be used.
    pub fn baseline(&mut self, vms: &[Vm]) -> Result<Baseline, EventsError> {
        let began = Instant::now();
        let old = self.kept.take().map(|mut kept| {
            apply_events(&mut *self.probe, &mut kept, self.first_number);
            kept
        });
        let mut kept = TrackedGraph::open(&self.root, vms)?;
        let watched = old.as_ref().map_or(0, |old| old.processes().len());
        self.first_number = self.first_number.wrapping_add(u32::try_from(watched).unwrap_or(u32::MAX));
        for process in old.iter().flat_map(|old| old.processes()) {
            self.probe.forget(process.id.id.cast_unsigned())?;
        }
        for (number, process) in (self.first_number..).zip(kept.processes()) {
            self.probe.watch(process.id.id.cast_unsigned(), number)?;
        }
        // From here on every change is reported, and again later if it is also read here.
        kept.lost_before = self.probe.lost()?;
        let before = kept.read_all(old.as_ref())?;
        let measurement = kept.measurement(began, &*self.probe)?;
        self.kept = Some(kept);
        Ok(Baseline { measurement, before })
    }

    /// Whether the baseline is of exactly these VMs and their memory.
    pub fn covers(&self, vms: &[Vm]) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.covers(vms))
    }

    /// Applies the changes since the last call.
    ///
    /// # Errors
    /// [`EventsError::NoBaseline`]; a kernel file or a map that cannot be read.
    pub fn bring_up_to_date(&mut self) -> Result<Update, EventsError> {
        let began = Instant::now();
        let Some(kept) = &mut self.kept else { return Err(EventsError::NoBaseline) };
        let mut changes = apply_events(&mut *self.probe, kept, self.first_number);
        changes.reread_pages = kept.reread()?;
        kept.forget_ended()?;
        kept.look_into_new_frames();
        let mut sample = Sample::default();
        let mut wrong = Vec::new();
        for (process, index) in kept.draw(&mut self.rng, self.config.sample_pages) {
            if let Some(right) = kept.is_right(process, index) {
                sample.looked_at += 1;
                if !right {
                    wrong.push((process, index));
                }
            }
        }
        if !wrong.is_empty() {
            // Pages that changed just now are reported by now and were not wrong.
            let more = apply_events(&mut *self.probe, kept, self.first_number);
            changes.merges += more.merges;
            changes.write_faults += more.write_faults;
            changes.reread_pages += kept.reread()?;
            wrong.retain(|(process, index)| kept.is_right(*process, *index) == Some(false));
            sample.wrong = wrong.len() as u64;
            wrong.iter().for_each(|(process, index)| kept.read_again(*process, *index, 1));
            kept.reread()?;
            kept.look_into_new_frames();
        }
        let lost_events = self.probe.lost()?.saturating_sub(kept.lost_before);
        if lost_events > 0 {
            kept.stale = Some(Stale::Lost { events: lost_events });
        } else if sample.wrong_share().is_some_and(|share| share > self.config.stale_share) {
            kept.stale.get_or_insert(Stale::Sample(sample));
        } else if let Some((vm, pages)) = kept.resident_off(self.config.stale_share) {
            kept.stale.get_or_insert(Stale::Resident { vm, pages });
        }
        Ok(Update {
            measurement: kept.measurement(began, &*self.probe)?,
            changes,
            lost_events,
            sample,
            age: kept.read_at.elapsed(),
            stale: kept.stale.clone(),
        })
    }

    /// What is not reported on this kernel, one sentence each; it is in the notes of each measurement, too.
    pub fn missing(&self) -> &[String] {
        self.probe.missing()
    }

    /// The kernel's ids of the programs.
    pub fn program_ids(&self) -> Vec<u32> {
        self.probe.program_ids()
    }

    /// Cost of the programs since they were attached, while the kernel's BPF statistics were on.
    pub fn cost(&self) -> ProgramCost {
        self.probe.cost()
    }
}

/// Events that are looked up together.
const TOGETHER: usize = 32;

/// Reads pending events and applies them in order; pages whose change has no details are queued for reading.
fn apply_events(probe: &mut dyn FrameChanges, kept: &mut TrackedGraph, first_number: u32) -> Changes {
    let mut changes = Changes::default();
    let mut waiting = Vec::with_capacity(TOGETHER);
    probe.drain(&mut |event: FrameChange| {
        waiting.push(event);
        if waiting.len() == TOGETHER {
            apply(&mut waiting, kept, first_number, &mut changes);
        }
    });
    apply(&mut waiting, kept, first_number, &mut changes);
    changes
}

fn apply(waiting: &mut Vec<FrameChange>, kept: &mut TrackedGraph, first_number: u32, changes: &mut Changes) {
    let process = |event: &FrameChange| event.process.wrapping_sub(first_number) as usize;
    // Accessed entries are spread over all memory of the graph. Looked up one by one, each lookup would wait
    // for a cache miss in turn; prefetched together, the misses overlap.
    kept.warm_up(waiting.iter().map(|event| (process(event), event.address)));
    for event in waiting.drain(..) {
        let process = process(&event);
        if let FrameChangeKind::Range { end } = event.kind {
            kept.read_range_again(process, event.address, end);
            continue;
        }
        let Some(index) = kept.index_of(process, event.address) else { continue };
        match event.kind {
            FrameChangeKind::Merged { frame } => {
                changes.merges += 1;
                kept.move_page(process, index, Place::on(frame), true);
            }
            FrameChangeKind::MergedWithZeroPage => {
                changes.merges += 1;
                kept.move_page(process, index, Place::ZERO_PAGE, false);
            }
            FrameChangeKind::WriteFault => {
                changes.write_faults += 1;
                kept.move_page(process, index, Place::ALONE, false);
            }
            FrameChangeKind::Left { frame } if kept.is_at(process, index, Place::on(frame)) => {
                kept.read_again(process, index, 1);
            }
            FrameChangeKind::Left { .. } | FrameChangeKind::Range { .. } => {}
        }
    }
}
