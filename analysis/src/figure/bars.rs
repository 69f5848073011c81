//! Arms as bars with intervals: the paper's Figure 4.

use super::scale::Scale;
use super::{Anchor, Canvas, Figure, colour, shortened};
use crate::text::figure;

/// One bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    /// Number of its colour.
    pub(crate) colour: usize,
    pub(crate) value: f64,
    pub(crate) ci95: Option<[f64; 2]>,
    /// Number of values.
    pub(crate) n: usize,
}

/// Draws the bars one above the other, starting at 0, with `unit` below the axis.
pub(crate) fn bars(id: &str, title: &str, unit: &str, bars: &[Bar]) -> Figure {
    let (left, right, top, row) = (190.0, 560.0, 14.0, 40.0);
    let bottom = top + row * bars.len() as f64;
    let mut canvas = Canvas::new(720.0, bottom + 52.0);
    let ends = bars.iter().flat_map(|bar| bar.ci95.into_iter().flatten().chain([bar.value]));
    let scale = Scale::over(ends, true, left, right);
    for (value, label) in scale.ticks() {
        let x = scale.at(value);
        canvas.line("grid", (x, top), (x, bottom));
        canvas.text(x, bottom + 18.0, Anchor::Middle, "dim", &label);
    }
    for (place, bar) in bars.iter().enumerate() {
        let middle = top + row * (place as f64 + 0.5);
        let (zero, end) = (scale.at(0.0), scale.at(bar.value));
        canvas.raw(format_args!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"22\" fill=\"{}\" fill-opacity=\"0.75\"/>",
            zero.min(end),
            middle - 11.0,
            (end - zero).abs(),
            colour(bar.colour)
        ));
        let mut beyond = zero.max(end);
        if let Some([low, high]) = bar.ci95 {
            let (low, high) = (scale.at(low), scale.at(high));
            canvas.raw(format_args!(
                "<path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}V{:.1}M{high:.1} {:.1}V{:.1}\" stroke=\"var(--ink)\" \
                 stroke-width=\"1.6\" fill=\"none\"/>",
                middle - 6.0,
                middle + 6.0,
                middle - 6.0,
                middle + 6.0
            ));
            beyond = beyond.max(high);
        }
        canvas.text(left - 8.0, middle + 4.5, Anchor::End, "", &shortened(&bar.name, 24));
        canvas.text(
            beyond + 8.0,
            middle + 4.5,
            Anchor::Start,
            "",
            &format!("{} (n {})", figure(bar.value), bar.n),
        );
    }
    canvas.line("axis", (scale.at(0.0), top), (scale.at(0.0), bottom));
    canvas.text((left + right) / 2.0, bottom + 40.0, Anchor::Middle, "dim", unit);
    let texts: Vec<String> = bars
        .iter()
        .map(|bar| match bar.ci95 {
            Some([low, high]) => {
                format!("{} {} ({} to {})", bar.name, figure(bar.value), figure(low), figure(high))
            }
            None => format!("{} {}, too few values for an interval", bar.name, figure(bar.value)),
        })
        .collect();
    canvas.finish(id, title, &format!("Bars of {unit}, medians with 95 % intervals: {}.", texts.join("; ")))
}
