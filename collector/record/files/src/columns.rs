//! The columns of one segment: whether they are those of its table, whoever wrote it, and their values in the types of
//! the schema.
//!
//! Replay and analysis both use this module, so both read the same files and refuse the others with the same sentence.
//! The rule is [`huddle_model::schema::Stored`].

use arrow_array::ArrayRef;
use arrow_schema::DataType;
use huddle_model::schema::{Column, ColumnKind, OLDEST_SCHEMA_VERSION, SCHEMA_VERSION, Stored, Table};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, Type};
use parquet::file::reader::ChunkReader;

use super::convert;
use super::guarded::{Threads, guarded};

/// Key of the schema version among the key-value metadata.
pub const VERSION_KEY: &str = "huddle.schema_version";
/// Key of the table's name among the key-value metadata.
pub const TABLE_KEY: &str = "huddle.table";

/// The footer of a segment whose columns were checked.
#[derive(Clone, Debug)]
pub struct Footer {
    /// As the Parquet reader has it.
    pub metadata: ArrowReaderMetadata,
    /// The version whose columns it has.
    pub version: u32,
    /// Columns that no version of the table has; they are not read.
    pub further: Vec<String>,
    /// Whether it has exactly the columns of its version, in their order and types, so that any reader can take them as
    /// they are.
    pub is_as_written: bool,
}

/// Reads the footer of a segment of `table` and checks its columns. The schema version is that of the file, or, where
/// another program has not kept it, `version`.
///
/// # Errors
/// It is not Parquet, or does not have the columns of the table: what is wrong, of any length.
pub fn footer(segment: &impl ChunkReader, table: Table, version: u32) -> Result<Footer, String> {
    // The types follow from Parquet's own; the Arrow schema in the file would have to be checked too.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = guarded(Threads::This, || ArrowReaderMetadata::load(segment, options))
        .map_err(|panicked| format!("its pages are damaged ({panicked})"))?
        .map_err(|error| error.to_string())?;
    check(metadata, table, version)
}

fn check(metadata: ArrowReaderMetadata, table: Table, version: u32) -> Result<Footer, String> {
    if value(&metadata, TABLE_KEY).is_some_and(|name| name != table.name()) {
        return Err(format!("it is not a segment of the table {table}"));
    }
    let version = match value(&metadata, VERSION_KEY) {
        None => version,
        Some(text) => {
            let known = |version: &u32| (OLDEST_SCHEMA_VERSION..=SCHEMA_VERSION).contains(version);
            text.parse().ok().filter(known).ok_or_else(|| {
                format!(
                    "it has schema version {text}, and this version reads {OLDEST_SCHEMA_VERSION} to {SCHEMA_VERSION} only"
                )
            })?
        }
    };
    check_codecs(&metadata)?;
    let drift =
        |what: String| format!("it does not have the columns of {table} in schema version {version}: {what}");
    let former = table.former_columns(version);
    // Former columns are not read, wherever they are.
    let fields = metadata.schema().fields().iter().filter(|field| !former.contains(&field.name().as_str()));
    let fields: Vec<_> = fields.cloned().collect();
    let mut expected = Vec::new();
    for column in table.columns() {
        // Columns of later versions are null for this segment.
        let Some(name) = table.column_name(column.name, version) else { continue };
        let mut named = fields.iter().filter(|field| field.name() == name);
        let field = named.next().ok_or_else(|| drift(format!("{name} is missing")))?;
        if named.next().is_some() {
            return Err(drift(format!("{name} is there twice")));
        }
        let of_version = Column { nullable: table.is_nullable(column, version), ..*column };
        if !of_version.accepts(stored(field.data_type())) {
            let found = type_name(field.data_type());
            return Err(drift(format!("{name} is {found}, and should hold {}", column.kind.words())));
        }
        expected.push((name, data_type(column.kind)));
    }
    let found = fields.iter().map(|field| (field.name().as_str(), field.data_type()));
    let is_as_written = found.eq(expected.iter().map(|(name, kind)| (*name, kind)));
    let is_known = |name: &String| expected.iter().any(|(known, _)| known == name);
    let further = fields.iter().map(|field| field.name()).filter(|name| !is_known(name)).cloned().collect();
    Ok(Footer { metadata, version, further, is_as_written })
}

