//! Overlays above the view: a confirmation, a choice, a report.

use huddle_model::plan::Policy;
use ratatui::layout::Rect;

use super::canvas::Canvas;
use crate::app::keys::{Command, Scope};
use crate::app::{App, Overlay, Report};

/// Maximum width of a box with text.
const WIDTH: u16 = 76;

pub(crate) fn draw(canvas: &mut Canvas<'_>, area: Rect, app: &App, overlay: &Overlay) {
    let theme = canvas.theme;
    match overlay {
        Overlay::Ask(action) => {
            let inner = boxed(canvas, area, WIDTH, 6, " this changes the host ");
            let question = Rect { height: inner.height.saturating_sub(1), ..inner };
            canvas.paragraph(question, &app.question(*action), theme.strong());
            let yes = app.keys.keys_in(Scope::Asking, Command::Accept);
            let no = app.keys.keys_in(Scope::Asking, Command::Decline);
            answer(canvas, inner, &yes, "yes", &no, "no");
        }
        Overlay::Choose { at } => {
            let height = Policy::ALL.len() as u16 + 3;
            let inner = boxed(canvas, area, 50, height, " policy ");
            for ((position, policy), y) in Policy::ALL.iter().enumerate().zip(inner.y..inner.bottom()) {
                let is_here = position == *at;
                let style = if is_here { theme.selected() } else { theme.plain() };
                let mark = if is_here { '>' } else { ' ' };
                canvas.text(inner, inner.x, y, &format!("{mark} {policy}"), style);
            }
            let take = app.keys.keys_in(Scope::Choosing, Command::Accept);
            let leave = app.keys.keys_in(Scope::Choosing, Command::Decline);
            answer(canvas, inner, &take, "select", &leave, "cancel");
        }
        Overlay::Report(report) => read(canvas, area, report),
    }
}

fn answer(canvas: &mut Canvas<'_>, inner: Rect, yes: &str, yes_is: &str, no: &str, no_is: &str) {
    let theme = canvas.theme;
    let pieces =
        [(yes, theme.strong()), (": ", theme.plain()), (yes_is, theme.plain()), ("    ", theme.plain())];
    let y = inner.bottom().saturating_sub(1);
    let x = canvas.pieces(inner, inner.x, y, &pieces);
    canvas.pieces(inner, x, y, &[(no, theme.strong()), (": ", theme.plain()), (no_is, theme.plain())]);
}

fn read(canvas: &mut Canvas<'_>, area: Rect, report: &Report) {
    let theme = canvas.theme;
    let width = area.width.saturating_sub(4).min(110);
    // Lines may be broken in two; a box that is too high would only be empty below.
    let wanted = report.lines.iter().map(|line| super::canvas::width(line) / usize::from(width.max(8)) + 1);
    let height = u16::try_from(wanted.sum::<usize>() + 2).unwrap_or(u16::MAX);
    let height = height.clamp(5, area.height.saturating_sub(2).max(5));
    let inner = boxed(canvas, area, width, height, &format!(" {} ", report.title));
    let mut below = inner;
    for (at, line) in report.lines.iter().enumerate().skip(report.top) {
        if below.height <= 1 && at + 1 < report.lines.len() {
            let more = format!("... {} more lines (Down)", report.lines.len() - at);
            canvas.text(below, below.x, below.y, &more, theme.faint());
            return;
        }
        let used = canvas.paragraph(below, line, theme.plain()).max(1).min(below.height);
        below = Rect { y: below.y + used, height: below.height - used, ..below };
    }
}

/// A cleared box in the middle; returns its inside.
fn boxed(canvas: &mut Canvas<'_>, area: Rect, width: u16, height: u16, title: &str) -> Rect {
    let theme = canvas.theme;
    let (width, height) = (width.min(area.width), height.min(area.height));
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    let outer = Rect::new(x, y, width, height);
    canvas.clear(outer);
    let inner = canvas.frame(outer, title, theme.accent(), theme.strong());
    Rect { x: inner.x.saturating_add(1), width: inner.width.saturating_sub(2), ..inner }
}
