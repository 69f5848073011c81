//! One value against another: MPKI against shared frames, predicted against observed change.

use super::scale::Scale;
use super::{Anchor, Canvas, Figure};

/// One point, with the interval of its y value if there is one.
#[derive(Clone, Debug)]
pub(crate) struct ScatterPoint {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) y_ci95: Option<[f64; 2]>,
    /// Tooltip of the point.
    pub(crate) what: String,
}

/// Draws the points; with `diagonal` both axes are the same and the line of equal values is drawn.
pub(crate) fn spots(
    id: &str,
    title: &str,
    (x_unit, y_unit): (&str, &str),
    spots: &[ScatterPoint],
    diagonal: bool,
) -> Figure {
    let (left, right, top, bottom) = (80.0, 600.0, 14.0, 330.0);
    let mut canvas = Canvas::new(630.0, bottom + 50.0);
    let xs = || spots.iter().map(|spot| spot.x);
    let ys = || spots.iter().flat_map(|spot| spot.y_ci95.into_iter().flatten().chain([spot.y]));
    let both = || xs().chain(ys());
    let (across, up) = if diagonal {
        (Scale::over(both(), true, left, right), Scale::over(both(), true, bottom, top))
    } else {
        (Scale::over(xs(), false, left, right), Scale::over(ys(), true, bottom, top))
    };
    for (value, label) in up.ticks() {
        canvas.line("grid", (left, up.at(value)), (right, up.at(value)));
        canvas.text(left - 8.0, up.at(value) + 4.5, Anchor::End, "dim", &label);
    }
    for (value, label) in across.ticks() {
        canvas.line("grid", (across.at(value), top), (across.at(value), bottom));
        canvas.text(across.at(value), bottom + 18.0, Anchor::Middle, "dim", &label);
    }
    if diagonal && let (Some(first), Some(last)) = (across.ticks().first(), across.ticks().last()) {
        let (from, to) = ((across.at(first.0), up.at(first.0)), (across.at(last.0), up.at(last.0)));
        canvas.line("axis", from, to);
    }
    for spot in spots {
        let (x, y) = (across.at(spot.x), up.at(spot.y));
        if let Some([low, high]) = spot.y_ci95 {
            canvas.raw(format_args!(
                "<path d=\"M{x:.1} {:.1}V{:.1}\" stroke=\"var(--ink)\" stroke-width=\"1.4\"/>",
                up.at(low),
                up.at(high)
            ));
        }
        canvas.raw(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"var(--c0)\" fill-opacity=\"0.6\"><title>{}</title></circle>",
            super::escape(&spot.what)
        ));
    }
    canvas.text((left + right) / 2.0, bottom + 40.0, Anchor::Middle, "dim", x_unit);
    let middle = (top + bottom) / 2.0;
    canvas.raw(format_args!(
        "<text class=\"dim\" transform=\"translate(18 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        super::escape(y_unit)
    ));
    let description =
        format!("{} points: {y_unit} against {x_unit}. The values are in the table below it.", spots.len());
    canvas.finish(id, title, &description)
}
