//! VMs that are processes of this host: KVM, emulators, and what the user names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use huddle_host::HostRoot;
use huddle_host::discover::{DiscoverOptions, Discoverer, Discovery};
use huddle_host::pin::{HostPinner, Journal, Scheduler, StateLock};
use huddle_host::stages::{Measurement, PassTrigger, SharingSource, StageError};
use huddle_host::topology::{caches, usable_cpus};
use huddle_host::{ksm, memory, numa, page, schedulers, topology};
use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::matrix::{Method, Weigh};
use huddle_model::schema::EventFact;
use huddle_model::topology::{CacheInfo, Topology};
use huddle_model::vm::{TaskId, Vm};
use huddle_observe::observer::{HostObserver, Sources as ObserverSources};
use huddle_observe::perf::VcpuCounters;
use huddle_observe::probes::pass::FullScansTrigger;
use huddle_observe::probes::{ProbeConfig, Probes};
use huddle_observe::reported::ReportSocket;
use huddle_observe::resctrl::Resctrl;
use huddle_sharing::content::{ContentScan, ContentSettings, SketchSettings, Sketches, sketch_processes};
use huddle_sharing::{KernelAccess, KernelMappings, MergedScan, frames_visible};

use super::idle::WatchedPasses;
use super::{
    Backend, BackendError, CounterChoice, LoopChoice, SharingChoice, Stages, Terms, undoers, why_not_measured,
};
use crate::{HostContents, HostFacts, HostSharing, HostVms, Sources};

/// How often `full_scans` is read: far more often than a pass completes, and cheap.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Processes of this host.
#[derive(Clone, Debug)]
pub struct HostBackend {
    /// Where the host's files are.
    pub root: HostRoot,
    /// Cache level the user asked for.
    pub cache_level: Option<u8>,
    /// How VMs are found.
    pub discover: DiscoverOptions,
    /// How a loop measures what they share.
    pub sharing: SharingChoice,
    /// What a loop counts on their vCPUs.
    pub counters: CounterChoice,
    /// Access to the kernel's structures, where this command may have it.
    pub kernel: KernelAccess,
}

impl HostBackend {
    fn discoverer(&self) -> Discoverer {
        let flags = KernelMappings::new(self.root.clone(), self.kernel.clone());
        Discoverer::new(self.root.clone(), self.discover.clone()).with_flag_source(Arc::new(flags))
    }

    fn scan(&self) -> MergedScan {
        let scan = MergedScan::new(self.root.clone()).with_kernel_access(self.kernel.clone());
        let scan = match self.sharing.read_by {
            Some(by) => scan.with_read_by(by),
            None => scan,
        };
        match self.sharing.weigh {
            Weigh::Read => scan.with_reads(self.sharing.reads),
            Weigh::All => scan,
        }
    }

    fn sharing_source(&self) -> Box<dyn SharingSource + Send> {
        match self.sharing.method {
            Some(Method::Content) => {
                Box::new(HostContents(ContentScan::new(self.root.clone(), self.sharing.content)))
            }
            Some(Method::Merged | Method::Events | Method::File) | None => Box::new(HostSharing(self.scan())),
        }
    }

    fn replaceable(&self) -> Sources {
        Sources {
            vms: Box::new(HostVms(self.discoverer())),
            sharing: self.sharing_source(),
            host: Box::new(HostFacts { root: self.root.clone(), cache_level: self.cache_level }),
        }
    }

    /// Passes as the probes report them, or, if they cannot, by watching `full_scans`.
    fn pass_trigger(
        &self,
        probes: &mut Result<Probes, String>,
    ) -> Result<Box<dyn PassTrigger>, BackendError> {
        let probed = match probes {
            Ok(probes) => std::mem::replace(&mut probes.passes, Availability::Unavailable("taken".into())),
            Err(reason) => Availability::Unavailable(reason.clone()),
        };
        let trigger: Box<dyn PassTrigger> = match probed {
            Availability::Available(trigger) => Box::new(trigger),
            Availability::Unavailable(reason) => {
                tracing::warn!(
                    "passes of KSM are seen by watching full_scans, without their times: {reason}"
                );
                let trigger = FullScansTrigger::new(self.root.clone(), POLL_INTERVAL);
                Box::new(trigger.map_err(BackendError::host)?)
            }
        };
        tracing::debug!("passes of KSM come from {}", trigger.name());
        Ok(Box::new(WatchedPasses::new(trigger, self.root.clone())))
    }
}

impl Backend for HostBackend {
    fn terms(&self) -> Terms {
        Terms {
            vm_id: "PID",
            vcpu_id: "thread",
            no_vms: "no VM runs on this host; name processes to treat as VMs with --vm NAME=PID or --config FILE",
        }
    }

    fn default_method(&self) -> Method {
        Method::Merged
    }

    fn min_interval(&self) -> Duration {
        // Rounds follow KSM's passes.
        Duration::from_secs(1)
    }

    fn check(&self, choice: &LoopChoice) -> Result<(), BackendError> {
        if choice.merge {
            let why = "--merge is for Xen's domains; on this host KSM merges: --ksm-run";
            return Err(BackendError::Usage(why.to_owned()));
        }
        if self.sharing.weigh == Weigh::Read && self.sharing.method == Some(Method::Content) {
            let why =
                "[sharing] weigh = \"read\" is for method = \"merged\": what VMs read is known by frames";
            return Err(BackendError::Usage(why.to_owned()));
        }
        // Contents are read without the numbers of frames.
        if self.sharing.method != Some(Method::Content) {
            frames_visible(&self.root).map_err(BackendError::host)?;
        }
        self.vms()?;
        ksm::state(&self.root).map(drop).map_err(|error| {
            BackendError::host(format!(
                "this kernel reports nothing about KSM, so no pass will ever complete: {error}"
            ))
        })
    }

