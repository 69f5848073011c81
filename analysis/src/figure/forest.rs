//! Ratios and changes with their intervals, one below the other, beside the line of no difference.

use super::scale::Scale;
use super::{Anchor, Canvas, Figure, shortened};
use crate::text::{figure, signed_percent};

/// From this ratio of the greatest to the smallest value on, ratios are on a logarithmic axis.
const WIDE: f64 = 4.0;

/// Letters of a name.
const LETTERS: usize = 42;

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct ForestRow {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// `None` if there are too few values for it.
    pub(crate) ci95: Option<[f64; 2]>,
}

/// Values under one heading.
#[derive(Clone, Debug)]
pub(crate) struct ForestGroup {
    /// Empty for none.
    pub(crate) title: String,
    pub(crate) rows: Vec<ForestRow>,
}

/// What the values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ratios: no difference is 1.
    Ratio,
    /// Relative changes as fractions, shown in percent: no difference is 0.
    Change,
}

impl Effect {
    fn none(self) -> f64 {
        match self {
            Self::Ratio => 1.0,
            Self::Change => 0.0,
        }
    }

    /// On the axis.
    fn value(self, value: f64) -> f64 {
        match self {
            Self::Ratio => value,
            Self::Change => value * 100.0,
        }
    }

    /// The row, if it has a value, without an interval that has no ends.
    fn finite(self, row: &ForestRow) -> Option<ForestRow> {
        let is_finite = |value: f64| self.value(value).is_finite();
        let ci95 = row.ci95.filter(|ends| ends.iter().copied().all(is_finite));
        is_finite(row.value).then(|| ForestRow { ci95, ..row.clone() })
    }

    fn text(self, row: &ForestRow) -> String {
        let one = |value: f64| match self {
            Self::Ratio => figure(value),
            Self::Change => signed_percent(value),
        };
        match row.ci95 {
            Some([low, high]) => format!("{} [{}, {}]", one(row.value), one(low), one(high)),
            None => format!("{}, no interval", one(row.value)),
        }
    }
}

/// Draws each value as a dot with its interval as a line; a value without an interval is an empty dot. Rows without
/// a finite value are left out.
pub(crate) fn forest(id: &str, title: &str, unit: &str, effect: Effect, groups: &[ForestGroup]) -> Figure {
    let groups: Vec<ForestGroup> = groups
        .iter()
        .map(|group| ForestGroup {
            title: group.title.clone(),
            rows: group.rows.iter().filter_map(|row| effect.finite(row)).collect(),
        })
        .filter(|group| !group.rows.is_empty())
        .collect();
    let rows = || groups.iter().flat_map(|group| &group.rows);
    // Headings, too, end before the axis begins.
    let words = rows().map(|row| &row.name).chain(groups.iter().map(|group| &group.title));
    let longest = words.map(|word| word.chars().count()).max().unwrap_or(0).min(LETTERS);
    let left = 28.0 + 7.2 * longest.max(8) as f64;
    let right = left + 330.0;
    let (top, row_height) = (12.0, 25.0);
    let lines =
        groups.iter().map(|group| group.rows.len() + usize::from(!group.title.is_empty())).sum::<usize>();
    let bottom = top + row_height * lines as f64 + 4.0;
    let mut canvas = Canvas::new(right + 236.0, bottom + 52.0);
    let ends = rows()
        .flat_map(|row| row.ci95.into_iter().flatten().chain([row.value]))
        .chain([effect.none()])
        .map(|value| effect.value(value));
    let scale = match effect {
        Effect::Ratio if is_wide(ends.clone()) => Scale::logarithmic(ends, left, right),
        Effect::Ratio | Effect::Change => Scale::over(ends, false, left, right),
    };
    for (value, label) in scale.ticks() {
        canvas.line("grid", (scale.at(value), top), (scale.at(value), bottom));
        canvas.text(scale.at(value), bottom + 18.0, Anchor::Middle, "dim", &label);
    }
    let none = scale.at(effect.value(effect.none()));
    canvas.raw(format_args!(
        "<line class=\"none\" x1=\"{none:.1}\" y1=\"{top:.1}\" x2=\"{none:.1}\" y2=\"{bottom:.1}\" stroke=\"var(--ink)\" \
         stroke-width=\"1.4\" stroke-dasharray=\"5 3\"/>"
    ));
    let mut y = top + row_height / 2.0;
    for group in &groups {
        if !group.title.is_empty() {
            canvas.text(12.0, y + 4.5, Anchor::Start, "dim", &shortened(&group.title, LETTERS));
            y += row_height;
        }
        for row in &group.rows {
            draw(&mut canvas, &scale, effect, y, row);
            canvas.text(left - 10.0, y + 4.5, Anchor::End, "", &shortened(&row.name, LETTERS));
            canvas.text(right + 14.0, y + 4.5, Anchor::Start, "", &effect.text(row));
            y += row_height;
        }
    }
    canvas.text((left + right) / 2.0, bottom + 40.0, Anchor::Middle, "dim", unit);
    let told = |group: &ForestGroup| -> String {
        let rows: Vec<String> =
            group.rows.iter().map(|row| format!("{} {}", row.name, effect.text(row))).collect();
        let heading = if group.title.is_empty() { String::new() } else { format!("{}: ", group.title) };
        format!("{heading}{}.", rows.join("; "))
    };
    let texts: Vec<String> = groups.iter().map(told).collect();
    canvas.finish(id, title, &format!("{unit}, with 95 % intervals. {}", texts.join(" ")))
}

