//! The terminal's state: a pure function of the snapshots, keys, mouse, sizes and ticks it was given.

mod act;
mod action;
mod change;
mod cluster;
mod compare;
pub(crate) mod geometry;
mod input;
pub(crate) mod keys;
mod ksm_history;
mod log;
pub(crate) mod merging;
pub(crate) mod misses;
mod mouse;
mod overview;
pub(crate) mod rate;
mod reasons;
pub(crate) mod scale;
pub(crate) mod series;
mod sharing;
mod source;
pub(crate) mod table;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::news::Taken;
use huddle_model::plan::Plan;
use huddle_model::snapshot::Snapshot;
use ratatui::layout::Rect;

use crate::colour::{Charset, ColourMode, Palette};
pub(crate) use act::{Overlay, Report};
pub use action::{Action, Deed, Speed};
pub(crate) use change::{Change, Move};
use compare::Compare;
use geometry::Screen;
pub(crate) use input::LOG_FRAME;
use keys::{KeyMap, Mode};
pub(crate) use ksm_history::{KsmHistory, KsmPoint};
pub(crate) use log::Log;
use misses::Misses;
pub(crate) use overview::{Basis, DomainLoad, Overview, RATES_ONLY};
use rate::WindowFigures;
pub(crate) use reasons::label as row_label;
use series::History;
pub(crate) use sharing::{MatrixFigures, Sharing};
pub use source::{Replay, Source, Tone};
use table::Table;

/// The views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Cache domains with what is placed in them, and the last change with its reasons.
    Overview,
    /// What each pair of VMs shares.
    Sharing,
    /// Cache misses per VM and vCPU, now and over time.
    Misses,
    /// The placements tried, and what was decided.
    Compare,
    /// The state of KSM, and what it does to each VM.
    Ksm,
    /// Events and reasons.
    Log,
}

impl View {
    /// All views, in the order of the tabs.
    pub const ALL: [Self; 6] =
        [Self::Overview, Self::Sharing, Self::Misses, Self::Compare, Self::Ksm, Self::Log];

    /// Its name on the tab.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Sharing => "sharing",
            Self::Misses => "misses",
            Self::Compare => "compare",
            Self::Ksm => "ksm",
            Self::Log => "log",
        }
    }

    /// The digit that shows it.
    pub fn digit(self) -> char {
        match self {
            Self::Overview => '1',
            Self::Sharing => '2',
            Self::Misses => '3',
            Self::Compare => '4',
            Self::Ksm => '5',
            Self::Log => '6',
        }
    }
}

/// What the caller knows of the terminal.
#[derive(Clone, Debug)]
pub struct Options {
    /// Colours that may be used; see [`ColourMode::detect`].
    pub colour: ColourMode,
    /// Characters that may be used; see [`Charset::detect`].
    pub charset: Charset,
    /// Columns and rows at the start; afterwards resize events tell.
    pub size: (u16, u16),
    /// Time between calls of [`App::on_tick`]; the age of the picture is counted in it.
    pub tick: Duration,
}

/// A snapshot with what was drawn from it and from those before.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) overview: Arc<Overview>,
    pub(crate) figures: Option<MatrixFigures>,
    pub(crate) change: Option<Arc<Change>>,
    /// The rates of the window, or why there are none.
    pub(crate) window: Availability<Arc<WindowFigures>>,
    /// Where the log and the history end for this picture.
    pub(crate) log_end: u64,
    pub(crate) ksm_end: u64,
}

impl Picture {
    pub(crate) fn matrix(&self) -> Option<(&SharingMatrix, &MatrixFigures)> {
        self.snapshot.matrix.value().zip(self.figures.as_ref())
    }

    /// When what it shows was seen, in microseconds since the Unix epoch.
    pub(crate) fn moment(&self) -> u64 {
        moment(&self.snapshot)
    }
}

fn moment(snapshot: &Snapshot) -> u64 {
    let seen = snapshot.observation.value().map_or(0, |seen| seen.end_unix_us);
    seen.max(snapshot.end_unix_us)
}

