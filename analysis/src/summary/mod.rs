//! Summary of one run.

mod counted;
mod query;
mod show;

use std::collections::BTreeMap;
use std::path::PathBuf;

use huddle_model::schema::{Manifest, Table, TableCounts};
use huddle_model::stats::SampleFlags;
use huddle_model::trial::Objective;
use serde::Serialize;

use crate::AnalysisError;
use crate::run::RunDir;

/// The summary of one run. Rates are from 0 to 1, times are microseconds since the Unix epoch.
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
    /// When it ended; `None` if it still runs or was killed.
    pub end_us: Option<i64>,
    /// Why recording stopped early.
    pub stopped: Option<String>,
    /// Losses, one sentence each; the summary is from the rest.
    pub losses: Vec<String>,
    /// The rounds.
    pub rounds: Rounds,
    /// The VMs, in ascending order of name.
    pub vms: Vec<VmSummary>,
    /// Number of ordered pairs of VMs with sharing rates.
    pub pairs: usize,
    /// The ordered pairs with the highest mean rates, highest first.
    pub top_pairs: Vec<PairSummary>,
    /// The place of each vCPU in the last round.
    pub placements: Vec<PlacementSummary>,
    /// Counters of each VM, in ascending order of name.
    pub counted: Vec<Counted>,
    /// Number of events of each kind.
    pub events: BTreeMap<String, u64>,
    /// Written and lost rows, by table.
    pub tables: BTreeMap<Table, TableCounts>,
}

/// The rounds of a run, from the closed segments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rounds {
    /// Number of rounds.
    pub count: u64,
    /// Start of the first; `None` without rounds.
    pub first_begin_us: Option<i64>,
    /// End of the last.
    pub last_end_us: Option<i64>,
    /// Rounds without a sharing matrix.
    pub without_sharing: u64,
    /// Why the last of these had none.
    pub sharing_unavailable: Option<String>,
    /// Rounds in which nothing could be pinned.
    pub without_pinning: u64,
    /// Why, in the last of these.
    pub pin_unavailable: Option<String>,
    /// Rounds in which an affinity was changed, of those in which that is known; `None` if it is known of none.
    pub changed: Option<u64>,
    /// Number of changed affinities of threads in these rounds.
    pub threads_changed: Option<u64>,
    /// CPU time used by huddle itself at the end; `None` if unavailable.
    pub own_cpu_us: Option<u64>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmSummary {
    /// Its name.
    pub vm: String,
    /// process or xen_domain; `None` in recordings before version 4.
    pub vm_kind: Option<String>,
    /// Its process; a VM that was restarted has an entry per process. `None` for a domain of Xen; before
    /// version 4 the domain's number.
    pub pid: Option<i32>,
    /// Its UUID; `None` if it has none or it is not recorded.
    pub uuid: Option<String>,
    /// Number of its domain of Xen; `None` for others.
    pub domid: Option<u32>,
    /// What runs it.
    pub vmm: String,
    /// Number of its vCPUs in its last round.
    pub vcpus: u32,
    /// Number of rounds with it.
    pub rounds: u64,
    /// Its used frames in its last round; `None` if not measured.
    pub frames_used: Option<u64>,
}

impl VmSummary {
    /// Its pid or domain, for display.
    pub(crate) fn holder(&self) -> String {
        match (self.pid, self.domid) {
            (Some(pid), _) => pid.to_string(),
            (None, Some(domid)) => format!("domain {domid}"),
            (None, None) => "-".to_owned(),
        }
    }
}

/// Sharing of one VM with another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairSummary {
    /// The VM to whose used frames the rate refers.
    pub vm: String,
    /// The other one.
    pub other: String,
    /// Rounds with a rate.
    pub rounds: u64,
    /// Mean rate over those rounds.
    pub mean_rate: f64,
    /// Rate in the last of them.
    pub last_rate: f64,
    /// Shared frames in the last of them; `None` if only rates are known.
    pub last_shared_frames: Option<u64>,
}

/// The counters of one VM over the whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counted {
    /// Its name.
    pub vm: String,
    /// The first and the last window with it.
    pub windows: (u64, u64),
    /// LLC misses per 1000 instructions; `None` if not counted.
    pub mpki: Option<f64>,
    /// LLC misses per LLC reference; `None` if not counted.
    pub miss_ratio: Option<f64>,
    /// Instructions per cycle; `None` if not counted.
    pub ipc: Option<f64>,
    /// Number of samples (one vCPU in one window), and of those with a flaw.
    pub samples: SampleFlags,
}

/// The place of one vCPU in the last round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacementSummary {
    /// The VM.
    pub vm: String,
    /// Number of the vCPU.
    pub vcpu: u32,
    /// Its planned domain; `None` if it is placed by the kernel.
    pub domain: Option<u32>,
    /// CPUs of that domain.
    pub cpus: Option<String>,
    /// Whether it ran there; `None` if nothing is planned or it is unknown.
    pub applied: Option<bool>,
    /// Why it did not.
    pub not_applied_reason: Option<String>,
}

impl RunSummary {
    /// Summarises `run`, with at most `top` pairs.
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
            counted: counted(run)?,
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

/// Counters of each VM.
fn counted(run: &RunDir) -> Result<Vec<Counted>, AnalysisError> {
    let of_vm = |(vm, found): (String, counted::VmSums)| {
        let value = |objective| found.sums.value(objective).value().copied();
        Counted {
            vm,
            windows: found.windows.unwrap_or_default(),
            mpki: value(Objective::Mpki),
            miss_ratio: value(Objective::MissRatio),
            ipc: value(Objective::Ipc),
            samples: found.sums.samples,
        }
    };
    Ok(counted::by_vm(run)?.into_iter().map(of_vm).collect())
}
