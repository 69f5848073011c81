//! `manifest.json` of a run: when and where it was recorded, the state of the host, and the counts of each
//! table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{OLDEST_SCHEMA_VERSION, RecordingGap, SCHEMA_VERSION, Table};
use crate::availability::Availability;
use crate::counters::CounterRole;
use crate::cpuset::CpuSet;
use crate::exits::ExitNumbering;
use crate::page_size::PageSize;
use crate::schedulers::{CacheAware, SchedExt};
use crate::topology::{CacheDomain, CacheInfo, CacheSets, CoreClasses, Topology, TopologyError};

/// Name of the manifest within the directory of a run.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The value of the manifest's `schema`.
pub const MANIFEST_SCHEMA: &str = "huddle/manifest/1";

/// What a manifest says of the checksum of its segments: CRC-32, kept in the value `huddle.segment` of the footer.
pub const SEGMENT_CHECKSUM: &str = "crc32";

/// The manifest of a run. During the run, the counts are those of the last closed segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// Version of the tables, [`OLDEST_SCHEMA_VERSION`] to [`SCHEMA_VERSION`]: an older one lacks the
    /// tables that came later ([`Table::since`]).
    pub schema_version: u32,
    /// Id of the run, unique on its host.
    pub run: String,
    /// Name of the host.
    pub host: String,
    /// When recording began, in microseconds since the Unix epoch.
    pub begin_us: i64,
    /// When recording ended; `None` while it runs, and if it was killed.
    pub end_us: Option<i64>,
    /// Why recording stopped before the run (for example a full disk); `None` if it did not.
    pub stopped: Option<String>,
    /// Version of huddle.
    pub huddle_version: String,
    /// Git revision huddle was built from, from `git describe --always --dirty`; `None` if it was built from
    /// a source archive.
    pub git_revision: Option<String>,
    /// The command line, program first.
    pub command_line: Vec<String>,
    /// The configuration in force when the recording began, if there is one: the text of its file, or, after a reload that
    /// could not apply all of it, the keys and values in force.
    pub config: Option<String>,
    /// State of the host at the start.
    pub environment: Environment,
    /// All caches of the host at the start.
    pub caches: Availability<Vec<CacheFact>>,
    /// The cache domains at the start.
    pub topology: Availability<TopologyFact>,
    /// Findings of `huddle doctor` at the start; `None` in older recordings.
    #[serde(default)]
    pub findings: Option<Vec<Finding>>,
    /// The event that was chosen for each role of the counters, and what it counts; none in older recordings, and where
    /// vCPUs have no counters. The table `windows` has which of them were counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventFact>,
    /// How the contents of the table `sketches` were hashed; `None` if there are none. Sketches of which this differs
    /// cannot be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketches: Option<SketchFact>,
    /// The checksum that every segment has in its footer: [`SEGMENT_CHECKSUM`]; `None` in recordings made before
    /// segments had one, in which damage may go unnoticed.
    #[serde(default)]
    pub segment_checksum: Option<String>,
    /// Times in which nothing could be recorded, the earliest first.
    #[serde(default)]
    pub gaps: Vec<RecordingGap>,
    /// Recorded and lost rows of each table.
    pub tables: BTreeMap<Table, TableCounts>,
}

/// Counts of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCounts {
    /// Closed segments, including those removed since; they are numbered from 1.
    pub segments_written: u64,
    /// Rows of those segments.
    pub rows_written: u64,
    /// Bytes of those segments' files.
    pub bytes_written: u64,
    /// Rows that could not be recorded: the channel was full or writing failed.
    pub rows_lost: u64,
    /// Closed segments removed since, oldest first, to stay within the limits of the recording.
    pub segments_removed: u64,
    /// Rows of the removed segments.
    pub rows_removed: u64,
}

