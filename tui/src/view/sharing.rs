//! The sharing view: the heatmap with its labels and legend.

use huddle_model::availability::Availability;
use huddle_model::matrix::{SharingMatrix, Weigh};
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{self, Canvas};
use super::{format, hint, pair, strips};
use crate::app::geometry::{HeatLayout, digits};
use crate::app::scale::{Ramp, TOP_LEVEL};
use crate::app::{App, Overview, Picture, Sharing};

pub(crate) fn draw(canvas: &mut Canvas<'_>, body: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let sharing = &app.sharing;
    let inner =
        Rect::new(body.x + 1, body.y + 1, body.width.saturating_sub(2), body.height.saturating_sub(1));
    if hint::is_due(app, picture) {
        hint::no_vms(canvas, inner, app, picture);
        return;
    }
    let (matrix, figures) = match (&picture.view.round.matrix, picture.matrix()) {
        (Availability::Unavailable(reason), _) => {
            canvas.paragraph(inner, &format!("sharing matrix: n/a: {reason}"), theme.warning());
            return;
        }
        (_, Some(known)) => known,
        _ => return,
    };
    if matrix.is_empty() {
        canvas.paragraph(inner, "no VM was measured", theme.plain());
        return;
    }
    let layout = sharing.layout(body);
    info(canvas, layout.info, matrix, sharing, &picture.overview);
    if sharing.order.is_empty() {
        canvas.paragraph(inner, "no VM's name matches the filter; Esc clears it", theme.plain());
        return;
    }
    let highest = match sharing.weigh {
        Weigh::All => figures.highest.map_or(0.0, |(i, j)| matrix.rate(i, j)),
        Weigh::Read => figures.highest_read,
    };
    let ramp = Ramp::new(sharing.scale, highest);
    let top = sharing.top(&layout);
    row_labels(canvas, &layout, matrix, sharing, top.0);
    column_labels(canvas, &layout, matrix, sharing, top.1);
    cells(canvas, &layout, matrix, sharing, ramp, top);
    strips::draw(canvas, &layout, matrix, sharing, &picture.overview, top);
    strips::outline(canvas, &layout, sharing, top);
    legend(canvas, layout.legend, ramp);
    pair::draw(canvas, &layout, picture, matrix, sharing);
}

fn info(canvas: &mut Canvas<'_>, area: Rect, matrix: &SharingMatrix, sharing: &Sharing, overview: &Overview) {
    let theme = canvas.theme;
    let count = if sharing.order.len() == matrix.len() {
        format::things(matrix.len() as u64, "VM")
    } else {
        format!("{} of {} VMs", sharing.order.len(), matrix.len())
    };
    let groups = sharing.groups.len();
    let order = match (sharing.is_clustered, groups) {
        (false, _) => "; matrix order".to_owned(),
        (true, 0) if sharing.order.len() < 3 => String::new(),
        (true, 0) => "; no groups of VMs that share more than the others".to_owned(),
        (true, _) => {
            let groups_text = format::things(groups as u64, "group");
            let within = match (&overview.within_frames, &overview.total_frames) {
                (Availability::Available(within), Availability::Available(total)) if *total > 0 => {
                    let part = format::percent(*within as f64 / *total as f64);
                    format!("; {part} of shared frames within domains")
                }
                _ => String::new(),
            };
            let together = match sharing.groups_together(matrix, overview) {
                0 => String::new(),
                all if all == groups => ", each in one domain".to_owned(),
                some => format!(", {some} in one domain"),
            };
            format!("; {groups_text}{together}{within}")
        }
    };
    let what = match (sharing.weigh, matrix.read_window_ms()) {
        (Weigh::All, _) => "cells: % of the row's frames that the column maps".to_owned(),
        (Weigh::Read, Some(window_ms)) => {
            format!("cells: % of the row's frames read by both in {window_ms} ms")
        }
        (Weigh::Read, None) => "what VMs read is not measured (--weigh read)".to_owned(),
    };
    let row = Rect { height: 1, ..area };
    if area.height < 2 {
        canvas.text(row, row.x + 1, row.y, &format!("{count}{order}; {what}"), theme.faint());
        return;
    }
    let end = canvas.text(row, row.x + 1, row.y, &count, theme.strong());
    canvas.text(row, end, row.y, &order, theme.plain());
    let row = Rect { y: area.y + 1, ..row };
    let end = canvas.text(row, row.x + 1, row.y, &what, theme.faint());
    if overview.longest_mark() > 0 {
        canvas.text(row, end, row.y, "; strips: cache domain", theme.faint());
    }
}

