//! From rows of the schema to Arrow.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use huddle_model::schema::{CellOf, Column, ColumnKind, Row, SCHEMA_VERSION, Table, Value};
use huddle_recording::columns::{TABLE_KEY, VERSION_KEY, data_type};

/// The Arrow schema of a table; each column has its unit and meaning as metadata.
pub(super) fn arrow_schema(table: Table) -> SchemaRef {
    let field = |column: &Column| {
        Field::new(column.name, data_type(column.kind), column.nullable).with_metadata(HashMap::from([
            ("unit".to_owned(), column.unit.to_owned()),
            ("meaning".to_owned(), column.meaning.to_owned()),
        ]))
    };
    let fields: Vec<Field> = table.columns().iter().map(field).collect();
    let about = HashMap::from([
        (TABLE_KEY.to_owned(), table.name().to_owned()),
        (VERSION_KEY.to_owned(), SCHEMA_VERSION.to_string()),
    ]);
    Arc::new(Schema::new_with_metadata(fields, about))
}

/// The rows as one batch of `schema`, which is [`arrow_schema()`] of their table.
pub(super) fn batch<R: Row>(schema: SchemaRef, rows: &[R]) -> Result<RecordBatch, ArrowError> {
    let columns = R::COLUMNS.iter().zip(R::CELLS);
    RecordBatch::try_new(schema, columns.map(|(column, cell)| array(column.kind, rows, *cell)).collect())
}

/// Text that one batch may have, in bytes: a column of text of 2 GiB or more has no offsets (Arrow's `Utf8`).
const MAX_TEXT_BYTES: usize = 64 << 20;

/// The rows in pieces that a batch can hold each, however long their texts are.
pub(super) fn pieces<R: Row>(rows: &[R]) -> impl Iterator<Item = &[R]> {
    pieces_of(rows, MAX_TEXT_BYTES)
}

fn pieces_of<R: Row>(rows: &[R], most: usize) -> impl Iterator<Item = &[R]> {
    let text = |row: &R| -> usize {
        let length = |cell: &CellOf<R>| if let Value::Text(text) = cell(row) { text.len() } else { 0 };
        R::CELLS.iter().map(length).sum()
    };
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut fits = |row: &R| {
            bytes += text(row);
            bytes <= most
        };
        // A row that is too long by itself is a piece of its own.
        let count = rest.iter().position(|row| !fits(row)).unwrap_or(rest.len()).max(1);
        let (piece, others) = rest.split_at_checked(count)?;
        rest = others;
        Some(piece)
    })
}

fn array<R: Row>(kind: ColumnKind, rows: &[R], cell: CellOf<R>) -> ArrayRef {
    // A cell's values are of its column's kind or null, since both come from the field's type
    // (`huddle_model::schema::Cell`).
    macro_rules! collect {
        ($array:ty, $kind:ident) => {
            Arc::new(
                rows.iter()
                    .map(|row| if let Value::$kind(value) = cell(row) { Some(value) } else { None })
                    .collect::<$array>(),
            )
        };
    }
    match kind {
        ColumnKind::Bool => collect!(BooleanArray, Bool),
        ColumnKind::I32 => collect!(Int32Array, I32),
        ColumnKind::U32 => collect!(UInt32Array, U32),
        ColumnKind::I64 => collect!(Int64Array, I64),
        ColumnKind::U64 => collect!(UInt64Array, U64),
        ColumnKind::F64 => collect!(Float64Array, F64),
        ColumnKind::Text => collect!(StringArray, Text),
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::schema::EventRow;

    use super::*;

    #[test]
    fn rows_are_cut_where_their_texts_are_too_long() {
        let row = |length: usize| EventRow {
            at_us: 1,
            round: 1,
            kind: String::new(),
            vm: None,
            vm_kind: None,
            uuid: None,
            domid: None,
            message: "x".repeat(length),
        };
        let rows: Vec<EventRow> = [3, 3, 4, 11, 0, 10, 1].map(row).into();
        let lengths: Vec<usize> = pieces_of(&rows, 10).map(<[_]>::len).collect();
        assert_eq!(lengths, [3, 1, 2, 1]);
        assert_eq!(pieces_of(&rows, 10).flatten().count(), rows.len());
        assert_eq!(pieces::<EventRow>(&[]).count(), 0);
    }
}
