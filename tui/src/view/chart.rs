//! Charts of a metric over time.

use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{self, Canvas};
use super::format;
use crate::app::metric::Metric;
use crate::app::series::{Column, History, Mark, Subject};

/// What a chart shows.
pub(crate) struct Chart<'a> {
    pub(crate) history: &'a History,
    pub(crate) subject: Subject<'a>,
    /// Name of the subject.
    pub(crate) name: &'a str,
    pub(crate) metric: Metric,
    /// Time range, in microseconds since the Unix epoch.
    pub(crate) span: (u64, u64),
}

impl Chart<'_> {
    /// Title with the figures, bars, and an axis with the changes of the placement.
    pub(crate) fn draw(&self, canvas: &mut Canvas<'_>, area: Rect, is_strong: bool) {
        let theme = canvas.theme;
        if area.height < 3 || area.width < 20 {
            return;
        }
        let bars = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height - 2 };
        let columns = self.history.chart(self.subject, self.metric, self.span, usize::from(bars.width));
        let top = highest(&columns);
        let style = if is_strong { theme.strong() } else { theme.plain() };
        let title = self.title(&columns, top, usize::from(area.width.saturating_sub(4)));
        let row = Rect { height: 1, ..area };
        canvas.text(row, area.x + 1, area.y, &title, style);
        let marks: Vec<(u16, &Mark)> = self
            .history
            .marks(self.span.0, self.span.1)
            .map(|mark| (self.column_of(mark.at_unix_us, bars), mark))
            .collect();
        for (x, _) in &marks {
            for y in bars.y..bars.bottom() {
                canvas.put(*x, y, theme.lines().vertical, theme.faint());
            }
        }
        for (column, x) in columns.iter().zip(bars.x..bars.right()) {
            bar(canvas, bars, x, *column, top);
        }
        self.axis(canvas, Rect { y: bars.bottom(), height: 1, ..bars }, &marks);
    }

    fn title(&self, columns: &[Column], top: f64, room: usize) -> String {
        let now = columns.iter().rev().find(|column| **column != Column::Nothing);
        let now = match now {
            Some(Column::Value(value)) => format::metric(self.metric, *value),
            Some(Column::Gap) => "n/a".into(),
            _ => "no window yet".into(),
        };
        let each = (self.span.1 - self.span.0) as f64 / 1e6 / columns.len().max(1) as f64;
        let head = format!("{} of {}: {now}", self.metric.name(), self.name);
        let full =
            format!("{head}, top {}, a column is the mean of {each:.1} s", format::metric(self.metric, top));
        if canvas::width(&full) <= room { full } else { head }
    }

    fn column_of(&self, at_unix_us: u64, bars: Rect) -> u16 {
        let part = (at_unix_us - self.span.0) as f64 / (self.span.1 - self.span.0).max(1) as f64;
        bars.x + ((part * f64::from(bars.width)) as u16).min(bars.width.saturating_sub(1))
    }

    /// The time axis: its span, a `^` under each change, and a label of the last one.
    fn axis(&self, canvas: &mut Canvas<'_>, area: Rect, marks: &[(u16, &Mark)]) {
        let theme = canvas.theme;
        for x in area.x..area.right() {
            canvas.put(x, area.y, theme.lines().horizontal, theme.faint());
        }
        let length = format::seconds((self.span.1 - self.span.0) / 1_000_000);
        canvas.text(area, area.x, area.y, &format!("-{length} "), theme.faint());
        let now = area.right().saturating_sub(4);
        if marks.iter().all(|(x, _)| *x < now) {
            canvas.text(area, now, area.y, " now", theme.faint());
        }
        for (x, _) in marks {
            canvas.put(*x, area.y, '^', theme.accent());
        }
        let Some((x, mark)) = marks.last() else { return };
        let text = format!(" {} {} ", format::time_of_day(mark.at_unix_us), mark.label);
        let width = canvas::width(&text) as u16;
        // Right of its mark if there is room, else left of it.
        let start = area.x + length.len() as u16 + 2;
        let at = if x + 1 + width <= area.right().saturating_sub(4) {
            x + 1
        } else if x.saturating_sub(width) >= start {
            x - width
        } else {
            return;
        };
        canvas.text(area, at, area.y, &text, theme.accent());
        canvas.put(*x, area.y, '^', theme.accent());
    }
}

/// One row of bars, with the newest window at the right end.
pub(crate) fn sparkline(canvas: &mut Canvas<'_>, area: Rect, columns: &[Column]) {
    let top = highest(columns);
    let area = Rect { height: 1, ..area };
    for (column, x) in columns.iter().zip(area.x..area.right()) {
        bar(canvas, area, x, *column, top);
    }
}

fn highest(columns: &[Column]) -> f64 {
    let value = |column: &Column| match column {
        Column::Value(value) => *value,
        Column::Nothing | Column::Gap => 0.0,
    };
    columns.iter().map(value).fold(0.0, f64::max)
}

/// One bar from the bottom of `area`, its height in proportion to `top`.
fn bar(canvas: &mut Canvas<'_>, area: Rect, x: u16, column: Column, top: f64) {
    let theme = canvas.theme;
    match column {
        Column::Nothing => {}
        Column::Gap => canvas.put(x, area.bottom().saturating_sub(1), theme.gap(), theme.warning()),
        Column::Value(value) => {
            let part = if top > 0.0 { value / top } else { 0.0 };
            filled(canvas, area, x, part, theme.accent());
        }
    }
}

/// A bar as high as a part (0 to 1) of `area`; the lowest row is never empty.
pub(crate) fn filled(canvas: &mut Canvas<'_>, area: Rect, x: u16, part: f64, style: Style) {
    let theme = canvas.theme;
    let height = part * f64::from(area.height);
    for row in 0..area.height {
        let here = (height - f64::from(row)).clamp(0.0, 1.0);
        if here > 0.0 || row == 0 {
            canvas.put(x, area.bottom() - 1 - row, theme.bar(here), style);
        }
    }
}
