//! Reads back what was recorded, by another way than the recorder's own code.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

/// Columns of numbers, rounded to integers, of all segments of a table, row by row; null where unavailable.
pub fn columns<const N: usize>(dir: &Path, names: [&str; N]) -> Vec<[Option<i64>; N]> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut rows = Vec::new();
    for path in paths {
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let value = |name: &str| {
                let (_, field) = row.get_column_iter().find(|(column, _)| *column == name).unwrap();
                match field {
                    Field::Null => None,
                    Field::Int(value) => Some(i64::from(*value)),
                    Field::UInt(value) => Some(i64::from(*value)),
                    Field::Long(value) => Some(*value),
                    Field::Double(value) => Some(value.round() as i64),
                    Field::ULong(value) => Some(i64::try_from(*value).unwrap()),
                    other => panic!("{name} holds {other}"),
                }
            };
            rows.push(names.map(value));
        }
    }
    rows
}
