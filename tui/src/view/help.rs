//! The help, from the table of keys.

use ratatui::layout::Rect;

use super::canvas::Canvas;
use crate::app::App;

/// Columns of the keys.
const KEYS: u16 = 14;
const WIDTH: u16 = 70;

pub(crate) fn draw(canvas: &mut Canvas<'_>, area: Rect, app: &App, top: usize) {
    let theme = canvas.theme;
    let lines = app.help_lines();
    let height = (lines.len() as u16).saturating_add(2).min(area.height.saturating_sub(2));
    let width = WIDTH.min(area.width);
    let frame = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    let frame = Rect { x: area.x + frame.x, y: area.y + frame.y, ..frame };
    canvas.clear(frame);
    let visible = usize::from(height.saturating_sub(2));
    let top = top.min(lines.len().saturating_sub(visible));
    let title = if lines.len() > visible {
        format!(
            " keys {} to {} of {} (Down for more) ",
            top + 1,
            (top + visible).min(lines.len()),
            lines.len()
        )
    } else {
        " keys ".into()
    };
    let inner = canvas.frame(frame, &title, theme.accent(), theme.strong());
    for ((keys, what), y) in lines[top..].iter().zip(inner.y..inner.bottom()) {
        if what.is_empty() {
            canvas.text(inner, inner.x + 1, y, keys, theme.accent());
        } else {
            canvas.text(inner, inner.x + 3, y, keys, theme.strong());
            canvas.text(inner, inner.x + 3 + KEYS, y, what, theme.plain());
        }
    }
}
