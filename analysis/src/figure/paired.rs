//! Values that are paired by block: each block a line from arm to arm, and their medians.

use super::scale::Scale;
use super::{Anchor, Canvas, Figure, colour, shortened};
use crate::text::figure;

/// The most blocks that are drawn in a panel.
const MOST_BLOCKS: usize = 200;

/// Width of what a figure of several panels has beside each other.
const ACROSS: f64 = 880.0;

/// An arm of a panel.
#[derive(Clone, Debug)]
pub(crate) struct PairedArm {
    pub(crate) name: String,
    /// Number of its colour.
    pub(crate) colour: usize,
    /// The median over blocks; `None` if there is none.
    pub(crate) median: Option<f64>,
}

/// A block of a panel.
#[derive(Clone, Debug)]
pub(crate) struct PairedBlock {
    /// Tooltip of its line.
    pub(crate) what: String,
    /// Its value in each arm, in their order.
    pub(crate) values: Vec<Option<f64>>,
}

/// The arms and blocks of one comparison.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// What distinguishes it from the others; empty if it is the only one.
    pub(crate) title: String,
    pub(crate) arms: Vec<PairedArm>,
    pub(crate) blocks: Vec<PairedBlock>,
}

/// Sizes of a panel, the same for all of a figure.
struct Layout {
    /// From one arm to the next.
    step: f64,
    height: f64,
    left: f64,
    /// Letters of a name on one line.
    letters: usize,
    /// Whole panel.
    width: f64,
    total_height: f64,
}

impl Layout {
    fn of(panels: &[Panel]) -> Self {
        let arms = panels.iter().map(|panel| panel.arms.len()).max().unwrap_or(0);
        let gaps = arms.saturating_sub(1).max(1) as f64;
        let (step, height) = if panels.len() > 1 {
            ((340.0 / gaps).clamp(96.0, 120.0), 170.0)
        } else {
            ((620.0 / gaps).clamp(96.0, 260.0), 280.0)
        };
        let letters = (step / 7.6) as usize;
        let names = panels.iter().flat_map(|panel| &panel.arms);
        let lines = names.map(|arm| wrapped(&arm.name, letters).len()).max().unwrap_or(1) as f64;
        let left = 70.0;
        let width = left + step * gaps + (step / 2.0).max(40.0);
        Self { step, height, left, letters, width, total_height: height + 66.0 + 15.0 * lines }
    }
}

/// Draws a panel for each comparison, each with an axis of its own. Values that are not finite are gaps.
pub(crate) fn paired(id: &str, title: &str, unit: &str, panels: &[Panel]) -> Figure {
    let layout = Layout::of(panels);
    let columns = ((ACROSS / layout.width) as usize).clamp(1, panels.len().max(1));
    let rows = panels.len().div_ceil(columns).max(1);
    let mut canvas =
        Canvas::new((layout.width * columns as f64).max(360.0), layout.total_height * rows as f64 + 8.0);
    for (place, panel) in panels.iter().enumerate() {
        let origin =
            (layout.width * (place % columns) as f64, layout.total_height * (place / columns) as f64);
        draw(&mut canvas, &layout, origin, unit, panel);
    }
    let texts: Vec<String> = panels.iter().map(told).collect();
    canvas.finish(id, title, &format!("{unit} of each block, a line from arm to arm. {}", texts.join(" ")))
}

fn draw(canvas: &mut Canvas, layout: &Layout, (x0, y0): (f64, f64), unit: &str, panel: &Panel) {
    let (top, bottom) = (y0 + 28.0, y0 + 28.0 + layout.height);
    let (left, at) = (x0 + layout.left, |arm: usize| x0 + layout.left + layout.step * arm as f64);
    let known = |value: Option<f64>| value.filter(|value| value.is_finite());
    let drawn: Vec<&PairedBlock> =
        panel.blocks.iter().step_by(panel.blocks.len().div_ceil(MOST_BLOCKS).max(1)).collect();
    let medians: Vec<Option<f64>> = panel.arms.iter().map(|arm| known(arm.median)).collect();
    let values = drawn.iter().flat_map(|block| block.values.iter().copied()).filter_map(known);
    let up = Scale::over(values.chain(medians.iter().copied().flatten()), false, bottom, top);
    let letters = (layout.width / 7.4) as usize;
    let heading = match (panel.title.as_str(), drawn.len() < panel.blocks.len()) {
        ("", false) => unit.to_owned(),
        (title, false) => shortened(title, letters),
        ("", true) => format!("{unit}, {} of {} blocks", drawn.len(), panel.blocks.len()),
        (title, true) => {
            format!(
                "{}, {} of {} blocks",
                shortened(title, letters.saturating_sub(18).max(12)),
                drawn.len(),
                panel.blocks.len()
            )
        }
    };
    canvas.text(
        x0 + 8.0,
        y0 + 14.0,
        Anchor::Start,
        if panel.title.is_empty() { "dim" } else { "" },
        &heading,
    );
    let right = at(panel.arms.len().saturating_sub(1)).max(left + 12.0);
    for (value, label) in up.ticks() {
        canvas.line("grid", (left, up.at(value)), (right, up.at(value)));
        canvas.text(left - 10.0, up.at(value) + 4.5, Anchor::End, "dim", &label);
    }
    for block in &drawn {
        let values: Vec<Option<f64>> = block.values.iter().copied().map(known).collect();
        let path = path(&values, at, &up);
        if !path.is_empty() {
            canvas.raw(format_args!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"var(--dim)\" stroke-opacity=\"0.5\" stroke-width=\"1.3\" \
                 stroke-linecap=\"round\"><title>{}</title></path>",
                super::escape(&block.what)
            ));
        }
    }
    canvas.raw(format_args!(
        "<path d=\"{}\" fill=\"none\" stroke=\"var(--ink)\" stroke-width=\"3\" stroke-linejoin=\"round\"/>",
        path(&medians, at, &up)
    ));
    for (place, (arm, median)) in panel.arms.iter().zip(&medians).enumerate() {
        let x = at(place);
        canvas.line("axis", (x, top), (x, bottom));
        if let Some(median) = median {
            canvas.raw(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"5.5\" fill=\"{}\" stroke=\"var(--ink)\"/>",
                up.at(*median),
                colour(arm.colour)
            ));
        }
        let lines = wrapped(&arm.name, layout.letters);
        for (line, text) in lines.iter().enumerate() {
            canvas.text(x, bottom + 20.0 + 15.0 * line as f64, Anchor::Middle, "", text);
        }
        let below = bottom + 20.0 + 15.0 * lines.len() as f64;
        let median = median.map_or_else(|| "no median".to_owned(), figure);
        canvas.text(x, below, Anchor::Middle, "dim", &median);
    }
}

