//! The schema of recordings: tables, their columns, and the manifest of a run.
//!
//! A run is a directory with `manifest.json` and one Parquet dataset per [`Table`]. Times are microseconds
//! since the Unix epoch (UTC) as signed 64-bit integers, as the timestamp functions of the usual engines
//! expect. Unavailable is null, never zero.
//!
//! Columns and row types come from one macro ([`tables`]), so that they cannot drift apart. A change
//! to a column's name, type, unit or meaning raises [`SCHEMA_VERSION`].

mod gap;
mod manifest;
mod observation_rows;
mod page;
mod rows;
mod stored;
mod tables;
mod update_rows;
mod vm_columns;

pub use gap::RecordingGap;
pub use manifest::{
    CacheFact, Environment, EventFact, Finding, MANIFEST_FILE, MANIFEST_SCHEMA, Manifest, ManifestError,
    SEGMENT_CHECKSUM, SketchFact, TableCounts, TopologyFact,
};
pub use observation_rows::{decision_row, observation_rows};
pub use page::{schema_json, schema_page};
pub use rows::{event_rows, round_rows};
pub use stored::{EXACT_IN_DOUBLE, Stored, double_of, whole_of};
pub use tables::*;
pub use update_rows::RowContext;
pub use vm_columns::{UuidText, VmColumns};

/// A name for a run that began at `begin_unix_us` and is recorded by the process `pid`: sorts by time, and
/// contains nothing special for a path or a shell.
pub fn run_id(begin_unix_us: i64, pid: u32) -> String {
    format!("{}-{pid}", crate::text::utc_compact(begin_unix_us))
}

/// Version of tables and columns.
///
/// 1: sharing, vms, placements, decisions, ksm, events. 2: adds counters, residency, exits, merging,
/// occupancy, reported, programs, windows, trials; the tables of 1 are unchanged. 3: adds responses; the
/// column `run` of ksm, which collided with the partition `run=`, is `ksm_run` ([`Table::column_name`]). 4: adds
/// `vm_kind`, `uuid` and `domid` wherever a VM is named, `trial` beside `arm` and `block`, `nodes` to placements,
/// `pinning` to decisions and `run_ns` to counters; columns of processes and threads are null for domains of Xen, which had their
/// numbers there and the first 8 bytes of the UUID as start time. 5: adds `shared_file_frames` to sharing, and the bytes
/// of files, devices and firmware and `pages_file` to vms, where `pages_huge`, which was always null, is gone. 6: adds
/// groups, `in_force` to placements, and `trial`, `evidence` and `evidence_required` to trials. 7: adds `read_by` and
/// `read_by_reason` to sharing. 8: adds `shared_frames_read` and `read_window_ms` to sharing, and `reads_unavailable` to
/// vms. 9: adds sketches and hosts, which belong to no round.
pub const SCHEMA_VERSION: u32 = 9;

/// The oldest version that is still read.
pub const OLDEST_SCHEMA_VERSION: u32 = 1;

impl Table {
    /// The schema version that introduced this table; older recordings do not have it.
    pub fn since(self) -> u32 {
        match self {
            Self::Sharing | Self::Vms | Self::Placements | Self::Decisions | Self::Ksm | Self::Events => 1,
            Self::Counters
            | Self::Residency
            | Self::Exits
            | Self::Merging
            | Self::Occupancy
            | Self::Reported
            | Self::Programs
            | Self::Windows
            | Self::Trials => 2,
            Self::Responses => 3,
            Self::Groups => 6,
            Self::Sketches | Self::Hosts => 9,
        }
    }

    /// The name of today's column `name` in recordings of `version`; `None` if they have no such column.
    pub fn column_name(self, name: &'static str, version: u32) -> Option<&'static str> {
        if version < self.column_since(name) {
            return None;
        }
        match (self, name) {
            (Self::Ksm, "ksm_run") if version < 3 => Some("run"),
            _ => Some(name),
        }
    }

    /// Columns that only recordings of `version` have; they are not read.
    pub fn former_columns(self, version: u32) -> &'static [&'static str] {
        match self {
            Self::Vms if version < 5 => &["pages_huge"],
            _ => &[],
        }
    }

