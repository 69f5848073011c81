//! Reads recordings independently of the recorder's own code.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

/// Columns of numbers, rounded to integers, of all segments of a table, row by row; null where unavailable.
pub fn columns<const N: usize>(dir: &Path, names: [&str; N]) -> Vec<[Option<i64>; N]> {
    rows(dir)
        .iter()
        .map(|row| {
            let value = |name: &str| match field(row, name) {
                Field::Null => None,
                Field::Int(value) => Some(i64::from(*value)),
                Field::UInt(value) => Some(i64::from(*value)),
                Field::Long(value) => Some(*value),
                Field::Double(value) => Some(value.round() as i64),
                Field::ULong(value) => Some(i64::try_from(*value).unwrap()),
                other => panic!("{name} holds {other}"),
            };
            names.map(value)
        })
        .collect()
}

/// All rows of all segments of a table, in order of segment.
pub fn rows(dir: &Path) -> Vec<Row> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| segment_rows(&path).unwrap()).collect()
}

/// All rows of a segment.
///
/// # Errors
/// The file cannot be opened, or is not the Parquet it should be.
pub fn segment_rows(path: &Path) -> Result<Vec<Row>, ParquetError> {
    SerializedFileReader::new(File::open(path)?)?.get_row_iter(None)?.collect()
}

/// A column of a row.
pub fn field<'a>(row: &'a Row, name: &str) -> &'a Field {
    row.get_column_iter().find(|(column, _)| *column == name).unwrap().1
}

/// The text in a column of a row.
///
/// # Panics
/// If the column does not hold text.
pub fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    match field(row, name) {
        Field::Str(text) => text,
        other => panic!("{name} holds {other}"),
    }
}

/// The number in a column of a row; `None` where it is null.
///
/// # Panics
/// If the column does not hold a number.
pub fn number(row: &Row, name: &str) -> Option<f64> {
    match field(row, name) {
        Field::Null => None,
        Field::Int(value) => Some(f64::from(*value)),
        Field::UInt(value) => Some(f64::from(*value)),
        Field::Long(value) => Some(*value as f64),
        Field::ULong(value) => Some(*value as f64),
        Field::Double(value) => Some(*value),
        other => panic!("{name} holds {other}"),
    }
}
