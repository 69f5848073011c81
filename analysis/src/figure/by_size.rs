//! Ratios by size of data, of several sources, with the greatest of each marked.

use super::forest::is_wide;
use super::scale::Scale;
use super::{Anchor, Canvas, Figure, colour, escape, shortened};
use crate::text::figure;
use huddle_model::text::bytes;

/// Where a line's ratios come from: its marks, its dashes and its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Measured,
    Simulated,
    Predicted,
}

impl Origin {
    fn colour(self) -> usize {
        match self {
            Self::Measured => 0,
            Self::Simulated => 1,
            Self::Predicted => 2,
        }
    }

    fn dash(self) -> &'static str {
        match self {
            Self::Measured => "none",
            Self::Simulated => "8 4",
            Self::Predicted => "2 4",
        }
    }

    /// Aside, so that intervals of one size do not cover each other.
    fn aside(self) -> f64 {
        match self {
            Self::Measured => 0.0,
            Self::Simulated => 4.0,
            Self::Predicted => -4.0,
        }
    }
}

/// The ratio of one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SizePoint {
    /// KiB of data.
    pub(crate) kib: u64,
    pub(crate) value: f64,
    pub(crate) ci95: Option<[f64; 2]>,
}

/// The ratios of one source.
#[derive(Clone, Debug)]
pub(crate) struct SizeLine {
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) points: Vec<SizePoint>,
    /// The size whose ratio is marked as the greatest.
    pub(crate) greatest_kib: Option<u64>,
}

/// Draws a line for each source over the sizes, on a logarithmic axis, with intervals as strokes, a ring around the
/// greatest ratio of each, a dashed line at 1, and one at the size of a cache, if it lies between the sizes. Values that
/// are not finite are left out.
pub(crate) fn by_size(
    id: &str,
    title: &str,
    unit: &str,
    lines: &[SizeLine],
    cache_bytes: Option<u64>,
) -> Figure {
    let lines: Vec<SizeLine> = lines.iter().map(finite).filter(|line| !line.points.is_empty()).collect();
    let (left, right, top, bottom) = (70.0, 700.0, 26.0, 310.0);
    let mut canvas = Canvas::new(730.0, bottom + 52.0 + 20.0 * lines.len() as f64);
    let points = || lines.iter().flat_map(|line| &line.points);
    let mut sizes: Vec<u64> = points().map(|point| point.kib).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let across = Scale::logarithmic(sizes.iter().map(|kib| *kib as f64), left, right);
    let ends = points().flat_map(|point| point.ci95.into_iter().flatten().chain([point.value])).chain([1.0]);
    let up = if is_wide(ends.clone()) {
        Scale::logarithmic(ends, bottom, top)
    } else {
        Scale::over(ends, false, bottom, top)
    };
    for (value, label) in up.ticks() {
        canvas.line("grid", (left, up.at(value)), (right, up.at(value)));
        canvas.text(left - 8.0, up.at(value) + 4.5, Anchor::End, "dim", &label);
    }
    let mut labelled = f64::NEG_INFINITY;
    for kib in &sizes {
        let x = across.at(*kib as f64);
        canvas.line("axis", (x, bottom), (x, bottom + 4.0));
        if x - labelled > 54.0 {
            canvas.text(x, bottom + 18.0, Anchor::Middle, "dim", &size_text(*kib));
            labelled = x;
        }
    }
    canvas.line("axis", (left, bottom), (right, bottom));
    canvas.raw(format_args!(
        "<line class=\"none\" x1=\"{left:.1}\" y1=\"{0:.1}\" x2=\"{right:.1}\" y2=\"{0:.1}\" stroke=\"var(--ink)\" \
         stroke-width=\"1.4\" stroke-dasharray=\"5 3\"/>",
        up.at(1.0)
    ));
    cache(&mut canvas, &across, (top, bottom), &sizes, cache_bytes);
    for line in lines.iter().rev() {
        draw(&mut canvas, &across, &up, line);
    }
    let middle = (top + bottom) / 2.0;
    canvas.raw(format_args!(
        "<text class=\"dim\" transform=\"translate(18 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(unit)
    ));
    canvas.text((left + right) / 2.0, bottom + 36.0, Anchor::Middle, "dim", "data of a VM");
    for (place, line) in lines.iter().enumerate() {
        let y = bottom + 58.0 + 20.0 * place as f64;
        stroke(&mut canvas, line.origin, &format!("M{left:.1} {y:.1}h34"));
        mark(&mut canvas, line.origin, (left + 17.0, y), "");
        canvas.text(left + 44.0, y + 4.5, Anchor::Start, "", &shortened(&legend(line), 86));
    }
    let texts: Vec<String> = lines.iter().map(told).collect();
    canvas.finish(id, title, &format!("{unit} by size of data, with 95 % intervals. {}", texts.join(" ")))
}

