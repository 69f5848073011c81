//! Figures as static SVG: text stays text, a title and a description for screen readers, colours from a
//! palette for colour-blind readers (Okabe and Ito), light or dark by the reader's preference.

mod bars;
mod by_size;
mod distribution;
mod forest;
mod grid;
mod heatmap;
mod levels;
mod paired;
mod points;
mod residency;
mod scale;
mod series;

use std::fmt::Write as _;

pub(crate) use bars::{Bar, bars};
pub(crate) use by_size::{Origin, SizeLine, SizePoint, by_size};
pub(crate) use distribution::{Histogram, distribution};
pub(crate) use forest::{Effect, ForestGroup, ForestRow, forest};
pub(crate) use grid::{Grid, grid};
pub(crate) use heatmap::heatmap;
pub(crate) use levels::{Level, LevelGroup, levels};
pub(crate) use paired::{PairedArm, PairedBlock, Panel, paired};
pub(crate) use points::{ScatterPoint, spots};
pub(crate) use residency::{Stack, residency};
pub(crate) use series::{Line, Mark, series};

/// Colours of every figure; a page has them once, a separate file includes them.
pub(crate) const STYLE: &str = "\
svg.figure{--ink:#1a1a1a;--dim:#5c5c5c;--grid:#d9d9d9;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;\
--c4:#e69f00;--c5:#56b4e9;--c6:#8a7f00;--c7:#7a7a7a;font:13px system-ui,sans-serif;fill:var(--ink)}\
@media screen and (prefers-color-scheme:dark){svg.figure{--ink:#eee;--dim:#b0b0b0;--grid:#444;--c0:#4aa8e0;--c1:#f08a4b;\
--c2:#2fc79b;--c3:#e3a0c6;--c4:#f0b840;--c5:#86cdf5;--c6:#d8cc30;--c7:#a8a8a8}}\
svg.figure .dim{fill:var(--dim)}svg.figure .grid{stroke:var(--grid);stroke-width:1}\
svg.figure .axis{stroke:var(--dim);stroke-width:1}";

/// Number of colours.
const COLOURS: usize = 8;

/// A finished figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Unique within the report; also its file's name.
    pub(crate) id: String,
    /// One line.
    pub(crate) title: String,
    svg: String,
}

impl Figure {
    /// As part of a page with the common style.
    pub(crate) fn inline(&self) -> &str {
        &self.svg
    }

    /// As a separate file.
    pub(crate) fn file(&self) -> String {
        let styled = self.svg.replacen("</desc>", &format!("</desc><style>{STYLE}</style>"), 1);
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{styled}\n")
    }
}

/// Where a text is anchored.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// A figure under construction; y grows downwards.
struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

impl Canvas {
    fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// Adds an element verbatim.
    fn raw(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.raw(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        ));
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.raw(format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    /// A legend of names with the numbers of their colours, from left to right below `y`.
    fn legend<'a>(&mut self, left: f64, y: f64, names: impl Iterator<Item = (&'a str, usize)>) {
        let mut x = left;
        for (place, (name, number)) in names.enumerate() {
            let name = shortened(name, 28);
            let width = 26.0 + 7.2 * name.chars().count() as f64;
            let y = y + 18.0 * (place / 4) as f64;
            if place % 4 == 0 {
                x = left;
            }
            self.raw(format_args!(
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/>",
                y - 10.5,
                colour(number)
            ));
            self.text(x + 17.0, y, Anchor::Start, "", &name);
            x += width.max(120.0);
        }
    }

    fn finish(self, id: &str, title: &str, description: &str) -> Figure {
        let Self { width, height, body } = self;
        let svg = format!(
            "<svg class=\"figure\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>\n{body}</svg>",
            escape(title),
            escape(description)
        );
        Figure { id: id.to_owned(), title: title.to_owned(), svg }
    }
}

fn colour(number: usize) -> String {
    format!("var(--c{})", number % COLOURS)
}

