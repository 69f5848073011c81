//! Misses of a simulated cache in the result of an experiment: apart from measured ones, and named as what they are.

use huddle_model::availability::Availability;
use huddle_model::summary::{Arm, ArmFigure, SimulatedMisses};
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{self, Canvas};
use super::format;
use crate::app::geometry::SimulatedLayout;
use crate::app::{App, Picture};

/// Columns of names of VMs.
const NAME: std::ops::RangeInclusive<usize> = 12..=24;
/// Columns of a figure, at least.
const FIGURE: usize = 8;

/// The misses view where no miss was measured: why, and what was simulated.
pub(crate) fn draw_without_measured(canvas: &mut Canvas<'_>, body: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let layout = app.result_layout(body);
    let area =
        Rect { x: body.x + 1, width: body.width.saturating_sub(2), ..layout.measured }.intersection(body);
    canvas.paragraph(area, &format!("measured misses: n/a: {}", why_not_measured(picture)), theme.warning());
    draw(canvas, layout.simulated, app);
}

fn why_not_measured(picture: &Picture) -> &str {
    let figures = match &picture.window {
        Availability::Available(figures) => figures,
        Availability::Unavailable(reason) => return reason,
    };
    figures
        .host
        .rates
        .misses_per_s
        .reason()
        .or(figures.host.rates.mpki.reason())
        .unwrap_or("no vCPU was counted")
}

/// The simulated misses of every VM in every arm, or why there are none.
pub(crate) fn draw(canvas: &mut Canvas<'_>, area: Rect, app: &App) {
    let theme = canvas.theme;
    let Some((result, shown)) = app.experiment() else { return };
    let layout = SimulatedLayout::new(area);
    let simulated = match &result.simulated {
        Availability::Available(simulated) => simulated,
        Availability::Unavailable(reason) => {
            let inside = canvas.rule(area, " SIMULATED misses ");
            let inside = Rect { x: inside.x + 1, width: inside.width.saturating_sub(2), ..inside };
            canvas.paragraph(inside, &format!("n/a: {reason}"), theme.warning());
            return;
        }
    };
    let arms: Vec<Arm> =
        result.arms.iter().copied().filter(|arm| simulated.arms.contains_key(arm.name())).collect();
    let rows = app.simulated_rows();
    let longest = rows.iter().map(|vm| canvas::width(&vm.vm)).max().unwrap_or(0);
    let columns = Columns::new(layout.table, longest, &arms, shown);
    let model = simulated.model.name();
    let title = format!(" SIMULATED with model {model}, not measured: misses of 1000 reads ");
    canvas.rule(layout.title, &title);
    let hidden = arms.len() - columns.arms.len();
    if hidden > 0 {
        let text = format!(" +{} (widen) ", format::things(hidden as u64, "arm"));
        canvas.right(layout.title, &text, theme.warning());
    }
    columns.titles(canvas, layout.table, shown);
    heading(canvas, &layout, &columns, simulated);
    let visible = layout.visible_rows();
    let selected = app.simulated_position(&rows);
    let top = app.misses.table.top(selected, visible, rows.len());
    let first = layout.table.y + layout.heading_rows;
    for (position, vm) in rows.iter().enumerate().skip(top).take(visible) {
        let style = if position == selected { theme.accent() } else { theme.plain() };
        let mark = if position == selected { ">" } else { " " };
        let y = first + (position - top) as u16;
        columns.row(
            canvas,
            Rect { y, height: 1, ..layout.table },
            &format!("{mark}{}", vm.vm),
            style,
            |arm| Some(median(vm.arms.get(arm.name())?)),
        );
    }
    if rows.is_empty() {
        let text = if simulated.vms.is_empty() {
            "no VM was simulated"
        } else {
            "no VM's name matches the filter; Esc clears it"
        };
        canvas.text(layout.table, layout.table.x + 1, first, text, theme.plain());
    }
    let verdict =
        Rect { x: layout.verdict.x + 1, width: layout.verdict.width.saturating_sub(2), ..layout.verdict };
    let used = canvas.paragraph(verdict, &simulated.verdict, theme.strong());
    let below = Rect { y: verdict.y + used, height: verdict.height - used, ..verdict };
    canvas.paragraph(below, &format!("caches of {}", simulated.caches()), theme.faint());
}

