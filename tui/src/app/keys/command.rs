//! What keys can ask for: names for the configuration, descriptions for the help.

use super::super::View;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Leave the program.
    Quit,
    /// Open or close the help.
    Help,
    /// Tell why values of this view are not available.
    Why,
    /// Hold the picture, or follow the loop again; let a replay stand or go on.
    Pause,
    /// While paused, take over the newest round once; in a replay, one step on.
    Step,
    /// In a replay, one step back.
    StepBack,
    /// Go to the next view.
    NextView,
    /// Go to the view before.
    PreviousView,
    /// Go to this view.
    Show(View),
    /// One up.
    Up,
    /// One down.
    Down,
    /// One left.
    Left,
    /// One right.
    Right,
    /// A screen up.
    PageUp,
    /// A screen down.
    PageDown,
    /// To the first.
    First,
    /// To the last.
    Last,
    /// Begin to type a filter.
    Filter,
    /// Switch to the view's next order.
    Order,
    /// Turn the order round.
    Reverse,
    /// Switch between linear and logarithmic colours.
    Scale,
    /// Put the cursor on the highest rate.
    Highest,
    /// Switch between VMs and vCPUs.
    Level,
    /// Chart the next rate.
    Metric,
    /// Drop the filter and the selection.
    Clear,
    /// A longer window of time in charts.
    LongerWindow,
    /// A shorter one.
    ShorterWindow,
    /// Redraw less often; in a replay, half the speed.
    Slower,
    /// Redraw more often; in a replay, twice the speed.
    Faster,
    /// In a replay, a tenth back.
    SeekBack,
    /// In a replay, a tenth on.
    SeekForward,
    /// In a replay, to its first step.
    SeekStart,
    /// In a replay, to its last step.
    SeekEnd,
    /// Say what applying the plan would change.
    DryRun,
    /// Apply the plan shown.
    ApplyPlan,
    /// Choose another policy.
    ChoosePolicy,
    /// Undo what was pinned.
    Restore,
    /// Start or stop recording.
    Record,
    /// Save the picture as text.
    SaveText,
    /// Save the picture as SVG.
    SaveSvg,
    /// Do what was asked about, or take what was chosen.
    Accept,
    /// Do not.
    Decline,
    /// Keep the filter as typed.
    AcceptFilter,
    /// Give up the filter.
    CancelFilter,
    /// Take back the last character.
    Erase,
}

