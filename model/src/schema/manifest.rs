//! `manifest.json`: who recorded what, when, where, and what could have disturbed it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::availability::Availability;
use crate::ksm::KsmState;
use crate::topology::CacheDomain;

/// The manifest of one recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `huddle/manifest/1`.
    pub schema: String,
    /// Version of the tables, [`super::SCHEMA_VERSION`] of the program that wrote it.
    pub schema_version: u32,
    /// Name of the run.
    pub run: String,
    /// Name of the host.
    pub host: String,
    /// When it began, in microseconds since the Unix epoch.
    pub begin_unix_us: u64,
    /// When it ended; `None` while it runs, or when it was cut off.
    pub end_unix_us: Option<u64>,
    /// How it ended.
    pub ended: EndState,
    /// Version of huddle.
    pub huddle_version: String,
    /// Revision of its source, where the build knew it.
    pub git_revision: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// Level of the caches that make the domains.
    pub cache_level: Option<u8>,
    /// The cache domains when it began.
    pub cache_domains: Vec<CacheDomain>,
    /// KSM when it began.
    pub ksm: Availability<KsmState>,
    /// Facts about the host, and what can disturb a measurement.
    pub environment: Vec<Fact>,
    /// What each table holds, by name.
    pub tables: BTreeMap<String, TableCounts>,
    /// Rounds that found the recorder busy and are in no table.
    pub rounds_lost: u64,
}

/// How a recording ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndState {
    /// It runs, or was cut off.
    Open,
    /// It was closed in order.
    Closed,
    /// Writing failed, with the reason; segments closed before are whole.
    Failed(String),
}

/// One fact about the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about.
    pub name: String,
    /// What the kernel says.
    pub value: Availability<String>,
}

/// What one table of a recording holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCounts {
    /// Closed segments that are there.
    pub segments: u64,
    /// Rows in them.
    pub rows: u64,
    /// Segments that were removed to keep within the limits.
    pub segments_removed: u64,
    /// Rows in those.
    pub rows_removed: u64,
}
