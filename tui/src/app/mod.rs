//! The terminal's state: a pure function of updates, keys, mouse events, sizes and ticks.

mod act;
mod action;
mod change;
mod cluster;
pub(crate) mod compare;
mod experiment;
pub(crate) mod geometry;
mod in_force;
mod input;
pub(crate) mod keys;
mod ksm_history;
mod log;
pub(crate) mod merging;
pub(crate) mod metric;
pub(crate) mod misses;
mod mouse;
mod overview;
mod reasons;
pub(crate) mod scale;
pub(crate) mod series;
mod sharing;
mod source;
pub(crate) mod table;
mod updates;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::recording::RecordingState;
use huddle_model::view::View as LoopView;
use ratatui::layout::Rect;

use crate::colour::{Charset, ColourMode, Palette};
pub(crate) use act::{Overlay, Report};
pub use action::{Action, Capability, Speed};
pub(crate) use change::{Change, Move};
use compare::Compare;
use geometry::Screen;
pub(crate) use in_force::{Gain, InForce};
pub(crate) use input::log_frame;
use keys::{KeyMap, Mode};
pub(crate) use ksm_history::{KsmHistory, KsmPoint};
pub(crate) use log::Log;
use metric::WindowFigures;
use misses::Misses;
pub(crate) use overview::{Basis, DomainLoad, Home, Overview, RATES_ONLY};
pub(crate) use reasons::label as row_label;
use series::History;
pub(crate) use sharing::{MatrixFigures, Sharing};
pub use source::{ExperimentResult, Replay, Source, Tone};
use table::Table;

/// The views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Cache domains with the VMs placed in them, and the last change with its reasons.
    Overview,
    /// What each pair of VMs shares.
    Sharing,
    /// Cache misses per VM and vCPU, now and over time.
    Misses,
    /// Trials of placements, and decisions.
    Compare,
    /// The state of KSM, and its work on each VM.
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

    /// The digit that selects it.
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

/// What the caller knows about the terminal.
#[derive(Clone, Debug)]
pub struct Options {
    /// Supported colours; see [`ColourMode::detect`].
    pub colour: ColourMode,
    /// Supported characters; see [`Charset::detect`].
    pub charset: Charset,
    /// Columns and rows at the start; later changes arrive as resize events.
    pub size: (u16, u16),
    /// Time between calls of [`App::on_tick`]; the unit of the picture's age.
    pub tick: Duration,
}

/// The loop's state at one time, with figures derived from it and from earlier states.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) view: LoopView,
    pub(crate) overview: Arc<Overview>,
    pub(crate) figures: Option<MatrixFigures>,
    pub(crate) change: Option<Arc<Change>>,
    /// The figures of the window, or why there are none.
    pub(crate) window: Availability<Arc<WindowFigures>>,
    /// End of the log and of the history for this picture.
    pub(crate) log_end: u64,
    pub(crate) ksm_end: u64,
}

impl Picture {
    pub(crate) fn matrix(&self) -> Option<(&SharingMatrix, &MatrixFigures)> {
        self.view.round.matrix.value().map(|matrix| &**matrix).zip(self.figures.as_ref())
    }

    /// When the shown data were measured, in microseconds since the Unix epoch.
    pub(crate) fn moment(&self) -> u64 {
        moment(&self.view)
    }
}

fn moment(view: &LoopView) -> u64 {
    let seen = view.observation.value().map_or(0, |seen| seen.end_unix_us);
    seen.max(view.round.end_unix_us)
}

/// Time spans of charts, in seconds.
const SPANS_S: [u64; 6] = [30, 60, 300, 900, 3600, 7200];
/// Lengths of a history that is shorter than the chosen span, in seconds: close enough to one another that it fills most of
/// a chart, and far enough apart that charts seldom change their scale.
const SHORT_SPANS_S: [u64; 17] =
    [30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1350, 1800, 2700, 3600, 5400, 7200];
/// Minimum times between two pictures, in seconds; 0 shows every picture.
const INTERVALS_S: [u64; 6] = [0, 2, 5, 10, 30, 60];