    fn advice(&self, choice: &LoopChoice) -> Vec<String> {
        let mut advice = self.plan_notes();
        let is_off = ksm::state(&self.root).is_ok_and(|state| state.run != 1);
        if is_off && !choice.ksm_run {
            advice.push(
                "KSM is not running, so nothing new is merged and rounds come by time; start it with --ksm-run or \
             `echo 1 > /sys/kernel/mm/ksm/run`"
                    .to_owned(),
            );
        }
        advice
    }

    fn plan_notes(&self) -> Vec<String> {
        let found = schedulers::sched_ext(&self.root).ok().filter(|found| found.is_active());
        let note = found.map(|found| {
            format!(
                "the scheduler {} (sched_ext, {}) runs threads on this host: it may leave vCPUs that are pinned waiting, \
                 and its effects are measured too",
                found.name(),
                found.state
            )
        });
        note.into_iter().collect()
    }

    fn vms(&self) -> Result<Discovery, BackendError> {
        self.discoverer().discover().map_err(|error| match error {
            error if error.is_usage() => BackendError::Usage(error.to_string()),
            error => BackendError::failed(error),
        })
    }

    fn topology(&self) -> Result<Topology, BackendError> {
        topology::read(&self.root, self.cache_level).map_err(BackendError::host)
    }

    fn caches(&self) -> Availability<Vec<CacheInfo>> {
        usable_cpus(&self.root).and_then(|cpus| caches(&self.root, &cpus)).into()
    }

    fn node_pages(&self, process: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        Ok(numa::node_pages(&self.root, process.id)?)
    }

    fn measure(
        &self,
        method: Method,
        content: ContentSettings,
        vms: &[Vm],
    ) -> Result<Measurement, BackendError> {
        let measured = match method {
            Method::Content => ContentScan::new(self.root.clone(), content).measure(vms),
            Method::Merged | Method::Events | Method::File => self.scan().measure(vms),
        };
        measured.map_err(why_not_measured)
    }

    fn page_bytes(&self) -> u64 {
        page::size().bytes()
    }

    fn memory_bytes(&self) -> Availability<u64> {
        memory::total_bytes(&self.root).map_err(|error| error.to_string()).into()
    }

    fn sketch(&self, settings: &SketchSettings, vms: &[Vm]) -> Result<Sketches, BackendError> {
        sketch_processes(&self.root, settings, vms).map_err(why_not_measured)
    }

    fn pinner(&self, journal: Journal) -> Result<HostPinner, BackendError> {
        let pinner = HostPinner::with(self.root.clone(), journal, undoers(&self.root), Scheduler::Host);
        Ok(pinner.overriding_bindings(self.discover.override_bindings))
    }

    fn events(&self) -> Vec<EventFact> {
        self.counters.event_set(&self.root).map_or_else(|_| Vec::new(), |events| events.facts())
    }

    fn sources(&self) -> Option<Sources> {
        Some(self.replaceable())
    }

    fn stages(
        &self,
        _: &LoopChoice,
        reports: Option<ReportSocket>,
        _: Option<&StateLock>,
    ) -> Result<Stages, BackendError> {
        let root = &self.root;
        let events = self.counters.event_set(root)?;
        for note in events.notes() {
            tracing::warn!("{note}");
        }
        let miss_event = Some(events.event(CounterRole::LlcMisses).clone());
        let config = ProbeConfig { miss_event, ..ProbeConfig::default() };
        let mut probes = Probes::load(root, &config).map_err(|error| error.to_string());
        let counters = VcpuCounters::new(root.clone(), events);
        let resctrl = Resctrl::open(root).into();
        let passes = self.pass_trigger(&mut probes)?;
        let observed = ObserverSources { probes, counters, resctrl, reports };
        let Sources { vms, sharing, host } = self.replaceable();
        Ok(Stages {
            vms,
            sharing,
            // KSM merges by itself.
            merger: None,
            host,
            observer: Box::new(HostObserver::new(root.clone(), observed)),
            passes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_of_sched_ext_is_among_the_reasons_of_plans() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let backend = HostBackend {
            root: root.clone(),
            cache_level: None,
            discover: DiscoverOptions::default(),
            sharing: SharingChoice::default(),
            counters: CounterChoice::default(),
            kernel: KernelAccess::default(),
        };
        assert_eq!(backend.plan_notes(), Vec::<String>::new());
        let directory = root.sys("kernel/sched_ext");
        std::fs::create_dir_all(directory.join("root")).unwrap();
        std::fs::write(directory.join("state"), "disabled\n").unwrap();
        assert_eq!(backend.plan_notes(), Vec::<String>::new());
        std::fs::write(directory.join("state"), "enabled\n").unwrap();
        std::fs::write(directory.join("root/ops"), "layered_1.0.9\n").unwrap();
        let notes = backend.plan_notes();
        assert!(notes[0].contains("layered_1.0.9 (sched_ext, enabled)"), "{notes:?}");
        assert!(backend.advice(&LoopChoice::default()).contains(&notes[0]));
    }
}
