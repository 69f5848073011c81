//! A host for tests: what an experiment changes on it is written to a log, and its caches work as the
//! paper says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use huddle_model::cache::{CacheModel, HostCache};
use huddle_model::counters::{Counts, GroupReading};
use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharedReads, SharingMatrix};
use huddle_model::observation::CountedEvent;
use huddle_model::plan::Plan;
use huddle_model::rates::CounterDelta;
use huddle_model::rng::Rng;
use huddle_model::summary::VcpuProbe;
use huddle_model::topology::{CacheDomain, CacheInfo, DomainId, Topology};
use huddle_model::vm::{TaskId, Vcpu, Vm, VmmKind};

use super::{Host, HostFailure};
use crate::HostWindow;
use crate::access_stream::{AccessStreams, StreamFile};
use crate::guest::{GuestData, GuestId};

/// The state that the fake host and its guests share.
#[derive(Default)]
pub(crate) struct World {
    /// What was changed, in order.
    pub(crate) log: Vec<String>,
    /// Where each VM runs.
    domain_of: BTreeMap<String, DomainId>,
    /// How often the data was looked at.
    pub(crate) looks: usize,
    /// Guests that run.
    pub(crate) living: usize,
    /// What guests have loaded.
    pub(crate) loaded: Vec<GuestData>,
    /// Guests that read.
    pub(crate) reading: usize,
}

pub(crate) type Shared = Rc<RefCell<World>>;

impl World {
    /// Whether a VM runs on the cache of another that has loaded the same data.
    pub(crate) fn is_with_partner(&self, name: &str) -> bool {
        let number: usize = name.trim_start_matches("vm").parse().unwrap();
        let of = |vm: usize| self.domain_of.get(&format!("vm{vm}"));
        let is_partner = |vm: usize| vm != number && self.loaded[vm - 1].seed == self.loaded[number - 1].seed;
        let mut others = (1..=self.domain_of.len()).filter(|vm| is_partner(*vm));
        others.any(|partner| of(number) == of(partner))
    }
}

pub(crate) struct FakeHost {
    pub(crate) world: Shared,
    pub(crate) domains: u32,
    /// The looks at the data at which it is merged.
    pub(crate) merged: Range<usize>,
    /// The look that fails; 0 for none.
    pub(crate) fails_at: usize,
    pub(crate) undo_fails: bool,
    pub(crate) has_pmu: bool,
    /// Frames that each VM uses.
    pub(crate) frames_used: u64,
    /// Frames that two VMs share, by whether the data is merged.
    pub(crate) shared: fn(bool, usize, usize) -> u64,
    /// Frames of these that two VMs read, or why that is not seen.
    pub(crate) read: Result<fn(usize, usize) -> u64, &'static str>,
    watched: usize,
}

impl FakeHost {
    /// Two domains, and data that is merged at the second look.
    pub(crate) fn new(frames_used: u64, shared: fn(bool, usize, usize) -> u64) -> Self {
        Self {
            world: Shared::default(),
            domains: 2,
            merged: 2..usize::MAX,
            fails_at: 0,
            undo_fails: false,
            has_pmu: false,
            frames_used,
            shared,
            read: Ok(|_, _| 0),
            watched: 0,
        }
    }

    fn is_merged(&self) -> bool {
        self.merged.contains(&self.world.borrow().looks)
    }

    fn log(&self, what: impl Into<String>) -> Result<(), HostFailure> {
        self.world.borrow_mut().log.push(what.into());
        Ok(())
    }
}

fn square(n: usize, of: impl Fn(usize, usize) -> u64) -> Vec<Vec<u64>> {
    (0..n).map(|i| (0..n).map(|j| of(i, j)).collect()).collect()
}

impl Host for FakeHost {
    fn topology(&self, _: Option<u8>) -> Result<Topology, HostFailure> {
        let domain = |id| CacheDomain {
            id: DomainId(id),
            cpus: [id].into_iter().collect(),
            size_bytes: Some(2 << 20),
            nodes: Default::default(),
        };
        Ok(Topology::new(Some(2), (0..self.domains).map(domain).collect()).unwrap())
    }

    fn cache_model(&self, topology: &Topology) -> Result<CacheModel, HostFailure> {
        let cache = |domain: &CacheDomain| HostCache {
            info: CacheInfo {
                level: 2,
                instruction_only: false,
                shared_cpus: domain.cpus.clone(),
                size_bytes: domain.size_bytes,
            },
            ways: Some(16),
            line_bytes: Some(64),
        };
        let caches: Vec<HostCache> = topology.domains().iter().map(cache).collect();
        CacheModel::of_host("host", topology, &caches).map_err(HostFailure::cannot)
    }