/// One finding of `huddle doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its subject, as a heading.
    pub area: String,
    /// Stable name, like `ksm.run`.
    pub item: String,
    /// good, degraded or missing.
    pub state: String,
    /// The value read.
    pub value: String,
    /// Its effect on results.
    pub meaning: String,
    /// The remedy, if there is one.
    pub remedy: Option<String>,
}

/// The event that was chosen for a role of the counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFact {
    /// The role.
    pub role: CounterRole,
    /// Its name, or why there is none.
    pub event: Availability<String>,
    /// What it counts: which cache, and which look-ups of it; `None` if no document says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<String>,
    /// Where that is documented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What a reader should know of it, one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How sketches of contents were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SketchFact {
    /// One content in so many is kept.
    pub one_in: u64,
    /// Name of the keyed hash.
    pub hash: String,
    /// Name of the fleet's seed; the seed itself is secret.
    pub seed: String,
    /// Hash of nothing under the seed, as 16 hexadecimal digits: it differs where another seed has the same name.
    pub seed_check: String,
    /// Bytes of a page. Pages of different sizes have different contents.
    pub page_bytes: u64,
}

/// One cache of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFact {
    /// Level, 1 being nearest to the core.
    pub level: u8,
    /// Whether it holds instructions only.
    pub instruction_only: bool,
    /// CPUs that share it.
    pub cpus: CpuSet,
    /// Size in bytes, if known.
    pub size_bytes: Option<u64>,
}

/// The cache domains that huddle used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyFact {
    /// Cache level of the domains; `None` if they come from a file.
    pub level: Option<u8>,
    /// The domains in ascending order of id.
    pub domains: Vec<CacheDomain>,
    /// CPUs of one core each (SMT siblings); empty if unknown, and in older recordings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<CpuSet>,
    /// Classes of the cores; empty if all are of one class or unknown, and in older recordings.
    #[serde(default, skip_serializing_if = "CoreClasses::is_empty")]
    pub classes: CoreClasses,
    /// Whether the domains are NUMA nodes, since no shared cache is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_node: bool,
    /// How the caches are divided; empty if unknown, and in older recordings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<CacheSets>,
    /// What was inferred about the domains, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Facts about a host that matter for its figures, each with the reason if unknown. Texts are as the kernel
/// writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// `/proc/sys/kernel/osrelease`.
    pub kernel_release: Availability<String>,
    /// `/proc/version`.
    pub kernel_version: Availability<String>,
    /// Parameters of `/proc/cmdline` that change how CPUs and memory behave, such as `isolcpus=2-3`; the
    /// others are left out.
    pub kernel_parameters: Availability<Vec<String>>,
    /// Model name of the first CPU.
    pub cpu_model: Availability<String>,
    /// Whether the host itself runs under a hypervisor (the CPU flag `hypervisor`).
    pub is_guest: Availability<bool>,
    /// CPUs online, as a cpulist.
    pub cpus_online: Availability<String>,
    /// Memory of the host in bytes.
    pub memory_bytes: Availability<u64>,
    /// All of `/sys/kernel/mm/ksm`, raw, by the name of the file.
    pub ksm: Availability<BTreeMap<String, Availability<String>>>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`; the choice is in brackets.
    pub transparent_hugepage: Availability<String>,
    /// `/sys/kernel/mm/transparent_hugepage/khugepaged/defrag`: whether khugepaged collapses pages.
    pub khugepaged_defrag: Availability<String>,
    /// The CPUs' frequency governors, each with its number of CPUs.
    pub governors: Availability<BTreeMap<String, u32>>,
    /// Whether the CPUs may exceed their base frequency.
    pub frequency_boost: Availability<bool>,
    /// `/proc/sys/kernel/numa_balancing`; other than 0 means that the kernel moves pages and tasks.
    pub numa_balancing: Availability<u64>,
    /// `/sys/devices/system/cpu/smt/active`.
    pub smt_active: Availability<bool>,
    /// `/proc/sys/kernel/nmi_watchdog`; 1 means that the watchdog is on, which occupies a hardware counter of each CPU
    /// unless it is the buddy detector.
    pub nmi_watchdog: Availability<u64>,
    /// Settings of the kernel's cache-aware scheduling; `None` in older recordings.
    #[serde(default)]
    pub cache_aware_scheduling: Option<Availability<CacheAware>>,
    /// The scheduler that a BPF program brings along; `None` in older recordings.
    #[serde(default)]
    pub sched_ext: Option<Availability<SchedExt>>,
    /// Whether KVM hands the counters of the processor to its guests (`enable_mediated_pmu`); `None` in older
    /// recordings.
    #[serde(default)]
    pub mediated_vpmu: Option<Availability<bool>>,
    /// Bytes of a page, and so of a frame; `None` in older recordings, see [`Manifest::page_size`].
    #[serde(default)]
    pub page_bytes: Option<PageSize>,
    /// What the reasons of exits from guests are numbered by; `None` in older recordings.
    #[serde(default)]
    pub exit_reasons: Option<Availability<ExitNumbering>>,
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not a manifest.
    #[error("not a huddle manifest: {0}")]
    Json(String),
    /// A manifest of another kind.
    #[error("its schema is {0:?}, and this version reads {MANIFEST_SCHEMA:?} only")]
    Schema(String),
    /// Tables of another version.
    #[error(
        "its tables have schema version {0}, and this version reads {OLDEST_SCHEMA_VERSION} to {SCHEMA_VERSION} only"
    )]
    Version(u64),
}

impl Manifest {
    /// Reads a manifest of this or an older version, and rejects others by name.
    pub fn from_json(text: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
            schema_version: u64,
        }
        let json = |error: serde_json::Error| ManifestError::Json(error.to_string());
        // The version decides what the rest means, so it is checked first.
        let head: Head = serde_json::from_str(text).map_err(json)?;
        if head.schema != MANIFEST_SCHEMA {
            return Err(ManifestError::Schema(head.schema));
        }
        if !(u64::from(OLDEST_SCHEMA_VERSION)..=u64::from(SCHEMA_VERSION)).contains(&head.schema_version) {
            return Err(ManifestError::Version(head.schema_version));
        }
        serde_json::from_str(text).map_err(json)
    }

    /// The manifest as it is written: indented JSON with a final newline.
    pub fn to_json(&self) -> Result<String, ManifestError> {
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| ManifestError::Json(error.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    /// The size of the pages and frames of this recording: 4 KiB where it does not say, since those were made on x86.
    pub fn page_size(&self) -> PageSize {
        self.environment.page_bytes.unwrap_or_default()
    }

    /// Whether recordings of this manifest's version can have `table`.
    pub fn knows(&self, table: Table) -> bool {
        table.since() <= self.schema_version
    }

    /// Whether every segment was written with a checksum.
    pub fn has_checksums(&self) -> bool {
        self.segment_checksum.is_some()
    }

    /// What a reader has to know of how the recording went, one sentence each: where it was interrupted, and
    /// whether it stopped for good.
    pub fn interruptions(&self) -> impl Iterator<Item = String> + '_ {
        let stopped = self.stopped.iter().map(|why| format!("recording stopped before the run did: {why}"));
        stopped.chain(self.gaps.iter().map(RecordingGap::sentence))
    }

    /// The counts of one table; zeros if nothing of it was recorded.
    pub fn counts(&self, table: Table) -> TableCounts {
        self.tables.get(&table).copied().unwrap_or_default()
    }
}

impl TableCounts {
    /// Rows in the remaining segments.
    pub fn rows_kept(&self) -> u64 {
        self.rows_written.saturating_sub(self.rows_removed)
    }
}

impl From<&CacheInfo> for CacheFact {
    fn from(cache: &CacheInfo) -> Self {
        Self {
            level: cache.level,
            instruction_only: cache.instruction_only,
            cpus: cache.shared_cpus.clone(),
            size_bytes: cache.size_bytes,
        }
    }
}

impl TopologyFact {
    /// The topology.
    ///
    /// # Errors
    /// The domains make no topology.
    pub fn topology(&self) -> Result<Topology, TopologyError> {
        Topology::from_fact(self)
    }
}

impl From<&Topology> for TopologyFact {
    fn from(topology: &Topology) -> Self {
        Self {
            level: topology.level(),
            domains: topology.domains().to_vec(),
            cores: topology.cores().to_vec(),
            classes: topology.classes().clone(),
            by_node: topology.is_by_node(),
            sets: topology.sets().to_vec(),
            notes: topology.notes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let no = |why: &str| Availability::Unavailable(why.to_owned());
        Manifest {
            schema: MANIFEST_SCHEMA.into(),
            schema_version: SCHEMA_VERSION,
            run: "r".into(),
            host: "h".into(),
            begin_us: 1,
            end_us: None,
            stopped: None,
            huddle_version: "0.1.0".into(),
            git_revision: None,
            command_line: vec!["huddle".into(), "run".into()],
            config: Some("policy = \"paper\"\n".into()),
            environment: Environment {
                kernel_release: Availability::Available("6.18".into()),
                kernel_version: no("-"),
                kernel_parameters: Availability::Available(vec!["nosmt".into()]),
                cpu_model: no("-"),
                is_guest: Availability::Available(true),
                cpus_online: no("-"),
                memory_bytes: Availability::Available(1 << 34),
                ksm: Availability::Available(BTreeMap::from([(
                    "run".into(),
                    Availability::Available("1".into()),
                )])),
                transparent_hugepage: no("-"),
                khugepaged_defrag: no("-"),
                governors: Availability::Unavailable("no cpufreq".into()),
                frequency_boost: Availability::Unavailable("no cpufreq".into()),
                numa_balancing: Availability::Available(0),
                smt_active: Availability::Available(false),
                nmi_watchdog: Availability::Available(1),
                cache_aware_scheduling: Some(Availability::Unavailable("debugfs is not mounted".into())),
                sched_ext: Some(Availability::Available(SchedExt {
                    state: "enabled".into(),
                    scheduler: Some("layered".into()),
                    switches_all: Some(true),
                })),
                mediated_vpmu: Some(Availability::Available(false)),
                page_bytes: Some(PageSize::new(16_384).unwrap()),
                exit_reasons: Some(Availability::Available(ExitNumbering::Arm64)),
            },
            caches: Availability::Available(vec![CacheFact {
                level: 2,
                instruction_only: false,
                cpus: "0-1".parse().unwrap(),
                size_bytes: None,
            }]),
            topology: Availability::Unavailable("no caches".into()),
            findings: None,
            events: vec![EventFact {
                role: CounterRole::LlcMisses,
                event: Availability::Available("cache-misses".into()),
                counts: Some("the L3: reads".into()),
                source: Some("Intel perfmon: SPR".into()),
                note: None,
            }],
            sketches: None,
            segment_checksum: Some(SEGMENT_CHECKSUM.into()),
            gaps: vec![RecordingGap::begin(5, "no space".into())],
            tables: BTreeMap::from([(Table::Vms, TableCounts { rows_written: 5, ..Default::default() })]),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let manifest = manifest();
        let text = manifest.to_json().unwrap();
        assert_eq!(Manifest::from_json(&text).unwrap(), manifest);
        assert!(text.contains("\"vms\": {") && text.contains("\"end_us\": null"), "{text}");
    }

    #[test]
    fn a_manifest_from_before_checksums_and_gaps_has_none() {
        let text = manifest().to_json().unwrap();
        let gaps = text.find("  \"gaps\"").unwrap()..text.find("  \"tables\"").unwrap();
        let events = text.find("  \"events\"").unwrap()..text.find("  \"segment_checksum\"").unwrap();
        let old = text.replace(&text[gaps], "").replace(&text[events], "");
        let old = old.replace("  \"segment_checksum\": \"crc32\",\n", "");
        assert_ne!(old, text);
        let read = Manifest::from_json(&old).unwrap();
        assert_eq!(
            read,
            Manifest { segment_checksum: None, gaps: Vec::new(), events: Vec::new(), ..manifest() }
        );
        assert!(!read.has_checksums() && manifest().has_checksums());
        assert_eq!((read.interruptions().count(), manifest().interruptions().count()), (0, 1));
    }

    #[test]
    fn a_manifest_from_before_schedulers_does_not_know_them() {
        let text = manifest().to_json().unwrap();
        let added = text.find(",\n    \"cache_aware_scheduling\"").unwrap();
        let end = added + text[added..].find("\n  },\n  \"caches\"").unwrap();
        let read = Manifest::from_json(&text.replace(&text[added..end], "")).unwrap().environment;
        assert_eq!((read.cache_aware_scheduling, read.sched_ext, read.mediated_vpmu), (None, None, None));
    }

    #[test]
    fn a_manifest_from_before_page_sizes_is_of_4_kib() {
        let manifest = manifest();
        assert_eq!(manifest.page_size().bytes(), 16_384);
        let text = manifest.to_json().unwrap();
        assert!(
            text.contains("\"page_bytes\": 16384") && text.contains("\"available\": \"arm64\""),
            "{text}"
        );
        let added = text.find(",\n    \"page_bytes\"").unwrap();
        let end = added + text[added..].find("\n  },\n  \"caches\"").unwrap();
        let read = Manifest::from_json(&text.replace(&text[added..end], "")).unwrap();
        assert_eq!((read.environment.page_bytes, read.environment.exit_reasons.clone()), (None, None));
        assert_eq!(read.page_size().bytes(), 4096);
    }

    #[test]
    fn a_topology_is_recorded_whole() {
        let text = r#"{"level":3,"domains":[{"id":0,"cpus":[0,1]},{"id":1,"cpus":[2,3]}],"cores":[[0,1]],
            "classes":{"performance":[0,1],"efficient":[2,3]},"by_node":true,
            "sets":[{"domain":1,"ways":20,"line_bytes":64},{"domain":0}],"notes":["one"]}"#;
        let topology = Topology::from_json(text).unwrap();
        let fact: TopologyFact =
            serde_json::from_str(&serde_json::to_string(&TopologyFact::from(&topology)).unwrap()).unwrap();
        assert_eq!(fact.topology().unwrap(), topology);
        let plain = Topology::from_json(r#"{"domains":[{"id":0,"cpus":[0]}]}"#).unwrap();
        let json = serde_json::to_value(TopologyFact::from(&plain)).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 2, "what is empty is left out: {json}");
    }

    #[test]
    fn an_older_version_is_read_and_lacks_the_tables_that_came_later() {
        let old = Manifest { schema_version: 1, ..manifest() };
        let read = Manifest::from_json(&old.to_json().unwrap()).unwrap();
        assert_eq!(read, old);
        let known: Vec<&str> =
            Table::ALL.iter().filter(|table| read.knows(**table)).map(|table| table.name()).collect();
        assert_eq!(known, ["sharing", "vms", "placements", "decisions", "ksm", "events"]);
        assert!(Table::ALL.iter().all(|table| manifest().knows(*table)));
    }

    #[test]
    fn other_versions_are_rejected_by_name_even_if_the_rest_differs() {
        for (text, word) in [
            (r#"{"schema":"huddle/manifest/1","schema_version":999,"new":1}"#, "schema version 999"),
            (r#"{"schema":"huddle/manifest/1","schema_version":0}"#, "schema version 0"),
            (r#"{"schema":"huddle/manifest/2","schema_version":1}"#, "\"huddle/manifest/2\""),
            (r#"{"schema":"huddle/manifest/1","schema_version":2}"#, "missing field"),
            ("{}", "not a huddle manifest"),
            ("", "not a huddle manifest"),
        ] {
            let error = Manifest::from_json(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
