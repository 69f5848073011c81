//! The sharing matrix as a heatmap: the paper's tables 1 to 4. Each cell has its number, so that nothing
//! depends on colour.

use super::{Anchor, Canvas, Figure, shortened};

/// With more VMs, numbers no longer fit in cells.
const NUMBERS_UP_TO: usize = 24;

/// Draws `rates[i][j]` (0 to 1), relative to the frames of row i's VM.
pub(crate) fn heatmap(id: &str, title: &str, names: &[String], rates: &[Vec<Option<f64>>]) -> Figure {
    let n = names.len();
    let cell = if n <= 8 {
        72.0
    } else if n <= NUMBERS_UP_TO {
        48.0
    } else {
        (1000.0 / n as f64).max(3.0)
    };
    let height = if n <= NUMBERS_UP_TO { cell * 0.6 } else { cell };
    let (left, top) = (150.0, 92.0);
    let mut canvas = Canvas::new(left + cell * n as f64 + 20.0, top + height * n as f64 + 30.0);
    let most = rates.iter().flatten().flatten().fold(0.0_f64, |most, rate| most.max(*rate));
    let named = n <= 60;
    for (i, name) in names.iter().enumerate().filter(|_| named) {
        let middle = top + height * (i as f64 + 0.5) + 4.5;
        canvas.text(left - 8.0, middle, Anchor::End, "", &shortened(name, 19));
        let x = left + cell * (i as f64 + 0.5);
        let name = super::escape(&shortened(name, 14));
        canvas.raw(format_args!(
            "<text transform=\"translate({x:.1} {:.1}) rotate(-35)\" text-anchor=\"start\">{name}</text>",
            top - 8.0
        ));
    }
    for (i, row) in rates.iter().enumerate() {
        for (j, rate) in row.iter().enumerate() {
            let (x, y) = (left + cell * j as f64, top + height * i as f64);
            // Rates far below the highest remain visible.
            let opacity = rate.map_or(0.0, |rate| 0.04 + 0.62 * (rate / most.max(1e-9)).clamp(0.0, 1.0));
            canvas.raw(format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{cell:.1}\" height=\"{height:.1}\" fill=\"var(--c0)\" \
                 fill-opacity=\"{opacity:.3}\" stroke=\"var(--grid)\"/>"
            ));
            if n <= NUMBERS_UP_TO {
                let text = rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1}", rate * 100.0));
                canvas.text(x + cell / 2.0, y + height / 2.0 + 4.5, Anchor::Middle, "", &text);
            }
        }
    }
    canvas.text(
        left,
        top + height * n as f64 + 20.0,
        Anchor::Start,
        "dim",
        "% of the frames that the row's VM uses",
    );
    let description = format!(
        "Heatmap of {n} by {n} VMs. A cell is the part of the frames used by the row's VM that it shares with the \
         column's VM, in percent; the highest is {:.1} percent. The numbers are in the table beside it.",
        most * 100.0
    );
    canvas.finish(id, title, &description)
}
