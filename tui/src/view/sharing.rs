//! The sharing view: the heatmap, its legend, and the exact figures of the cell under the cursor.

use huddle_model::availability::Availability;
use huddle_model::matrix::{SharingMatrix, Weigh};
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{self, Canvas};
use super::format;
use crate::app::geometry::{HeatLayout, digits};
use crate::app::scale::{Ramp, TOP_LEVEL};
use crate::app::{App, Picture, RATES_ONLY, Sharing};

pub(crate) fn draw(canvas: &mut Canvas<'_>, body: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let sharing = &app.sharing;
    let inner =
        Rect::new(body.x + 1, body.y + 1, body.width.saturating_sub(2), body.height.saturating_sub(1));
    let (matrix, figures) = match (&picture.view.round.matrix, picture.matrix()) {
        (Availability::Unavailable(reason), _) => {
            canvas.paragraph(inner, &format!("sharing matrix: n/a: {reason}"), theme.warning());
            return;
        }
        (_, Some(known)) => known,
        _ => return,
    };
    if matrix.is_empty() {
        canvas.paragraph(inner, "no VM found", theme.plain());
        return;
    }
    let layout = sharing.layout(body);
    info(canvas, layout.info, matrix, sharing);
    if sharing.order.is_empty() {
        canvas.paragraph(inner, "no VM's name matches the filter; Esc clears it", theme.plain());
        return;
    }
    let ramp = Ramp::new(sharing.scale, figures.highest.map_or(0.0, |(i, j)| matrix.rate(i, j)));
    let top = sharing.top(&layout);
    row_labels(canvas, &layout, matrix, sharing, top.0);
    column_labels(canvas, &layout, matrix, sharing, top.1);
    cells(canvas, &layout, matrix, sharing, ramp, top);
    legend(canvas, layout.legend, ramp);
    detail(canvas, layout.detail, picture, matrix, sharing);
}

fn info(canvas: &mut Canvas<'_>, area: Rect, matrix: &SharingMatrix, sharing: &Sharing) {
    let theme = canvas.theme;
    let order = if sharing.is_clustered { "groups together" } else { "matrix order" };
    let count = if sharing.order.len() == matrix.len() {
        format::things(matrix.len() as u64, "VM")
    } else {
        format!("{} of {} VMs", sharing.order.len(), matrix.len())
    };
    let what = match (sharing.weigh, matrix.read_window_ms()) {
        (Weigh::All, _) => "% of the row's frames that the column maps too".to_owned(),
        (Weigh::Read, Some(window_ms)) => format!("% of the row's frames read by both in {window_ms} ms"),
        (Weigh::Read, None) => "what VMs read is not measured (--weigh read)".to_owned(),
    };
    let text = format!("{count}, {order}; {what}");
    canvas.text(area, area.x + 1, area.y, &text, theme.faint());
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
        let y = layout.labels.y + row as u16 * layout.cell_height + (layout.cell_height - 1) / 2;
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
        let x = area.x + column as u16 * layout.cell_width;
        let style = if at == sharing.cursor.1 { theme.accent() } else { theme.plain() };
        if layout.cell_width >= HeatLayout::FIGURE_WIDTH {
            let own = Rect::new(x, area.y, layout.cell_width - 1, 1);
            let label = format!("{} {}", at + 1, matrix.vms()[*vm].name);
            canvas.text(own, x, area.y, &label, style);
            continue;
        }
        // The number downwards, at the right of a cell of two columns; the last digit in every column, the
        // others only where they change, so that tens stand out.
        let number = (at + 1).to_string();
        let x = x + layout.cell_width - 1;
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
            let area = Rect::new(
                layout.cells.x + column as u16 * layout.cell_width,
                layout.cells.y + row as u16 * layout.cell_height,
                layout.cell_width,
                layout.cell_height,
            );
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
    canvas.put(area.x + area.width / 2 - u16::from(area.width == 2), y, mark, style);
    brackets(canvas, area, y, style, is_current);
}

