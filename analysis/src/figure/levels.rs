//! Medians with their intervals as dots, in groups one below the other, on an axis that begins at 0.

use super::scale::Scale;
use super::{Anchor, Canvas, Figure, colour, shortened};
use crate::text::figure;

/// Letters of a name.
const LETTERS: usize = 28;

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    pub(crate) name: String,
    /// Number of its colour.
    pub(crate) colour: usize,
    pub(crate) value: f64,
    /// `None` if there are too few values for it.
    pub(crate) ci95: Option<[f64; 2]>,
}

/// Values under one heading.
#[derive(Clone, Debug)]
pub(crate) struct LevelGroup {
    pub(crate) title: String,
    pub(crate) levels: Vec<Level>,
}

/// Draws each value as a dot with its interval as a line; a value without an interval is an empty dot. Values that are not
/// finite are left out.
pub(crate) fn levels(id: &str, title: &str, unit: &str, groups: &[LevelGroup]) -> Figure {
    let finite = |level: &Level| {
        let ci95 = level.ci95.filter(|ends| ends.iter().all(|end| end.is_finite()));
        level.value.is_finite().then(|| Level { ci95, ..level.clone() })
    };
    let groups: Vec<LevelGroup> = groups
        .iter()
        .map(|group| LevelGroup {
            title: group.title.clone(),
            levels: group.levels.iter().filter_map(finite).collect(),
        })
        .filter(|group| !group.levels.is_empty())
        .collect();
    let all = || groups.iter().flat_map(|group| &group.levels);
    let (left, right, top, height, gap) = (200.0, 560.0, 12.0, 20.0, 26.0);
    let bottom = top + height * all().count() as f64 + gap * groups.len() as f64;
    let mut canvas = Canvas::new(760.0, bottom + 52.0);
    let ends = all().flat_map(|level| level.ci95.into_iter().flatten().chain([level.value]));
    let scale = Scale::over(ends, true, left, right);
    for (value, label) in scale.ticks() {
        canvas.line("grid", (scale.at(value), top), (scale.at(value), bottom));
        canvas.text(scale.at(value), bottom + 18.0, Anchor::Middle, "dim", &label);
    }
    canvas.line("axis", (scale.at(0.0), top), (scale.at(0.0), bottom));
    let mut y = top;
    for group in &groups {
        canvas.text(12.0, y + gap / 2.0 + 4.5, Anchor::Start, "dim", &shortened(&group.title, LETTERS));
        y += gap;
        for level in &group.levels {
            draw(&mut canvas, &scale, y + height / 2.0, level);
            let middle = y + height / 2.0 + 4.5;
            canvas.text(left - 10.0, middle, Anchor::End, "", &shortened(&level.name, LETTERS - 4));
            canvas.text(right + 14.0, middle, Anchor::Start, "", &text(level));
            y += height;
        }
    }
    canvas.text((left + right) / 2.0, bottom + 40.0, Anchor::Middle, "dim", unit);
    let told = |group: &LevelGroup| -> String {
        let levels: Vec<String> =
            group.levels.iter().map(|level| format!("{} {}", level.name, text(level))).collect();
        format!("{}: {}.", group.title, levels.join("; "))
    };
    let texts: Vec<String> = groups.iter().map(told).collect();
    canvas.finish(id, title, &format!("{unit}, medians with 95 % intervals. {}", texts.join(" ")))
}

fn draw(canvas: &mut Canvas, scale: &Scale, y: f64, level: &Level) {
    let ink = colour(level.colour);
    if let Some(ends) = level.ci95 {
        let [low, high] = ends.map(|end| scale.at(end));
        canvas.raw(format_args!(
            "<path class=\"interval\" d=\"M{low:.1} {y:.1}H{high:.1}M{low:.1} {0:.1}V{1:.1}M{high:.1} {0:.1}V{1:.1}\" \
             stroke=\"{ink}\" stroke-width=\"2.2\" fill=\"none\"/>",
            y - 4.0,
            y + 4.0
        ));
    }
    let fill = if level.ci95.is_some() { ink.as_str() } else { "none" };
    canvas.raw(format_args!(
        "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{ink}\" stroke-width=\"2\"/>",
        scale.at(level.value)
    ));
}

fn text(level: &Level) -> String {
    match level.ci95 {
        Some([low, high]) => format!("{} [{}, {}]", figure(level.value), figure(low), figure(high)),
        None => format!("{}, no interval", figure(level.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_on_one_axis_from_0_and_empty_without_an_interval() {
        let level = |name: &str, value, ci95| Level { name: name.into(), colour: 0, value, ci95 };
        let groups = [
            LevelGroup {
                title: "vm1".into(),
                levels: vec![level("recommended", 0.0, Some([0.0, 0.0])), level("opposed", 50.0, None)],
            },
            LevelGroup { title: "vm2".into(), levels: vec![level("opposed", 100.0, Some([90.0, 110.0]))] },
            LevelGroup { title: "nothing".into(), levels: vec![level("opposed", f64::NAN, None)] },
        ];
        let svg = levels("f", "Misses", "misses", &groups).file();
        let x = |line: &str| line.split_once("cx=\"")?.1.split('"').next()?.parse::<f64>().ok();
        let dots: Vec<f64> = svg.lines().filter(|line| line.starts_with("<circle")).filter_map(x).collect();
        assert_eq!(dots.len(), 3);
        assert!(dots[0] == 200.0 && ((dots[1] - 200.0) * 2.0 - (dots[2] - 200.0)).abs() < 0.2, "{dots:?}");
        assert_eq!(
            (svg.matches("fill=\"none\" stroke").count(), svg.matches("class=\"interval\"").count()),
            (1, 2)
        );
        assert!(!svg.contains(">nothing<") && svg.contains("50.00, no interval"), "{svg}");
    }
}
