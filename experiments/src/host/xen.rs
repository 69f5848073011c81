//! A Xen host, by `huddle-xen`: domains, and Xen's memory sharing.

use std::path::Path;

use huddle_engine::backend::{Backend as _, SharingChoice, XenBackend};
use huddle_host::HostRoot;
use huddle_host::pin::{HostPinner, Journal, Subject};
use huddle_host::stages::PageMerger;
use huddle_model::availability::Availability;
use huddle_model::cache::CacheModel;
use huddle_model::counters::CounterRole;
use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::{Method, SharingMatrix};
use huddle_model::observation::CountedEvent;
use huddle_model::plan::Plan;
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;
use huddle_observe::reported::Reports;
use huddle_xen as xen;
use huddle_xen::merging::MergeSettings;
use huddle_xen::observer::XenObserver;
use huddle_xen::stages::Merging;
use huddle_xen::toolstack::{Domain, ForeignMemory, MemorySharing, Toolstack};
use huddle_xen::topology::KnownCaches;
use huddle_xen::vms::DomainChoice;

use super::{CONTENT, Host, HostFailure, check_vcpus, empty_journal, lock, place_vcpus};
use crate::access_stream::{AccessStreams, StreamFile};
use crate::data_pages::{DataPages, DomainMemory};
use crate::guest::xen::domain_name;
use crate::guest::{GuestData, GuestId};
use crate::probes::{DomainWatch, HostWindow};

/// This host and its domains. Every change goes through the journals.
pub struct XenHost {
    toolstack: Box<dyn Toolstack>,
    backend: XenBackend,
    pinner: HostPinner,
    memory: Box<dyn ForeignMemory>,
    merging: Option<Merges>,
    watch: DomainWatch,
    data_pages: Option<DataPages>,
    vcpus: u32,
}

/// What merges, and what reports which pages are merged.
struct Merges {
    merging: Merging,
    sharing: Box<dyn MemorySharing>,
}

impl XenHost {
    /// Makes sure that this is dom0 of a Xen that answers, and that no other huddle changes it at the same time.
    /// Changes only the lock in the state directory. Each domain is to have `vcpus` vCPUs. `last_level`
    /// are the CPUs of each last-level cache; empty for one a socket. Whether Xen can merge memory is known only once
    /// it merges; it `merges` those of these VMs only, and nothing where `None`.
    ///
    /// # Errors
    /// [`HostFailure::Cannot`] where this is not dom0, or without Xen's libraries of the version that runs;
    /// [`HostFailure::Failed`] when another huddle holds the lock, or the journal of an earlier one is not undone.
    pub fn open(
        root: &HostRoot,
        state_dir: Option<&Path>,
        vcpus: u32,
        last_level: Vec<CpuSet>,
        merges: Option<&[String]>,
    ) -> Result<Self, HostFailure> {
        if !xen::is_control_domain(root) {
            return Err(HostFailure::cannot(
                "guests on Xen are made in its dom0, and this is not one (/proc/xen/capabilities does not say \
                 control_d); run it there as root, or choose --guest process or qemu",
            ));
        }
        let open = || xen::open(root).map_err(HostFailure::cannot);
        let open_memory = || xen::open_memory(root).map_err(HostFailure::cannot);
        let toolstack = open()?;
        let backend = XenBackend {
            root: root.clone(),
            cache_level: None,
            domains: DomainChoice::default(),
            caches: KnownCaches::of_host(root, last_level),
            sharing: SharingChoice::default(),
        };
        let lock = lock(root, state_dir)?;
        let journal = |subject| Journal::open_of(subject, root, &lock).map_err(HostFailure::failed);
        let pins = empty_journal(journal(Subject::Placement)?)?;
        let shared = empty_journal(journal(Subject::MemorySharing)?)?;
        let merging = match merges {
            Some(vms) => Some(Merges {
                merging: {
                    let lists = open()?;
                    let asked = xen::merging::Xen {
                        sharing: xen::open_sharing(root).map_err(HostFailure::cannot)?,
                        memory: open_memory()?,
                        list: Box::new(move || lists.domains()),
                    };
                    let only = Some(vms.iter().map(|vm| domain_name(vm)).collect());
                    let settings = MergeSettings { content: CONTENT, only, ..MergeSettings::default() };
                    Merging::new(asked, settings, shared)
                },
                sharing: xen::open_sharing(root).map_err(HostFailure::cannot)?,
            }),
            None => None,
        };
        Ok(Self {
            pinner: backend.pinner(pins)?,
            backend,
            memory: open_memory()?,
            watch: DomainWatch::new(XenObserver::new(
                open()?,
                xen::open_monitor(root),
                Box::new(Reports::new(None)),
            )),
            data_pages: None,
            merging,
            toolstack,
            vcpus,
        })
    }

    /// Makes sure that no other program shares pages of these VMs, which are to stay unmerged.
    fn check_unmerged(&self, vms: &[Vm]) -> Result<(), HostFailure> {
        let listed = self.toolstack.domains().map_err(HostFailure::failed)?;
        // An unknown number is not 0.
        let shared = |domain: &&Domain| domain.shared_pages != Some(0);
        let ours = |domain: &&Domain| vms.iter().any(|vm| vm.id == domain.domain.xen_id().into());
        match listed.iter().filter(ours).find(shared) {
            Some(domain) => Err(HostFailure::Failed(format!(
                "Xen shares {} pages of {:?}, and nothing was to be merged; who else shares them?",
                domain
                    .shared_pages
                    .map_or_else(|| "an unknown number of".to_owned(), |pages| pages.to_string()),
                domain.name
            ))),
            None => Ok(()),
        }
    }
}