fn rate_cell(canvas: &mut Canvas<'_>, area: Rect, rate: f64, level: u8, style: Style, is_current: bool) {
    let theme = canvas.theme;
    let glyph = if theme.has_backgrounds() { ' ' } else { theme.glyph(level) };
    let style = if is_current && area.width < 2 { style.patch(theme.selected()) } else { style };
    let has_figure = area.width >= HeatLayout::FIGURE_WIDTH;
    for y in area.y..area.bottom() {
        for x in area.x..area.right() {
            // A column of glyphs would blur the boundary between a cell and its figure.
            let is_gap = !theme.has_backgrounds() && has_figure && x + 1 == area.right();
            canvas.put(x, y, if is_gap { ' ' } else { glyph }, style);
        }
    }
    let y = area.y + (area.height - 1) / 2;
    if has_figure {
        let text = format!("{:^5}", format::cell_percent(rate));
        let x = area.x + (area.width - 1).saturating_sub(text.len() as u16) / 2;
        canvas.text(area, x, y, &text, style);
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
    let wide = area.width >= 110;
    for level in 1..=TOP_LEVEL {
        // Every step shows its upper end if there is room, else only the first and the last.
        let is_told = wide || level == 1 || level == TOP_LEVEL;
        if level == TOP_LEVEL && !wide {
            x = canvas.text(area, x, area.y, " ", theme.plain());
        }
        let swatch: String = [swatch(level); 2].iter().collect();
        x = canvas.text(area, x, area.y, &swatch, theme.level_style(level));
        if is_told {
            let upper = format::percent(ramp.upper(level));
            let upper = if wide { upper.replace(" %", "") } else { upper };
            x = canvas.text(area, x, area.y, &format!(" {upper} "), theme.plain());
        }
    }
    let tail = if wide { "%  \\ itself" } else { " \\ itself" };
    canvas.text(area, x, area.y, tail, theme.faint());
}

fn detail(canvas: &mut Canvas<'_>, area: Rect, picture: &Picture, matrix: &SharingMatrix, sharing: &Sharing) {
    let theme = canvas.theme;
    let vm = |at: usize| sharing.order.get(at).copied();
    let (Some(i), Some(j)) = (vm(sharing.cursor.0), vm(sharing.cursor.1)) else { return };
    let name = |vm: usize| matrix.vms()[vm].name.as_str();
    let is_beside = area.height > 5;
    let inner = if is_beside {
        canvas.frame(area, " cell under the cursor ", theme.faint(), theme.strong())
    } else {
        canvas.rule(area, " cell under the cursor ")
    };
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    let mut lines: Vec<(String, Style)> = Vec::new();
    if i == j {
        lines.push((format!("{} with itself: not sharing between VMs", name(i)), theme.strong()));
        lines.extend(own_lines(matrix, i).into_iter().map(|line| (line, theme.plain())));
    } else {
        let of_files = match matrix.shared_file_frames(i, j) {
            Some(frames) if frames > 0 => format!(", {} by files", format::count(frames)),
            _ => String::new(),
        };
        let read = match (matrix.shared_frames_read(i, j), matrix.read_window_ms()) {
            (Some(frames), _) => format!(", {} read by both", format::count(frames)),
            (None, Some(_)) => ", reads n/a".to_owned(),
            (None, None) => String::new(),
        };
        let shared = match matrix.shared_frames(i, j) {
            Some(frames) => {
                format!(
                    "{} frames ({}){of_files}{read}",
                    format::count(frames),
                    format::frames_bytes(frames, matrix.page_size())
                )
            }
            None => format!("frames n/a: {RATES_ONLY}"),
        };
        let pair = format!("{} and {}", name(i), name(j));
        if is_beside {
            lines.push((pair, theme.strong()));
            lines.push((format!("share {shared}"), theme.strong()));
        } else {
            // The figures matter most: long names are cut, not they.
            let room = usize::from(inner.width).saturating_sub(canvas::width(&shared) + 9);
            lines.push((
                format!("{}: share {shared}", shorten(&pair, room, theme.ellipsis())),
                theme.strong(),
            ));
        }
        lines.push((rate_line(matrix, i, j), theme.plain()));
        lines.push((rate_line(matrix, j, i), theme.plain()));
        for vm in [i, j] {
            if let Some(reason) = matrix.reads_unavailable(vm) {
                lines.push((format!("what {} reads is not seen: {reason}", name(vm)), theme.warning()));
            }
        }
    }
    let measured = measured(picture, matrix);
    if is_beside {
        let mut y = inner.y;
        lines.push((String::new(), theme.plain()));
        lines.extend(measured.into_iter().map(|line| (line, theme.faint())));
        for (text, style) in lines {
            let room = Rect { y, height: inner.bottom().saturating_sub(y).min(3), ..inner };
            y += canvas.paragraph(room, &text, style).max(1);
        }
        return;
    }
    lines.truncate(3);
    lines.push((measured.join(", "), theme.faint()));
    for ((text, style), y) in lines.iter().zip(inner.y..inner.bottom()) {
        canvas.text(inner, inner.x, y, text, *style);
    }
}

fn shorten(text: &str, room: usize, ellipsis: char) -> String {
    if canvas::width(text) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for character in text.chars() {
        if canvas::width(&kept) + canvas::width(character.encode_utf8(&mut [0; 4])) + 1 > room {
            break;
        }
        kept.push(character);
    }
    kept.push(ellipsis);
    kept
}

fn rate_line(matrix: &SharingMatrix, i: usize, j: usize) -> String {
    let vm = &matrix.vms()[i];
    let rate = format::percent(matrix.rate(i, j));
    match &vm.memory {
        Some(memory) => format!("{rate} of the {} frames of {}", format::count(memory.frames_used), vm.name),
        None => format!("{rate} of the frames of {} (their number n/a: {RATES_ONLY})", vm.name),
    }
}

fn own_lines(matrix: &SharingMatrix, vm: usize) -> Vec<String> {
    let Some(memory) = &matrix.vms()[vm].memory else {
        return vec![format!("memory use n/a: {RATES_ONLY}")];
    };
    vec![
        format!(
            "{} frames used, {} resident pages ({})",
            format::count(memory.frames_used),
            format::count(memory.pages_resident),
            format::frames_bytes(memory.pages_resident, matrix.page_size())
        ),
        format!(
            "{} zero-filled pages, {} pages repeat another page of the VM",
            format::count(memory.pages_zero),
            format::count(memory.self_shared_pages)
        ),
        match memory.pages_file {
            Some(pages) => format!("{} pages of files and shared memory", format::count(pages)),
            None => "pages of files n/a (not measured)".into(),
        },
    ]
}

/// How the matrix was measured.
fn measured(picture: &Picture, matrix: &SharingMatrix) -> Vec<String> {
    let coverage = match matrix.coverage() {
        Some(coverage) => format!("coverage {}", format::percent(coverage)),
        None => "coverage n/a (not in the file)".into(),
    };
    let duration = match matrix.duration_ms() {
        Some(duration_ms) => format!("scanned in {duration_ms:.0} ms"),
        None => "scan time n/a".into(),
    };
    let at = format::time_of_day(picture.view.round.end_unix_us);
    vec![format!("method {}", matrix.method()), coverage, duration, format!("round ended {at} UTC")]
}