/// Compressions that both readers can undo.
fn check_codecs(metadata: &ArrowReaderMetadata) -> Result<(), String> {
    let columns = metadata.metadata().row_groups().iter().flat_map(|group| group.columns());
    let codecs = columns.map(|column| column.compression());
    let is_read = |codec: &Compression| {
        matches!(
            codec,
            Compression::UNCOMPRESSED
                | Compression::SNAPPY
                | Compression::GZIP(_)
                | Compression::LZ4_RAW
                | Compression::ZSTD(_)
        )
    };
    match codecs.into_iter().find(|codec| !is_read(codec)) {
        None => Ok(()),
        Some(codec) => Err(format!(
            "it is compressed by {codec}: write it again with zstd, snappy, gzip, lz4_raw or without compression"
        )),
    }
}

/// A value of the file's key-value metadata.
fn value<'a>(metadata: &'a ArrowReaderMetadata, key: &str) -> Option<&'a str> {
    let about = metadata.metadata().file_metadata().key_value_metadata();
    let entry = about.into_iter().flatten().find(|entry| entry.key == key);
    entry.and_then(|entry| entry.value.as_deref())
}

/// Position of a column among the leaves of the file; `None` where it is not stored as a 64-bit integer.
pub fn leaf_of_64_bits(footer: &Footer, name: &str) -> Option<usize> {
    let leaves = footer.metadata.parquet_schema().columns();
    leaves.iter().position(|leaf| leaf.path().parts() == [name] && leaf.physical_type() == Type::INT64)
}

/// The values of a column in the type of the schema, as they are or converted; `first_row` is the number of its first
/// row, from 0.
///
/// # Errors
/// One is not a value of that type: which, and in which row.
pub fn in_schema(array: &ArrayRef, column: &Column, first_row: usize) -> Result<ArrayRef, String> {
    if *array.data_type() == data_type(column.kind) {
        return Ok(array.clone());
    }
    convert::to(array, column.kind).map_err(|unfit| {
        format!(
            "{} has {} in row {}, and should hold {}",
            column.name,
            unfit.value,
            first_row + unfit.row + 1,
            column.kind.words()
        )
    })
}

/// The Arrow type of a column of huddle's own segments.
pub fn data_type(kind: ColumnKind) -> DataType {
    match kind {
        ColumnKind::Bool => DataType::Boolean,
        ColumnKind::I32 => DataType::Int32,
        ColumnKind::U32 => DataType::UInt32,
        ColumnKind::I64 => DataType::Int64,
        ColumnKind::U64 => DataType::UInt64,
        ColumnKind::F64 => DataType::Float64,
        // Plain strings with Parquet's own dictionary encoding: as small as Arrow's dictionaries, and
        // every engine can read them.
        ColumnKind::Text => DataType::Utf8,
    }
}

fn stored(found: &DataType) -> Stored {
    match found {
        DataType::Boolean => Stored::Bool,
        found if found.is_integer() => Stored::Whole,
        DataType::Decimal128(_, 0) => Stored::Whole,
        DataType::Float32 | DataType::Float64 => Stored::Float,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Stored::Text,
        DataType::Dictionary(_, values) => match stored(values) {
            Stored::Text => Stored::Text,
            _ => Stored::Other,
        },
        DataType::Null => Stored::Nothing,
        _ => Stored::Other,
    }
}

/// The name of a type for a message, in one short word where it is nested.
fn type_name(found: &DataType) -> String {
    match found {
        found if found.is_nested() => "nested".to_owned(),
        found => found.to_string(),
    }
}
