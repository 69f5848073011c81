//! Tables for people, and JSON.
//!
//! Names and reasons in them are written by others, so all text is made plain before it is shown
//! ([`huddle_model::text::plain`]). JSON escapes by itself.

use comfy_table::{CellAlignment, presets};
use huddle_model::text::{plain, plain_lines};
use serde::Serialize;

use super::failure::Failure;

/// A table without lines, left-aligned, for the terminal.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    /// Adds a row; each cell becomes one line.
    pub(crate) fn add_row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| plain(&cell).into_owned()));
    }

    fn text(&self) -> String {
        let lines: Vec<String> = self.0.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }
}

/// A table with this header.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|name| plain(name)));
    Table(table)
}

/// Aligns these columns to the right, as numbers are.
pub(crate) fn right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.0.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Writes text of one or more lines to stdout.
pub(crate) fn print(text: impl std::fmt::Display) -> Result<(), Failure> {
    write(&plain_lines(&text.to_string()))
}

/// A closed pipe (`| head`) is not an error.
fn write(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}

/// Prints a table with its trailing white space cut.
pub(crate) fn print_table(table: &Table) -> Result<(), Failure> {
    write(&table.text())
}

/// Prints one JSON value on one line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    write(&serde_json::to_string(value).map_err(Failure::failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_adds_a_row_or_changes_the_direction_of_text() {
        let mut table = table(&["VM", "a\nb"]);
        table.add_row(["web\nforged  1".to_owned(), "gpj\u{202e}exe".to_owned()]);
        assert_eq!(table.text().lines().count(), 2);
        assert!(table.text().contains("web\\nforged  1") && table.text().contains("gpj\\u{202e}exe"));
    }
}
