//! The manifest of a new run.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::schema::{EventFact, Finding, MANIFEST_SCHEMA, Manifest, SCHEMA_VERSION, SketchFact};
use huddle_model::topology::{CacheInfo, Topology};

use super::read_environment;
use huddle_host::HostRoot;
pub use huddle_host::kernel::host_name;

/// What the caller knows of a run.
#[derive(Clone, Debug)]
pub struct RunAbout {
    /// Id of the run, as [`huddle_model::schema::run_id`] makes it.
    pub run: String,
    /// Name of the host, as [`host_name`] reads it.
    pub host: String,
    /// When it began, in microseconds since the Unix epoch.
    pub begin_us: i64,
    /// Version of huddle.
    pub huddle_version: String,
    /// Git revision of the build, where known.
    pub git_revision: Option<String>,
    /// The command line, program first.
    pub command_line: Vec<String>,
    /// Text of the configuration file, where one was given.
    pub config: Option<String>,
    /// The host's caches.
    pub caches: Availability<Vec<CacheInfo>>,
    /// The cache domains that are used.
    pub topology: Availability<Topology>,
    /// What `huddle doctor` found on the host; `None` if it was not run.
    pub findings: Option<Vec<Finding>>,
    /// The event that was chosen for each role of the counters.
    pub events: Vec<EventFact>,
    /// How sketches are made, if any are recorded.
    pub sketches: Option<SketchFact>,
}

/// The manifest of a run that begins now: what the caller knows and the facts of the host.
pub fn new_manifest(root: &HostRoot, about: RunAbout) -> Manifest {
    Manifest {
        schema: MANIFEST_SCHEMA.to_owned(),
        schema_version: SCHEMA_VERSION,
        run: about.run,
        host: about.host,
        begin_us: about.begin_us,
        end_us: None,
        stopped: None,
        huddle_version: about.huddle_version,
        git_revision: about.git_revision,
        command_line: about.command_line,
        config: about.config,
        environment: read_environment(root),
        caches: about.caches.map(|caches| caches.iter().map(Into::into).collect()),
        topology: about.topology.map(|topology| (&topology).into()),
        findings: about.findings,
        events: about.events,
        sketches: about.sketches,
        segment_checksum: None,
        gaps: Vec::new(),
        tables: BTreeMap::new(),
    }
}
