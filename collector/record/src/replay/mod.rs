//! Replays a recording: what the loop published, step by step, as views and as updates.
//!
//! [`Recording::open`] compares every closed segment with its checksum, and builds an index: the rounds or windows
//! of each row group from the footers, and one entry per step. Rows are read when their step is requested, and only
//! the last rounds are cached. So the index needs some 100 bytes per step and per segment, whatever they hold. A
//! recording that is still being written shows what was closed when it was opened.
//!
//! What was not recorded is unavailable with a reason, never 0 (what a type cannot mark as unavailable is listed in
//! [`round`]). Damaged or missing segments are reported by [`Recording::warnings`].

mod error;
mod files;
mod index;
mod matrix;
mod round;
mod segment;
#[cfg(test)]
mod tests;

mod window;

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::event::Event;
use huddle_model::observation::Observation;
use huddle_model::schema::{EventRow, Manifest, Row, Table, TrialRow};
use huddle_model::stats::Estimate;
use huddle_model::text::plain;
use huddle_model::topology::Topology;
use huddle_model::trial::{Arm, Comparison, Decision, Evidence, Objective, Phase, UnknownObjective};
use huddle_model::update::Step;
use huddle_model::view::View;
use huddle_recording::label::escaped;
use huddle_recording::notes::Notes;
use huddle_recording::read_manifest;

pub use error::ReplayError;
use files::{Footers, TableFiles};
use index::{Position, unsigned};
use matrix::Pairs;
use round::{RebuiltRound, RoundRows, from_name};
pub use segment::row_group_keys;
use window::WindowRows;

/// Most decisions that are read: a trial takes minutes, so a recording has few.
const MAX_DECISIONS: usize = 100_000;

/// Rounds that are cached: stepping back and forth between two needs no reading.
const ROUNDS_CACHED: usize = 4;

/// A recording that is open for reading.
pub struct Recording {
    name: String,
    manifest: Manifest,
    topology: Availability<Arc<Topology>>,
    /// By position in [`Table::ALL`].
    tables: Vec<TableFiles>,
    positions: Vec<Position>,
    decisions: Vec<Decision>,
    /// Their texts, which recordings of earlier versions have as events too.
    decided: HashSet<String>,
    objective: Option<Objective>,
    warnings: Vec<String>,
    notes: Notes,
    footers: Footers,
    rounds: VecDeque<Arc<RebuiltRound>>,
}

impl Recording {
    /// Opens the directory of a run.
    ///
    /// # Errors
    /// When there is no manifest of a supported version, or nothing that can be replayed. A damaged or missing segment
    /// is not an error: [`Recording::warnings`] names it.
    pub fn open(dir: &Path) -> Result<Self, ReplayError> {
        let manifest = read_manifest(dir).map_err(|fault| match fault.is_not_found() && dir.is_dir() {
            true => ReplayError::NoRecording(dir.to_owned()),
            false => fault.into(),
        })?;
        let mut warnings: Vec<String> = manifest.interruptions().collect();
        if manifest.end_us.is_none() {
            warnings.push(
                "the recording has no end: it still runs, or was killed; what was not closed is not shown"
                    .to_owned(),
            );
        }
        let mut notes = Notes::default();
        let open = |table: &Table| TableFiles::open(dir, *table, &manifest, &mut notes, &mut warnings);
        let mut tables: Vec<TableFiles> = Table::ALL.iter().map(open).collect();
        let positions = index::positions(&mut tables, &manifest, &mut warnings);
        let trials: Vec<TrialRow> = tables[Table::Trials as usize].all(MAX_DECISIONS, &mut warnings);
        let mut decisions = Vec::new();
        for row in &trials {
            match decision(row) {
                Ok(decision) => decisions.push(decision),
                Err(why) => warnings.push(format!("the decision in round {} is left out: {why}", row.round)),
            }
        }
        // They go to terminals and logs, and contain texts of the manifest.
        let warnings: Vec<String> = warnings.iter().map(|warning| escaped(warning)).collect();
        if positions.is_empty() {
            return Err(ReplayError::Empty { dir: dir.to_owned(), warnings });
        }
        let topology = match &manifest.topology {
            Availability::Available(fact) => Availability::from(fact.topology()).map(Arc::new),
            Availability::Unavailable(reason) => Availability::Unavailable(reason.clone()),
        };
        Ok(Self {
            name: name(dir, &manifest),
            topology,
            tables,
            positions,
            objective: trials.iter().find_map(|row| row.objective.parse().ok()),
            decided: decisions.iter().map(|decision| plain(&decision.to_string()).into_owned()).collect(),
            decisions,
            warnings,
            notes,
            footers: Footers::default(),
            rounds: VecDeque::new(),
            manifest,
        })
    }

