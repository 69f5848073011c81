//! Actions the user asks for: whether they are possible, the confirmation before them, and their result.

use huddle_model::plan::Policy;
use huddle_model::recording::RecordingState;
use huddle_model::view::View as LoopView;

use super::App;
use super::action::{Action, Capability};
use super::keys::{Command, KeyMap};
use super::source::{Source, Tone};
use crate::colour::Palette;

/// What is drawn above the view and takes the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Overlay {
    /// A confirmation of this action.
    Ask(Action),
    /// A choice of policies.
    Choose {
        /// Position in [`Policy::ALL`].
        at: usize,
    },
    /// Lines of text.
    Report(Report),
}

/// Lines of text with a heading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) title: String,
    pub(crate) lines: Vec<String>,
    /// First visible line.
    pub(crate) top: usize,
}

/// A replay is sought in steps of one of so many parts.
const SEEK_PARTS: usize = 10;

impl App {
    /// Where updates come from; call it again whenever a replay moves. [`Source::Live`] until then.
    pub fn set_source(&mut self, source: Source) {
        self.is_dirty |= source != self.source;
        self.source = source;
    }

    /// Where the recording is written, and whether it can be; `None` while nothing is recorded.
    pub fn set_recording(&mut self, state: Option<RecordingState>) {
        self.is_dirty |= state != self.recording;
        self.recording = state;
    }

    /// Replaces the default keys.
    pub fn set_keys(&mut self, keys: KeyMap) {
        self.keys = keys;
        self.is_dirty = true;
    }

    /// Replaces the default colours.
    pub fn set_palette(&mut self, palette: Palette) {
        self.palette = palette;
        self.is_dirty = true;
    }

    /// What the screen shows now; `None` before the first view.
    pub fn shown_view(&self) -> Option<&LoopView> {
        self.shown.as_ref().map(|picture| &picture.view)
    }

    /// Makes an action unavailable: the user sees `reason` instead, and the caller does not get the action.
    pub fn refuse(&mut self, capability: Capability, reason: impl Into<String>) {
        self.refused.insert(capability, reason.into());
    }

    /// Reverts [`App::refuse`].
    pub fn allow(&mut self, capability: Capability) {
        self.refused.remove(&capability);
    }

    /// Shows one sentence in the bottom line until the next key: the result of an action.
    pub fn notify(&mut self, tone: Tone, text: impl Into<String>) {
        self.notice = Some((tone, text.into()));
        self.is_dirty = true;
    }

    /// Shows text above the view, such as the result of a dry run. A pending question is not covered: the
    /// lines are then dropped, with a notice.
    pub fn report(&mut self, title: impl Into<String>, lines: Vec<String>) {
        let title = title.into();
        if matches!(self.overlay, Some(Overlay::Ask(_) | Overlay::Choose { .. })) {
            self.notify(Tone::Warning, format!("{title}: not shown while a question is open; try again"));
            return;
        }
        self.overlay = Some(Overlay::Report(Report { title, lines, top: 0 }));
        self.is_dirty = true;
    }

    /// Why something cannot be done; `None` where it can.
    fn refusal(&self, capability: Capability) -> Option<String> {
        let own = self.refused.get(&capability).cloned();
        own.or_else(|| self.source.refuses(capability).map(str::to_owned))
    }

    /// Returns an action for the caller, asks for confirmation first, or shows why it is unavailable.
    pub(super) fn attempt(&mut self, action: Action) -> Vec<Action> {
        if let Some(reason) = action.capability().and_then(|capability| self.refusal(capability)) {
            self.notify(Tone::Warning, format!("not done: {reason}"));
            return Vec::new();
        }
        if matches!(action, Action::ApplyPlan { .. })
            && let Some(reason) = self.no_plan()
        {
            self.notify(Tone::Warning, format!("no plan: {reason}"));
            return Vec::new();
        }
        if action.changes_host() {
            self.overlay = Some(Overlay::Ask(action));
            return Vec::new();
        }
        vec![action]
    }

    fn no_plan(&self) -> Option<String> {
        match &self.shown {
            None => Some("no round has ended yet".into()),
            Some(picture) => picture.view.round.plan.reason().map(str::to_owned),
        }
    }

    /// The confirmation shown before an action.
    pub(crate) fn question(&self, action: Action) -> String {
        let plan = self.shown.as_ref().and_then(|picture| picture.view.round.plan.value());
        let threads = |count: usize| match count {
            1 => "1 vCPU thread".to_owned(),
            count => format!("{count} vCPU threads"),
        };
        match action {
            Action::ApplyPlan { dry_run: false } => {
                let placed = plan.map_or(0, |plan| plan.placement.len());
                let policy = plan.map_or_else(String::new, |plan| format!(" of policy {}", plan.policy));
                format!("Apply the plan{policy}? It pins {}.", threads(placed))
            }
            Action::SetPolicy(policy) => {
                let before = plan.map_or_else(String::new, |plan| format!(" from {}", plan.policy));
                format!("Change the policy{before} to {policy}? The next round moves vCPUs accordingly.")
            }
            Action::Restore => "Undo all pinning? Every vCPU thread gets its original affinity back.".into(),
            other => format!("{other:?}?"),
        }
    }

