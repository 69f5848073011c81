//! The misses view: a table of VMs or vCPUs, and charts of the selected one.

use huddle_model::availability::Availability;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{self, Canvas};
use super::chart::{self, Chart};
use super::{format, hint, simulated, titles};
use crate::app::geometry::MissesLayout;
use crate::app::metric::{Metric, Row, WindowFigures};
use crate::app::misses::{MissColumn, key, subject};
use crate::app::{App, Picture, row_label};

/// Metrics that are made from counters.
const COUNTED: usize = 4;

pub(crate) fn draw(canvas: &mut Canvas<'_>, body: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    if app.has_simulated_rows_only() {
        simulated::draw_without_measured(canvas, body, app, picture);
        return;
    }
    let inner = Rect {
        x: body.x + 1,
        y: body.y + 1,
        width: body.width.saturating_sub(2),
        height: body.height.saturating_sub(1),
    };
    let figures = match &picture.window {
        _ if hint::is_due(app, picture) => {
            hint::no_vms(canvas, inner, app, picture);
            return;
        }
        Availability::Available(figures) => figures,
        Availability::Unavailable(reason) => {
            canvas.paragraph(inner, &format!("counters: n/a: {reason}"), theme.warning());
            return;
        }
    };
    let rows = app.miss_rows();
    let layout = app.misses_layout_of(body, &rows);
    let is_experiment = app.experiment().is_some();
    if is_experiment {
        simulated::draw(canvas, app.result_layout(body).simulated, app);
    }
    let metrics = app.known_metrics();
    info(canvas, layout.info, app, figures, metrics, rows.len());
    let why = Rect { x: layout.why.x + 1, width: layout.why.width.saturating_sub(1), ..layout.why };
    let are_counted = metrics.iter().filter(|metric| metric.is_counted()).count() == COUNTED;
    let style = if are_counted { theme.faint() } else { theme.warning() };
    canvas.text(why, why.x, why.y, &app.why_not_shown(), style);
    let order = app.miss_order();
    let names: Vec<&str> = layout
        .columns
        .iter()
        .map(|(column, ..)| match column {
            MissColumn::Name if app.misses.are_vcpus => "vCPU",
            column => column.title(),
        })
        .collect();
    let columns: Vec<(u16, u16)> = layout.columns.iter().map(|(_, x, width)| (*x, *width)).collect();
    let sort = layout.columns.iter().position(|(column, ..)| *column == order).unwrap_or(usize::MAX);
    titles(canvas, layout.table, &columns, &names, (sort, app.misses.table.is_descending));
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
    let spark_metric = match order {
        MissColumn::Metric(metric) => metric,
        MissColumn::Name | MissColumn::Domain => app.charted_metric(),
    };
    let (spark_x, spark_width) = layout.spark();
    let has_spark = spark_width >= 6 && !is_experiment;
    if has_spark && usize::from(spark_width) >= spark_metric.name().len() {
        let area = Rect { x: spark_x, width: spark_width, height: 1, ..layout.table };
        canvas.text(area, spark_x, area.y, spark_metric.name(), theme.faint());
    }
    for (position, row) in rows.iter().enumerate().skip(top).take(visible) {
        let y = layout.table.y + 1 + (position - top) as u16;
        row_of(canvas, &layout, y, row, position == selected);
        if has_spark {
            let columns = app.history.chart(subject(row), spark_metric, span, usize::from(spark_width));
            let area = Rect { x: spark_x, y, width: spark_width, height: 1 };
            chart::sparkline(canvas, area, &columns);
        }
    }
    if let Some(row) = rows.get(selected).filter(|_| !is_experiment) {
        charts(canvas, &layout, app, metrics, row, span);
    }
}

