//! Matrices as tables of text: CSV in percent or fractions, as people and spreadsheets write it.
//!
//! The first line has the names of the VMs after one cell; each further line has a VM's name and its cells, in the same
//! order. Read without being asked: a byte order mark, `#` comments before the table, `sep=;` of Excel, fields separated
//! by commas, semicolons or tabs, decimal commas, `%` signs, quotes, any line end, empty cells and lines at the end.
//! The diagonal says nothing (a VM shares all with itself), so it may be 0, 1, 100, NaN, `-` or empty.
//!
//! Whether cells are percentages or fractions of 1 follows from a `%` sign, from a cell above 1, or from the diagonal. If
//! only the size of the cells speaks for fractions, a note says so; what contradicts itself is refused.

use std::sync::Arc;

use super::file::{MatrixFileError, check_vms};
use super::{Cells, MatrixVm, Method, SharingMatrix, Weigh};
use crate::page_size::PageSize;

/// A matrix that was read, and what the user should know of how it was read, one sentence each.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixFile {
    /// The matrix.
    pub matrix: SharingMatrix,
    /// What was assumed.
    pub notes: Vec<String>,
}

/// What a diagonal of numbers says of the unit of the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Diagonal {
    One,
    Hundred,
}

/// A cell off the diagonal.
#[derive(Clone, Copy, Debug)]
struct Number {
    value: f64,
    has_percent: bool,
}

/// A record of the table with the number of its first line, from 1.
struct Row {
    line: u64,
    cells: Vec<String>,
}

/// Position of a cell in the file, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    line: u64,
    column: usize,
}

impl Place {
    fn error(self, source: MatrixFileError) -> MatrixFileError {
        MatrixFileError::At { line: self.line, column: self.column, source: Box::new(source) }
    }
}

/// Reads a table.
///
/// # Errors
/// It is not square, its rows and columns differ, a cell is no rate, or its unit is contradictory.
pub(super) fn read(text: &str) -> Result<MatrixFile, MatrixFileError> {
    let rows = rows(text)?;
    let Some((header, rows)) = rows.split_first() else { return Err(MatrixFileError::Empty) };
    let vms: Vec<MatrixVm> = header.cells.iter().skip(1).map(MatrixVm::named).collect();
    check_vms(&vms)?;
    let mut numbers = Vec::with_capacity(vms.len());
    let mut diagonals = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        check_row(&vms, i, row)?;
        let mut found = Vec::with_capacity(vms.len());
        for (j, text) in row.cells[1..].iter().enumerate() {
            let place = Place { line: row.line, column: j + 2 };
            if i == j {
                diagonals.extend(diagonal(&vms, i, text).map_err(|error| place.error(error))?);
                found.push(Number { value: 0.0, has_percent: false });
            } else {
                found.push(number(&vms, i, j, text).map_err(|error| place.error(error))?);
            }
        }
        numbers.push(found);
    }
    if numbers.len() != vms.len() {
        return Err(MatrixFileError::NotSquare {
            what: "the first column".into(),
            found: numbers.len(),
            expected: vms.len(),
        });
    }
    let (scale, note) = unit(&vms, &numbers, &diagonals, rows)?;
    let rate =
        numbers.into_iter().map(|row| row.into_iter().map(|number| number.value / scale).collect()).collect();
    let cells = Cells {
        shared_frames: None,
        shared_file_frames: None,
        rate,
        rate_error: None,
        groups: None,
        rate_ci95: None,
    };
    let matrix = SharingMatrix {
        method: Method::File,
        vms,
        cells: Arc::new(cells),
        duration_ms: None,
        coverage: None,
        page_size: PageSize::default(),
        frame_reading: None,
        reads: None,
        weigh: Weigh::All,
    };
    Ok(MatrixFile { matrix, notes: note.into_iter().collect() })
}