    /// Commands that ask for an action, in any view.
    pub(super) fn on_action_command(&mut self, command: Command) -> Vec<Action> {
        match command {
            Command::DryRun => self.attempt(Action::ApplyPlan { dry_run: true }),
            Command::ApplyPlan => self.attempt(Action::ApplyPlan { dry_run: false }),
            Command::Restore => self.attempt(Action::Restore),
            Command::Record if self.recording.is_some() => self.attempt(Action::StopRecording),
            Command::Record => self.attempt(Action::StartRecording),
            Command::SaveLast => self.attempt(Action::SaveLast),
            Command::SaveText => vec![Action::SaveText],
            Command::SaveSvg => vec![Action::SaveSvg],
            Command::ChoosePolicy => {
                match self.refusal(Capability::Policy) {
                    Some(reason) => self.notify(Tone::Warning, format!("not done: {reason}")),
                    None => {
                        let plan = self.shown.as_ref().and_then(|picture| picture.view.round.plan.value());
                        let now =
                            plan.and_then(|plan| Policy::ALL.iter().position(|one| *one == plan.policy));
                        self.overlay = Some(Overlay::Choose { at: now.unwrap_or(0) });
                    }
                }
                Vec::new()
            }
            _ => self.on_replay(command),
        }
    }

    fn on_replay(&mut self, command: Command) -> Vec<Action> {
        let Source::Replay(replay) = &mut self.source else {
            self.notify(Tone::Warning, "only a replay can be stepped through");
            return Vec::new();
        };
        let part = isize::try_from(replay.length.div_ceil(SEEK_PARTS)).unwrap_or(isize::MAX);
        let action = match command {
            Command::Pause => {
                replay.is_playing = !replay.is_playing;
                if replay.is_playing { Action::Play } else { Action::Pause }
            }
            Command::Step => {
                replay.is_playing = false;
                Action::Step
            }
            Command::Faster | Command::Slower => {
                let speed = replay.speed;
                replay.speed = if command == Command::Faster { speed.faster() } else { speed.slower() };
                Action::SetSpeed(replay.speed)
            }
            _ => {
                let position = match command {
                    Command::StepBack => replay.moved(-1),
                    Command::SeekBack => replay.moved(part.saturating_neg()),
                    Command::SeekForward => replay.moved(part),
                    Command::SeekStart => 0,
                    _ => replay.length.saturating_sub(1),
                };
                return self.seek(position);
            }
        };
        vec![action]
    }

    /// Seeks in a replay. Following commands count from the new position, before the source has caught up.
    pub(super) fn seek(&mut self, position: usize) -> Vec<Action> {
        let Source::Replay(replay) = &mut self.source else { return Vec::new() };
        replay.position = position.min(replay.length.saturating_sub(1));
        vec![Action::Seek { position: replay.position }]
    }

    /// Commands while an overlay is open.
    pub(super) fn on_overlay(&mut self, overlay: Overlay, command: Command) -> Vec<Action> {
        match (overlay, command) {
            (Overlay::Ask(action), Command::Accept) => return vec![action],
            (Overlay::Ask(_), _) => self.notify(Tone::Done, "nothing was changed"),
            (Overlay::Choose { at }, Command::Accept) => {
                if let Some(policy) = Policy::ALL.get(at) {
                    return self.attempt(Action::SetPolicy(*policy));
                }
            }
            (Overlay::Choose { at }, Command::Up) => {
                self.overlay = Some(Overlay::Choose { at: at.saturating_sub(1) });
            }
            (Overlay::Choose { at }, Command::Down) => {
                self.overlay = Some(Overlay::Choose { at: (at + 1).min(Policy::ALL.len() - 1) });
            }
            (Overlay::Choose { .. }, _) => {}
            (Overlay::Report(report), command) => {
                let page = self.report_page();
                let most = report.lines.len().saturating_sub(1);
                let top = match command {
                    Command::Up => report.top.saturating_sub(1),
                    Command::Down => report.top + 1,
                    Command::PageUp => report.top.saturating_sub(page),
                    Command::PageDown => report.top + page,
                    Command::First => 0,
                    Command::Last => most,
                    Command::Help => return Vec::new(),
                    // Any other command closes the overlay first, so that its effect is visible.
                    other => return self.on_command(other),
                };
                self.overlay = Some(Overlay::Report(Report { top: top.min(most), ..report }));
            }
        }
        Vec::new()
    }

    fn report_page(&self) -> usize {
        usize::from(self.area.height.saturating_sub(5)).max(1)
    }
}