/// Why no cache is simulated.
fn no_simulation() -> HostFailure {
    HostFailure::cannot(
        "what domains of Xen read is not recorded, so no cache can be simulated; run with stand-ins (--guest process)",
    )
}

impl Host for XenHost {
    fn topology(&self, level: Option<u8>) -> Result<Topology, HostFailure> {
        Ok(XenBackend { cache_level: level, ..self.backend.clone() }.topology()?)
    }

    fn cache_model(&self, _: &Topology) -> Result<CacheModel, HostFailure> {
        Err(no_simulation())
    }

    fn find(&self, guests: &[(String, GuestId)]) -> Result<Vec<Vm>, HostFailure> {
        let (domains, machine) = (self.toolstack.domains(), self.toolstack.machine());
        let (domains, machine) =
            domains.and_then(|domains| Ok((domains, machine?))).map_err(HostFailure::failed)?;
        let choice = &self.backend.domains;
        let vm_of = |(name, id): &(String, GuestId)| {
            let is_it = |domain: &&Domain| *id == GuestId::Domain(domain.domain);
            let found = domains.iter().find(is_it).filter(|domain| choice.takes(domain));
            let found =
                found.ok_or_else(|| HostFailure::Failed(format!("the VM {name} ({id}) was not found")))?;
            // By its name in the experiment, which differs from Xen's.
            let vm = xen::vms::vm(name.clone(), found, &machine, choice.affinity);
            check_vcpus(vm, *id, self.vcpus)
        };
        guests.iter().map(vm_of).collect()
    }

    fn measure(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure> {
        let measured = self.backend.measure(Method::Content, CONTENT, vms)?;
        match measured.unmeasured.first() {
            Some(gone) => Err(HostFailure::Failed(format!("{} was not measured: {}", gone.vm, gone.reason))),
            None => Ok(measured.matrix),
        }
    }

    fn measure_reads(&mut self, _: &[Vm]) -> Result<SharingMatrix, HostFailure> {
        Err(HostFailure::cannot(
            "what domains of Xen read is not seen, so none can be placed by it; run with VMs of QEMU (--guest qemu) or \
             stand-ins (--guest process)",
        ))
    }

    fn data_shared(&mut self, vms: &[Vm], data: &[GuestData]) -> Result<Vec<Vec<u64>>, HostFailure> {
        if self.merging.is_none() {
            self.check_unmerged(vms)?;
        }
        let sharing = self.merging.as_mut().map(|merges| &mut *merges.sharing as &mut dyn MemorySharing);
        let mut memory = DomainMemory { toolstack: &*self.toolstack, memory: &mut *self.memory, sharing };
        let shared = DataPages::look(&mut self.data_pages, &mut memory, vms, data);
        let shared = shared.map_err(HostFailure::failed)?;
        if let (None, Some(held)) = (&self.merging, &self.data_pages) {
            held.check_found(vms).map_err(HostFailure::failed)?;
        }
        Ok(shared)
    }

    fn data_frames(&mut self, _: &[Vm], _: &[GuestData], _: bool) -> Result<Vec<Vec<u64>>, HostFailure> {
        Err(no_simulation())
    }

    fn access_streams(&self, _: &[Vm], _: u64, _: &[StreamFile]) -> Result<AccessStreams, HostFailure> {
        Err(no_simulation())
    }

    fn place(&mut self, vms: &[Vm], plan: &Plan) -> Result<(), HostFailure> {
        place_vcpus(&mut self.pinner, vms, plan)
    }

    fn watch(&mut self, vms: &[Vm], topology: &Topology) {
        self.watch.start(vms, topology);
    }

    fn window(&mut self) -> HostWindow {
        self.watch.window()
    }

    fn counted(&self) -> (Vec<CountedEvent>, Vec<String>) {
        let none = |role| CountedEvent {
            role,
            event: Availability::Unavailable(xen::observer::NO_COUNTERS.to_owned()),
        };
        (CounterRole::ALL.into_iter().map(none).collect(), Vec::new())
    }

    fn merge(&mut self) -> Result<(), HostFailure> {
        let Some(Merges { merging, .. }) = &mut self.merging else {
            return Err(HostFailure::Failed("nothing was to be merged".to_owned()));
        };
        match merging.merge_once().map_err(HostFailure::failed)? {
            Availability::Available(_) => Ok(()),
            Availability::Unavailable(why) => Err(HostFailure::Cannot(format!(
                "Xen does not merge memory here: {why}; run with --no-merge to see what placement does without"
            ))),
        }
    }

    fn continue_merging(&mut self) -> Result<(), HostFailure> {
        self.merge()
    }

    /// Xen merges only on command.
    fn pause_merging(&mut self) -> Result<(), HostFailure> {
        Ok(())
    }

    fn undo(&mut self) -> Result<(), HostFailure> {
        self.watch.stop();
        let mut failures = self.pinner.undo().failures;
        if let Some(Merges { merging, .. }) = &mut self.merging {
            failures.extend(merging.undo().failures);
        }
        if failures.is_empty() { Ok(()) } else { Err(HostFailure::Failed(failures.join("; "))) }
    }
}