fn info(
    canvas: &mut Canvas<'_>,
    area: Rect,
    app: &App,
    figures: &WindowFigures,
    metrics: &[Metric],
    rows: usize,
) {
    let theme = canvas.theme;
    let what = if app.misses.are_vcpus { "vCPU" } else { "VM" };
    let seconds = figures.end_unix_us.saturating_sub(figures.begin_unix_us) as f64 / 1e6;
    let mut text = format!("{}, window of {seconds:.1} s", format::things(rows as u64, what));
    text += "; all vCPUs: ";
    let mut x = canvas.text(area, area.x + 1, area.y, &text, theme.faint());
    for metric in metrics {
        let Availability::Available(value) = metric.of(&figures.host) else { continue };
        let value = format::metric(*metric, *value);
        // Shown whole or not at all.
        if usize::from(x) + metric.name().len() + 1 + canvas::width(&value) > usize::from(area.right()) {
            break;
        }
        let pieces = [
            (metric.name(), theme.faint()),
            (" ", theme.plain()),
            (value.as_str(), theme.plain()),
            ("  ", theme.plain()),
        ];
        x = canvas.pieces(area, x, area.y, &pieces);
    }
    let rates = &figures.host.rates;
    // Where no vCPU has counters, the line below says why.
    if rates.vcpus_missing > 0 && metrics.iter().any(|metric| metric.is_counted()) {
        let text = format!("{} of {} without some counter  ", rates.vcpus_missing, rates.vcpus);
        x = canvas.text(area, x, area.y, &text, theme.warning());
    }
    if rates.vcpus_multiplexed > 0 {
        let text = format!("~ {} estimated, counters shared", rates.vcpus_multiplexed);
        canvas.text(area, x, area.y, &text, theme.warning());
    }
}

fn figure(canvas: &Canvas<'_>, metric: Metric, value: &Availability<f64>) -> (String, Style) {
    let theme = canvas.theme;
    match value {
        Availability::Available(value) => (format::metric(metric, *value), theme.plain()),
        Availability::Unavailable(_) => ("n/a".into(), theme.warning()),
    }
}

fn row_of(canvas: &mut Canvas<'_>, layout: &MissesLayout, y: u16, row: &Row, is_selected: bool) {
    let theme = canvas.theme;
    let table = layout.table;
    let base = if is_selected { theme.accent() } else { theme.plain() };
    canvas.text(table, table.x, y, if is_selected { ">" } else { " " }, base);
    for (column, x, width) in layout.columns.iter().copied() {
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
            MissColumn::Metric(metric) => {
                let value = metric.of(&row.figures);
                let (mut text, style) = figure(canvas, metric, value);
                let is_estimated = metric.is_counted() && row.figures.rates.vcpus_multiplexed > 0;
                if is_estimated && value.value().is_some() {
                    text.insert(0, '~');
                }
                canvas.right(own, &text, style);
            }
        }
    }
}

/// Charts of the known metrics, as many as there is room for; the chosen one is always among them.
fn charts(
    canvas: &mut Canvas<'_>,
    layout: &MissesLayout,
    app: &App,
    metrics: &[Metric],
    row: &Row,
    span: (u64, u64),
) {
    let theme = canvas.theme;
    let name = row_label(row);
    let area = layout.charts;
    let charted = app.charted_metric();
    let at = metrics.iter().position(|metric| *metric == charted).unwrap_or(0);
    let count = layout.visible_charts.min(metrics.len()).max(1);
    let first = at.saturating_sub(count - 1);
    let height = area.height / count as u16;
    for (metric, nth) in metrics.iter().copied().skip(first).take(count).zip(0..) {
        let own = Rect { y: area.y + nth * height, height, ..area };
        let chart = Chart { history: &app.history, subject: subject(row), name: &name, metric, span };
        chart.draw(canvas, own, metric == charted && count > 1);
        if let Availability::Unavailable(reason) = metric.of(&row.figures)
            && own.height >= 4
        {
            let inner = Rect { x: own.x + 2, y: own.y + 1, width: own.width.saturating_sub(4), height: 2 };
            canvas.paragraph(inner, &format!("now n/a: {reason}"), theme.warning());
        }
    }
}