/// The rows of the table without the empty cells and lines at its end.
fn rows(text: &str) -> Result<Vec<Row>, MatrixFileError> {
    let Table { text, lines_before, separator } = Table::of(text);
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .has_headers(false)
        .trim(csv::Trim::All)
        .delimiter(separator)
        .from_reader(text.as_bytes());
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| MatrixFileError::Syntax(error.to_string()))?;
        let line = lines_before + record.position().map_or(0, csv::Position::line);
        let cells: Vec<String> = record.iter().map(|cell| cell.trim().to_owned()).collect();
        rows.push(Row { line, cells });
    }
    while rows.last().is_some_and(|row: &Row| row.cells.iter().all(String::is_empty)) {
        rows.pop();
    }
    // A spreadsheet writes as many cells in each row as its widest row once had.
    if let Some(header) = rows.first_mut() {
        while header.cells.len() > 1 && header.cells.last().is_some_and(String::is_empty) {
            header.cells.pop();
        }
        let width = header.cells.len();
        for row in &mut rows[1..] {
            while row.cells.len() > width && row.cells.last().is_some_and(String::is_empty) {
                row.cells.pop();
            }
        }
    }
    Ok(rows)
}

/// The table in a file.
struct Table<'a> {
    text: &'a str,
    /// Lines before it.
    lines_before: u64,
    separator: u8,
}

impl<'a> Table<'a> {
    fn of(text: &'a str) -> Self {
        let (mut text, mut lines_before, mut separator) = (text, 0, None);
        loop {
            let end = text.find(['\n', '\r']).unwrap_or(text.len());
            let line = text[..end].trim();
            let declared = line.strip_prefix("sep=").filter(|rest| rest.len() == 1);
            if let Some(declared) = declared {
                separator = declared.bytes().next();
            } else if !line.starts_with('#') && (!line.is_empty() || end == text.len()) {
                break;
            }
            let rest = &text[end..];
            text = rest.strip_prefix("\r\n").or(rest.get(1..)).unwrap_or_default();
            lines_before += 1;
        }
        let separator = separator.unwrap_or_else(|| separator_of(text));
        Self { text, lines_before, separator }
    }
}

/// What separates the fields of the header: a tab or a semicolon if there is one outside of quotes, as they are rare in
/// names, else a comma.
fn separator_of(text: &str) -> u8 {
    let mut is_quoted = false;
    let mut found = [false; 2];
    for byte in text.bytes() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\n' | b'\r' if !is_quoted => break,
            b'\t' if !is_quoted => found[0] = true,
            b';' if !is_quoted => found[1] = true,
            _ => {}
        }
    }
    match found {
        [true, _] => b'\t',
        [false, true] => b';',
        [false, false] => b',',
    }
}

/// Whether a row is that of the VM in its place, with a cell for each VM.
fn check_row(vms: &[MatrixVm], i: usize, row: &Row) -> Result<(), MatrixFileError> {
    let name = row.cells.first().map(String::as_str).unwrap_or_default();
    let at = |column| Place { line: row.line, column };
    match vms.get(i) {
        Some(vm) if vm.name == name => {}
        Some(vm) => {
            let (found, expected) = (name.to_owned(), vm.name.clone());
            return Err(at(1).error(MatrixFileError::RowName { row: i + 1, found, expected }));
        }
        None => {
            let what = format!("the file, with a row for {name:?},");
            let error = MatrixFileError::NotSquare { what, found: i + 1, expected: vms.len() };
            return Err(at(1).error(error));
        }
    }
    let found = row.cells.len() - 1;
    if found == vms.len() {
        return Ok(());
    }
    let what = format!("the row of {name:?}");
    Err(at(row.cells.len()).error(MatrixFileError::NotSquare { what, found, expected: vms.len() }))
}

/// What a cell of the diagonal says of the unit.
fn diagonal(vms: &[MatrixVm], i: usize, text: &str) -> Result<Option<Diagonal>, MatrixFileError> {
    if is_missing(text) {
        return Ok(None);
    }
    let found = parse(text).and_then(|number| match (number.value, number.has_percent) {
        (0.0, _) => Some(None),
        (1.0, false) => Some(Some(Diagonal::One)),
        (100.0, _) => Some(Some(Diagonal::Hundred)),
        _ => None,
    });
    let expected = "0, 1, 100, NaN, - or nothing on the diagonal";
    found.ok_or_else(|| cell(vms, i, i, text, expected))
}

