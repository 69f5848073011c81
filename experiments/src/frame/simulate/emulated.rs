//! What emulated VMs read, write and fetch, as their emulators record it while they work.

use std::time::{Duration, Instant};

use huddle_model::cache::{Access, KeptSets, Sampling};
use huddle_model::rng::Rng;
use huddle_model::summary::AccessOrigin;

use super::{AccessSource, Feed, NotFed, Phase, Wanted};
use crate::access_stream::{AccessStreamError, AccessStreams, KeptLine};
use crate::frame::Window;
use crate::frame::run::RunError;
use crate::guest::Guest;
use crate::host::HostFailure;

/// One line of each page is recorded.
pub(crate) const FOLD: u32 = 64;

/// How often rings are drained. They hold what a VM does in many times as long.
const DRAIN_EVERY: Duration = Duration::from_millis(5);

/// How often frames are read again: pages that were merged and are written to get others.
const REFRESH_EVERY: Duration = Duration::from_millis(500);

/// How long a phase may take.
const MOST_OF_A_PHASE: Duration = Duration::from_secs(120);

/// The random streams of kept lines (see [`Rng::of_part`]).
const LINES: u64 = 6000;

/// How long guests are recorded. Between the beginning of the first phase and the end of the last nobody may wait for a
/// guest: one whose ring is full waits for the runner.
pub(crate) trait Work<G: ?Sized> {
    /// Guests have been started, and are not recorded yet.
    fn prepare(&mut self, window: &mut Window<'_, G>) -> Result<(), RunError>;

    /// All are recorded, and a phase begins.
    fn begin(&mut self, window: &mut Window<'_, G>, phase: Phase);

    /// Whether all have done enough in it, `elapsed` after its beginning.
    fn is_enough(&mut self, window: &mut Window<'_, G>, elapsed: Duration) -> bool;
}

/// Accesses of emulated VMs.
pub(crate) struct EmulatedAccesses<'a, G: ?Sized> {
    pub(crate) window: Window<'a, G>,
    pub(crate) streams: AccessStreams,
    pub(crate) seed: u64,
    /// Instructions by which vCPUs were set forward in this recording.
    pub(crate) set_forward: u64,
    pub(crate) work: Box<dyn Work<G> + 'a>,
}

impl From<AccessStreamError> for RunError {
    fn from(error: AccessStreamError) -> Self {
        HostFailure::failed(error).into()
    }
}

impl<G: Guest + ?Sized> EmulatedAccesses<'_, G> {
    /// The line of each page that is recorded in a block.
    fn line(&self, block: usize) -> KeptLine {
        let line = Rng::of_part(self.seed, LINES + block as u64).below(FOLD as usize);
        KeptLine::new(line as u8).unwrap_or(KeptLine::FIRST)
    }

    /// Feeds what guests do, until all are recorded.
    fn begin(&mut self, feed: &mut Feed<'_>) -> Result<(), RunError> {
        let all = self.window.vms.len();
        self.drain_until(Phase::WarmUp, feed, "are recorded", |_, recording| Ok(recording == all))
    }

    /// Feeds what guests do in a phase.
    fn phase(&mut self, phase: Phase, feed: &mut Feed<'_>) -> Result<(), RunError> {
        let begun = Instant::now();
        self.work.begin(&mut self.window, phase);
        self.drain_until(phase, feed, "have done what is to be simulated", |this, _| {
            Ok(this.work.is_enough(&mut this.window, begun.elapsed()))
        })
    }

    fn drain_until(
        &mut self,
        phase: Phase,
        feed: &mut Feed<'_>,
        what: &str,
        mut is_done: impl FnMut(&mut Self, usize) -> Result<bool, RunError>,
    ) -> Result<(), RunError> {
        let (begun, mut refreshed) = (Instant::now(), Instant::now());
        let mut accesses: Vec<Access> = Vec::new();
        loop {
            self.window.interrupt.sleep(DRAIN_EVERY)?;
            if refreshed.elapsed() >= REFRESH_EVERY {
                self.streams.refresh_frames()?;
                refreshed = Instant::now();
            }
            let progress = self.streams.next(&mut accesses)?;
            self.set_forward = self.set_forward.saturating_add(progress.set_forward);
            let recording = progress.recording;
            feed(phase, &accesses)?;
            accesses.clear();
            if is_done(self, recording)? {
                return Ok(());
            }
            self.window.guests.iter_mut().try_for_each(|guest| guest.check())?;
            if begun.elapsed() > MOST_OF_A_PHASE {
                let (seconds, of) = (MOST_OF_A_PHASE.as_secs(), self.window.vms.len());
                return Err(HostFailure::Failed(format!(
                    "after {seconds} s not all of {of} emulated guests {what} ({recording} are recorded)"
                ))
                .into());
            }
        }
    }
}

impl<G: Guest + ?Sized> AccessSource for EmulatedAccesses<'_, G> {
    fn origin(&self) -> AccessOrigin {
        AccessOrigin::Emulator
    }

    fn usual_fold(&self) -> u32 {
        FOLD
    }

    fn sampling(&self, fold: u32, _: u64, block: usize) -> Sampling {
        Sampling { fold, kept: KeptSets::SameLine(u32::from(self.line(block).number())) }
    }

    fn feed(&mut self, wanted: Wanted<'_>, feed: &mut Feed<'_>) -> Result<NotFed, RunError> {
        self.window.start(wanted.own)?;
        self.work.prepare(&mut self.window)?;
        self.set_forward = 0;
        self.streams.start(self.line(wanted.block))?;
        self.begin(feed)?;
        self.phase(Phase::WarmUp, feed)?;
        self.phase(Phase::Counted, feed)?;
        let mut rest = Vec::new();
        self.streams.stop(&mut rest)?;
        feed(Phase::Counted, &rest)?;
        self.window.stop()?;
        let losses = self.streams.losses();
        Ok(NotFed {
            lost: losses.lost,
            without_frame: losses.without_frame,
            elsewhere: losses.elsewhere,
            set_forward: self.set_forward,
        })
    }
}
