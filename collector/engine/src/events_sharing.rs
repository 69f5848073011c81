//! Method `events`: a full scan from time to time, and kernel events in between.

use huddle_model::observation::ProgramCost;
use huddle_model::vm::Vm;

use huddle_host::HostRoot;
use huddle_host::stages::{SharingSource, StageError, StartFrameChanges};
use huddle_sharing::events::{Drift, EventsConfig, EventsError, EventsGraph};
use huddle_sharing::{Measurement, MergedScan};

/// Default number of rounds from one full scan to the next.
pub const RESCAN_ROUNDS: u32 = 10;

/// Keeps a graph of frames current. Everything is scanned again when the set of VMs changes, when the graph is stale,
/// and every few rounds, and then the drift is reported in a note. If changes cannot be followed, or no longer, every
/// round is a scan, and a note says why.
pub struct EventsSharing {
    root: HostRoot,
    scan: MergedScan,
    changes: Box<StartFrameChanges>,
    rescan_rounds: u32,
    graph: Graph,
    rounds_since: u32,
    /// Notes of the last measurement.
    told: Vec<String>,
}

enum Graph {
    NotStarted,
    Kept(Box<EventsGraph>),
    Unavailable(String),
}

impl EventsSharing {
    /// Attaches nothing before the first measurement, which calls `changes`. `scan` is the fallback if changes cannot be
    /// followed.
    pub fn new(
        root: HostRoot,
        scan: MergedScan,
        changes: Box<StartFrameChanges>,
        rescan_rounds: u32,
    ) -> Self {
        Self {
            root,
            scan,
            changes,
            rescan_rounds,
            graph: Graph::NotStarted,
            rounds_since: 0,
            told: Vec::new(),
        }
    }

    fn by_events(
        graph: &mut EventsGraph,
        vms: &[Vm],
        rescan_rounds: u32,
        rounds_since: &mut u32,
    ) -> Result<Measurement, EventsError> {
        if !graph.covers(vms) {
            *rounds_since = 0;
            return Ok(graph.baseline(vms)?.measurement);
        }
        *rounds_since += 1;
        let update = graph.bring_up_to_date()?;
        if update.stale.is_none() && *rounds_since < rescan_rounds {
            return Ok(update.measurement);
        }
        *rounds_since = 0;
        let baseline = graph.baseline(vms)?;
        let mut fresh = baseline.measurement;
        let why = update
            .stale
            .map_or_else(|| format!("{rescan_rounds} rounds have passed"), |stale| stale.to_string());
        let drift = Drift::between(&update.measurement.matrix, &fresh.matrix);
        let share = drift.map_or_else(String::new, |drift| {
            format!("{} frames ({:.3} %) and ", drift.frames, 100.0 * drift.share)
        });
        fresh.notes.push(format!(
            "page tables were read again because {why}: the graph kept by events was wrong by {share}{} of {} \
             pages after {:.0} s, {} events lost",
            baseline.before.wrong,
            baseline.before.looked_at,
            update.age.as_secs_f64(),
            update.lost_events
        ));
        Ok(fresh)
    }
}

impl SharingSource for EventsSharing {
    fn programs_cost(&self) -> Option<ProgramCost> {
        match &self.graph {
            Graph::Kept(graph) => Some(graph.cost()),
            Graph::NotStarted | Graph::Unavailable(_) => None,
        }
    }

    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        let mut measurement = self.measure_now(vms)?;
        // What stays as it is, such as what this kernel does not report, is reported once.
        let notes = measurement.notes.clone();
        measurement.notes.retain(|note| !self.told.contains(note));
        self.told = notes;
        Ok(measurement)
    }
}

impl EventsSharing {
    fn measure_now(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        if matches!(self.graph, Graph::NotStarted) {
            self.graph = match EventsGraph::start(self.root.clone(), EventsConfig::default(), &*self.changes)
            {
                Ok(graph) => Graph::Kept(Box::new(graph)),
                Err(error) => Graph::Unavailable(error.to_string()),
            };
        }
        let reason = match &mut self.graph {
            Graph::NotStarted => "it was not started".to_owned(),
            Graph::Unavailable(reason) => reason.clone(),
            Graph::Kept(graph) => {
                match Self::by_events(graph, vms, self.rescan_rounds, &mut self.rounds_since) {
                    Ok(measurement) => return Ok(measurement),
                    // The scan would fail in the same way.
                    Err(EventsError::Sharing(error)) => return Err(error.into()),
                    Err(error) => {
                        self.graph = Graph::Unavailable(error.to_string());
                        error.to_string()
                    }
                }
            }
        };
        let mut measurement = self.scan.measure(vms)?;
        measurement.notes.push(format!("method events is not available, all page tables are read: {reason}"));
        Ok(measurement)
    }
}