    /// The schema version that introduced a column of this table; a column newer than its table may be null,
    /// and is in older recordings.
    pub fn column_since(self, name: &str) -> u32 {
        let later = match name {
            "vm_kind" | "uuid" | "domid" | "other_kind" | "other_uuid" | "other_domid" => 4,
            "trial" if self == Self::Trials => 6,
            "trial" => 4,
            "nodes" if self == Self::Placements => 4,
            "pinning" if self == Self::Decisions => 4,
            "run_ns" if self == Self::Counters => 4,
            "shared_file_frames" if self == Self::Sharing => 5,
            "private_file_bytes" | "shared_file_bytes" | "device_bytes" | "firmware_bytes" | "pages_file"
                if self == Self::Vms =>
            {
                5
            }
            "read_by" | "read_by_reason" if self == Self::Sharing => 7,
            "shared_frames_read" | "read_window_ms" if self == Self::Sharing => 8,
            "reads_unavailable" if self == Self::Vms => 8,
            "in_force" if self == Self::Placements => 6,
            "evidence" | "evidence_required" if self == Self::Trials => 6,
            _ => 1,
        };
        later.max(self.since())
    }

    /// Whether a column may be null in recordings of `version`.
    pub fn is_nullable(self, column: &Column, version: u32) -> bool {
        let of_processes = ["pid", "start_ticks", "vm_pid", "thread", "thread_start_ticks"];
        let was_never = version < 4 && self != Self::Sharing && of_processes.contains(&column.name);
        column.nullable && !was_never
    }
}

/// Type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    /// True or false.
    Bool,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
    /// 64-bit floating point number, finite.
    F64,
    /// UTF-8 text; names repeat and are dictionary-encoded in the file.
    Text,
}

/// One column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in the file, including its unit.
    pub name: &'static str,
    /// Type.
    pub kind: ColumnKind,
    /// Unit of the values; `none` for names, text and truth values.
    pub unit: &'static str,
    /// Whether a value may be missing, which means that it was not available.
    pub nullable: bool,
    /// Meaning of a value, one sentence.
    pub meaning: &'static str,
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Not available.
    Null,
    /// Of a [`ColumnKind::Bool`] column.
    Bool(bool),
    /// Of a [`ColumnKind::I32`] column.
    I32(i32),
    /// Of a [`ColumnKind::U32`] column.
    U32(u32),
    /// Of a [`ColumnKind::I64`] column.
    I64(i64),
    /// Of a [`ColumnKind::U64`] column.
    U64(u64),
    /// Of a [`ColumnKind::F64`] column.
    F64(f64),
    /// Of a [`ColumnKind::Text`] column.
    Text(&'a str),
}

/// A Rust type of a column, which connects a row's field to its column.
pub trait Cell {
    /// Type of the column.
    const KIND: ColumnKind;
    /// Whether the column may hold nulls.
    const NULLABLE: bool;
    /// The value in the column: null, or of [`Cell::KIND`].
    fn value(&self) -> Value<'_>;
    /// The value from the column; `None` if it is of another kind, or null in a non-nullable column.
    fn of(value: Value<'_>) -> Option<Self>
    where
        Self: Sized;
}

macro_rules! cells {
    ($($type:ty => $kind:ident),+ $(,)?) => {$(
        impl Cell for $type {
            const KIND: ColumnKind = ColumnKind::$kind;
            const NULLABLE: bool = false;
            fn value(&self) -> Value<'_> {
                Value::$kind(*self)
            }
            fn of(value: Value<'_>) -> Option<Self> {
                if let Value::$kind(value) = value { Some(value) } else { None }
            }
        }
    )+};
}
cells! { bool => Bool, i32 => I32, u32 => U32, i64 => I64, u64 => U64, f64 => F64 }

impl Cell for String {
    const KIND: ColumnKind = ColumnKind::Text;
    const NULLABLE: bool = false;
    fn value(&self) -> Value<'_> {
        Value::Text(self)
    }
    fn of(value: Value<'_>) -> Option<Self> {
        if let Value::Text(value) = value { Some(value.to_owned()) } else { None }
    }
}

impl<T: Cell> Cell for Option<T> {
    const KIND: ColumnKind = T::KIND;
    const NULLABLE: bool = true;
    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, T::value)
    }
    fn of(value: Value<'_>) -> Option<Self> {
        if value == Value::Null { Some(None) } else { T::of(value).map(Some) }
    }
}

