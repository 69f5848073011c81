//! The mouse: tabs, cells, rows, the wheel.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

use super::geometry::Screen;
use super::input::LOG_FRAME;
use super::keys::Command;
use super::{Action, App, Overlay, View};

/// Entries or cells that one notch of the wheel moves.
const WHEEL: isize = 3;

impl App {
    pub(super) fn on_mouse(&mut self, mouse: MouseEvent) -> Vec<Action> {
        let Some(screen) = Screen::new(self.area) else { return Vec::new() };
        let is_click = mouse.kind == MouseEventKind::Down(MouseButton::Left);
        let wheel = match mouse.kind {
            MouseEventKind::ScrollUp | MouseEventKind::ScrollLeft => -1,
            MouseEventKind::ScrollDown | MouseEventKind::ScrollRight => 1,
            _ => 0,
        };
        if !is_click && wheel == 0 {
            return Vec::new();
        }
        self.is_dirty = true;
        if let Some(overlay) = self.overlay.take() {
            return match (overlay, wheel) {
                // A question is answered with a key: a click may have been meant for what it hides.
                (overlay @ Overlay::Ask(_), _) => {
                    self.overlay = Some(overlay);
                    Vec::new()
                }
                (_, 0) => Vec::new(),
                (overlay, -1) => self.on_overlay(overlay, Command::Up),
                (overlay, _) => self.on_overlay(overlay, Command::Down),
            };
        }
        if let Some(top) = self.help {
            return match wheel {
                0 => {
                    self.help = None;
                    Vec::new()
                }
                -1 => self.on_help_command(Command::Up, top),
                _ => self.on_help_command(Command::Down, top),
            };
        }
        if is_click {
            return self.on_click(&screen, mouse.column, mouse.row);
        }
        let is_sideways = matches!(mouse.kind, MouseEventKind::ScrollLeft | MouseEventKind::ScrollRight)
            || mouse.modifiers.contains(crossterm::event::KeyModifiers::SHIFT);
        match self.view {
            View::Overview => self.on_movement(if wheel < 0 { Command::Up } else { Command::Down }),
            View::Sharing => {
                let (row, column) = self.sharing.cursor;
                if is_sideways {
                    self.put_cursor(row, column.saturating_add_signed(WHEEL * wheel));
                } else {
                    self.put_cursor(row.saturating_add_signed(WHEEL * wheel), column);
                }
            }
            View::Misses | View::Compare | View::Ksm => {}
            View::Log => self.move_log(WHEEL * wheel),
        }
        Vec::new()
    }

    fn on_click(&mut self, screen: &Screen, x: u16, y: u16) -> Vec<Action> {
        let tab = screen.tabs().find(|(_, _, tab)| tab.contains((x, y).into()));
        if let Some((view, ..)) = tab {
            // A filter typed so far belongs to the view that is left, and stays there.
            self.typing = None;
            self.view = view;
            return Vec::new();
        }
        match self.view {
            View::Overview => {
                let layout = self.overview_layout(screen.body);
                let top = self.domain_top(&layout);
                let count = self.shown.as_ref().map_or(0, |picture| picture.overview.domain_count());
                let under = |index: &usize| {
                    layout.box_at(*index, top).is_some_and(|area| area.contains((x, y).into()))
                };
                if let Some(domain) = (0..count).find(under) {
                    self.select_domain(domain);
                }
            }
            View::Sharing => {
                let layout = self.sharing.layout(screen.body);
                let top = self.sharing.top(&layout);
                if let Some((row, column)) = layout.cell_at(x, y) {
                    self.put_cursor(top.0 + row, top.1 + column);
                }
            }
            View::Misses | View::Compare | View::Ksm => {}
            View::Log => {
                let end = self.log_end();
                let visible = usize::from(screen.body.height.saturating_sub(LOG_FRAME));
                let row = y.checked_sub(screen.body.y + 1).map(usize::from);
                if let Some(row) = row.filter(|row| *row < visible) {
                    self.log.select(self.log.top(end, visible) + row, end, visible);
                }
            }
        }
        Vec::new()
    }
}