/// Lengths of the charts, in seconds.
const SPANS_S: [u64; 6] = [30, 60, 300, 900, 3600, 7200];
/// Least times between two pictures, in seconds; 0 shows every one.
const INTERVALS_S: [u64; 6] = [0, 2, 5, 10, 30, 60];

/// The whole state. Does no I/O and reads no clock.
#[derive(Debug)]
pub struct App {
    pub(crate) options: Options,
    pub(crate) keys: KeyMap,
    pub(crate) palette: Palette,
    pub(crate) view: View,
    pub(crate) is_paused: bool,
    /// First visible line of the help while it is open.
    pub(crate) help: Option<usize>,
    /// The filter as it was before typing began, while one is typed.
    pub(crate) typing: Option<String>,
    /// What stands above the view and takes the keys.
    pub(crate) overlay: Option<Overlay>,
    /// The last thing said to the user, until the next key.
    pub(crate) notice: Option<(Tone, String)>,
    pub(crate) source: Source,
    /// Where a recording goes while one is made.
    pub(crate) recording: Option<String>,
    refused: HashMap<Deed, String>,
    pub(crate) sharing: Sharing,
    pub(crate) log: Log,
    pub(crate) misses: Misses,
    pub(crate) compare: Compare,
    /// The table of what KSM does to VMs.
    pub(crate) merging: Table,
    pub(crate) history: History,
    pub(crate) ksm_history: KsmHistory,
    /// Positions in [`SPANS_S`] and [`INTERVALS_S`].
    span: usize,
    interval: usize,
    taken: Taken,
    /// The arm and the number of the window that came last.
    last_arm: Option<String>,
    /// Selected domain and first visible row of boxes.
    pub(crate) domain: usize,
    pub(crate) domain_row: usize,
    latest: Option<Picture>,
    pub(crate) shown: Option<Picture>,
    last_plan: Option<Arc<Snapshot>>,
    area: Rect,
    ticks_since_snapshot: u32,
    is_dirty: bool,
}

impl App {
    /// A state without any data yet.
    pub fn new(options: Options) -> Self {
        let (width, height) = options.size;
        Self {
            options,
            keys: KeyMap::default(),
            palette: Palette::default(),
            view: View::Overview,
            is_paused: false,
            help: None,
            typing: None,
            overlay: None,
            notice: None,
            source: Source::Live,
            recording: None,
            refused: HashMap::new(),
            sharing: Sharing::default(),
            log: Log::default(),
            misses: Misses::default(),
            compare: Compare::default(),
            merging: merging::table(),
            history: History::default(),
            ksm_history: KsmHistory::default(),
            span: 2,
            interval: 0,
            taken: Taken::default(),
            last_arm: None,
            domain: 0,
            domain_row: 0,
            latest: None,
            shown: None,
            last_plan: None,
            area: Rect::new(0, 0, width, height),
            ticks_since_snapshot: 0,
            is_dirty: true,
        }
    }

