//! Distributions of latencies by arm: the paper's Figure 5.

use super::scale::Scale;
use super::{Anchor, Canvas, Figure, colour};

/// The histogram of one arm, with equal bins.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    pub(crate) name: String,
    /// Number of its colour.
    pub(crate) colour: usize,
    /// Lower end of the first bin.
    pub(crate) low: f64,
    /// Width of a bin.
    pub(crate) width: f64,
    /// Values in each bin; the last one includes all larger values.
    pub(crate) counts: Vec<u64>,
}

/// Draws the histograms as outlines over one axis, each relative to its own total.
pub(crate) fn distribution(id: &str, title: &str, unit: &str, arms: &[Histogram]) -> Figure {
    let (left, right, top, bottom) = (70.0, 690.0, 14.0, 270.0);
    let mut canvas = Canvas::new(720.0, bottom + 66.0 + 18.0 * (arms.len() / 4) as f64);
    let part =
        |arm: &Histogram, count: u64| count as f64 / arm.counts.iter().sum::<u64>().max(1) as f64 * 100.0;
    let end = |arm: &Histogram| arm.low + arm.width * arm.counts.len() as f64;
    let across = Scale::over(arms.iter().flat_map(|arm| [arm.low, end(arm)]), false, left, right);
    let parts = arms.iter().flat_map(|arm| arm.counts.iter().map(move |count| part(arm, *count)));
    let up = Scale::over(parts, true, bottom, top);
    for (value, label) in up.ticks() {
        canvas.line("grid", (left, up.at(value)), (right, up.at(value)));
        canvas.text(left - 8.0, up.at(value) + 4.5, Anchor::End, "dim", &format!("{label} %"));
    }
    for (value, label) in across.ticks() {
        canvas.text(across.at(value), bottom + 18.0, Anchor::Middle, "dim", &label);
    }
    canvas.line("axis", (left, bottom), (right, bottom));
    for (place, arm) in arms.iter().enumerate() {
        let mut path = format!("M{:.1} {bottom:.1}", across.at(arm.low));
        for (bin, count) in arm.counts.iter().enumerate() {
            let y = up.at(part(arm, *count));
            let x = across.at(arm.low + arm.width * (bin + 1) as f64);
            path.push_str(&format!("V{y:.1}H{x:.1}"));
        }
        path.push_str(&format!("V{bottom:.1}Z"));
        // Dashes distinguish the arms without colour.
        let dash = ["none", "7 3", "2 3", "9 3 2 3"][place % 4];
        canvas.raw(format_args!(
            "<path d=\"{path}\" fill=\"{0}\" fill-opacity=\"0.18\" stroke=\"{0}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
            colour(arm.colour)
        ));
    }
    canvas.text((left + right) / 2.0, bottom + 38.0, Anchor::Middle, "dim", unit);
    canvas.legend(left, bottom + 60.0, arms.iter().map(|arm| (arm.name.as_str(), arm.colour)));
    let texts: Vec<String> = arms
        .iter()
        .map(|arm| format!("{} with {} values", arm.name, arm.counts.iter().sum::<u64>()))
        .collect();
    canvas.finish(
        id,
        title,
        &format!(
            "Distributions of {unit}: {}. The quantiles are in the table of latencies.",
            texts.join(", ")
        ),
    )
}
