//! Values over time, with marks where something changed.

use super::scale::Scale;
use super::{Anchor, Canvas, Figure, colour};
use crate::text::figure;

/// One line: times in seconds and values; a gap where there is no value.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// A marked moment.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// In seconds.
    pub(crate) at: f64,
    pub(crate) what: String,
}

/// Draws the lines over time in seconds; marks are numbered, with their full text in the description.
pub(crate) fn series(id: &str, title: &str, unit: &str, lines: &[Line], marks: &[Mark]) -> Figure {
    let (left, right, top, bottom) = (70.0, 860.0, 26.0, 290.0);
    let mut canvas = Canvas::new(890.0, bottom + 66.0 + 18.0 * (lines.len() / 4) as f64);
    let times = lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let values = lines.iter().flat_map(|line| line.points.iter().filter_map(|point| point.1));
    let across = Scale::over(times.chain(marks.iter().map(|mark| mark.at)), true, left, right);
    let up = Scale::over(values.clone(), true, bottom, top);
    for (value, label) in up.ticks() {
        canvas.line("grid", (left, up.at(value)), (right, up.at(value)));
        canvas.text(left - 8.0, up.at(value) + 4.5, Anchor::End, "dim", &label);
    }
    for (value, label) in across.ticks() {
        canvas.text(across.at(value), bottom + 18.0, Anchor::Middle, "dim", &label);
    }
    canvas.line("axis", (left, bottom), (right, bottom));
    let mut last_label = f64::NEG_INFINITY;
    for (number, mark) in marks.iter().enumerate() {
        let x = across.at(mark.at);
        canvas.raw(format_args!(
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"var(--dim)\" stroke-dasharray=\"3 3\">\
             <title>{}</title></line>",
            top - 8.0,
            super::escape(&mark.what)
        ));
        if x - last_label > 22.0 {
            canvas.text(x, top - 11.0, Anchor::Middle, "dim", &(number + 1).to_string());
            last_label = x;
        }
    }
    // The first line last, so that it is drawn above the others.
    for (place, line) in lines.iter().enumerate().rev() {
        let mut path = String::new();
        let mut is_drawing = false;
        for (at, value) in &line.points {
            let Some(value) = value else {
                is_drawing = false;
                continue;
            };
            let command = if is_drawing { 'L' } else { 'M' };
            path.push_str(&format!("{command}{:.1} {:.1}", across.at(*at), up.at(*value)));
            // A value between two gaps is a dot.
            if !is_drawing {
                path.push_str("h0.1");
            }
            is_drawing = true;
        }
        if !path.is_empty() {
            let width = if place == 0 { 2.4 } else { 1.3 };
            canvas.raw(format_args!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" stroke-linecap=\"round\"/>",
                colour(place)
            ));
        }
    }
    canvas.text(
        (left + right) / 2.0,
        bottom + 38.0,
        Anchor::Middle,
        "dim",
        &format!("{unit}, over seconds since the first window"),
    );
    let names: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
    canvas.legend(left, bottom + 60.0, names.iter().map(String::as_str).zip(0..));
    let found: Vec<f64> = values.collect();
    let range = match (found.iter().copied().reduce(f64::min), found.iter().copied().reduce(f64::max)) {
        (Some(low), Some(high)) => format!("from {} to {}", figure(low), figure(high)),
        _ => "without a value".to_owned(),
    };
    let texts: Vec<String> = marks
        .iter()
        .take(20)
        .enumerate()
        .map(|(n, mark)| format!("{} at {:.1} s: {}", n + 1, mark.at, mark.what))
        .collect();
    let description = format!(
        "{unit} over time, {range}, for {}. {} marked changes. {}",
        names.join(", "),
        marks.len(),
        texts.join(". ")
    );
    canvas.finish(id, title, &description)
}
