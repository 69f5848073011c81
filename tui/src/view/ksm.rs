//! The KSM view: what the kernel merges, its settings, and its history.

use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::text::counted;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::Canvas;
use super::{chart, format, titles};
use crate::app::geometry::KsmLayout;
use crate::app::merging::MergeColumn;
use crate::app::{App, Picture};

/// Columns of a value's name.
const NAME: u16 = 20;

pub(crate) fn draw(canvas: &mut Canvas<'_>, body: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let layout = KsmLayout::new(body);
    match &picture.view.round.ksm {
        Availability::Available(ksm) if layout.is_wide => {
            rows(canvas, layout.state, " state ", &state_rows(ksm));
            rows(canvas, layout.settings, " settings ", &setting_rows(ksm));
        }
        Availability::Available(ksm) => {
            compact(canvas, layout.state, " state ", &state_rows(ksm));
            compact(canvas, layout.settings, " settings ", &setting_rows(ksm));
        }
        Availability::Unavailable(reason) => {
            let area = Rect { x: body.x + 1, y: body.y + 1, width: body.width.saturating_sub(2), height: 3 };
            canvas.paragraph(area, &format!("KSM: n/a: {reason}"), theme.warning());
        }
    }
    merging(canvas, &layout, app, picture);
    history(canvas, layout.history, app, picture);
}

/// KSM's work on each VM.
fn merging(canvas: &mut Canvas<'_>, layout: &KsmLayout, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let (found, seconds) = app.merge_rows();
    let title = match &picture.view.observation {
        Availability::Available(_) => {
            format!(" {}, pages, window of {seconds:.1} s ", format::things(found.len() as u64, "VM"))
        }
        Availability::Unavailable(_) => " VMs ".to_owned(),
    };
    let below = canvas.rule(layout.table, &title);
    if let Availability::Unavailable(reason) = &picture.view.observation {
        let inner = Rect { x: below.x + 1, width: below.width.saturating_sub(2), ..below };
        canvas.paragraph(inner, &format!("merges and breaks: n/a: {reason}"), theme.warning());
        return;
    }
    let columns = layout.columns();
    let names = MergeColumn::ALL.map(MergeColumn::title);
    titles(canvas, below, &columns, &names, (app.merging.sort, app.merging.is_descending));
    let visible = layout.visible_rows();
    let selected = app.merging.position(found.iter().map(|row| (row.vm.clone(), None)));
    let top = app.merging.top(selected, visible, found.len());
    if found.is_empty() && below.height > 1 {
        let text = if app.merging.filter.is_empty() {
            "no VM in this window"
        } else {
            "no VM's name matches the filter; Esc clears it"
        };
        canvas.text(below, below.x + 1, below.y + 1, text, theme.plain());
    }
    for ((position, row), y) in found.iter().enumerate().skip(top).zip(below.y + 1..below.bottom()) {
        let base = if position == selected { theme.accent() } else { theme.plain() };
        canvas.text(below, below.x, y, if position == selected { ">" } else { " " }, base);
        for (column, (x, width)) in MergeColumn::ALL.into_iter().zip(columns) {
            let own = Rect { x, y, width: width - 1, height: 1 };
            match column.figure(row, seconds) {
                None => {
                    canvas.text(own, x, y, &row.vm, base);
                }
                Some(Availability::Available(value)) if column == MergeColumn::Merged => {
                    canvas.right(own, &format::count(value as u64), theme.plain());
                }
                Some(Availability::Available(value)) => {
                    canvas.right(own, &format::si(value), theme.plain());
                }
                Some(Availability::Unavailable(_)) => canvas.right(own, "n/a", theme.warning()),
            }
        }
    }
}