impl Command {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let views = View::ALL.into_iter().map(Self::Show);
        PLAIN.into_iter().chain(views)
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::Help => "help",
            Self::Why => "why",
            Self::Pause => "pause",
            Self::Step => "step",
            Self::StepBack => "step_back",
            Self::NextView => "next_view",
            Self::PreviousView => "previous_view",
            Self::Show(View::Overview) => "show_overview",
            Self::Show(View::Sharing) => "show_sharing",
            Self::Show(View::Misses) => "show_misses",
            Self::Show(View::Compare) => "show_compare",
            Self::Show(View::Ksm) => "show_ksm",
            Self::Show(View::Log) => "show_log",
            Self::Up => "up",
            Self::Down => "down",
            Self::Left => "left",
            Self::Right => "right",
            Self::PageUp => "page_up",
            Self::PageDown => "page_down",
            Self::First => "first",
            Self::Last => "last",
            Self::Filter => "filter",
            Self::Order => "order",
            Self::Reverse => "reverse",
            Self::Scale => "scale",
            Self::Highest => "highest",
            Self::Level => "level",
            Self::Metric => "metric",
            Self::Clear => "clear",
            Self::LongerWindow => "longer_window",
            Self::ShorterWindow => "shorter_window",
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::SeekBack => "seek_back",
            Self::SeekForward => "seek_forward",
            Self::SeekStart => "seek_start",
            Self::SeekEnd => "seek_end",
            Self::DryRun => "dry_run",
            Self::ApplyPlan => "apply",
            Self::ChoosePolicy => "policy",
            Self::Restore => "restore",
            Self::Record => "record",
            Self::SaveText => "save_text",
            Self::SaveSvg => "save_svg",
            Self::Accept => "accept",
            Self::Decline => "decline",
            Self::AcceptFilter => "accept_filter",
            Self::CancelFilter => "cancel_filter",
            Self::Erase => "erase",
        }
    }

    /// What it does, for the help.
    pub fn description(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::Help => "this help, and back",
            Self::Why => "why values here are n/a",
            Self::Pause => "hold the picture or the replay, and go on",
            Self::Step => "while paused: the newest round; replay: one on",
            Self::StepBack => "replay: one back",
            Self::NextView => "next view",
            Self::PreviousView => "view before",
            Self::Show(View::Overview) => "overview: where VMs run, and why",
            Self::Show(View::Sharing) => "sharing: which VMs share most",
            Self::Show(View::Misses) => "misses: cache misses of VMs and vCPUs",
            Self::Show(View::Compare) => "compare: placements tried, and decisions",
            Self::Show(View::Ksm) => "ksm: the kernel's page merging",
            Self::Show(View::Log) => "log: events and reasons",
            Self::Up => "up",
            Self::Down => "down",
            Self::Left => "left",
            Self::Right => "right",
            Self::PageUp => "a screen up",
            Self::PageDown => "a screen down",
            Self::First => "to the first",
            Self::Last => "to the last",
            Self::Filter => "filter by text",
            Self::Order => "next order",
            Self::Reverse => "turn the order round",
            Self::Scale => "linear or log colours",
            Self::Highest => "cursor to the highest rate",
            Self::Level => "VMs or vCPUs",
            Self::Metric => "chart the next rate",
            Self::Clear => "drop filter and selection",
            Self::LongerWindow => "charts over a longer time",
            Self::ShorterWindow => "charts over a shorter time",
            Self::Slower => "redraw less often; replay: slower",
            Self::Faster => "redraw more often; replay: faster",
            Self::SeekBack => "replay: a tenth back",
            Self::SeekForward => "replay: a tenth on",
            Self::SeekStart => "replay: to the start",
            Self::SeekEnd => "replay: to the end",
            Self::DryRun => "what applying the plan would change",
            Self::ApplyPlan => "apply the plan (asks first)",
            Self::ChoosePolicy => "another policy (asks first)",
            Self::Restore => "undo what was pinned (asks first)",
            Self::Record => "start or stop recording",
            Self::SaveText => "save the picture as text",
            Self::SaveSvg => "save the picture as SVG",
            Self::Accept => "yes",
            Self::Decline => "no",
            Self::AcceptFilter => "keep the filter",
            Self::CancelFilter => "give up the filter",
            Self::Erase => "take back a character",
        }
    }
}

/// All but those that show a view.
const PLAIN: [Command; 44] = {
    use Command as C;
    [
        C::Quit,
        C::Help,
        C::Why,
        C::Pause,
        C::Step,
        C::StepBack,
        C::NextView,
        C::PreviousView,
        C::Up,
        C::Down,
        C::Left,
        C::Right,
        C::PageUp,
        C::PageDown,
        C::First,
        C::Last,
        C::Filter,
        C::Order,
        C::Reverse,
        C::Scale,
        C::Highest,
        C::Level,
        C::Metric,
        C::Clear,
        C::LongerWindow,
        C::ShorterWindow,
        C::Slower,
        C::Faster,
        C::SeekBack,
        C::SeekForward,
        C::SeekStart,
        C::SeekEnd,
        C::DryRun,
        C::ApplyPlan,
        C::ChoosePolicy,
        C::Restore,
        C::Record,
        C::SaveText,
        C::SaveSvg,
        C::Accept,
        C::Decline,
        C::AcceptFilter,
        C::CancelFilter,
        C::Erase,
    ]
};
