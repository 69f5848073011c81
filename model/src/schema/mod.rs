//! The schema of recordings: tables, columns with their types, units and meanings, and the rows that
//! one round of the loop becomes.
//!
//! Each table is written down once, by the macro `table!`, from which come both the row type and the
//! description of its columns: they cannot drift apart. Times are microseconds since the Unix epoch.
//! What was unavailable is null, never 0.

mod manifest;
mod rows;
mod table;

pub use manifest::{EndState, Fact, Manifest, TableCounts};
pub use rows::{DecisionRow, EventRow, KsmRow, PlacementRow, Rows, SharingRow, VmRow};
pub use table::{Cell, Column, ColumnType, Row, Table};

/// Version of the tables and their columns. A change that a reader could stumble over raises it.
pub const SCHEMA_VERSION: u32 = 1;
