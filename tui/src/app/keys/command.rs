//! Commands of keys: their names in the configuration and their descriptions in the help.

use super::super::View;

/// A command that a key triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Quit the program.
    Quit,
    /// Open or close the help.
    Help,
    /// Explain why values of this view are unavailable.
    Why,
    /// Freeze or resume the display; pause or play a replay.
    Pause,
    /// While paused, show the newest round once; in a replay, one step forward.
    Step,
    /// In a replay, one step back.
    StepBack,
    /// Go to the next view.
    NextView,
    /// Go to the previous view.
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
    /// One page up.
    PageUp,
    /// One page down.
    PageDown,
    /// To the first row.
    First,
    /// To the last row.
    Last,
    /// Start typing a filter.
    Filter,
    /// Switch to the view's next sort order.
    Order,
    /// Reverse the sort order.
    Reverse,
    /// Switch to the next scale of colours: up to the highest rate, up to 100 %, logarithmic.
    Scale,
    /// Switch between all shared frames and those that are read.
    Reads,
    /// Move the cursor to the highest rate.
    Highest,
    /// Switch between VMs and vCPUs.
    Level,
    /// Chart the next metric.
    Metric,
    /// Clear the filter and the selection.
    Clear,
    /// Charts over a longer time span.
    LongerWindow,
    /// Charts over a shorter time span.
    ShorterWindow,
    /// Redraw less often; in a replay, half the speed.
    Slower,
    /// Redraw more often; in a replay, twice the speed.
    Faster,
    /// In a replay, back by a tenth of its length.
    SeekBack,
    /// In a replay, forward by a tenth of its length.
    SeekForward,
    /// In a replay, to its first step.
    SeekStart,
    /// In a replay, to its last step.
    SeekEnd,
    /// Show what applying the plan would change.
    DryRun,
    /// Apply the shown plan.
    ApplyPlan,
    /// Choose another policy.
    ChoosePolicy,
    /// Undo all pinning.
    Restore,
    /// Start or stop recording.
    Record,
    /// Write the last minutes, which the loop keeps, as a recording.
    SaveLast,
    /// Save the screen as text.
    SaveText,
    /// Save the screen as SVG.
    SaveSvg,
    /// Confirm the action, or take the chosen item.
    Accept,
    /// Cancel the action or the choice.
    Decline,
    /// Apply the typed filter.
    AcceptFilter,
    /// Cancel the filter.
    CancelFilter,
    /// Delete the last character.
    Erase,
}

impl Command {
    /// All commands.
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
            Self::Reads => "reads",
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
            Self::SaveLast => "save_last",
            Self::SaveText => "save_text",
            Self::SaveSvg => "save_svg",
            Self::Accept => "accept",
            Self::Decline => "decline",
            Self::AcceptFilter => "accept_filter",
            Self::CancelFilter => "cancel_filter",
            Self::Erase => "erase",
        }
    }

    /// Its description in the help.
    pub fn description(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::Help => "toggle this help",
            Self::Why => "explain n/a values in this view",
            Self::Pause => "pause or resume the display or the replay",
            Self::Step => "paused: newest round; replay: one step forward",
            Self::StepBack => "replay: one step back",
            Self::NextView => "next view",
            Self::PreviousView => "previous view",
            Self::Show(View::Overview) => "overview: where VMs run, and why",
            Self::Show(View::Sharing) => "sharing: which VMs share most",
            Self::Show(View::Misses) => "misses: cache misses of VMs and vCPUs",
            Self::Show(View::Compare) => "compare: trials of placements and decisions",
            Self::Show(View::Ksm) => "ksm: the kernel's page merging",
            Self::Show(View::Log) => "log: events and reasons",
            Self::Up => "up",
            Self::Down => "down",
            Self::Left => "left",
            Self::Right => "right",
            Self::PageUp => "page up",
            Self::PageDown => "page down",
            Self::First => "first row",
            Self::Last => "last row",
            Self::Filter => "filter",
            Self::Order => "next sort order",
            Self::Reverse => "reverse the sort order",
            Self::Scale => "scale to the highest rate, to 100 %, or logarithmic",
            Self::Reads => "all shared frames, or those that are read",
            Self::Highest => "go to the highest rate",
            Self::Level => "switch between VMs and vCPUs",
            Self::Metric => "next metric in the chart",
            Self::Clear => "clear filter and selection",
            Self::LongerWindow => "longer time span in charts",
            Self::ShorterWindow => "shorter time span in charts",
            Self::Slower => "redraw less often; replay: slower",
            Self::Faster => "redraw more often; replay: faster",
            Self::SeekBack => "replay: back by a tenth",
            Self::SeekForward => "replay: forward by a tenth",
            Self::SeekStart => "replay: go to the start",
            Self::SeekEnd => "replay: go to the end",
            Self::DryRun => "dry run: show what the plan would change",
            Self::ApplyPlan => "apply the plan (with confirmation)",
            Self::ChoosePolicy => "change the policy (with confirmation)",
            Self::Restore => "undo all pinning (with confirmation)",
            Self::Record => "start or stop recording",
            Self::SaveLast => "record the last minutes, which are kept",
            Self::SaveText => "save the screen as text",
            Self::SaveSvg => "save the screen as SVG",
            Self::Accept => "yes",
            Self::Decline => "no",
            Self::AcceptFilter => "apply the filter",
            Self::CancelFilter => "cancel the filter",
            Self::Erase => "delete the last character",
        }
    }
}

/// All commands but those that show a view.
const PLAIN: [Command; 46] = {
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
        C::Reads,
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
        C::SaveLast,
        C::SaveText,
        C::SaveSvg,
        C::Accept,
        C::Decline,
        C::AcceptFilter,
        C::CancelFilter,
        C::Erase,
    ]
};
