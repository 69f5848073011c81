//! What one run recorded.

mod query;
mod show;

use std::collections::BTreeMap;
use std::path::PathBuf;

use huddle_model::schema::{Manifest, Table, TableCounts};
use huddle_model::stats::SampleFlags;
use serde::Serialize;

use crate::AnalysisError;
use crate::run::RunDir;

/// The summary of one run. Rates are parts of 1, times microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunSummary {
    /// Directory of the run.
    pub path: PathBuf,
    /// Id of the run.
    pub run: String,
    /// Name of the host.
    pub host: String,
    /// When recording began.
    pub begin_us: i64,
    /// When it ended; `None` when it still runs or was killed.
    pub end_us: Option<i64>,
    /// Why recording stopped before its time.
    pub stopped: Option<String>,
    /// What was recorded and is lost, one sentence each; the summary is of the rest.
    pub losses: Vec<String>,
    /// The rounds.
    pub rounds: Rounds,
    /// The VMs, in ascending order of name.
    pub vms: Vec<VmSummary>,
    /// How many ordered pairs of VMs there are sharing rates for.
    pub pairs: usize,
    /// The ordered pairs with the highest mean rates, highest first.
    pub top_pairs: Vec<PairSummary>,
    /// Where each vCPU was in the last round.
    pub placements: Vec<PlacementSummary>,
    /// What was counted of each VM, in ascending order of name.
    pub counted: Vec<Counted>,
    /// How often each sort of event happened.
    pub events: BTreeMap<String, u64>,
    /// What was written and lost, by table.
    pub tables: BTreeMap<Table, TableCounts>,
}

/// The rounds of a run, from the closed segments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rounds {
    /// How many there are.
    pub count: u64,
    /// Begin of the first; `None` without a round.
    pub first_begin_us: Option<i64>,
    /// End of the last.
    pub last_end_us: Option<i64>,
    /// Rounds without a sharing matrix.
    pub without_sharing: u64,
    /// Why the last of those had none.
    pub sharing_unavailable: Option<String>,
    /// Rounds in which nothing could be pinned.
    pub without_pinning: u64,
    /// Why, in the last of those.
    pub pin_unavailable: Option<String>,
    /// Rounds in which an affinity was changed.
    pub changed: u64,
    /// How many threads' affinities were changed in all of them.
    pub threads_changed: u64,
    /// CPU time huddle itself had used at the end; `None` where it was not available.
    pub own_cpu_us: Option<u64>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmSummary {
    /// Its name.
    pub vm: String,
    /// process or xen_domain; `None` in recordings before version 4.
    pub vm_kind: Option<String>,
    /// Its process; a VM that was restarted appears once a process. `None` for a domain of Xen; before version 4
    /// its number is here.
    pub pid: Option<i32>,
    /// Its UUID; `None` where it has none or the recording does not say.
    pub uuid: Option<String>,
    /// Number of its domain of Xen; `None` elsewhere.
    pub domid: Option<u32>,
    /// What runs it.
    pub vmm: String,
    /// Its vCPUs in the last round that saw it.
    pub vcpus: u32,
    /// Rounds that saw it.
    pub rounds: u64,
    /// Frames it used in the last of them; `None` where that was not measured.
    pub frames_used: Option<u64>,
}

impl VmSummary {
    /// What holds it, for people: the pid, or the domain.
    pub(crate) fn holder(&self) -> String {
        match (self.pid, self.domid) {
            (Some(pid), _) => pid.to_string(),
            (None, Some(domid)) => format!("domain {domid}"),
            (None, None) => "-".to_owned(),
        }
    }
}

/// What one VM shares with another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairSummary {
    /// The VM whose used frames are the whole.
    pub vm: String,
    /// The other one.
    pub other: String,
    /// Rounds with a rate.
    pub rounds: u64,
    /// Mean rate over those rounds.
    pub mean_rate: f64,
    /// Rate in the last of them.
    pub last_rate: f64,
    /// Shared frames in the last of them; `None` where only rates are known.
    pub last_shared_frames: Option<u64>,
}

/// The counters of one VM over the whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counted {
    /// Its name.
    pub vm: String,
    /// The first and the last window with it.
    pub windows: (u64, u64),
    /// LLC misses per 1000 instructions; `None` where they were not counted.
    pub mpki: Option<f64>,
    /// LLC misses per LLC reference; `None` where they were not counted.
    pub miss_ratio: Option<f64>,
    /// Instructions per cycle; `None` where they were not counted.
    pub ipc: Option<f64>,
    /// Samples (one vCPU in one window), and how many of them have a flaw.
    pub samples: SampleFlags,
}

/// Where one vCPU was in the last round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacementSummary {
    /// The VM.
    pub vm: String,
    /// Number of the vCPU.
    pub vcpu: u32,
    /// Its planned domain; `None` when it is left to the kernel.
    pub domain: Option<u32>,
    /// CPUs of that domain.
    pub cpus: Option<String>,
    /// Whether it ran there; `None` when nothing is planned or it is not known.
    pub applied: Option<bool>,
    /// Why not.
    pub not_applied_reason: Option<String>,
}

impl RunSummary {
    /// Sums up `run`, with at most `top` pairs.
    ///
    /// # Errors
    /// When the manifest or a segment cannot be read.
    pub fn of(run: &RunDir, top: usize) -> Result<Self, AnalysisError> {
        let manifest: Manifest = run.manifest()?;
        let ask = |table| query::Query::new(run, table);
        let (pairs, top_pairs) = ask(Table::Sharing).pairs(top)?;
        Ok(Self {
            path: run.path().to_owned(),
            rounds: ask(Table::Decisions).rounds()?,
            vms: ask(Table::Vms).vms()?,
            pairs,
            top_pairs,
            placements: ask(Table::Placements).placements()?,
            counted: ask(Table::Counters).counted()?,
            events: ask(Table::Events).events()?,
            run: manifest.run,
            host: manifest.host,
            begin_us: manifest.begin_us,
            end_us: manifest.end_us,
            stopped: manifest.stopped,
            losses: run.losses().to_vec(),
            tables: manifest.tables,
        })
    }
}