fn row_labels(
    canvas: &mut Canvas<'_>,
    layout: &HeatLayout,
    matrix: &SharingMatrix,
    sharing: &Sharing,
    top: usize,
) {
    let theme = canvas.theme;
    let digits = usize::from(digits(sharing.order.len()));
    for row in 0..layout.visible_rows() {
        let at = top + row;
        let Some(vm) = sharing.order.get(at) else { return };
        let is_current = at == sharing.cursor.0;
        let style = if is_current { theme.accent() } else { theme.plain() };
        let cell = layout.cell((top, 0), at, 0);
        let y = cell.y + (cell.height - 1) / 2;
        let area = Rect { y, height: 1, width: layout.labels.width.saturating_sub(1), ..layout.labels };
        let mark = if is_current { '>' } else { ' ' };
        let label = format!("{mark}{:>digits$} {}", at + 1, matrix.vms()[*vm].name);
        canvas.text(area, area.x, y, &label, style);
    }
}

fn column_labels(
    canvas: &mut Canvas<'_>,
    layout: &HeatLayout,
    matrix: &SharingMatrix,
    sharing: &Sharing,
    left: usize,
) {
    let theme = canvas.theme;
    let area = layout.columns;
    for column in 0..layout.visible_columns() {
        let at = left + column;
        let Some(vm) = sharing.order.get(at) else { return };
        let Rect { x, width, .. } = layout.cell((0, left), 0, at);
        let style = if at == sharing.cursor.1 { theme.accent() } else { theme.plain() };
        if width >= HeatLayout::FIGURE_WIDTH {
            let own = Rect::new(x, area.y, width - 1, 1);
            let name = &matrix.vms()[*vm].name;
            let label = format!("{} {name}", at + 1);
            // The number is at the row, too: the name comes first where only one of them fits.
            let fits = canvas::width(&label) <= usize::from(own.width);
            canvas.text(own, x, area.y, if fits { &label } else { name }, style);
            continue;
        }
        // The number downwards, in the middle of a cell; the last digit in every column, the others only where they
        // change, so that tens stand out.
        let number = (at + 1).to_string();
        let x = x + width / 2;
        let is_marked = at == sharing.cursor.1 || column == 0;
        for (nth, digit) in number.chars().rev().enumerate() {
            let changes = (at + 1).is_multiple_of(10usize.pow(nth as u32));
            if let Some(y) =
                (area.y..area.bottom()).rev().nth(nth).filter(|_| nth == 0 || changes || is_marked)
            {
                canvas.put(x, y, digit, style);
            }
        }
    }
}

fn cells(
    canvas: &mut Canvas<'_>,
    layout: &HeatLayout,
    matrix: &SharingMatrix,
    sharing: &Sharing,
    ramp: Ramp,
    (top, left): (usize, usize),
) {
    let theme = canvas.theme;
    let styles: Vec<Style> = (0..=TOP_LEVEL).map(|level| theme.level_style(level)).collect();
    for row in 0..layout.visible_rows() {
        let Some(i) = sharing.order.get(top + row).copied() else { return };
        for column in 0..layout.visible_columns() {
            let Some(j) = sharing.order.get(left + column).copied() else { break };
            let area = layout.cell((top, left), top + row, left + column);
            let is_current = (top + row, left + column) == sharing.cursor;
            if i == j {
                mark_cell(canvas, area, '\\', is_current);
            } else {
                match sharing.rate(matrix, i, j) {
                    Some(rate) => {
                        let level = ramp.level(rate);
                        rate_cell(canvas, area, rate, level, styles[usize::from(level)], is_current);
                    }
                    None => mark_cell(canvas, area, '?', is_current),
                }
            }
        }
    }
}