/// The whole state. Does no I/O and reads no clock.
#[derive(Debug)]
pub struct App {
    pub(crate) options: Options,
    pub(crate) keys: KeyMap,
    pub(crate) palette: Palette,
    pub(crate) view: View,
    pub(crate) is_paused: bool,
    /// First visible line of the help; `None` while it is closed.
    pub(crate) help: Option<usize>,
    /// The previous filter, while a new one is typed.
    pub(crate) typing: Option<String>,
    /// What is drawn above the view and takes the keys.
    pub(crate) overlay: Option<Overlay>,
    /// The last message to the user, until the next key.
    pub(crate) notice: Option<(Tone, String)>,
    pub(crate) source: Source,
    /// Where the current recording is written.
    pub(crate) recording: Option<RecordingState>,
    refused: HashMap<Capability, String>,
    pub(crate) sharing: Sharing,
    pub(crate) log: Log,
    pub(crate) misses: Misses,
    pub(crate) compare: Compare,
    /// The table of the ksm view.
    pub(crate) merging: Table,
    pub(crate) history: History,
    pub(crate) ksm_history: KsmHistory,
    /// Positions in [`SPANS_S`] and [`INTERVALS_S`].
    span: usize,
    interval: usize,
    /// The arm of the latest window.
    last_arm: Option<String>,
    /// Selected domain and first visible row of boxes.
    pub(crate) domain: usize,
    pub(crate) domain_row: usize,
    latest: Option<Picture>,
    pub(crate) shown: Option<Picture>,
    /// The latest plan.
    last_plan: Option<Arc<Plan>>,
    area: Rect,
    ticks_since_update: u32,
    is_dirty: bool,
}

impl App {
    /// A state without data.
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
            last_arm: None,
            domain: 0,
            domain_row: 0,
            latest: None,
            shown: None,
            last_plan: None,
            area: Rect::new(0, 0, width, height),
            ticks_since_update: 0,
            is_dirty: true,
        }
    }

    /// Counts the age of the picture; call it every [`Options::tick`].
    pub fn on_tick(&mut self) {
        let before = self.age();
        self.ticks_since_update = self.ticks_since_update.saturating_add(1);
        self.is_dirty |= before.as_secs() != self.age().as_secs();
    }

    /// Whether anything changed since the last call; if not, nothing needs to be drawn.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.is_dirty)
    }

    /// The view shown.
    pub fn view(&self) -> View {
        self.view
    }

    /// Whether the display is paused.
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

    /// Whether the state of a replay has its own row.
    pub(crate) fn has_bar(&self) -> bool {
        self.source.replay().is_some()
    }

    /// Time span of charts, in seconds.
    pub(crate) fn span_s(&self) -> u64 {
        SPANS_S[self.span]
    }

    /// Minimum time between two pictures, in seconds.
    pub(crate) fn interval_s(&self) -> u64 {
        INTERVALS_S[self.interval]
    }

    /// Time range of charts, in microseconds since the Unix epoch.
    pub(crate) fn chart_span(&self, picture: &Picture) -> (u64, u64) {
        let to = picture.moment();
        let age_us = self.history.begin().map_or(0, |begin| to.saturating_sub(begin));
        // A short history fills the whole width.
        let enough = SHORT_SPANS_S.into_iter().map(|span| span * 1_000_000).find(|span| *span >= age_us);
        let span_us = enough.unwrap_or(u64::MAX).min(self.span_s() * 1_000_000);
        (to.saturating_sub(span_us), to)
    }

    /// Time since the newest round, in ticks; since the start if there was none.
    pub(crate) fn age(&self) -> Duration {
        self.options.tick.saturating_mul(self.ticks_since_update)
    }

    /// Rounds received while paused.
    pub(crate) fn rounds_behind(&self) -> u64 {
        let round =
            |picture: &Option<Picture>| picture.as_ref().map_or(0, |picture| picture.view.round.number);
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

    /// The filter of the shown view, if it has one.
    pub(crate) fn filter(&self) -> Option<&str> {
        match self.view {
            View::Sharing => Some(&self.sharing.filter),
            View::Misses => Some(&self.misses.table.filter),
            View::Ksm => Some(&self.merging.filter),
            View::Log => Some(&self.log.filter),
            View::Overview | View::Compare => None,
        }
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
        let shown = self.shown.as_ref().and_then(|picture| {
            let (matrix, figures) = picture.matrix()?;
            Some((matrix, figures, &picture.overview))
        });
        self.sharing.arrange(shown);
    }
}

#[cfg(test)]
mod tests;