/// The line with what can be drawn of it, by size.
fn finite(line: &SizeLine) -> SizeLine {
    let mut points: Vec<SizePoint> = line
        .points
        .iter()
        .filter(|point| point.value.is_finite() && point.kib > 0)
        .map(|point| SizePoint {
            ci95: point.ci95.filter(|ends| ends.iter().all(|end| end.is_finite())),
            ..*point
        })
        .collect();
    points.sort_by_key(|point| point.kib);
    SizeLine { points, ..line.clone() }
}

/// The size of a cache, where data of that size would lie.
fn cache(
    canvas: &mut Canvas,
    across: &Scale,
    (top, bottom): (f64, f64),
    sizes: &[u64],
    cache_bytes: Option<u64>,
) {
    let (Some(cache), Some(first), Some(last)) = (cache_bytes, sizes.first(), sizes.last()) else { return };
    let kib = cache as f64 / 1024.0;
    if !(*first as f64..=*last as f64).contains(&kib) {
        return;
    }
    let x = across.at(kib);
    canvas.raw(format_args!(
        "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"var(--dim)\" stroke-dasharray=\"3 3\"/>"
    ));
    canvas.text(x, top - 10.0, Anchor::Middle, "dim", &format!("one cache, {}", bytes(cache)));
}

fn draw(canvas: &mut Canvas, across: &Scale, up: &Scale, line: &SizeLine) {
    let at = |point: &SizePoint| (across.at(point.kib as f64) + line.origin.aside(), up.at(point.value));
    let path: String = line
        .points
        .iter()
        .enumerate()
        .map(|(place, point)| {
            let (x, y) = at(point);
            format!("{}{x:.1} {y:.1}", if place == 0 { 'M' } else { 'L' })
        })
        .collect();
    stroke(canvas, line.origin, &path);
    for point in &line.points {
        let (x, y) = at(point);
        if let Some([low, high]) = point.ci95 {
            let (low, high) = (up.at(low), up.at(high));
            canvas.raw(format_args!(
                "<path class=\"interval\" d=\"M{x:.1} {low:.1}V{high:.1}M{0:.1} {low:.1}H{1:.1}M{0:.1} {high:.1}H{1:.1}\" \
                 stroke=\"{2}\" stroke-width=\"1.6\" fill=\"none\"/>",
                x - 4.0,
                x + 4.0,
                colour(line.origin.colour())
            ));
        }
        mark(
            canvas,
            line.origin,
            (x, y),
            &format!("{}, {}: {}", line.name, size_text(point.kib), value(point)),
        );
        if line.greatest_kib == Some(point.kib) {
            canvas.raw(format_args!(
                "<circle class=\"greatest\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"9.5\" fill=\"none\" stroke=\"{}\" stroke-width=\"2.2\"/>",
                colour(line.origin.colour())
            ));
        }
    }
}

fn stroke(canvas: &mut Canvas, origin: Origin, path: &str) {
    canvas.raw(format_args!(
        "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{}\"/>",
        colour(origin.colour()),
        origin.dash()
    ));
}

