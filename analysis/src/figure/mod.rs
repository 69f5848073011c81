//! Figures as static SVG: text stays text, a title and a description for screen readers, colours from a
//! palette for colour-blind readers (Okabe and Ito), light or dark by the reader's preference.

mod bars;
mod distribution;
mod heatmap;
mod points;
mod residency;
mod scale;
mod series;

use std::fmt::Write as _;

pub(crate) use bars::{Bar, bars};
pub(crate) use distribution::{Histogram, distribution};
pub(crate) use heatmap::heatmap;
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

    /// A legend of names with their colours, from left to right below `y`.
    fn legend(&mut self, left: f64, y: f64, names: &[String]) {
        let mut x = left;
        for (place, name) in names.iter().enumerate() {
            let name = shortened(name, 28);
            let width = 26.0 + 7.2 * name.chars().count() as f64;
            let y = y + 18.0 * (place / 4) as f64;
            if place % 4 == 0 {
                x = left;
            }
            self.raw(format_args!(
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/>",
                y - 10.5,
                colour(place)
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

fn colour(place: usize) -> String {
    format!("var(--c{})", place % COLOURS)
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
}