    /// Takes a snapshot over: a new round, or a new window of observation in the same one. What was
    /// given before is not logged again; rounds that were passed over are said in the log. While paused
    /// the picture stays, and nothing is lost. A snapshot of an earlier time (a replay sought back, a
    /// loop begun anew) begins log and charts anew.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.ticks_since_snapshot = 0;
        self.is_dirty = true;
        let before = self.latest.take();
        // A live loop's clock may be set back: that alone is no reason to forget.
        let is_back = self.source.replay().is_some()
            && before.as_ref().is_some_and(|before| moment(&snapshot) < before.moment());
        if is_back {
            self.begin_anew();
        }
        let before = before.filter(|_| !is_back);
        let is_known = before.as_ref().is_some_and(|before| {
            let before = &before.snapshot;
            (before.round, before.begin_unix_us) == (snapshot.round, snapshot.begin_unix_us)
        });
        if !is_known && before.as_ref().is_some_and(|before| before.snapshot.round >= snapshot.round) {
            self.taken = Taken::default();
        }
        let news = self.taken.take(&snapshot);
        let mut change = before.as_ref().and_then(|before| before.change.clone());
        if !is_known {
            self.note_missed(before.as_ref().map(|before| before.snapshot.round), &snapshot);
        }
        for event in news.events(&snapshot) {
            self.log.push(
                event.at_unix_us,
                event.kind.name(),
                event.vm.as_ref().map(|vm| vm.name.clone()),
                event.message.clone(),
            );
        }
        if !is_known {
            if let Some(new) = change::change(self.last_plan(), &snapshot) {
                self.log_reasons(&new);
                self.history.mark(new.at_unix_us, new.label());
                change = Some(Arc::new(new));
            }
            if snapshot.plan.value().is_some() {
                self.last_plan = Some(Arc::clone(&snapshot));
            }
            self.ksm_history.push(&snapshot);
        }
        for decision in news.decisions(&snapshot) {
            let outcome = decision.outcome.name().replace('_', " ");
            let text = format!("{}: {outcome}: {}", decision.proposal, decision.reason);
            self.log.push(decision.at_unix_us, "decision", None, text);
        }
        let window = self.window(&snapshot, before.as_ref());
        let figures = snapshot
            .matrix
            .value()
            .map(|matrix| MatrixFigures::of(matrix, before.as_ref().and_then(Picture::matrix)));
        let is_due = self.is_due(&snapshot);
        self.latest = Some(Picture {
            overview: Arc::new(Overview::of(&snapshot)),
            figures,
            change,
            window,
            log_end: self.log.end(),
            ksm_end: self.ksm_history.end(),
            snapshot,
        });
        if self.shown.is_none() || (is_due && !self.is_paused) {
            self.show_latest();
        }
    }

    /// The figures of the window of a snapshot; a new window goes to the history.
    fn window(&mut self, snapshot: &Snapshot, before: Option<&Picture>) -> Availability<Arc<WindowFigures>> {
        let seen = match &snapshot.observation {
            Availability::Available(seen) => seen,
            Availability::Unavailable(reason) => return Availability::Unavailable(reason.clone()),
        };
        if let Some(known) = before.and_then(|before| before.window.value())
            && (known.window, known.end_unix_us) == (seen.window, seen.end_unix_us)
        {
            return Availability::Available(Arc::clone(known));
        }
        let arm = seen.trial.as_ref().map(|trial| trial.arm.clone());
        if arm != self.last_arm {
            let label = arm.as_ref().map_or_else(|| "end of the trial".into(), |arm| format!("arm {arm}"));
            self.history.mark(seen.begin_unix_us, label);
            self.last_arm = arm;
        }
        let figures = WindowFigures::of(seen, snapshot.topology.value());
        self.history.push(&figures);
        Availability::Available(Arc::new(figures))
    }

    /// Whether the picture may be renewed already.
    fn is_due(&self, snapshot: &Snapshot) -> bool {
        let interval_us = self.interval_s() * 1_000_000;
        let shown = self.shown.as_ref().map_or(0, Picture::moment);
        // A replay shows each snapshot it comes to; a time that goes back shows at once.
        self.source.replay().is_some() || moment(snapshot).abs_diff(shown) >= interval_us
    }

    /// Forgets what was seen: a replay went back.
    fn begin_anew(&mut self) {
        self.log.clear();
        self.history = History::default();
        self.ksm_history = KsmHistory::default();
        self.taken = Taken::default();
        self.last_plan = None;
        self.last_arm = None;
    }

    /// Counts the age of the picture; call it every [`Options::tick`].
    pub fn on_tick(&mut self) {
        let before = self.age();
        self.ticks_since_snapshot = self.ticks_since_snapshot.saturating_add(1);
        self.is_dirty |= before.as_secs() != self.age().as_secs();
    }

    /// Whether anything changed since this was last asked: if not, nothing need be drawn.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.is_dirty)
    }

    /// The view shown.
    pub fn view(&self) -> View {
        self.view
    }

    /// Whether the picture is held.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The table of keys.
    pub fn keys(&self) -> &KeyMap {
        &self.keys
    }

    pub(crate) fn area(&self) -> Rect {
        self.area
    }

    pub(crate) fn screen(&self) -> Option<Screen> {
        Screen::new(self.area, self.has_bar())
    }

    /// Whether how a replay stands has a row of its own.
    pub(crate) fn has_bar(&self) -> bool {
        self.source.replay().is_some()
    }

    /// How long charts are, in seconds.
    pub(crate) fn span_s(&self) -> u64 {
        SPANS_S[self.span]
    }

    /// Least time between two pictures, in seconds.
    pub(crate) fn interval_s(&self) -> u64 {
        INTERVALS_S[self.interval]
    }

    /// From when to when charts reach, in microseconds since the Unix epoch.
    pub(crate) fn chart_span(&self, picture: &Picture) -> (u64, u64) {
        let to = picture.moment();
        let age_us = self.history.begin().map_or(0, |begin| to.saturating_sub(begin));
        // A history that is still short is not squeezed into a corner.
        let enough = SPANS_S.into_iter().map(|span| span * 1_000_000).find(|span| *span >= age_us);
        let span_us = enough.unwrap_or(u64::MAX).min(self.span_s() * 1_000_000);
        (to.saturating_sub(span_us), to)
    }

    /// Time since the newest round came, in ticks; since the start when none came.
    pub(crate) fn age(&self) -> Duration {
        self.options.tick.saturating_mul(self.ticks_since_snapshot)
    }

    /// Rounds that came while paused.
    pub(crate) fn rounds_held(&self) -> u64 {
        let round = |picture: &Option<Picture>| picture.as_ref().map_or(0, |picture| picture.snapshot.round);
        round(&self.latest).saturating_sub(round(&self.shown))
    }

    pub(crate) fn mode(&self) -> Mode {
        match (&self.overlay, &self.typing, self.help) {
            (Some(Overlay::Ask(_)), ..) => Mode::Asking,
            (Some(Overlay::Choose { .. }), ..) => Mode::Choosing,
            (Some(Overlay::Report(_)), ..) => Mode::Help,
            (None, Some(_), _) => Mode::Typing,
            (None, None, Some(_)) => Mode::Help,
            (None, None, None) => Mode::Normal,
        }
    }

    /// The filter of the view shown, where it has one.
    pub(crate) fn filter(&self) -> Option<&str> {
        match self.view {
            View::Sharing => Some(&self.sharing.filter),
            View::Misses => Some(&self.misses.table.filter),
            View::Ksm => Some(&self.merging.filter),
            View::Log => Some(&self.log.filter),
            View::Overview | View::Compare => None,
        }
    }

    fn last_plan(&self) -> Option<&Plan> {
        self.last_plan.as_ref().and_then(|snapshot| snapshot.plan.value())
    }

    fn show_latest(&mut self) {
        let decisions = self.decisions().len();
        self.shown = self.latest.clone();
        self.keep_decision(decisions);
        self.arrange();
        let domains = self.shown.as_ref().map_or(0, |picture| picture.overview.domain_count());
        self.domain = self.domain.min(domains.saturating_sub(1));
    }

    fn arrange(&mut self) {
        self.sharing.arrange(self.shown.as_ref().and_then(Picture::matrix));
    }

    fn note_missed(&mut self, last_round: Option<u64>, snapshot: &Snapshot) {
        let round = snapshot.round;
        let text = match last_round {
            Some(last) if round > last + 1 => {
                let missed = round - last - 1;
                format!("{missed} rounds before round {round} did not reach this screen")
            }
            Some(last) if round < last => format!("the loop began anew: round {round} after round {last}"),
            None if round > 1 => format!("joined at round {round}; what happened before is not shown"),
            _ => return,
        };
        self.log.push(snapshot.end_unix_us, "missed", None, text);
    }

    /// Logs a change and those of its reasons that the plan before did not give too.
    fn log_reasons(&mut self, change: &Change) {
        let before = self.last_plan.clone();
        let known: HashSet<&str> = before
            .as_ref()
            .and_then(|snapshot| snapshot.plan.value())
            .map(|plan| plan.reasons.iter().map(String::as_str).collect())
            .unwrap_or_default();
        for reason in change.reasons.iter().filter(|reason| !known.contains(reason.as_str())) {
            self.log.push(change.at_unix_us, "reason", None, reason.clone());
        }
    }
}

#[cfg(test)]
mod tests;
