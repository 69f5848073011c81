//! The terminal's state: a pure function of the snapshots, keys, mouse, sizes and ticks it was given.

mod act;
mod action;
mod change;
mod cluster;
pub(crate) mod geometry;
mod history;
mod input;
pub(crate) mod keys;
mod log;
mod mouse;
mod overview;
pub(crate) mod scale;
mod sharing;
mod source;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::snapshot::Snapshot;
use ratatui::layout::Rect;

use crate::colour::{Charset, ColourMode};
pub(crate) use act::{Overlay, Report};
pub use action::{Action, Deed, Speed};
pub(crate) use change::{Change, Move};
pub(crate) use history::{History, KsmPoint};
pub(crate) use input::LOG_FRAME;
use keys::{KeyMap, Mode};
pub(crate) use log::Log;
pub(crate) use overview::{Basis, DomainLoad, Overview, RATES_ONLY};
pub(crate) use sharing::{MatrixFigures, Sharing};
pub use source::{Replay, Source, Tone};

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
    /// Where the log and the history end for this picture.
    pub(crate) log_end: u64,
    pub(crate) history_end: u64,
}

impl Picture {
    pub(crate) fn matrix(&self) -> Option<(&SharingMatrix, &MatrixFigures)> {
        self.snapshot.matrix.value().zip(self.figures.as_ref())
    }
}

/// The whole state. Does no I/O and reads no clock.
#[derive(Debug)]
pub struct App {
    pub(crate) options: Options,
    pub(crate) keys: KeyMap,
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
    pub(crate) history: History,
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
            history: History::default(),
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

    /// Takes a new round over. A round that was given before is not logged again; rounds that were
    /// passed over are said in the log. While paused the picture stays, and nothing is lost.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.ticks_since_snapshot = 0;
        self.is_dirty = true;
        let before = self.latest.as_ref().map(|latest| &latest.snapshot);
        let is_known = before.is_some_and(|before| {
            (before.round, before.begin_unix_us) == (snapshot.round, snapshot.begin_unix_us)
        });
        let last_round = before.map(|before| before.round);
        let mut change = self.latest.as_ref().and_then(|latest| latest.change.clone());
        if !is_known {
            self.note_missed(last_round, &snapshot);
            for event in &snapshot.events {
                self.log.push(event.at_unix_us, event.kind.name(), event.vm.clone(), event.message.clone());
            }
            if let Some(new) = change::change(self.last_plan(), &snapshot) {
                self.log_reasons(&new);
                change = Some(Arc::new(new));
            }
            if snapshot.plan.value().is_some() {
                self.last_plan = Some(Arc::clone(&snapshot));
            }
            self.history.push(&snapshot);
        }
        let known = self.latest.as_ref().and_then(Picture::matrix);
        let figures = snapshot.matrix.value().map(|matrix| MatrixFigures::of(matrix, known));
        self.latest = Some(Picture {
            overview: Arc::new(Overview::of(&snapshot)),
            figures,
            change,
            log_end: self.log.end(),
            history_end: self.history.end(),
            snapshot,
        });
        if !self.is_paused || self.shown.is_none() {
            self.show_latest();
        }
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
            View::Log => Some(&self.log.filter),
            View::Overview | View::Misses | View::Compare | View::Ksm => None,
        }
    }

    fn last_plan(&self) -> Option<&Plan> {
        self.last_plan.as_ref().and_then(|snapshot| snapshot.plan.value())
    }

    fn show_latest(&mut self) {
        self.shown = self.latest.clone();
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