    /// Its name: that of its directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its manifest, as it was when the recording was opened.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What is damaged or missing, one sentence each; empty when it is complete.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What to know of its files although all of their rows are read, one sentence each.
    pub fn notes(&self) -> impl Iterator<Item = String> + '_ {
        self.notes.sentences().map(|note| escaped(&note))
    }

    /// How many steps there are: never 0.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Always false: a recording without a step does not open.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// When each step was published, in microseconds since the Unix epoch. They go back where the clock did.
    pub fn times_unix_us(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.positions.iter().map(|position| position.at_us)
    }

    /// When this step was published; `None` beyond the end.
    pub fn time_unix_us(&self, position: usize) -> Option<u64> {
        self.positions.get(position).map(|position| position.at_us)
    }

    /// When the first and the last step were published, likewise.
    pub fn span_unix_us(&self) -> (u64, u64) {
        let at = |position: Option<&Position>| position.map_or(0, |position| position.at_us);
        (at(self.positions.first()), at(self.positions.last()))
    }

    /// The positions that begin a round, with its number; the others are windows in it.
    pub fn rounds(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let positions = self.positions.iter().enumerate();
        positions.filter(|(_, position)| position.is_round).map(|(at, position)| (at, position.round.round))
    }

    /// The view after the step at a position, from 0, as a subscriber of the loop had it.
    ///
    /// # Errors
    /// When there is no such position. What cannot be read in it is unavailable, and an event says why.
    pub fn view(&mut self, position: usize) -> Result<View, ReplayError> {
        let length = self.positions.len();
        let at = *self.positions.get(position).ok_or(ReplayError::OutOfRange { position, length })?;
        let next = self.positions.get(position + 1).copied();
        let rebuilt = self.round(position);
        let mut view = View::new(Arc::clone(&rebuilt.round));
        let mut problems = Vec::new();
        view.observation = match at.window {
            Some(window) => {
                let rows = self.window_rows(window, &mut problems);
                window::rebuild(rows, &view.round.vms).map(Arc::new)
            }
            None => Availability::Unavailable(NO_WINDOW.into()),
        };
        let events = Arc::make_mut(&mut view.events);
        if !at.is_round {
            // The events of a step happened before the next one began.
            let is_of_step = |event: &&Event| {
                next.is_none_or(|next| next.round.round != at.round.round || event.at_unix_us < next.open_us)
            };
            events.extend(rebuilt.later.iter().filter(is_of_step).cloned());
        }
        events.extend(problems.into_iter().map(|problem| round::problem(at.at_us, problem)));
        let is_before = |decision: &&Decision| next.is_none_or(|next| decision.at_unix_us < next.open_us);
        view.decisions = Arc::new(self.decisions.iter().take_while(is_before).cloned().collect());
        view.comparison = self.comparison(view.observation.value().map(|seen| &**seen));
        Ok(view)
    }

    /// The updates of the step at a position, as the loop published them: they lead from the view before to its view. At
    /// position 0, all of the first view.
    ///
    /// # Errors
    /// As [`Recording::view`].
    pub fn step(&mut self, position: usize) -> Result<Step, ReplayError> {
        let before = position.checked_sub(1).map(|before| self.view(before)).transpose()?;
        Ok(self.view(position)?.updates_since(before.as_ref()).into())
    }

    /// The round of a position, with the events in its windows.
    fn round(&mut self, position: usize) -> Arc<RebuiltRound> {
        let time = self.positions[position].round;
        let is_known = |known: &&Arc<RebuiltRound>| {
            let round = &known.round;
            (round.number, round.begin_unix_us, round.end_unix_us) == (time.round, time.begin_us, time.end_us)
        };
        if let Some(known) = self.rounds.iter().find(is_known) {
            return Arc::clone(known);
        }
        let rows = self.round_rows(time.round);
        let rebuilt = round::rebuild(
            time,
            self.events_until_us(position),
            rows,
            &self.topology,
            self.manifest.page_size(),
        );
        // Consecutive rounds share their equal parts in memory, as in the loop.
        let rebuilt = match self.rounds.back() {
            Some(last) => RebuiltRound {
                round: Arc::new(Arc::unwrap_or_clone(rebuilt.round).sharing_parts_with(&last.round)),
                ..rebuilt
            },
            None => rebuilt,
        };
        let rebuilt = Arc::new(rebuilt);
        if self.rounds.len() >= ROUNDS_CACHED {
            self.rounds.pop_front();
        }
        self.rounds.push_back(Arc::clone(&rebuilt));
        rebuilt
    }

    /// From when on events in the round of a position belong to its windows; `None` if it has none.
    fn events_until_us(&self, position: usize) -> Option<u64> {
        let number = self.positions[position].round.round;
        let own = |at: &Position| at.round.round == number;
        let begin = self.positions[..=position].iter().rposition(|at| at.is_round || !own(at));
        self.positions
            .get(begin.map_or(0, |begin| begin + 1))
            .filter(|next| own(next))
            .map(|next| next.open_us)
    }

    /// The rows of one round or window. A failure is added to `problems`, and then there are no rows: half of a round's
    /// rows would be taken for all.
    fn rows<R: Row>(&mut self, key: u64, problems: &mut Vec<String>) -> Vec<R> {
        let mut rows = Vec::new();
        if let Err(error) = self.footers.rows(&self.tables[R::TABLE as usize], key, |row| rows.push(row)) {
            problems.push(error.to_string());
            rows.clear();
        }
        rows
    }

    fn round_rows(&mut self, round: u64) -> RoundRows {
        let mut problems = Vec::new();
        let mut events: Vec<EventRow> = self.rows(round, &mut problems);
        events.retain(|event| event.vm.is_some() || !self.decided.contains(&event.message));
        let mut sharing = Pairs::default();
        // This table has most of the rows, and most of each row is repeated names.
        let files = &self.tables[Table::Sharing as usize];
        if let Err(error) = self.footers.rows(files, round, |row| sharing.push(row)) {
            problems.push(error.to_string());
            sharing = Pairs::default();
        }
        RoundRows {
            sharing,
            decision: self.rows(round, &mut problems).pop(),
            ksm: self.rows(round, &mut problems).pop(),
            vms: self.rows(round, &mut problems),
            placements: self.rows(round, &mut problems),
            groups: self.rows(round, &mut problems),
            events,
            has_gaps: self.tables[Table::Vms as usize].has_gaps || !problems.is_empty(),
            problems,
        }
    }

    fn window_rows(&mut self, window: u64, problems: &mut Vec<String>) -> WindowRows {
        WindowRows {
            window: self.rows(window, problems).pop(),
            counters: self.rows(window, problems),
            residency: self.rows(window, problems),
            exits: self.rows(window, problems),
            merging: self.rows(window, problems),
            occupancy: self.rows(window, problems),
            reported: self.rows(window, problems),
            programs: self.rows(window, problems),
        }
    }

    /// The state of the trial in a window, as far as it was recorded.
    fn comparison(&self, seen: Option<&Observation>) -> Availability<Arc<Comparison>> {
        let Some(objective) = self.objective else {
            return Availability::Unavailable("the recording does not hold a decision of a trial".into());
        };
        let block = seen.and_then(|seen| seen.trial.as_ref());
        let arm = Arm {
            name: block.map_or_else(|| "arms".to_owned(), |block| block.arm.clone()),
            value: Availability::Unavailable(
                "the recording does not hold the estimates of arms; `huddle-analysis compare` computes them from its windows"
                    .into(),
            ),
            blocks: Vec::new(),
        };
        Availability::Available(Arc::new(Comparison {
            objective,
            phase: Phase::Recorded(block.cloned()),
            arms: vec![arm],
        }))
    }
}