/// A value; `None` if this kernel lacks the file.
type Row = (&'static str, Option<String>);

fn state_rows(ksm: &KsmState) -> Vec<Row> {
    let run = match ksm.run {
        0 => "0: stopped, merged pages stay merged".into(),
        1 => "1: running".into(),
        2 => "2: stopped, everything unmerged".into(),
        other => format!("{other}: not a known state"),
    };
    let pages = |pages: u64| {
        format!("{} pages ({})", format::count(pages), format::frames_bytes(pages, ksm.page_size))
    };
    let before_costs = format::frames_bytes(ksm.pages_sharing, ksm.page_size);
    let saved = match ksm.general_profit_bytes {
        Some(profit) => format!("{} net; {before_costs} before bookkeeping", format::signed_bytes(profit)),
        None => format!("{before_costs} before bookkeeping"),
    };
    vec![
        ("run", Some(run)),
        ("saved", Some(saved)),
        ("shared frames", Some(pages(ksm.pages_shared))),
        ("sharing pages", Some(pages(ksm.pages_sharing))),
        ("unshared", Some(pages(ksm.pages_unshared))),
        ("volatile", Some(pages(ksm.pages_volatile))),
        ("skipped", ksm.pages_skipped.map(|skipped| format!("{} pages", format::count(skipped)))),
        ("zero pages", ksm.ksm_zero_pages.map(|zero| zero.to_string())),
        ("full scans", Some(format::count(ksm.full_scans))),
    ]
}

fn setting_rows(ksm: &KsmState) -> Vec<Row> {
    let text = |value: Option<u64>| value.map(|value| value.to_string());
    vec![
        ("pages_to_scan", Some(format::count(ksm.pages_to_scan))),
        ("sleep_millisecs", Some(format::count(ksm.sleep_millisecs))),
        ("smart_scan", text(ksm.smart_scan)),
        ("max_page_sharing", text(ksm.max_page_sharing)),
        ("merge_across_nodes", text(ksm.merge_across_nodes)),
        ("use_zero_pages", text(ksm.use_zero_pages)),
        ("advisor_mode", ksm.advisor_mode.clone()),
    ]
}

const NOT_THERE: &str = "n/a: not in this kernel";

/// One row per value, under a heading.
fn rows(canvas: &mut Canvas<'_>, area: Rect, title: &str, rows: &[Row]) {
    let theme = canvas.theme;
    let inner = canvas.rule(area, title);
    for ((name, value), y) in rows.iter().zip(inner.y..) {
        canvas.text(inner, inner.x + 1, y, name, theme.faint());
        let (value, style) = shown(value, theme.plain(), theme.warning());
        canvas.text(inner, inner.x + 1 + NAME.max(name.len() as u16 + 1), y, value, style);
    }
}

/// The same as running text, for small screens.
fn compact(canvas: &mut Canvas<'_>, area: Rect, title: &str, rows: &[Row]) {
    let theme = canvas.theme;
    if area.is_empty() {
        return;
    }
    let inner = canvas.rule(area, title);
    let (mut x, mut y) = (inner.x + 1, inner.y);
    for (name, value) in rows {
        let (value, style) = shown(value, theme.plain(), theme.warning());
        let width = (name.len() + value.len() + 3) as u16;
        if x > inner.x + 1 && x + width > inner.right() {
            (x, y) = (inner.x + 1, y + 1);
        }
        x = canvas.pieces(inner, x, y, &[(name, theme.faint()), (" ", theme.plain()), (value, style)]) + 2;
    }
}

fn shown(value: &Option<String>, plain: Style, warning: Style) -> (&str, Style) {
    match value {
        Some(value) => (value, plain),
        None => (NOT_THERE, warning),
    }
}

/// Saved pages and shared frames, over the rounds that fit.
fn history(canvas: &mut Canvas<'_>, area: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    if area.height < 3 {
        return;
    }
    let width = usize::from(area.width.saturating_sub(2));
    let points: Vec<_> = app.ksm_history.before(picture.ksm_end, width).collect();
    let known: Vec<_> = points.iter().flatten().collect();
    if known.is_empty() {
        return;
    }
    let span = match (known.first(), known.last()) {
        (Some(first), Some(last)) if known.len() > 1 => {
            let passed = last.at_unix_us.saturating_sub(first.at_unix_us) / 1_000_000;
            let scans = last.full_scans.saturating_sub(first.full_scans);
            format!(", {}, {} full scans", format::seconds(passed), format::count(scans))
        }
        _ => String::new(),
    };
    let title = format!(" history of {}{span} ('{}' = n/a) ", counted(points.len(), "round"), theme.gap());
    let inner = canvas.rule(area, &title);
    type Figure = fn(&crate::app::KsmPoint) -> u64;
    let figures: [(&str, Figure); 2] =
        [("sharing pages", |point| point.pages_sharing), ("shared frames", |point| point.pages_shared)];
    let height = (inner.height / 2).clamp(1, 8);
    for ((name, figure), at) in figures.into_iter().zip(0..) {
        let chart = Rect { y: inner.y + at * height, height, ..inner }.intersection(inner);
        if chart.height < 1 {
            return;
        }
        let top = known.iter().map(|point| figure(point)).max().unwrap_or(0);
        let now = points.last().and_then(|point| point.as_ref()).map(figure);
        let now = now.map_or_else(|| "n/a".into(), format::count);
        let label = format!("{name}: now {now}, highest {}", format::count(top));
        let label_row = Rect { height: 1, ..chart };
        // On a chart of one row the label would hide the bars: they are beside it.
        let bars = if chart.height == 1 {
            let end = canvas.text(label_row, chart.x + 1, chart.y, &label, theme.plain()) + 1;
            Rect { x: end, width: chart.right().saturating_sub(end + 1), ..chart }
        } else {
            canvas.text(label_row, chart.x + 1, chart.y, &label, theme.plain());
            let below = chart.height - 1;
            Rect { x: chart.x + 1, y: chart.y + 1, width: chart.width.saturating_sub(2), height: below }
        };
        let fitting = points.len().saturating_sub(usize::from(bars.width));
        for (point, x) in points[fitting..].iter().zip(bars.x..bars.right()) {
            column(canvas, bars, x, point.as_ref().map(figure), top);
        }
    }
}

/// One bar from the bottom of `area`, its height in proportion to `top`.
fn column(canvas: &mut Canvas<'_>, area: Rect, x: u16, value: Option<u64>, top: u64) {
    let theme = canvas.theme;
    let Some(value) = value else {
        canvas.put(x, area.bottom() - 1, theme.gap(), theme.warning());
        return;
    };
    let part = if top == 0 { 0.0 } else { value as f64 / top as f64 };
    chart::filled(canvas, area, x, part, theme.accent());
}
