//! The strips at the edges of the heatmap, which show the cache domain of each VM, and the outlines of groups: a group whose
//! strip has one colour is under one cache.

use huddle_model::matrix::SharingMatrix;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::canvas::Canvas;
use crate::app::geometry::HeatLayout;
use crate::app::{Overview, Sharing};

/// A VM with vCPUs in several domains, or of which the domain is not known.
const SEVERAL: &str = "+";
const UNKNOWN: &str = "?";

/// What a strip shows of a VM.
fn mark(canvas: &Canvas<'_>, overview: &Overview, vm: &str) -> (String, Style) {
    let theme = canvas.theme;
    match overview.home(vm) {
        None => (UNKNOWN.to_owned(), theme.faint()),
        Some(home) => match home.only() {
            Some(domain) => (overview.mark(domain), theme.domain_style(domain)),
            None => (SEVERAL.to_owned(), theme.plain()),
        },
    }
}

pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    layout: &HeatLayout,
    matrix: &SharingMatrix,
    sharing: &Sharing,
    overview: &Overview,
    (top, left): (usize, usize),
) {
    if layout.row_strip.width < 2 {
        return;
    }
    let of = |canvas: &Canvas<'_>, at: usize| {
        let vm = sharing.order.get(at)?;
        Some(mark(canvas, overview, &matrix.vms()[*vm].name))
    };
    let width = layout.row_strip.width - 1;
    for at in top..top + layout.visible_rows() {
        let Some((text, style)) = of(canvas, at) else { break };
        let cell = layout.cell((top, 0), at, 0);
        for y in cell.y..cell.bottom() {
            let own = Rect { x: layout.row_strip.x, y, width, height: 1 };
            fill(canvas, own, style, ' ');
        }
        let middle = cell.y + (cell.height - 1) / 2;
        canvas.right(Rect { x: layout.row_strip.x, y: middle, width, height: 1 }, &text, style);
    }
    // Of columns that follow one another in a domain the first shows its mark, if it fits into them.
    let mut at = left;
    let end = (left + layout.visible_columns()).min(sharing.order.len());
    while at < end {
        let Some((text, style)) = of(canvas, at) else { break };
        let is_alike = |next: &usize| {
            *next < end
                && !layout.across.has_gap(*next)
                && of(canvas, *next).is_some_and(|(other, _)| other == text)
        };
        let run = 1 + (at + 1..end).take_while(is_alike).count();
        let first = layout.cell((0, left), 0, at);
        let last = layout.cell((0, left), 0, at + run - 1);
        let own = Rect::new(first.x, layout.column_strip.y, last.right() - first.x, 1);
        // Without colours a line shows how far the mark reaches.
        fill(canvas, own, style, canvas.theme.lines().horizontal);
        // Two marks without colours need a space between them.
        let room = usize::from(own.width) - usize::from(style.bg.is_none() && own.width > 1);
        if text.len() <= room {
            canvas.text(own, own.x, own.y, &text, style);
        }
        at += run;
    }
}

/// Fills the background, or writes a character where there is none.
fn fill(canvas: &mut Canvas<'_>, area: Rect, style: Style, character: char) {
    let character = if style.bg.is_some() { ' ' } else { character };
    for x in area.x..area.right() {
        canvas.put(x, area.y, character, style);
    }
}

/// A frame around the cells of each group, in the gaps before and after it. Where there is no room for gaps, the rows above
/// and at the end of a group are underlined, and its sides are within its cells.
pub(super) fn outline(
    canvas: &mut Canvas<'_>,
    layout: &HeatLayout,
    sharing: &Sharing,
    (top, left): (usize, usize),
) {
    let rows = top..top + layout.visible_rows();
    let columns = left..left + layout.visible_columns();
    let mut before = None;
    for (from, end) in sharing.groups.iter().copied() {
        let (first_row, end_row) = (from.max(rows.start), end.min(rows.end));
        let (first_column, end_column) = (from.max(columns.start), end.min(columns.end));
        if first_row >= end_row || first_column >= end_column {
            before = Some(end);
            continue;
        }
        let upper = layout.cell((top, left), first_row, first_column);
        let lower = layout.cell((top, left), end_row - 1, end_column - 1);
        let inside = Rect::new(upper.x, upper.y, lower.right() - upper.x, lower.bottom() - upper.y);
        let sides = Sides {
            above: from >= rows.start,
            below: end <= rows.end,
            left: from >= columns.start,
            right: end <= columns.end,
        };
        let has_row_gaps = layout.down.has_gap(from) && layout.down.has_gap(end);
        let has_column_gaps = layout.across.has_gap(from) && layout.across.has_gap(end);
        frame(canvas, inside, &sides, (has_row_gaps, has_column_gaps), before == Some(from));
        before = Some(end);
    }
}

/// The sides of a group that are on the screen.
struct Sides {
    above: bool,
    below: bool,
    left: bool,
    right: bool,
}

fn frame(
    canvas: &mut Canvas<'_>,
    inside: Rect,
    sides: &Sides,
    (has_row_gaps, has_column_gaps): (bool, bool),
    touches_another: bool,
) {
    let theme = canvas.theme;
    let (style, lines) = (theme.strong(), theme.lines());
    let (x, y) = (inside.x.saturating_sub(1), inside.y.saturating_sub(1));
    if !has_column_gaps {
        edges(canvas, inside, sides);
    } else {
        for row in inside.y..inside.bottom() {
            if sides.left {
                canvas.put(x, row, lines.vertical, style);
            }
            if sides.right {
                canvas.put(inside.right(), row, lines.vertical, style);
            }
        }
    }
    for column in inside.x..inside.right() {
        if has_row_gaps {
            if sides.above {
                canvas.put(column, y, lines.horizontal, style);
            }
            if sides.below {
                canvas.put(column, inside.bottom(), lines.horizontal, style);
            }
        } else {
            if sides.above {
                underline(canvas, column, y);
            }
            if sides.below {
                underline(canvas, column, inside.bottom() - 1);
            }
        }
    }
    if has_row_gaps && has_column_gaps {
        let corners = [
            (x, y, sides.above && sides.left),
            (inside.right(), y, sides.above && sides.right),
            (x, inside.bottom(), sides.below && sides.left),
            (inside.right(), inside.bottom(), sides.below && sides.right),
        ];
        for ((nth, (x, y, is_there)), corner) in corners.into_iter().enumerate().zip(lines.corners) {
            // The corner below a group is that above the next one.
            let corner = if nth == 0 && touches_another { lines.cross } else { corner };
            if is_there {
                canvas.put(x, y, corner, style);
            }
        }
    }
}

/// The left and right side of a group within its outermost cells, where these are blank and wide enough.
fn edges(canvas: &mut Canvas<'_>, inside: Rect, sides: &Sides) {
    let Some([left, right]) = canvas.theme.edges().filter(|_| inside.width > 2) else { return };
    for y in inside.y..inside.bottom() {
        for (x, character, is_there) in
            [(inside.x, left, sides.left), (inside.right() - 1, right, sides.right)]
        {
            if let Some(cell) = canvas.buffer.cell_mut((x, y)).filter(|cell| is_there && cell.symbol() == " ")
            {
                cell.set_char(character);
            }
        }
    }
}

fn underline(canvas: &mut Canvas<'_>, x: u16, y: u16) {
    if let Some(cell) = canvas.buffer.cell_mut((x, y)) {
        cell.set_style(Style::new().add_modifier(Modifier::UNDERLINED));
    }
}
