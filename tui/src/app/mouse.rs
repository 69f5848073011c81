//! The mouse: tabs, cells, rows, the wheel.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

use ratatui::layout::Rect;

use super::geometry::{KsmLayout, Screen};
use super::input::log_frame;
use super::keys::Command;
use super::{Action, App, Overlay, View};

/// Entries or cells that one notch of the wheel moves.
const WHEEL: isize = 3;

impl App {
    pub(super) fn on_mouse(&mut self, mouse: MouseEvent) -> Vec<Action> {
        let Some(screen) = self.screen() else { return Vec::new() };
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
                // Only keys answer a question: a click may have been meant for what the question covers.
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
            View::Misses => self.move_miss(|at, _| at.saturating_add_signed(WHEEL * wheel)),
            View::Compare => self.move_decision(|at, _| at.saturating_add_signed(wheel)),
            View::Ksm => self.move_merge(|at, _| at.saturating_add_signed(WHEEL * wheel)),
            View::Log => self.move_log(WHEEL * wheel),
        }
        Vec::new()
    }

    fn on_click(&mut self, screen: &Screen, x: u16, y: u16) -> Vec<Action> {
        if let Some(bar) = screen.bar.filter(|bar| bar.contains((x, y).into()))
            && let Some(replay) = self.source.replay()
        {
            let length = replay.length.saturating_sub(1);
            let part = f64::from(x - bar.x) / f64::from(bar.width.saturating_sub(1).max(1));
            return self.seek((part * length as f64).round() as usize);
        }
        let tab = screen.tabs().find(|(_, _, tab)| tab.contains((x, y).into()));
        if let Some((view, ..)) = tab {
            // A half-typed filter stays with the view it was typed in.
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
                if let Some((row, column)) = layout.cell_at(top, x, y) {
                    self.put_cursor(top.0 + row, top.1 + column);
                }
            }
            // Rows of simulated misses are selected by keys.
            View::Misses if self.has_simulated_rows_only() => {}
            View::Misses => {
                let layout = self.misses_layout(screen.body);
                let columns: Vec<(u16, u16)> =
                    layout.columns.iter().map(|(_, from, width)| (*from, *width)).collect();
                if y == layout.table.y && layout.table.contains((x, y).into()) {
                    let own = |(_, from, width): &&(_, u16, u16)| (*from..from + width).contains(&x);
                    if let Some((column, ..)) = layout.columns.iter().find(own) {
                        self.misses.sort_by(*column);
                    }
                    return Vec::new();
                }
                self.on_table_click(x, y, layout.table, &columns);
            }
            View::Ksm => {
                let layout = KsmLayout::new(screen.body);
                // Below the heading: titles and rows.
                let table = Rect { y: layout.table.y + 1, ..layout.table };
                let table = table.intersection(layout.table);
                self.on_table_click(x, y, table, &layout.columns());
            }
            View::Compare => {
                let layout = self.compare_layout(screen.body);
                let visible = layout.visible_decisions();
                let row = y.checked_sub(layout.decisions.y + 1).map(usize::from);
                if let Some(row) = row.filter(|row| *row < visible) {
                    let top = self.decisions_top(visible);
                    self.move_decision(|_, _| top + row);
                }
            }
            View::Log => {
                let end = self.log_end();
                let visible = usize::from(screen.body.height.saturating_sub(log_frame(screen.body.height)));
                let row = y.checked_sub(screen.body.y + 1).map(usize::from);
                if let Some(row) = row.filter(|row| *row < visible) {
                    self.log.select(self.log.top(end, visible) + row, end, visible);
                }
            }
        }
        Vec::new()
    }
    /// A click on a title sorts by its column, one on a row selects it.
    fn on_table_click(&mut self, x: u16, y: u16, table: Rect, columns: &[(u16, u16)]) {
        if !table.contains((x, y).into()) {
            return;
        }
        let is_misses = self.view == View::Misses;
        let Some(row) = usize::from(y - table.y).checked_sub(1) else {
            let column = columns.iter().position(|(from, width)| (*from..from + width).contains(&x));
            if let Some(column) = column.filter(|_| !is_misses) {
                self.sort_merges_by(column);
            }
            return;
        };
        let visible = usize::from(table.height.saturating_sub(1));
        if is_misses {
            let rows = self.miss_rows();
            let position = self.misses.table.position(rows.iter().map(|row| super::misses::key(row)));
            let at = self.misses.table.top(position, visible, rows.len()) + row;
            self.move_miss(|_, _| at);
        } else {
            let rows = self.merge_rows().0;
            let position = self.merging.position(rows.iter().map(|row| (row.vm.clone(), None)));
            let at = self.merging.top(position, visible, rows.len()) + row;
            self.move_merge(|_, _| at);
        }
    }
}