/// The figures of all VMs together, with their intervals where there is room.
fn heading(
    canvas: &mut Canvas<'_>,
    layout: &SimulatedLayout,
    columns: &Columns,
    simulated: &SimulatedMisses,
) {
    let theme = canvas.theme;
    let all = |arm: Arm| simulated.arms.get(arm.name());
    let row = |at: u16| Rect { y: layout.table.y + at, height: 1, ..layout.table };
    columns.row(canvas, row(1), " all VMs", theme.strong(), |arm| Some(median(all(arm)?)));
    if layout.heading_rows >= 4 {
        let end = |arm: Arm, end: usize| Some(misses(all(arm)?.estimate.ci95?[end]));
        columns.row(canvas, row(2), "  95 % from", theme.faint(), |arm| end(arm, 0));
        columns.row(canvas, row(3), "  95 % to", theme.faint(), |arm| end(arm, 1));
    }
}

fn median(figure: &ArmFigure) -> String {
    misses(figure.estimate.median)
}

/// Misses of 1000 reads; one above 0 does not read as 0.
fn misses(value: f64) -> String {
    match value {
        _ if value > 0.0 && value < 0.05 => "<0.1".into(),
        _ if value.abs() < 10_000.0 => format!("{value:.1}"),
        _ if value.abs() < 1e15 => format::si(value),
        // No simulation has it, but a file of somebody else may.
        _ => format!("{value:.1e}"),
    }
}

/// The columns that fit, of which that of the arm shown is always one.
struct Columns {
    name_width: u16,
    /// The arms with the first screen column and the width of each.
    arms: Vec<(Arm, u16, u16)>,
}

impl Columns {
    fn new(table: Rect, longest_name: usize, arms: &[Arm], shown: Arm) -> Self {
        let name_width = (longest_name + 2).clamp(*NAME.start(), *NAME.end()) as u16;
        let room = table.width.saturating_sub(name_width);
        // A mark before the name, and a space between columns.
        let width = |arm: &Arm| (arm.name().len() + 1).max(FIGURE) as u16 + 1;
        let fitting = |from: usize| {
            let mut left = room;
            let fits = |arm: &&Arm| {
                let rest = left.checked_sub(width(arm));
                left = rest.unwrap_or(0);
                rest.is_some()
            };
            arms[from..].iter().take_while(fits).count()
        };
        let at = arms.iter().position(|arm| *arm == shown).unwrap_or(0);
        let from = (0..=at).find(|from| from + fitting(*from) > at).unwrap_or(at);
        let mut x = table.x + name_width;
        let place = |arm: &Arm| {
            let own = (*arm, x, width(arm));
            x += width(arm);
            own
        };
        let arms = arms.iter().skip(from).take(fitting(from.min(arms.len()))).map(place).collect();
        Self { name_width, arms }
    }

    fn titles(&self, canvas: &mut Canvas<'_>, table: Rect, shown: Arm) {
        let theme = canvas.theme;
        canvas.text(table, table.x + 1, table.y, "VM", theme.faint());
        for (arm, x, width) in &self.arms {
            let own = Rect { x: *x, width: *width, height: 1, ..table };
            let (mark, style) = if *arm == shown { (">", theme.strong()) } else { ("", theme.faint()) };
            canvas.right(own, &format!("{mark}{arm}"), style);
        }
    }

    /// A line of the table, if it is within; what is unknown is n/a.
    fn row(
        &self,
        canvas: &mut Canvas<'_>,
        line: Rect,
        name: &str,
        style: Style,
        of: impl Fn(Arm) -> Option<String>,
    ) {
        let theme = canvas.theme;
        let own = Rect { width: self.name_width.min(line.width), ..line };
        canvas.text(own, own.x, own.y, name, style);
        for (arm, x, width) in &self.arms {
            let own = Rect { x: *x, width: *width, ..line };
            match of(*arm) {
                Some(text) => canvas.right(own, &text, style),
                None => canvas.right(own, "n/a", theme.warning()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arm_shown_always_has_a_column_within_the_table() {
        for width in [60, 70, 80, 120, 200] {
            let table = Rect::new(0, 3, width, 9);
            for shown in Arm::ALL {
                for longest in [0, 15, 400] {
                    let columns = Columns::new(table, longest, &Arm::ALL, shown);
                    assert!(columns.arms.iter().any(|(arm, ..)| *arm == shown), "{shown} of {width}");
                    let mut end = table.x + columns.name_width;
                    for (_, x, width) in &columns.arms {
                        assert_eq!(*x, end);
                        end += width;
                    }
                    assert!(end <= table.right(), "{shown} of {width}");
                }
            }
        }
        let all = Columns::new(Rect::new(0, 0, 200, 9), 5, &Arm::ALL, Arm::Control);
        assert_eq!(all.arms.len(), Arm::ALL.len());
    }

    #[test]
    fn misses_above_none_never_read_as_none() {
        assert_eq!((misses(0.0), misses(0.01), misses(12.34)), ("0.0".into(), "<0.1".into(), "12.3".into()));
        assert_eq!((misses(12_345.0), misses(1e300)), ("12.3k".into(), "1.0e300".into()));
    }
}
