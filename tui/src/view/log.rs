//! The log view: a list, and the selected entry in full.

use ratatui::layout::Rect;

use super::canvas::Canvas;
use super::format;
use crate::app::{App, log_frame};

pub(crate) fn draw(canvas: &mut Canvas<'_>, body: Rect, app: &App) {
    let theme = canvas.theme;
    let log = &app.log;
    let end = app.log_end();
    let (len, total) = (log.len(end), log.total(end));
    let mut heading =
        format!("UTC, {} of {} entries", format::count(len as u64), format::count(total as u64));
    heading += if log.newest_first { ", newest first" } else { ", oldest first" };
    heading += if log.is_following() { ", following" } else { ", not following (Esc to follow)" };
    if log.dropped > 0 {
        heading += &format!("; {} older entries dropped", format::count(log.dropped));
    }
    canvas.text(body, body.x + 1, body.y, &heading, theme.faint());
    let list_height = body.height.saturating_sub(log_frame(body.height));
    let list = Rect::new(body.x, body.y + 1, body.width, list_height);
    let selected = log.position(end);
    let top = log.top(end, usize::from(list_height));
    for (y, position) in (list.y..list.bottom()).zip(top..) {
        let Some(entry) = log.at(position, end) else { break };
        let is_selected = position == selected;
        let kind_style = match entry.kind {
            "stage_failed" | "pin_skipped" | "missed" => theme.warning(),
            _ => theme.faint(),
        };
        let mark = if is_selected { ">" } else { " " };
        let x = canvas.text(list, list.x, y, mark, theme.accent());
        let x = canvas.text(list, x, y, &format::time_of_day(entry.at_unix_us), theme.faint());
        let kind = Rect::new(x + 1, y, 13, 1);
        canvas.text(kind, kind.x, y, entry.kind, kind_style);
        let mut x = kind.right();
        if let Some(vm) = &entry.vm {
            // The name first, unless the sentence contains it.
            if !entry.text.contains(vm.as_str()) {
                x = canvas.pieces(list, x, y, &[(vm, theme.strong()), (": ", theme.plain())]);
            }
        }
        canvas.text(list, x, y, &entry.text, if is_selected { theme.strong() } else { theme.plain() });
    }
    if len == 0 {
        let text = if total == 0 { "no events yet" } else { "no entry matches the filter; Esc clears it" };
        canvas.text(list, list.x + 1, list.y, text, theme.plain());
    }
    let detail = Rect::new(body.x, list.bottom(), body.width, log_frame(body.height) - 1);
    let inner = canvas.rule(detail, " selected entry ");
    if let Some(entry) = log.at(selected, end) {
        let vm = entry.vm.as_ref().map_or_else(String::new, |vm| format!(" {vm}:"));
        let time = format::time_of_day(entry.at_unix_us);
        let text = format!("{time} {}{vm} {}", entry.kind, entry.text);
        let inner = Rect::new(inner.x + 1, inner.y, inner.width.saturating_sub(2), inner.height);
        canvas.paragraph(inner, &text, theme.plain());
    }
}