/// A function that returns one column's value of a row.
pub type CellOf<R> = for<'a> fn(&'a R) -> Value<'a>;

/// A row of a table.
pub trait Row: Sized + 'static {
    /// The table of the row.
    const TABLE: Table;
    /// Meaning of a row, one sentence.
    const MEANING: &'static str;
    /// The columns, in the order of the file.
    const COLUMNS: &'static [Column];
    /// One for each of [`Row::COLUMNS`], in their order.
    const CELLS: &'static [CellOf<Self>];
    /// The row with these values, where `cell` returns the value at the position of a column; `None` if one
    /// is not of its column's kind, or null in a non-nullable column.
    fn of<'a>(cell: impl FnMut(usize) -> Value<'a>) -> Option<Self>;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn columns_are_named_once_with_their_unit() {
        for &table in Table::ALL {
            let mut names = BTreeSet::new();
            for column in table.columns() {
                assert!(names.insert(column.name), "{table}: {} twice", column.name);
                assert!(
                    column.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{table}: {}",
                    column.name
                );
                assert!(!column.meaning.is_empty() && column.meaning.ends_with('.'), "{table}: {column:?}");
                match column.unit {
                    // The kernel's name of a setting of KSM.
                    "ms" if column.name == "sleep_millisecs" => {}
                    "us" | "ns" | "bytes" | "ms" => {
                        let suffix = format!("_{}", column.unit);
                        assert!(column.name.ends_with(&suffix), "{table}: {column:?}");
                    }
                    "pages" | "frames" => {
                        assert!(column.name.split('_').any(|word| word == column.unit), "{table}: {column:?}")
                    }
                    "none" | "count" | "fraction" | "number" | "ticks" => {}
                    other => panic!("{table}: {} has the unit {other}, which no rule knows", column.name),
                }
            }
        }
    }

    #[test]
    fn rows_are_read_back_from_their_cells() {
        let row = EventRow {
            at_us: -7,
            round: 3,
            kind: "note".into(),
            vm: None,
            vm_kind: None,
            uuid: None,
            domid: None,
            message: "m".into(),
        };
        let read = |at: usize| EventRow::CELLS[at](&row);
        assert_eq!(EventRow::of(read).unwrap(), row);
        for (position, column) in EventRow::COLUMNS.iter().enumerate() {
            let with = |value| EventRow::of(|at| if at == position { value } else { read(at) });
            assert_eq!(with(Value::Null).is_some(), column.nullable, "{}", column.name);
            assert_eq!(with(Value::F64(0.0)), None, "{}", column.name);
        }
    }

    #[test]
    fn no_column_collides_with_a_partition_of_a_fleet() {
        for &table in Table::ALL {
            for column in table.columns() {
                assert!(!["host", "run"].contains(&column.name), "{table}: {}", column.name);
                let old = table.column_name(column.name, SCHEMA_VERSION);
                assert_eq!(old, Some(column.name), "{table}");
                // Columns missing from older recordings are null for them.
                assert!(
                    column.nullable || table.column_since(column.name) == table.since(),
                    "{table}: {column:?}"
                );
            }
        }
        assert_eq!(Table::Ksm.column_name("ksm_run", 2), Some("run"));
        assert_eq!(Table::Ksm.column_name("full_scans", 1), Some("full_scans"));
        assert_eq!(Table::Counters.column_name("run_ns", 3), None);
        assert_eq!(Table::Residency.column_name("run_ns", 3), Some("run_ns"));
        assert_eq!(Table::Vms.column_name("domid", 3), None);
        assert_eq!(Table::Vms.column_name("firmware_bytes", 4), None);
    }

    #[test]
    fn every_table_has_a_round_and_a_time() {
        for &table in Table::ALL {
            let first = table.columns()[0].name;
            let at_once = matches!(table, Table::Events | Table::Responses);
            assert_eq!(first, if at_once { "at_us" } else { "begin_us" }, "{table}");
            let has_rounds = !matches!(table, Table::Sketches | Table::Hosts);
            assert_eq!(table.columns().iter().any(|column| column.name == "round"), has_rounds, "{table}");
            assert_eq!(table.name().parse::<Table>().unwrap(), table);
        }
    }
}
