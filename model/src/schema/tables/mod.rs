//! The tables: one macro generates row type, columns, documentation and conversion of each.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Column, Row};

/// A visitor of the rows of each table.
pub trait TableVisitor {
    /// Its error.
    type Error;
    /// Called once per table, in the order of [`Table::ALL`].
    fn visit<R: Row>(&mut self, rows: &[R]) -> Result<(), Self::Error>;
}

/// The row types of some tables. The first line of each is the meaning of a row, in the code and in the schema.
macro_rules! rows {
    ($(
        #[doc = $row_doc:literal]
        $row:ident, $table:ident, $name:ident {
            $( #[doc = $meaning:literal] $field:ident: $type:ty, $unit:literal; )+
        }
    )+) => {
        $(
            #[doc = $row_doc]
            #[derive(Clone, Debug, PartialEq)]
            pub struct $row {
                $( #[doc = $meaning] pub $field: $type, )+
            }

            impl Row for $row {
                const TABLE: Table = Table::$table;
                const MEANING: &'static str = $row_doc.trim_ascii();
                const COLUMNS: &'static [Column] = &[$( Column {
                    name: stringify!($field),
                    kind: <$type as Cell>::KIND,
                    unit: $unit,
                    nullable: <$type as Cell>::NULLABLE,
                    meaning: $meaning.trim_ascii(),
                }, )+];
                const CELLS: &'static [CellOf<Self>] = &[$( $name::$field, )+];
                fn of<'a>(mut cell: impl FnMut(usize) -> Value<'a>) -> Option<Self> {
                    // Fields are evaluated in the order of writing, which is that of the columns.
                    let mut next = 0..;
                    let mut cell = || next.next().map_or(Value::Null, &mut cell);
                    Some(Self { $( $field: <$type as Cell>::of(cell())?, )+ })
                }
            }

            mod $name {
                use super::*;
                $( pub(super) fn $field(row: &$row) -> Value<'_> { Cell::value(&row.$field) } )+
            }
        )+
    };
}

mod engine;
mod fleet;
mod observation;
mod placement;
mod sharing;
mod workload;

pub use engine::*;
pub use fleet::*;
pub use observation::*;
pub use placement::*;
pub use sharing::*;
pub use workload::*;

/// The list of all tables.
macro_rules! tables {
    ($( $row:ident, $table:ident, $name:ident; )+) => {
        /// A table of a recording.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Table {
            $( #[doc = concat!("Its rows are [`", stringify!($row), "`].")] $table, )+
        }

        impl Table {
            /// All tables.
            pub const ALL: &'static [Self] = &[$( Self::$table, )+];

            /// Its name, which is also that of its directory in the run.
            pub fn name(self) -> &'static str {
                match self { $( Self::$table => stringify!($name), )+ }
            }

            /// Meaning of a row, one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$table => <$row as Row>::MEANING, )+ }
            }

            /// Its columns, in the order of the file.
            pub fn columns(self) -> &'static [Column] {
                match self { $( Self::$table => <$row as Row>::COLUMNS, )+ }
            }
        }

        /// Rows for every table.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Rows {
            $( #[doc = concat!("Rows of the table `", stringify!($name), "`.")] pub $name: Vec<$row>, )+
        }

        impl Rows {
            /// Number of rows of `table`.
            pub fn count(&self, table: Table) -> u64 {
                match table { $( Table::$table => self.$name.len() as u64, )+ }
            }

            /// Appends the rows of `more`.
            pub fn append(&mut self, more: Self) {
                $( self.$name.extend(more.$name); )+
            }

            /// Passes the rows of each table to `visitor`, and stops at its first error.
            pub fn visit<V: TableVisitor>(&self, visitor: &mut V) -> Result<(), V::Error> {
                $( visitor.visit(&self.$name)?; )+
                Ok(())
            }
        }
    };
}

tables! {
    SharingRow, Sharing, sharing;
    GroupRow, Groups, groups;
    VmRow, Vms, vms;
    PlacementRow, Placements, placements;
    DecisionRow, Decisions, decisions;
    KsmRow, Ksm, ksm;
    EventRow, Events, events;
    CounterRow, Counters, counters;
    ResidencyRow, Residency, residency;
    ExitRow, Exits, exits;
    MergingRow, Merging, merging;
    OccupancyRow, Occupancy, occupancy;
    ReportRow, Reported, reported;
    ResponseRow, Responses, responses;
    ProgramRow, Programs, programs;
    WindowRow, Windows, windows;
    TrialRow, Trials, trials;
    SketchRow, Sketches, sketches;
    HostRow, Hosts, hosts;
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An unknown table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown table {0:?}")]
pub struct UnknownTable(String);

impl std::str::FromStr for Table {
    type Err = UnknownTable;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|table| table.name() == name)
            .ok_or_else(|| UnknownTable(name.to_owned()))
    }
}