fn draw(canvas: &mut Canvas, scale: &Scale, effect: Effect, y: f64, row: &ForestRow) {
    let fill = if let Some(ends) = row.ci95 {
        let [low, high] = ends.map(|end| scale.at(effect.value(end)));
        canvas.raw(format_args!(
            "<path d=\"M{low:.1} {y:.1}H{high:.1}M{low:.1} {:.1}V{:.1}M{high:.1} {:.1}V{:.1}\" stroke=\"var(--c0)\" \
             stroke-width=\"2.2\" fill=\"none\"/>",
            y - 5.0,
            y + 5.0,
            y - 5.0,
            y + 5.0
        ));
        "var(--c0)"
    } else {
        "none"
    };
    let x = scale.at(effect.value(row.value));
    canvas.raw(format_args!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"var(--c0)\" stroke-width=\"2\"/>"
    ));
}

/// Whether values reach so far that a linear axis would press most of them together, and all have a logarithm.
pub(super) fn is_wide(ends: impl Iterator<Item = f64>) -> bool {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for end in ends {
        low = low.min(end);
        high = high.max(end);
    }
    low > 0.0 && high / low > WIDE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: f64, ci95: Option<[f64; 2]>) -> ForestRow {
        ForestRow { name: name.into(), value, ci95 }
    }

    fn at(svg: &str, begin: &str, attribute: &str) -> Vec<f64> {
        let lines = svg.lines().filter(|line| line.starts_with(begin));
        let value = |line: &str| line.split_once(attribute)?.1.split('"').next()?.parse().ok();
        lines.map(|line| value(line).unwrap()).collect()
    }

    #[test]
    fn a_ratio_is_a_dot_with_its_interval_beside_the_line_at_1() {
        let rows =
            vec![row("slower", 1.3, Some([1.2, 1.4])), row("same", 1.0, None), row("no", f64::NAN, None)];
        let groups = [ForestGroup { title: String::new(), rows }];
        let svg = forest("f", "Ratios", "ratio of times", Effect::Ratio, &groups).file();
        let (dots, none) = (at(&svg, "<circle", " cx=\""), at(&svg, "<line class=\"none\"", " x1=\""));
        assert_eq!((dots.len(), none.len()), (2, 1), "{svg}");
        assert!(dots[0] > none[0] && dots[1] == none[0], "{dots:?} {none:?}");
        assert_eq!(svg.matches("stroke-width=\"2.2\"").count(), 1, "no interval without one");
        assert!(svg.contains("1.300 [1.200, 1.400]") && svg.contains("1.000, no interval"), "{svg}");
    }

    #[test]
    fn wide_ratios_are_as_far_from_1_on_both_sides() {
        let rows = vec![row("tenth", 0.1, None), row("ten", 10.0, None)];
        let groups = [ForestGroup { title: "all".into(), rows }];
        let svg = forest("f", "Ratios", "ratio", Effect::Ratio, &groups).file();
        let (dots, none) = (at(&svg, "<circle", " cx=\""), at(&svg, "<line class=\"none\"", " x1=\""));
        assert!(((none[0] - dots[0]) - (dots[1] - none[0])).abs() < 0.3, "{dots:?} {none:?}");
    }

    #[test]
    fn changes_are_in_percent_beside_the_line_at_0() {
        let groups =
            [ForestGroup { title: "MPKI".into(), rows: vec![row("paper", 0.25, Some([-0.1, 0.6]))] }];
        let svg = forest("f", "Changes", "change", Effect::Change, &groups).file();
        assert!(svg.contains("+25.0 % [-10.0 %, +60.0 %]") && svg.contains(">MPKI<"), "{svg}");
        assert!(at(&svg, "<circle", " cx=\"")[0] > at(&svg, "<line class=\"none\"", " x1=\"")[0]);
    }
}