/// A cell without a rate: a VM with itself, which is not sharing between VMs, or what is not known.
fn mark_cell(canvas: &mut Canvas<'_>, area: Rect, mark: char, is_current: bool) {
    let style = if is_current { canvas.theme.selected() } else { canvas.theme.faint() };
    let y = area.y + (area.height - 1) / 2;
    canvas.put(area.x + area.width / 2, y, mark, style);
    brackets(canvas, area, y, style, is_current);
}

fn rate_cell(canvas: &mut Canvas<'_>, area: Rect, rate: f64, level: u8, style: Style, is_current: bool) {
    let theme = canvas.theme;
    let glyph = if theme.has_backgrounds() { ' ' } else { theme.glyph(level) };
    let style = if is_current && area.width < 2 { style.patch(theme.selected()) } else { style };
    let has_figure = area.width >= HeatLayout::SHORT_FIGURE_WIDTH;
    for y in area.y..area.bottom() {
        for x in area.x..area.right() {
            // A column of glyphs would blur the boundary between a cell and its figure.
            let is_gap = !theme.has_backgrounds() && has_figure && x + 1 == area.right();
            canvas.put(x, y, if is_gap { ' ' } else { glyph }, style);
        }
    }
    let y = area.y + (area.height - 1) / 2;
    if has_figure {
        let text = match area.width >= HeatLayout::FIGURE_WIDTH {
            true => format!("{:^5}", format::cell_percent(rate)),
            false => format!("{:>3}", format::short_percent(rate)),
        };
        let x = area.x + (area.width - 1).saturating_sub(text.len() as u16) / 2;
        // The cursor's left bracket hides no digit where there is room for both.
        let has_room = text.trim_end().len() + 2 < usize::from(area.width);
        let x = if is_current && has_room { x.max(area.x + 1) } else { x };
        // Dark colours are for glyphs, not for figures.
        let figure_style = if theme.has_backgrounds() { style } else { theme.plain() };
        canvas.text(area, x, y, &text, figure_style);
    }
    brackets(canvas, area, y, style, is_current);
}

/// The cursor, if a cell has room for it; otherwise the cell is reversed.
fn brackets(canvas: &mut Canvas<'_>, area: Rect, y: u16, style: Style, is_current: bool) {
    if is_current && area.width >= 2 {
        let right = area.right() - if area.width >= HeatLayout::FIGURE_WIDTH { 2 } else { 1 };
        let style = style.patch(canvas.theme.strong());
        canvas.put(area.x, y, '[', style);
        canvas.put(right, y, ']', style);
    }
}

fn legend(canvas: &mut Canvas<'_>, area: Rect, ramp: Ramp) {
    let theme = canvas.theme;
    let swatch = |level: u8| if theme.has_backgrounds() { ' ' } else { theme.glyph(level) };
    let mut x = canvas.text(area, area.x + 1, area.y, ramp.scale.name(), theme.strong());
    x = canvas.text(area, x, area.y, "  0 '", theme.faint());
    x = canvas.text(area, x, area.y, &swatch(0).to_string(), theme.plain());
    x = canvas.text(area, x, area.y, "'  up to ", theme.faint());
    let wide = area.width >= 118;
    for level in 1..=TOP_LEVEL {
        let swatch: String = [swatch(level); 2].iter().collect();
        x = canvas.text(area, x, area.y, &swatch, theme.level_style(level));
        // Every step shows its upper end if there is room, else only the first and the last.
        if wide || level == 1 || level == TOP_LEVEL {
            let upper = format::percent(ramp.upper(level));
            let upper = if wide && level < TOP_LEVEL { upper.replace(" %", "") } else { upper };
            let style = if level == TOP_LEVEL { theme.strong() } else { theme.plain() };
            x = canvas.text(area, x, area.y, &format!(" {upper} "), style);
        }
    }
    canvas.text(area, x, area.y, " \\ itself", theme.faint());
}
