//! From rows of the schema to Arrow.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use huddle_model::schema::{CellOf, Column, ColumnKind, Row, SCHEMA_VERSION, Table, Value};

/// The Arrow schema of a table; unit and meaning travel with each column.
pub(super) fn arrow_schema(table: Table) -> SchemaRef {
    let field = |column: &Column| {
        Field::new(column.name, data_type(column.kind), column.nullable).with_metadata(HashMap::from([
            ("unit".to_owned(), column.unit.to_owned()),
            ("meaning".to_owned(), column.meaning.to_owned()),
        ]))
    };
    let fields: Vec<Field> = table.columns().iter().map(field).collect();
    let about = HashMap::from([
        ("huddle.table".to_owned(), table.name().to_owned()),
        ("huddle.schema_version".to_owned(), SCHEMA_VERSION.to_string()),
    ]);
    Arc::new(Schema::new_with_metadata(fields, about))
}

/// The rows as one batch of `schema`, which is [`arrow_schema()`] of their table.
pub(super) fn batch<R: Row>(schema: SchemaRef, rows: &[R]) -> Result<RecordBatch, ArrowError> {
    let columns = R::COLUMNS.iter().zip(R::CELLS);
    RecordBatch::try_new(schema, columns.map(|(column, cell)| array(column.kind, rows, *cell)).collect())
}

fn data_type(kind: ColumnKind) -> DataType {
    match kind {
        ColumnKind::Bool => DataType::Boolean,
        ColumnKind::I32 => DataType::Int32,
        ColumnKind::U32 => DataType::UInt32,
        ColumnKind::I64 => DataType::Int64,
        ColumnKind::U64 => DataType::UInt64,
        ColumnKind::F64 => DataType::Float64,
        // Plain strings with Parquet's own dictionary encoding: as small as Arrow's dictionaries, and
        // every engine reads them alike.
        ColumnKind::Text => DataType::Utf8,
    }
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