/// A mark whose form tells its origin, so that nothing depends on colour.
fn mark(canvas: &mut Canvas, origin: Origin, (x, y): (f64, f64), tooltip: &str) {
    let path = match origin {
        Origin::Measured => format!("M{:.1} {y:.1}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0", x - 4.5),
        Origin::Simulated => format!("M{:.1} {:.1}h8v8h-8Z", x - 4.0, y - 4.0),
        Origin::Predicted => format!("M{x:.1} {:.1}l5 9h-10Z", y - 5.5),
    };
    canvas.raw(format_args!(
        "<path class=\"mark\" d=\"{path}\" fill=\"{}\"><title>{}</title></path>",
        colour(origin.colour()),
        escape(tooltip)
    ));
}

fn legend(line: &SizeLine) -> String {
    let greatest = line.points.iter().find(|point| line.greatest_kib == Some(point.kib));
    let greatest = greatest
        .map(|point| format!("; greatest, ringed: {} at {}", figure(point.value), size_text(point.kib)));
    format!("{}{}", line.name, greatest.unwrap_or_default())
}

fn value(point: &SizePoint) -> String {
    match point.ci95 {
        Some([low, high]) => format!("{} ({} to {})", figure(point.value), figure(low), figure(high)),
        None => format!("{}, no interval", figure(point.value)),
    }
}

fn told(line: &SizeLine) -> String {
    let points: Vec<String> =
        line.points.iter().map(|point| format!("{} {}", size_text(point.kib), value(point))).collect();
    format!("{}: {}.", legend(line), points.join("; "))
}

fn size_text(kib: u64) -> String {
    bytes(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(
        origin: Origin,
        values: &[(u64, f64)],
        ci95: Option<[f64; 2]>,
        greatest_kib: Option<u64>,
    ) -> SizeLine {
        let point = |(kib, value): &(u64, f64)| SizePoint { kib: *kib, value: *value, ci95 };
        SizeLine {
            name: format!("{origin:?}").to_lowercase(),
            origin,
            points: values.iter().map(point).collect(),
            greatest_kib,
        }
    }

    fn rings(svg: &str) -> Vec<f64> {
        let circles = svg.lines().filter(|line| line.starts_with("<circle class=\"greatest\""));
        let x = |line: &str| line.split_once("cx=\"")?.1.split('"').next()?.parse().ok();
        circles.map(|line| x(line).unwrap()).collect()
    }

    #[test]
    fn each_source_has_its_greatest_size_ringed_and_its_intervals() {
        let lines = [
            line(Origin::Measured, &[(512, 1.1), (1024, 2.0), (2048, 1.2)], Some([1.05, 2.1]), Some(1024)),
            line(Origin::Simulated, &[(512, 1.0), (1024, 1.8), (2048, 1.9)], None, Some(2048)),
            line(Origin::Predicted, &[], None, None),
        ];
        let svg = by_size("f", "Effect", "ratio of times", &lines, Some(1536 << 10)).file();
        let rings = rings(&svg);
        // The first line is drawn last, above the others.
        assert!(rings.len() == 2 && rings[0] > rings[1] + 100.0, "{rings:?}");
        assert_eq!(svg.matches("class=\"interval\"").count(), 3, "no interval without one");
        assert_eq!(svg.matches("class=\"mark\"").count(), 6 + 2, "of points and of the legend");
        assert!(
            svg.contains("greatest, ringed: 2.000 at 1 MiB") && svg.contains("one cache, 1.5 MiB"),
            "{svg}"
        );
        assert!(!svg.contains("predicted"), "what has no point is not in the legend");
    }

    #[test]
    fn a_cache_beyond_the_sizes_is_not_drawn() {
        let lines = [line(Origin::Measured, &[(512, 1.1), (1024, 2.0)], None, None)];
        for cache in [None, Some(0), Some(2 << 20), Some(u64::MAX)] {
            let svg = by_size("f", "Effect", "ratio", &lines, cache).file();
            assert!(!svg.contains("one cache") && rings(&svg).is_empty(), "{cache:?}");
        }
    }
}