    fn find(&self, guests: &[(String, GuestId)]) -> Result<Vec<Vm>, HostFailure> {
        let task = TaskId { id: 100, start_ticks: 1 };
        let vm = |(name, _): &(String, GuestId)| Vm {
            name: name.clone(),
            id: task.into(),
            uuid: None,
            vmid: None,
            owner: None,
            vmm: VmmKind::Process,
            vcpus: vec![Vcpu {
                index: 0,
                id: task.into(),
                process: Some(task),
                thread_name: Some("CPU 0/FAKE".into()),
                affinity: CpuSet::new(),
                last_cpu: None,
                limits: Default::default(),
            }],
            memory: Vec::new(),
            allowed_cpus: CpuSet::new(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        };
        Ok(guests.iter().map(vm).collect())
    }

    fn measure(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure> {
        let merged = self.is_merged();
        let memory = MemoryUse { frames_used: self.frames_used, ..MemoryUse::default() };
        let row = |vm: &Vm| MatrixVm {
            name: vm.name.clone(),
            id: None,
            uuid: None,
            owner: None,
            vcpus: 1,
            memory: Some(memory),
        };
        let frames = square(vms.len(), |i, j| (self.shared)(merged, i, j));
        Ok(SharingMatrix::measured(Method::Merged, vms.iter().map(row).collect(), &frames, 1.0, 1.0))
    }

    fn measure_reads(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure> {
        assert_eq!(self.world.borrow().reading, vms.len(), "all guests read");
        let matrix = self.measure(vms)?;
        let frames = square(vms.len(), |i, j| self.read.map_or(0, |read| read(i, j)));
        let unavailable = vec![self.read.err().map(str::to_owned); vms.len()];
        Ok(matrix.with_reads(SharedReads::new(&frames, None, 100, unavailable)))
    }

    fn data_shared(&mut self, vms: &[Vm], data: &[GuestData]) -> Result<Vec<Vec<u64>>, HostFailure> {
        self.world.borrow_mut().looks += 1;
        if self.world.borrow().looks == self.fails_at {
            return Err(HostFailure::Failed("cannot read /proc/100/mem".into()));
        }
        let pages = if self.is_merged() { data[0].kib / 4 } else { 0 };
        let is_same = |i: usize, j: usize| i != j && data[i].seed == data[j].seed;
        Ok(square(vms.len(), |i, j| if is_same(i, j) { pages } else { 0 }))
    }

    /// Scattered frames, those of merged data by its seed alone.
    fn data_frames(
        &mut self,
        vms: &[Vm],
        data: &[GuestData],
        own: bool,
    ) -> Result<Vec<Vec<u64>>, HostFailure> {
        let merged = self.is_merged() && !own;
        let of = |(vm, data): (usize, &GuestData)| {
            let seed = if merged { data.seed } else { 1 << 20 | vm as u64 };
            let mut rng = Rng::new(seed);
            (0..data.kib / 4).map(|_| rng.next_u64() >> 34).collect()
        };
        assert_eq!(vms.len(), data.len());
        Ok(data.iter().enumerate().map(of).collect())
    }

    fn access_streams(&self, _: &[Vm], _: u64, _: &[StreamFile]) -> Result<AccessStreams, HostFailure> {
        Err(HostFailure::cannot("a fake host emulates nothing"))
    }

    fn place(&mut self, _: &[Vm], plan: &Plan) -> Result<(), HostFailure> {
        let placed = plan.placement.iter().map(|placed| (placed.vm.clone(), placed.domain));
        self.world.borrow_mut().domain_of = placed.collect();
        self.log(format!("place {}", plan.policy))
    }

    fn watch(&mut self, vms: &[Vm], _: &Topology) {
        self.watched = vms.len();
    }

    fn window(&mut self) -> HostWindow {
        let world = self.world.borrow();
        let opposed = world.log.last().is_some_and(|entry| entry == "place opposed");
        // The second VM misses twice as often as the first, and all of them more when opposed.
        let vcpu = |vm: usize| {
            let reading = |end_ns: u64, misses: u64| GroupReading {
                begin_ns: end_ns - 1,
                end_ns,
                time_enabled_ns: end_ns,
                time_running_ns: end_ns,
                counts: Counts { llc_misses: Some(misses), ..Counts::default() },
            };
            let misses = if opposed { 500 } else { 100 } * (vm as u64 + 1);
            VcpuProbe {
                counters: Some(CounterDelta::between(&reading(10, 0), &reading(20, misses))),
                ..VcpuProbe::unavailable("a fake host")
            }
        };
        let vcpus = if self.has_pmu { (0..self.watched).map(vcpu).collect() } else { Vec::new() };
        HostWindow { vcpus, ..HostWindow::default() }
    }

    fn counted(&self) -> (Vec<CountedEvent>, Vec<String>) {
        (Vec::new(), Vec::new())
    }

    fn merge(&mut self) -> Result<(), HostFailure> {
        self.log("merge")
    }

    fn pause_merging(&mut self) -> Result<(), HostFailure> {
        self.log("pause")
    }

    fn undo(&mut self) -> Result<(), HostFailure> {
        let living = self.world.borrow().living;
        self.log(format!("undo with {living} guests"))?;
        if self.undo_fails { Err(HostFailure::Failed("the journal is gone".into())) } else { Ok(()) }
    }
}