/// Text for XML and HTML; control characters, which XML forbids, are replaced by visible ones.
pub(crate) fn escape(text: &str) -> String {
    huddle_model::text::xml(&crate::text::clean(text))
}

/// The name with control characters made visible, and cut in the middle where it is too long to draw.
fn shortened(name: &str, most: usize) -> String {
    let name = crate::text::clean(name);
    let count = name.chars().count();
    if count <= most {
        return name;
    }
    let half = most / 2;
    let head: String = name.chars().take(half).collect();
    let tail: String = name.chars().skip(count - (most - half - 1)).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escape("a<b>&\"'\n\u{1b}"), "a&lt;b&gt;&amp;&quot;&#39;\\n\\u{1b}");
        assert_eq!(shortened("abcdefghij", 5), "ab…ij");
        assert_eq!(shortened("abc", 5), "abc");
    }

    #[test]
    fn a_figure_has_a_title_and_a_description() {
        let figure = Canvas::new(10.0, 20.0).finish("f", "A <title>", "what it shows");
        let svg = figure.file();
        for words in
            ["role=\"img\"", "aria-labelledby=\"f-t f-d\"", "A &lt;title&gt;", ">what it shows<", "<style>"]
        {
            assert!(svg.contains(words), "{svg}");
        }
        assert!(!figure.inline().contains("<style>"));
    }

    /// Values that no measurement has, and that a damaged file may.
    const ODD: [f64; 13] = [
        0.0,
        -0.0,
        1.0,
        -3.7,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        5e-324,
        1e-290,
        1e16,
    ];

    #[test]
    fn no_value_whatever_leaves_a_number_that_is_none_in_a_figure() {
        for a in ODD {
            for b in ODD {
                for c in ODD {
                    for figure in of_odd_values(a, b, c) {
                        let svg = figure.inline();
                        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{a} {b} {c}: {svg}");
                    }
                }
            }
        }
    }

    fn of_odd_values(a: f64, b: f64, c: f64) -> Vec<Figure> {
        let row = |ci95| ForestRow { name: "r".into(), value: a, ci95 };
        let groups = [ForestGroup { title: "g".into(), rows: vec![row(Some([b, c])), row(None)] }];
        let arm = |median| PairedArm { name: "a".into(), colour: 0, median: Some(median) };
        let block = |values| PairedBlock { what: "b".into(), values };
        let panel = Panel {
            title: String::new(),
            arms: vec![arm(a), arm(b)],
            blocks: vec![block(vec![Some(a), Some(b)]), block(vec![Some(c), None])],
        };
        let bar = Bar { name: "b".into(), colour: 0, value: a, ci95: Some([b, c]), n: 1 };
        let line = Line { name: "l".into(), points: vec![(a, Some(b)), (c, None), (b, Some(c))] };
        let point = |kib, value| SizePoint { kib, value, ci95: Some([b, c]) };
        let by_sizes = SizeLine {
            name: "s".into(),
            origin: Origin::Simulated,
            points: vec![point(0, a), point(1, a), point(u64::MAX, c)],
            greatest_kib: Some(1),
        };
        let level = |ci95| Level { name: "l".into(), colour: 0, value: a, ci95 };
        let group = LevelGroup { title: "g".into(), levels: vec![level(Some([b, c])), level(None)] };
        let spot = ScatterPoint { x: a, y: b, y_ci95: Some([b, c]), what: "s".into() };
        vec![
            forest("f", "t", "u", Effect::Ratio, &groups),
            forest("f", "t", "u", Effect::Change, &groups),
            paired("p", "t", "u", std::slice::from_ref(&panel)),
            paired("p", "t", "u", &[panel.clone(), panel]),
            bars("b", "t", "u", &[bar]),
            by_size("s", "t", "u", &[by_sizes], Some(1 << 20)),
            levels("l", "t", "u", &[group]),
            series("s", "t", "u", &[line], &[Mark { at: 1.0, what: "m".into() }]),
            spots("s", "t", ("x", "y"), std::slice::from_ref(&spot), false),
            spots("s", "t", ("x", "y"), &[spot], true),
        ]
    }
}
