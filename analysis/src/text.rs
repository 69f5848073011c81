//! Text for people: tables, rates, times, and names that are safe for a terminal.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use huddle_model::stats::SampleFlags;
use huddle_model::text::plain;

/// A table with these headings; columns whose heading begins with `>` are aligned to the right.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table's lines without trailing spaces.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A name or sentence as plain text: names come from guests' command lines.
pub(crate) fn clean(text: &str) -> String {
    plain(text).into_owned()
}

/// Losses of an answer, a line each.
pub(crate) fn write_losses(f: &mut fmt::Formatter<'_>, losses: &[String]) -> fmt::Result {
    losses.iter().try_for_each(|loss| writeln!(f, "left out  {}", clean(loss)))
}

/// A rate (0 to 1) in percent.
pub(crate) fn percent(rate: f64) -> String {
    format!("{:.1} %", rate * 100.0)
}

/// A relative change in percent, always with its sign.
pub(crate) fn signed_percent(change: f64) -> String {
    let percent = change * 100.0;
    match percent.abs() {
        _ if !percent.is_finite() => "-".to_owned(),
        1e6.. => format!("{percent:+.2e} %"),
        _ => format!("{percent:+.1} %"),
    }
}

/// A figure with four significant digits.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "-".to_owned(),
        _ if size == 0.0 => "0".to_owned(),
        _ if !(1e-3..1e7).contains(&size) => format!("{value:.3e}"),
        _ => {
            let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
            format!("{value:.decimals$}")
        }
    }
}

/// A value, or `-` if it is unavailable.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Headings of the cells of [`flag_cells`].
pub(crate) const FLAG_HEADINGS: [&str; 5] =
    [">samples", ">without misses", ">multiplexed", ">moved caches", ">sharing broken"];

/// Samples and their flaws, as cells of a table. A flaw that is not known of some samples is a number of those of which
/// it is.
pub(crate) fn flag_cells(flags: &SampleFlags) -> [String; 5] {
    let of_known = |count: Option<u64>, unknown: u64| match count {
        Some(count) if unknown > 0 => format!("{count} of {}", flags.samples.saturating_sub(unknown)),
        count => or_dash(count),
    };
    [
        flags.samples.to_string(),
        flags.without_misses.to_string(),
        flags.multiplexed.to_string(),
        of_known(flags.moved_samples(), flags.without_moves),
        of_known(flags.broken_samples(), flags.without_breaks),
    ]
}

/// A duration in microseconds, rounded to seconds from a minute on.
pub(crate) fn duration(us: i64) -> String {
    let seconds = us / 1_000_000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) => format!("{:.3} s", us as f64 / 1e6),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, s) => format!("{h} h {m} min {s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(clean("a\u{1b}[2J\nb\u{e9}"), "a\\u{1b}[2J\\nb\u{e9}");
    }

    #[test]
    fn figures_have_four_digits() {
        for (value, text) in [
            (0.0, "0"),
            (12.3456, "12.35"),
            (0.012344, "0.01234"),
            (123_456.7, "123457"),
            (1e9, "1.000e9"),
            (-2.5e-5, "-2.500e-5"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(figure(value), text);
        }
        for (change, text) in [(0.25, "+25.0 %"), (-1e6, "-1.00e8 %"), (f64::MAX, "-"), (f64::NAN, "-")] {
            assert_eq!(signed_percent(change), text);
        }
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!(duration(1_500), "0.002 s");
        assert_eq!(duration(61_999_999), "1 min 1 s");
        assert_eq!(duration(3_600_000_000), "1 h 0 min 0 s");
    }
}
