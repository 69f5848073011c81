//! The misses view: a table of VMs or vCPUs, and charts of the selected one.

use huddle_model::availability::Availability;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::Canvas;
use super::chart::{self, Chart};
use super::{format, titles};
use crate::app::geometry::MissesLayout;
use crate::app::misses::{MissColumn, key, subject};
use crate::app::rate::{Rate, RateRow, WindowFigures};
use crate::app::{App, Picture, row_label};

pub(crate) fn draw(canvas: &mut Canvas<'_>, body: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let layout = MissesLayout::new(body);
    let figures = match &picture.window {
        Availability::Available(figures) => figures,
        Availability::Unavailable(reason) => {
            let area = Rect { x: body.x + 1, y: body.y + 1, width: body.width.saturating_sub(2), height: 4 };
            canvas.paragraph(area, &format!("counters: n/a: {reason}"), theme.warning());
            return;
        }
    };
    let rows = app.miss_rows();
    info(canvas, layout.info, app, figures, rows.len());
    let sort = (app.misses.table.sort, app.misses.table.is_descending);
    let mut names = MissColumn::ALL.map(MissColumn::title);
    if app.misses.are_vcpus {
        names[0] = "vCPU";
    }
    titles(canvas, layout.table, &layout.columns(), &names, sort);
    let visible = layout.visible_rows();
    let selected = app.misses.table.position(rows.iter().map(|row| key(row)));
    let top = app.misses.table.top(selected, visible, rows.len());
    if rows.is_empty() {
        let text = if figures.vcpus.is_empty() {
            "no vCPU in this window"
        } else {
            "no VM's name matches the filter; Esc clears it"
        };
        canvas.text(layout.table, layout.table.x + 1, layout.table.y + 1, text, theme.plain());
        return;
    }
    let span = app.chart_span(picture);
    let spark_rate = match app.misses.sort() {
        MissColumn::Rate(rate) => rate,
        MissColumn::Name | MissColumn::Domain => app.misses.rate,
    };
    let (spark_x, spark_width) = layout.spark();
    if usize::from(spark_width) >= spark_rate.name().len() {
        let area = Rect { x: spark_x, width: spark_width, height: 1, ..layout.table };
        canvas.text(area, spark_x, area.y, spark_rate.name(), theme.faint());
    }
    for (position, row) in rows.iter().enumerate().skip(top).take(visible) {
        let y = layout.table.y + 1 + (position - top) as u16;
        row_of(canvas, &layout, y, row, position == selected);
        if spark_width >= 6 {
            let columns = app.history.chart(subject(row), spark_rate, span, usize::from(spark_width));
            let area = Rect { x: spark_x, y, width: spark_width, height: 1 };
            chart::sparkline(canvas, area, &columns);
        }
    }
    if let Some(row) = rows.get(selected) {
        charts(canvas, &layout, app, row, span);
    }
}

fn info(canvas: &mut Canvas<'_>, area: Rect, app: &App, figures: &WindowFigures, rows: usize) {
    let theme = canvas.theme;
    let what = if app.misses.are_vcpus { "vCPU" } else { "VM" };
    let seconds = figures.end_unix_us.saturating_sub(figures.begin_unix_us) as f64 / 1e6;
    let mut text = format!("{}, window of {seconds:.1} s", format::things(rows as u64, what));
    text += "; all vCPUs: ";
    let x = canvas.text(area, area.x + 1, area.y, &text, theme.faint());
    let mut x = x;
    for rate in [Rate::Mpki, Rate::MissesPerS, Rate::Ipc] {
        let (value, style) = figure(canvas, rate, rate.of(&figures.host));
        let pieces = [
            (rate.name(), theme.faint()),
            (" ", theme.plain()),
            (value.as_str(), style),
            ("  ", theme.plain()),
        ];
        x = canvas.pieces(area, x, area.y, &pieces);
    }
    let host = &figures.host;
    if host.vcpus_missing > 0 {
        let text = format!("{} of {} without some counter  ", host.vcpus_missing, host.vcpus);
        x = canvas.text(area, x, area.y, &text, theme.warning());
    }
    if host.vcpus_multiplexed > 0 {
        let text = format!("~ {} estimated, counters shared", host.vcpus_multiplexed);
        canvas.text(area, x, area.y, &text, theme.warning());
    }
}

fn figure(canvas: &Canvas<'_>, rate: Rate, value: &Availability<f64>) -> (String, Style) {
    let theme = canvas.theme;
    match value {
        Availability::Available(value) => (format::rate(rate, *value), theme.plain()),
        Availability::Unavailable(_) => ("n/a".into(), theme.warning()),
    }
}

fn row_of(canvas: &mut Canvas<'_>, layout: &MissesLayout, y: u16, row: &RateRow, is_selected: bool) {
    let theme = canvas.theme;
    let table = layout.table;
    let base = if is_selected { theme.accent() } else { theme.plain() };
    canvas.text(table, table.x, y, if is_selected { ">" } else { " " }, base);
    for (column, (x, width)) in MissColumn::ALL.into_iter().zip(layout.columns()) {
        let own = Rect { x, y, width: width - 1, height: 1 };
        match column {
            MissColumn::Name => {
                canvas.text(own, x, y, &row_label(row), base);
            }
            MissColumn::Domain => {
                let text = match row.domains.as_slice() {
                    [] => "?".to_owned(),
                    [one] => one.to_string(),
                    several => several.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                };
                canvas.right(own, &text, theme.plain());
            }
            MissColumn::Rate(rate) => {
                let (mut text, style) = figure(canvas, rate, rate.of(&row.rates));
                let is_known = rate.of(&row.rates).value().is_some();
                if is_known && row.rates.vcpus_multiplexed > 0 {
                    text.insert(0, '~');
                }
                canvas.right(own, &text, style);
            }
        }
    }
}

fn charts(canvas: &mut Canvas<'_>, layout: &MissesLayout, app: &App, row: &RateRow, span: (u64, u64)) {
    let theme = canvas.theme;
    let name = row_label(row);
    let area = layout.charts;
    let shown: Vec<Rate> = if layout.has_all_charts { Rate::ALL.to_vec() } else { vec![app.misses.rate] };
    let height = area.height / shown.len().max(1) as u16;
    for (rate, at) in shown.into_iter().zip(0..) {
        let own = Rect { y: area.y + at * height, height, ..area };
        let chart = Chart { history: &app.history, subject: subject(row), name: &name, rate, span };
        let is_strong = rate == app.misses.rate;
        chart.draw(canvas, own, is_strong);
        if let Availability::Unavailable(reason) = rate.of(&row.rates)
            && own.height >= 4
        {
            let inner = Rect { x: own.x + 2, y: own.y + 1, width: own.width.saturating_sub(4), height: 2 };
            canvas.paragraph(inner, &format!("now n/a: {reason}"), theme.warning());
        }
    }
}