/// Why a view has no window.
const NO_WINDOW: &str = "the recording does not hold a window that ended with this round";

fn name(dir: &Path, manifest: &Manifest) -> String {
    // `.` has no name of its own.
    let real = std::fs::canonicalize(dir).ok();
    let name = real.as_deref().unwrap_or(dir).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| manifest.run.clone())
}

/// # Errors
/// This version does not know its outcome or objective.
fn decision(row: &TrialRow) -> Result<Decision, String> {
    let ci95 = row.observed_low.zip(row.observed_high).map(|(low, high)| [low, high]);
    let n = usize::try_from(row.blocks).unwrap_or(usize::MAX);
    Ok(Decision {
        at_unix_us: unsigned(row.begin_us),
        round: row.round,
        objective: row.objective.parse().map_err(|error: UnknownObjective| error.to_string())?,
        proposal: row.proposal.clone(),
        expected_change: row.expected_change,
        observed_change: row.observed_change.map(|median| Estimate { n, median, ci95 }),
        outcome: from_name(&row.outcome).ok_or_else(|| format!("unknown outcome {:?}", row.outcome))?,
        reason: row.reason.clone(),
        trial: row.trial,
        evidence: row
            .evidence
            .zip(row.evidence_required)
            .map(|(value, required)| Evidence { value, required }),
    })
}
