//! Readable tables and the JSON beside them.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::failure::Failure;

/// A table without lines, left-aligned, for the terminal.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table
}

/// Aligns these columns to the right, as numbers are.
pub(crate) fn right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Writes to stdout; a reader that has gone away (`| head`) is no failure of ours.
pub(crate) fn print(text: impl std::fmt::Display) -> Result<(), Failure> {
    use std::io::Write;
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}

/// Prints a table with its trailing white space cut.
pub(crate) fn print_table(table: &Table) -> Result<(), Failure> {
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    print(lines.join("\n"))
}

/// Prints one JSON value on one line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(serde_json::to_string(value).map_err(Failure::failed)?)
}
