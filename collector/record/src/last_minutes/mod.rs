//! The last minutes of a loop, kept in memory, and written as an ordinary recording when somebody asks for them.
//!
//! Steps of the loop are kept as they are: they share memory with one another and with the loop (the cells of the matrix,
//! the topology), so a step costs little more than what is new in it. What falls out at the old end is not forgotten but
//! folded into a view, with which the recording begins, as one does that begins in the middle of a loop: windows and
//! events belong to a round that may have been before them.

mod size;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use huddle_host::clock::unix_us;
use huddle_model::schema::{Manifest, RowContext};
use huddle_model::update::{Step, Update};
use huddle_model::view::View;
use huddle_recording::guarded::{Threads, guarded};

use super::writer::RunWriter;
use super::{RecordError, RecorderLimits, RecordingStatus, RecordingSummary};
use size::{Counted, Sizes};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepLimits {
    /// Steps older than this fall out.
    pub age: Duration,
    /// Most memory of all steps, by an estimate, in bytes. Beyond it the oldest fall out, but never the newest one.
    pub max_bytes: u64,
}

/// The last minutes.
#[derive(Debug)]
pub struct LastMinutes {
    limits: KeepLimits,
    /// What was before the oldest step.
    base: Option<View>,
    steps: VecDeque<KeptStep>,
    sizes: Sizes,
    /// The newest step that fell out although it was not too old.
    cut: Option<Instant>,
}

#[derive(Debug)]
struct KeptStep {
    at: Instant,
    step: Step,
    counted: Counted,
}

/// A copy of the last minutes, which shares their memory.
#[derive(Clone, Debug)]
pub struct Kept {
    base: Option<View>,
    steps: Vec<Step>,
    /// From the oldest step until now.
    pub span: Duration,
    /// Memory of the steps, by an estimate, in bytes.
    pub bytes: u64,
    /// Whether steps that are not too old fell out, because there was not memory enough.
    pub is_cut_short: bool,
}

impl LastMinutes {
    /// Of a loop that begins.
    pub fn new(limits: KeepLimits) -> Self {
        let (sizes, steps) = (Sizes::default(), VecDeque::new());
        Self { limits, base: None, steps, sizes, cut: None }
    }

    /// Takes a step of the loop.
    pub fn push(&mut self, step: &Step, now: Instant) {
        let counted = self.sizes.add(step);
        self.steps.push_back(KeptStep { at: now, step: Arc::clone(step), counted });
        while let Some(oldest) = self.steps.front() {
            let is_old = now.saturating_duration_since(oldest.at) > self.limits.age;
            let is_too_much = self.sizes.bytes() > self.limits.max_bytes && self.steps.len() > 1;
            if !is_old && !is_too_much {
                return;
            }
            if let Some(oldest) = self.steps.pop_front() {
                self.sizes.remove(oldest.counted);
                self.cut = if is_old { self.cut } else { Some(oldest.at) };
                View::follow(&mut self.base, &oldest.step[..]);
            }
        }
    }

    /// What is kept now.
    pub fn kept(&self, now: Instant) -> Kept {
        let since = |at: Instant| now.saturating_duration_since(at);
        Kept {
            base: self.base.clone(),
            steps: self.steps.iter().map(|kept| Arc::clone(&kept.step)).collect(),
            span: self.steps.front().map_or(Duration::ZERO, |oldest| since(oldest.at)),
            bytes: self.sizes.bytes(),
            is_cut_short: self.cut.is_some_and(|cut| since(cut) <= self.limits.age),
        }
    }
}

impl Kept {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.base.is_none() && self.steps.is_empty()
    }

    /// When the first of it was, in microseconds since the Unix epoch; `None` where nothing has a time.
    pub fn begin_unix_us(&self) -> Option<u64> {
        let time = |update: &Update| match update {
            Update::Round(round) => Some(round.begin_unix_us),
            Update::Window(window) => window.value().map(|window| window.begin_unix_us),
            Update::Event(event) => Some(event.at_unix_us),
            Update::Switch { .. } | Update::Comparison(_) | Update::Decision(_) => None,
        };
        let of_base = || self.base.as_ref().map(|base| base.round.begin_unix_us);
        self.steps.iter().flat_map(|step| step.iter()).find_map(time).or_else(of_base)
    }

    /// Writes it into `dir`, which must be new or empty, as an ordinary recording that has ended. It takes as long as the
    /// disk does, so it is to be called on a thread of its own.
    ///
    /// # Errors
    /// It cannot be written; what was written of it before stays, and can be read.
    pub fn write(
        &self,
        dir: &Path,
        manifest: Manifest,
        limits: RecorderLimits,
    ) -> Result<RecordingSummary, RecordError> {
        let mut writer = RunWriter::create(dir, manifest, limits)?;
        let written = guarded(Threads::This, || self.write_steps(&mut writer));
        if let Err(panicked) = &written {
            writer.discard_open_segments(RecordError::Panicked(panicked.to_string()), Instant::now());
        }
        writer.finish(Instant::now(), unix_us());
        match (written, writer.interruption()) {
            (Err(panicked), _) => Err(RecordError::Panicked(panicked.to_string())),
            (_, Some(reason)) => Err(RecordError::Stopped(reason.to_owned())),
            (Ok(steps_recorded), None) => Ok(RecordingSummary {
                dir: dir.to_owned(),
                manifest: writer.manifest().clone(),
                steps: RecordingStatus { steps_recorded, steps_lost: 0 },
            }),
        }
    }

    /// Writes everything until something fails; returns how many steps that were.
    fn write_steps(&self, writer: &mut RunWriter) -> u64 {
        let mut context = RowContext::default();
        let begin = self.base.as_ref().map(begin_of);
        let mut written = 0;
        for step in begin.iter().chain(&self.steps) {
            if !writer.write(&context.rows(&step[..]), Instant::now()) {
                break;
            }
            written += 1;
        }
        written
    }
}

/// The updates with which a recording begins in the middle of a loop: the last round, to which the next windows belong,
/// and the decisions so far. Earlier windows are not part of it.
pub(super) fn begin_of(view: &View) -> Step {
    let updates = view.updates_since(None).into_iter();
    updates.filter(|update| !matches!(update, Update::Window(_))).collect()
}

#[cfg(test)]
mod tests;