/// A line through the values; a value between two gaps is a dot.
fn path(values: &[Option<f64>], at: impl Fn(usize) -> f64, up: &Scale) -> String {
    let mut path = String::new();
    let mut is_drawing = false;
    for (place, value) in values.iter().enumerate() {
        if let Some(value) = value {
            let command = if is_drawing { 'L' } else { 'M' };
            path.push_str(&format!("{command}{:.1} {:.1}", at(place), up.at(*value)));
            if !is_drawing {
                path.push_str("h0.1");
            }
        }
        is_drawing = value.is_some();
    }
    path
}

/// The name on lines of at most about `most` letters, broken at `_` and spaces.
fn wrapped(name: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    let name = shortened(name, 40);
    for word in name.split_inclusive(['_', ' ']) {
        match lines.last_mut() {
            Some(line) if line.is_empty() || line.chars().count() + word.chars().count() <= most => {
                line.push_str(word)
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| shortened(line.trim_end(), most.max(4))).collect()
}

fn told(panel: &Panel) -> String {
    let arms: Vec<String> = panel
        .arms
        .iter()
        .map(|arm| {
            format!("{} {}", arm.name, arm.median.map_or_else(|| "without a median".to_owned(), figure))
        })
        .collect();
    let title = if panel.title.is_empty() { String::new() } else { format!("{}: ", panel.title) };
    format!("{title}{} blocks, medians {}.", panel.blocks.len(), arms.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(values: &[&[Option<f64>]]) -> Panel {
        let arms = (0..values.first().map_or(0, |block| block.len())).map(|arm| PairedArm {
            name: format!("arm_{arm}"),
            colour: arm,
            median: Some(arm as f64 + 1.0),
        });
        let blocks = values
            .iter()
            .zip(1..)
            .map(|(block, n)| PairedBlock { what: format!("block {n}"), values: block.to_vec() });
        Panel { title: String::new(), arms: arms.collect(), blocks: blocks.collect() }
    }

    #[test]
    fn each_block_is_a_line_from_arm_to_arm_and_a_gap_ends_it() {
        let one =
            panel(&[&[Some(1.0), Some(2.0), Some(3.0)], &[Some(1.0), None, Some(3.0)], &[None, None, None]]);
        let svg = paired("p", "Blocks", "MPKI", &[one]).file();
        let lines: Vec<&str> = svg.lines().filter(|line| line.contains("<title>block")).collect();
        assert_eq!(lines.len(), 2, "a block without a value has no line: {svg}");
        assert_eq!((lines[0].matches('L').count(), lines[0].matches('M').count()), (2, 1));
        assert_eq!((lines[1].matches('L').count(), lines[1].matches('M').count()), (0, 2));
        // One median of each arm, and their line.
        assert_eq!((svg.matches("<circle").count(), svg.matches("stroke-width=\"3\"").count()), (3, 1));
        for words in [">arm_0<", ">arm_2<", "3 blocks, medians arm_0 1.000, arm_1 2.000"] {
            assert!(svg.contains(words), "{words} in {svg}");
        }
    }

    #[test]
    fn the_number_of_lines_is_bounded_and_said() {
        let values = [Some(1.0), Some(2.0)];
        let svg = paired("p", "Blocks", "MPKI", &[panel(&vec![&values[..]; 1001])]).file();
        assert_eq!(svg.matches("<title>block").count(), 167);
        assert!(svg.contains("MPKI, 167 of 1001 blocks"), "the figure says how many are drawn");
    }

    #[test]
    fn panels_do_not_overlap() {
        let one = Panel { title: "trial 1".into(), ..panel(&[&[Some(1.0), Some(2.0)]]) };
        let svg = paired("p", "Blocks", "MPKI", &vec![one; 7]).file();
        let begins: Vec<&str> = svg
            .lines()
            .filter(|line| line.contains(">trial 1<"))
            .filter_map(|line| line.split(" text-anchor").next())
            .collect();
        assert_eq!(begins.len(), 7);
        assert_eq!(begins.iter().collect::<std::collections::BTreeSet<_>>().len(), 7, "{begins:?}");
    }

    #[test]
    fn long_names_are_broken_where_they_have_words() {
        assert_eq!(wrapped("not_merged_opposed", 12), ["not_merged_", "opposed"]);
        assert_eq!(wrapped("recommended", 12), ["recommended"]);
        assert_eq!(wrapped("", 12), [""]);
    }
}
