//! The schema as a page for people and as JSON for programs, generated from the tables.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Column, ColumnKind, MANIFEST_FILE, OLDEST_SCHEMA_VERSION, SCHEMA_VERSION, Table};

/// The schema in a form for checking files in other languages.
#[derive(Serialize)]
struct Schema {
    schema: &'static str,
    schema_version: u32,
    tables: Vec<TableFact>,
}

#[derive(Serialize)]
struct TableFact {
    name: &'static str,
    since: u32,
    meaning: &'static str,
    columns: Vec<ColumnFact>,
}

#[derive(Serialize)]
struct ColumnFact {
    name: &'static str,
    arrow_type: &'static str,
    unit: &'static str,
    nullable: bool,
    meaning: &'static str,
}

impl ColumnKind {
    /// Name of the type in Arrow, as shown by the usual engines.
    pub fn arrow_name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I32 => "int32",
            Self::U32 => "uint32",
            Self::I64 => "int64",
            Self::U64 => "uint64",
            Self::F64 => "double",
            Self::Text => "string",
        }
    }
}

/// The page of the schema, as Markdown.
pub fn schema_page() -> String {
    let mut page = format!(
        "# Schema of recordings, version {SCHEMA_VERSION}\n\n\
         Made from `model/src/schema` by `cargo run --package huddle-analysis --example schema_page`; a test fails when it is old.\n\n\
         A run is a directory with `{MANIFEST_FILE}` and one directory per table, with the segments `segment-000001.parquet` and so \
         on. Names that begin with a dot are open segments, which cannot be read. A table has its directory from its first row \
         on, so a run may lack some. In a fleet a run is `host=NAME/run=ID`; no column has the name of a partition.\n\n\
         - Times are microseconds since the Unix epoch, UTC. Units are in the names of columns.\n\
         - Null is \"not available\", never zero; a column that is not nullable is never null.\n\
         - Files are compressed by zstd; unit and meaning of each column are also in the file's own metadata.\n\
         - A VM is held by a process (`vm_kind` process) or is a domain of Xen (xen_domain). `pid`, `vm_pid`, `thread` and start \
         times are of processes, `domid` is of domains; what does not apply is null. `uuid` is of either.\n\
         - Versions {OLDEST_SCHEMA_VERSION} to {SCHEMA_VERSION} are read. A table that came with a later version than the manifest's \
         does not exist. Before version 3 the column `ksm_run` of the table `ksm` was named `run`: read that table of old \
         recordings without the partitions of the path. Before version 4 there was no `vm_kind`, `uuid`, `domid`, `trial`, `nodes` of \
         placements, `pinning` of decisions and `run_ns` of counters, and a domain of Xen had its number as `pid` and `vm_pid`, the number of a vCPU as \
         `thread`, and the first 8 bytes of its UUID as start time. Before version 5 there was no `shared_file_frames` of sharing, and of \
         vms none of `private_file_bytes`, `shared_file_bytes`, `device_bytes`, `firmware_bytes` and `pages_file`; there was `pages_huge`, \
         always null. Before version 6 there was no `in_force` of placements and no `trial`, `evidence` and `evidence_required` of \
         trials, before version 7 no `read_by` and `read_by_reason` of sharing, before version 8 no \
         `shared_frames_read` and `read_window_ms` of sharing and no `reads_unavailable` of vms.\n"
    );
    for table in Table::ALL {
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "\n## {table}\n\n{} Since version {}.\n\n| column | type | unit | null | meaning |\n|---|---|---|---|---|\n",
            table.meaning(),
            table.since()
        );
        for Column { name, kind, unit, nullable, meaning } in table.columns() {
            let null = if *nullable { "may be" } else { "never" };
            let unit = if *unit == "none" { "" } else { *unit };
            let _ = writeln!(page, "| `{name}` | {} | {unit} | {null} | {meaning} |", kind.arrow_name());
        }
    }
    page
}

/// The schema as JSON: `{"schema":"huddle/schema/1","schema_version":..,"tables":[{"name","since","meaning",
/// "columns":[{"name","arrow_type","unit","nullable","meaning"}]}]}`.
///
/// # Errors
/// Never in practice: all of it can be written as JSON.
pub fn schema_json() -> Result<String, serde_json::Error> {
    let column = |column: &Column| ColumnFact {
        name: column.name,
        arrow_type: column.kind.arrow_name(),
        unit: column.unit,
        nullable: column.nullable,
        meaning: column.meaning,
    };
    let tables = Table::ALL.iter().map(|table| TableFact {
        name: table.name(),
        since: table.since(),
        meaning: table.meaning(),
        columns: table.columns().iter().map(column).collect(),
    });
    let schema =
        Schema { schema: "huddle/schema/1", schema_version: SCHEMA_VERSION, tables: tables.collect() };
    serde_json::to_string_pretty(&schema).map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_the_json_are_current() {
        for (name, written, made) in [
            ("docs/schema.md", include_str!("../../../docs/schema.md"), schema_page()),
            ("analysis/schema.json", include_str!("../../../analysis/schema.json"), schema_json().unwrap()),
        ] {
            assert!(
                written == made,
                "{name} is old: run `cargo run --package huddle-analysis --example schema_page`"
            );
        }
    }
}