fn number(vms: &[MatrixVm], i: usize, j: usize, text: &str) -> Result<Number, MatrixFileError> {
    if is_missing(text) {
        let expected = "a number off the diagonal (0 only if the two are known to share nothing)";
        return Err(cell(vms, i, j, text, expected));
    }
    parse(text)
        .filter(|number| (0.0..=100.0).contains(&number.value))
        .ok_or_else(|| cell(vms, i, j, text, "a percentage from 0 to 100, or a fraction from 0 to 1"))
}

/// As spreadsheets, pandas, NumPy and R write that there is no number.
fn is_missing(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["", "-", "\u{2013}", "\u{2014}", "nan", "na", "n/a", "#n/a", "null", "none"].contains(&text.as_str())
}

/// A number with a decimal point or comma, and perhaps a percent sign.
fn parse(text: &str) -> Option<Number> {
    let (digits, has_percent) = match text.strip_suffix('%') {
        Some(digits) => (digits.trim_end(), true),
        None => (text, false),
    };
    // One comma and no point: it is the point of another language, since no cell is above 100.
    let is_decimal_comma = digits.matches(',').count() == 1 && !digits.contains('.');
    let value = match is_decimal_comma {
        true => digits.replace(',', ".").parse(),
        false => digits.parse(),
    };
    value.ok().filter(|value: &f64| value.is_finite()).map(|value| Number { value, has_percent })
}

/// By what the cells are divided to be rates, and what the user should know of that.
fn unit(
    vms: &[MatrixVm],
    numbers: &[Vec<Number>],
    diagonals: &[Diagonal],
    rows: &[Row],
) -> Result<(f64, Option<String>), MatrixFileError> {
    let all = || numbers.iter().flatten();
    let is_one = diagonals.contains(&Diagonal::One);
    let is_hundred = diagonals.contains(&Diagonal::Hundred);
    let has_percent = all().any(|number| number.has_percent);
    if is_one && is_hundred {
        return Err(MatrixFileError::Unit("the diagonal has both 1 and 100"));
    }
    let greatest = all().map(|number| number.value).fold(0.0, f64::max);
    if is_one && (has_percent || greatest > 1.0) {
        // The first cell that does not fit, with its position.
        let flat =
            numbers.iter().enumerate().flat_map(|(i, row)| row.iter().enumerate().map(move |c| (i, c)));
        let bad = flat.into_iter().find(|(_, (_, number))| number.has_percent || number.value > 1.0);
        let error = MatrixFileError::Unit("the diagonal is 1, as for fractions, and a cell is a percentage");
        return Err(match bad {
            Some((i, (j, _))) => {
                let text = &rows[i].cells[j + 1];
                let expected = "a fraction from 0 to 1, since the diagonal is 1 (write 100 or - there if these are percentages)";
                Place { line: rows[i].line, column: j + 2 }.error(cell(vms, i, j, text, expected))
            }
            None => error,
        });
    }
    if has_percent || is_hundred || greatest > 1.0 || greatest == 0.0 {
        return Ok((100.0, None));
    }
    let note = match is_one {
        true => "its cells were read as fractions of 1 (0.5 is 50 %), since its diagonal is 1".to_owned(),
        false => format!(
            "its cells were read as fractions of 1 (0.5 is 50 %), since none is above 1 (the greatest is {greatest}); if they \
             are percentages, write 100 on the diagonal or a % sign after them"
        ),
    };
    Ok((1.0, Some(note)))
}

fn cell(vms: &[MatrixVm], i: usize, j: usize, text: &str, expected: &'static str) -> MatrixFileError {
    let (row, column) = (vms[i].name.clone(), vms[j].name.clone());
    MatrixFileError::Cell { row, column, text: text.to_owned(), expected }
}

#[cfg(test)]
mod tests;
