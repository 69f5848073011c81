//! Shares of one kind of thing on another as a grid of cells, each with its number, so that nothing depends on colour.

use super::{Anchor, Canvas, Figure, escape, shortened};

/// With more columns, numbers no longer fit in cells.
const NUMBERS_UP_TO: usize = 24;

/// Rows and columns by name, and `rates[row][column]` from 0 to 1.
pub(crate) struct Grid<'a> {
    pub(crate) rows: &'a [String],
    pub(crate) columns: &'a [String],
    pub(crate) rates: &'a [Vec<f64>],
    /// What a cell is, in percent.
    pub(crate) unit: &'a str,
}

/// Draws the grid.
pub(crate) fn grid(id: &str, title: &str, of: &Grid<'_>) -> Figure {
    let (rows, columns) = (of.rows.len(), of.columns.len());
    let cell = if columns <= NUMBERS_UP_TO { 44.0 } else { (1000.0 / columns as f64).max(6.0) };
    let (height, left, top) = (24.0, 210.0, 92.0);
    let bottom = top + height * rows as f64;
    // With few columns the text below them needs more room than they do.
    let width = (cell * columns as f64 + 60.0).max(330.0);
    let mut canvas = Canvas::new(left + width, bottom + 30.0);
    for (place, name) in of.rows.iter().enumerate() {
        let middle = top + height * (place as f64 + 0.5) + 4.5;
        canvas.text(left - 8.0, middle, Anchor::End, "", &shortened(name, 26));
    }
    for (place, name) in of.columns.iter().enumerate().filter(|_| cell >= 14.0) {
        let x = left + cell * (place as f64 + 0.5);
        canvas.raw(format_args!(
            "<text transform=\"translate({x:.1} {:.1}) rotate(-35)\" text-anchor=\"start\">{}</text>",
            top - 8.0,
            escape(&shortened(name, 14))
        ));
    }
    for (row, rates) in of.rates.iter().enumerate() {
        for (column, rate) in rates.iter().enumerate() {
            let (x, y) = (left + cell * column as f64, top + height * row as f64);
            let opacity = 0.04 + 0.62 * rate.clamp(0.0, 1.0);
            canvas.raw(format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{cell:.1}\" height=\"{height:.1}\" fill=\"var(--c0)\" \
                 fill-opacity=\"{opacity:.3}\" stroke=\"var(--grid)\"/>"
            ));
            if columns <= NUMBERS_UP_TO {
                let text = format!("{:.0}", rate * 100.0);
                canvas.text(x + cell / 2.0, y + height / 2.0 + 4.5, Anchor::Middle, "", &text);
            }
        }
    }
    canvas.text(left, bottom + 20.0, Anchor::Start, "dim", of.unit);
    let description = format!("Grid of {rows} rows and {columns} columns, in {}.", of.unit);
    canvas.finish(id, title, &description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_numbers_and_names_are_escaped() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (rows, columns) = (names(&["a<b"]), names(&["h1", "h2"]));
        let of = Grid { rows: &rows, columns: &columns, rates: &[vec![1.0, 0.25]], unit: "% of the row" };
        let svg = grid("id", "title", &of).file();
        assert!(svg.contains(">100</text>") && svg.contains(">25</text>") && svg.contains("a&lt;b"), "{svg}");
    }
}
