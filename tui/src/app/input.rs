//! Keys, mouse and sizes.

use crossterm::event::{Event, KeyEventKind};
use huddle_model::matrix::Weigh;
use ratatui::layout::Rect;

use super::compare::Compare;
use super::geometry::{OverviewLayout, window_top};
use super::keys::{Command, Key, Mode};
use super::{Action, App, INTERVALS_S, Overlay, Picture, SPANS_S, View};

/// Rows of the log view that are not entries: its heading, and the selected entry in full. `height`: of the view.
pub(crate) fn log_frame(height: u16) -> u16 {
    if height >= 30 { 8 } else { 5 }
}

/// The position after a movement in a list with `page` rows on the screen.
fn stepped(command: Command) -> impl FnOnce(usize, usize) -> usize {
    move |position, page| match command {
        Command::Up => position.saturating_sub(1),
        Command::Down => position + 1,
        Command::PageUp => position.saturating_sub(page),
        Command::PageDown => position + page,
        Command::First => 0,
        Command::Last => usize::MAX,
        _ => position,
    }
}

impl App {
    /// Handles a terminal event; returns what the caller must do.
    pub fn on_event(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.on_key(key.into()),
            Event::Mouse(mouse) => self.on_mouse(mouse),
            Event::Resize(width, height) => {
                self.area = Rect::new(0, 0, width, height);
                self.is_dirty = true;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn on_key(&mut self, key: Key) -> Vec<Action> {
        let mode = self.mode();
        self.is_dirty |= self.notice.take().is_some();
        let Some(command) = self.keys.command(mode, self.view, key) else {
            if let (Mode::Typing, Some(typed)) = (mode, key.typed()) {
                let filter = format!("{}{typed}", self.filter().unwrap_or_default());
                self.set_filter(filter);
            }
            return Vec::new();
        };
        self.is_dirty = true;
        if command == Command::Quit {
            return vec![Action::Quit];
        }
        if let Some(overlay) = self.overlay.take() {
            return self.on_overlay(overlay, command);
        }
        match self.help {
            Some(top) if self.typing.is_none() => self.on_help_command(command, top),
            _ => self.on_command(command),
        }
    }

    pub(super) fn on_help_command(&mut self, command: Command, top: usize) -> Vec<Action> {
        let page = usize::from(self.area.height.saturating_sub(5)).max(1);
        let most = self.help_lines().len().saturating_sub(page);
        let to = match command {
            Command::Up => top.saturating_sub(1),
            Command::Down => top + 1,
            Command::PageUp => top.saturating_sub(page),
            Command::PageDown => top + page,
            Command::First => 0,
            Command::Last => most,
            Command::Help => {
                self.help = None;
                return Vec::new();
            }
            // Any other command closes the help first, so that its effect is visible.
            other => {
                self.help = None;
                return self.on_command(other);
            }
        };
        self.help = Some(to.min(most));
        Vec::new()
    }

    pub(super) fn on_command(&mut self, command: Command) -> Vec<Action> {
        use Command as C;
        let is_replay = self.source.replay().is_some();
        match command {
            C::Pause | C::Step | C::Faster | C::Slower if is_replay => {
                return self.on_action_command(command);
            }
            C::StepBack | C::SeekBack | C::SeekForward | C::SeekStart | C::SeekEnd => {
                return self.on_action_command(command);
            }
            C::DryRun
            | C::ApplyPlan
            | C::ChoosePolicy
            | C::Restore
            | C::Record
            | C::SaveLast
            | C::SaveText
            | C::SaveSvg => {
                return self.on_action_command(command);
            }
            C::Quit | C::Accept | C::Decline => {}
            C::Help => self.help = Some(0),
            C::Why => self.overlay = Some(Overlay::Report(self.reasons())),
            C::Pause => {
                self.is_paused = !self.is_paused;
                if !self.is_paused {
                    self.show_latest();
                }
            }
            C::Step if self.is_paused => self.show_latest(),
            C::Step => {}
            C::Faster => self.interval = self.interval.saturating_sub(1),
            C::Slower => self.interval = (self.interval + 1).min(INTERVALS_S.len() - 1),
            C::LongerWindow => self.span = (self.span + 1).min(SPANS_S.len() - 1),
            C::ShorterWindow => self.span = self.span.saturating_sub(1),
            C::NextView => self.step_view(1),
            C::PreviousView => self.step_view(View::ALL.len() - 1),
            C::Show(view) => self.view = view,
            C::Filter => self.typing = self.filter().map(str::to_owned),
            C::AcceptFilter => self.typing = None,
            C::CancelFilter => {
                if let Some(before) = self.typing.take() {
                    self.set_filter(before);
                }
            }
            C::Erase => {
                let mut filter = self.filter().unwrap_or_default().to_owned();
                filter.pop();
                self.set_filter(filter);
            }
            C::Clear => {
                self.set_filter(String::new());
                match self.view {
                    View::Misses => self.misses.table.deselect(),
                    View::Compare => self.compare = Compare::default(),
                    View::Ksm => self.merging.deselect(),
                    View::Log => self.log.follow(),
                    View::Overview | View::Sharing => {}
                }
            }
            C::Order => match self.view {
                View::Sharing => {
                    self.sharing.is_clustered = !self.sharing.is_clustered;
                    self.arrange();
                }
                View::Misses => self.order_misses_by_next(),
                View::Ksm => {
                    self.sort_merges_by((self.merging.sort + 1) % super::merging::MergeColumn::ALL.len());
                }
                View::Log => self.log.turn(),
                View::Overview | View::Compare => {}
            },
            C::Reverse => {
                let table = if self.view == View::Ksm { &mut self.merging } else { &mut self.misses.table };
                table.is_descending = !table.is_descending;
            }
            C::Level => {
                self.misses.are_vcpus = !self.misses.are_vcpus;
                self.misses.table.deselect();
            }
            C::Metric => self.chart_next_metric(),
            C::Scale => self.sharing.scale = self.sharing.scale.next(),
            C::Reads => {
                self.sharing.weigh = match self.sharing.weigh {
                    Weigh::All => Weigh::Read,
                    Weigh::Read => Weigh::All,
                };
            }
            C::Highest => {
                let matrix = self.shown.as_ref().and_then(Picture::matrix);
                if let Some((row, column)) = matrix.and_then(|(matrix, _)| self.sharing.highest(matrix)) {
                    self.put_cursor(row, column);
                    if let Some(screen) = self.screen() {
                        let layout = self.sharing.layout(screen.body);
                        self.sharing.centre(&layout);
                    }
                }
            }
            C::Up | C::Down | C::Left | C::Right | C::PageUp | C::PageDown | C::First | C::Last => {
                self.on_movement(command);
            }
        }
        Vec::new()
    }

    fn step_view(&mut self, by: usize) {
        let at = View::ALL.iter().position(|view| *view == self.view).unwrap_or(0);
        self.view = View::ALL[(at + by) % View::ALL.len()];
    }

    fn set_filter(&mut self, filter: String) {
        self.is_dirty = true;
        match self.view {
            View::Sharing => {
                self.sharing.filter = filter;
                self.arrange();
            }
            View::Misses => self.misses.table.filter = filter,
            View::Ksm => self.merging.filter = filter,
            View::Log => self.log.set_filter(filter),
            View::Overview | View::Compare => {}
        }
    }

    pub(super) fn on_movement(&mut self, command: Command) {
        let Some(screen) = self.screen() else { return };
        match self.view {
            View::Overview => {
                let layout = self.overview_layout(screen.body);
                let across = layout.boxes_across as isize;
                let page = across * layout.visible_rows().max(1) as isize;
                match command {
                    Command::Up => self.move_domain(-across),
                    Command::Down => self.move_domain(across),
                    Command::Left => self.move_domain(-1),
                    Command::Right => self.move_domain(1),
                    Command::PageUp => self.move_domain(-page),
                    Command::PageDown => self.move_domain(page),
                    Command::First => self.select_domain(0),
                    _ => self.select_domain(usize::MAX),
                }
            }
            View::Sharing => {
                let (row, column) = self.sharing.cursor;
                let page = self.sharing.layout(screen.body).visible_rows().max(1);
                let (row, column) = match command {
                    Command::Up => (row.saturating_sub(1), column),
                    Command::Down => (row + 1, column),
                    Command::Left => (row, column.saturating_sub(1)),
                    Command::Right => (row, column + 1),
                    Command::PageUp => (row.saturating_sub(page), column),
                    Command::PageDown => (row + page, column),
                    Command::First => (0, 0),
                    _ => (usize::MAX, usize::MAX),
                };
                self.put_cursor(row, column);
            }
            View::Misses => self.move_miss(stepped(command)),
            View::Compare => self.move_decision(stepped(command)),
            View::Ksm => self.move_merge(stepped(command)),
            View::Log => {
                let page = usize::from(screen.body.height.saturating_sub(log_frame(screen.body.height)))
                    .max(1) as isize;
                match command {
                    Command::Up => self.move_log(-1),
                    Command::Down => self.move_log(1),
                    Command::PageUp => self.move_log(-page),
                    Command::PageDown => self.move_log(page),
                    Command::First => self.move_log(isize::MIN),
                    Command::Last => self.move_log(isize::MAX),
                    _ => {}
                }
            }
        }
    }

    pub(super) fn put_cursor(&mut self, row: usize, column: usize) {
        let Some(screen) = self.screen() else { return };
        if let Some((matrix, _)) = self.shown.as_ref().and_then(Picture::matrix) {
            let layout = self.sharing.layout(screen.body);
            self.sharing.put_cursor(row, column, matrix, &layout);
        }
    }

    pub(super) fn move_log(&mut self, by: isize) {
        let Some(screen) = self.screen() else { return };
        let end = self.log_end();
        let visible = usize::from(screen.body.height.saturating_sub(log_frame(screen.body.height)));
        let position = self.log.position(end).saturating_add_signed(by);
        self.log.select(position, end, visible);
    }

    /// The end of the log for the shown picture.
    pub(crate) fn log_end(&self) -> u64 {
        self.shown.as_ref().map_or(0, |picture| picture.log_end)
    }

    fn move_domain(&mut self, by: isize) {
        let count = self.shown.as_ref().map_or(0, |picture| picture.overview.domain_count());
        // A step out of the grid does nothing, so that the cursor keeps its column.
        if let Some(to) = self.domain.checked_add_signed(by).filter(|to| *to < count) {
            self.select_domain(to);
        } else if by.unsigned_abs() > 1 && by < 0 {
            self.select_domain(self.domain_column());
        }
    }

    fn domain_column(&self) -> usize {
        let Some(screen) = self.screen() else { return 0 };
        self.domain % self.overview_layout(screen.body).boxes_across
    }

    pub(super) fn select_domain(&mut self, domain: usize) {
        let Some(screen) = self.screen() else { return };
        let count = self.shown.as_ref().map_or(0, |picture| picture.overview.domain_count());
        self.domain = domain.min(count.saturating_sub(1));
        self.domain_row = self.domain_top(&self.overview_layout(screen.body));
    }

    /// The first visible row of boxes.
    pub(crate) fn domain_top(&self, layout: &OverviewLayout) -> usize {
        let count = self.shown.as_ref().map_or(0, |picture| picture.overview.domain_count());
        let rows = count.div_ceil(layout.boxes_across);
        window_top(self.domain_row, self.domain / layout.boxes_across, layout.visible_rows(), rows)
    }

    pub(crate) fn overview_layout(&self, body: Rect) -> OverviewLayout {
        let domains = self.shown.as_ref().and_then(|picture| picture.overview.domains.value());
        let lines = |width| {
            let lines = domains.into_iter().flatten().map(|domain| domain.lines(usize::from(width)));
            lines.max().unwrap_or(0)
        };
        OverviewLayout::new(body, domains.map_or(0, Vec::len), lines)
    }

    /// The help, generated from the table of keys: keys and their description, or a heading with an empty
    /// description.
    pub(crate) fn help_lines(&self) -> Vec<(String, &'static str)> {
        use super::keys::Scope;
        let mut lines = Vec::new();
        let own = Scope::In(self.view);
        let groups: [&[Scope]; 6] = [
            &[own],
            &[Scope::Everywhere, Scope::Always],
            &[Scope::Typing],
            &[Scope::InHelp],
            &[Scope::Asking],
            &[Scope::Choosing],
        ];
        for scopes in groups {
            let keys = self.keys.help(scopes);
            if keys.is_empty() {
                continue;
            }
            lines.push((scopes[0].heading(), ""));
            lines.extend(keys);
        }
        lines
    }
}
