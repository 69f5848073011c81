//! The index of one closed segment: which keys each of its row groups has.

use huddle_model::schema::{SCHEMA_VERSION, Table};
use huddle_recording::columns::{self, Footer};
use huddle_recording::rows::key;
use parquet::file::reader::ChunkReader;
use parquet::file::statistics::Statistics;

/// The index of a segment of `table`: the least and the greatest key of each row group. The key is the window, or
/// the round if the table has no windows; a row group without statistics may have every key.
///
/// # Errors
/// When it is not a Parquet file with the columns of this table: what is wrong, of any length.
pub fn row_group_keys(segment: &impl ChunkReader, table: Table) -> Result<Vec<(u64, u64)>, String> {
    Ok(key_spans(&columns::footer(segment, table, SCHEMA_VERSION)?, table))
}

/// Least and greatest key of each row group; without statistics, all keys.
pub(super) fn key_spans(footer: &Footer, table: Table) -> Vec<(u64, u64)> {
    let position = columns::leaf_of_64_bits(footer, key(table));
    let span = |statistics: Option<&Statistics>| match statistics {
        // An unsigned column is stored, and ordered, as the bits of a signed one.
        Some(Statistics::Int64(known)) => Some((*known.min_opt()? as u64, *known.max_opt()? as u64)),
        _ => None,
    };
    let groups = footer.metadata.metadata().row_groups().iter();
    groups
        .map(|group| {
            let column = position.and_then(|position| group.columns().get(position));
            let known = span(column.and_then(|column| column.statistics()));
            // In a signed column of another program, a negative value is not the least.
            known.filter(|(least, greatest)| least <= greatest).unwrap_or((0, u64::MAX))
        })
        .collect()
}
