//! What is exported of a loop: its view, and the sums of its windows, which a view does not have.
//!
//! Rules for counters:
//! - Sums of a VM begin at 0 with the VM, and go with it. A later VM of the same name is another one.
//! - Sums of the host lose nothing when a VM goes.
//! - What is unavailable in a window adds nothing; what never was available does not exist.
//! - A value of a VM in a window is the sum over its vCPUs, and so unavailable where one of them is.
//! - Counts of the PMU are added together with the time they were counted in.

use std::collections::BTreeMap;
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::event::EventKind;
use huddle_model::observation::{LossObservation, MergeObservation, Observation, VcpuObservation};
use huddle_model::rates::sum_over_vcpus;
use huddle_model::topology::{DomainId, Topology};
use huddle_model::update::{Round, Update};
use huddle_model::view::View;
use huddle_model::vm::VmId;

/// A sum that does not exist until something was added.
pub(crate) type Sum = Option<u64>;

fn add(sum: &mut Sum, more: Option<u64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0).saturating_add(more));
    }
}

/// The sum over the vCPUs of a VM; `None` if it is unavailable for one, or there is none.
fn sum_of(vcpus: &[VcpuObservation], value: impl Fn(&VcpuObservation) -> Option<u64>) -> Option<u64> {
    vcpus.iter().map(value).sum::<Option<u64>>().filter(|_| !vcpus.is_empty())
}

/// CPU time of the vCPUs of a VM in each domain; `None` if for one of them it is not known where it ran, or how long there.
fn run_ns_by_domain(vcpus: &[VcpuObservation], topology: &Topology) -> Option<BTreeMap<DomainId, u64>> {
    let mut by_domain = BTreeMap::new();
    for vcpu in vcpus {
        for place in vcpu.residency.value()? {
            let run_ns = place.run_ns?;
            if let Some(domain) = topology.domain_of(place.cpu) {
                *by_domain.entry(domain).or_default() += run_ns;
            }
        }
    }
    Some(by_domain)
}

/// Sums of one VM.
#[derive(Clone, Debug)]
pub(crate) struct VmSums {
    id: VmId,
    pub(crate) run_ns: Sum,
    pub(crate) run_ns_by_domain: BTreeMap<DomainId, u64>,
    pub(crate) guest_ns: Sum,
    pub(crate) migrations: Sum,
    pub(crate) domain_migrations: Sum,
    pub(crate) merges: Sum,
    pub(crate) breaks: Sum,
    pub(crate) counted_us: Sum,
    /// By position in [`CounterRole::ALL`]. Fractions are kept: scaled counts have some.
    pub(crate) counts: [Option<f64>; 4],
    pub(crate) operations: Sum,
    /// Bytes moved, by cache.
    pub(crate) transfers: BTreeMap<u32, u64>,
}

impl VmSums {
    fn new(id: VmId) -> Self {
        Self {
            id,
            run_ns: None,
            run_ns_by_domain: BTreeMap::new(),
            guest_ns: None,
            migrations: None,
            domain_migrations: None,
            merges: None,
            breaks: None,
            counted_us: None,
            counts: [None; 4],
            operations: None,
            transfers: BTreeMap::new(),
        }
    }

    fn add_vcpus(&mut self, vcpus: &[VcpuObservation], topology: Option<&Topology>, window_us: u64) {
        add(&mut self.run_ns, sum_of(vcpus, VcpuObservation::run_ns));
        add(&mut self.guest_ns, sum_of(vcpus, |vcpu| vcpu.guest_ns.value().copied()));
        add(&mut self.migrations, sum_of(vcpus, |vcpu| vcpu.migrations.value().copied()));
        add(&mut self.domain_migrations, sum_of(vcpus, |vcpu| vcpu.domain_migrations.value().copied()));
        let by_domain = topology.and_then(|topology| run_ns_by_domain(vcpus, topology));
        for (domain, run_ns) in by_domain.into_iter().flatten() {
            *self.run_ns_by_domain.entry(domain).or_default() += run_ns;
        }
        let count = |role| {
            let sum = sum_over_vcpus(vcpus.iter().map(|vcpu| vcpu.counters.count(role).clone()));
            sum.value().copied().filter(|count| count.is_finite())
        };
        let counts = CounterRole::ALL.map(count);
        if counts.iter().any(Option::is_some) {
            add(&mut self.counted_us, Some(window_us));
        }
        for (sum, count) in self.counts.iter_mut().zip(counts) {
            *sum = count.map(|count| sum.unwrap_or(0.0) + count).or(*sum);
        }
    }

    fn add_merging(&mut self, merging: &MergeObservation) {
        add(&mut self.merges, merging.merges.value().copied());
        add(&mut self.breaks, merging.breaks.value().copied());
    }
}

/// Cost of a BPF program so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProgramSums {
    pub(crate) runs: u64,
    pub(crate) run_ns: u64,
}

/// Everything that was seen of a loop. Copies share what is large.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    pub(crate) view: Option<View>,
    pub(crate) rounds: u64,
    pub(crate) windows: u64,
    /// When the last available window ended, in microseconds since the Unix epoch.
    pub(crate) window_end_us: Option<u64>,
    pub(crate) missed_steps: u64,
    pub(crate) vms: BTreeMap<String, VmSums>,
    pub(crate) merges: Sum,
    pub(crate) breaks: Sum,
    pub(crate) reading_cpu_us: Sum,
    pub(crate) programs: BTreeMap<String, ProgramSums>,
    pub(crate) losses: Option<LossObservation>,
    pub(crate) events: BTreeMap<&'static str, u64>,
    pub(crate) moved: u64,
    /// When the placement in force changed last, likewise.
    pub(crate) placed_us: Option<u64>,
}

impl Fold {
    /// Takes the updates of one step of the loop, at this time in microseconds since the Unix epoch.
    pub fn follow(&mut self, updates: &[Update], now_unix_us: u64) {
        for update in updates {
            let before = self.view.as_ref().map(|view| Arc::clone(&view.in_force));
            View::follow(&mut self.view, std::iter::once(update));
            match update {
                Update::Round(round) => self.add_round(round),
                Update::Window(Availability::Available(window)) => self.add_window(window),
                Update::Window(Availability::Unavailable(_)) => {}
                Update::Event(event) => self.add_event(event.kind),
                Update::Switch { pinning, .. } => {
                    self.moved += pinning.outcome().map_or(0, |pinned| u64::from(pinned.changed));
                }
                // The view has all decisions.
                Update::Comparison(_) | Update::Decision(_) => {}
            }
            let is_placed = match (&before, self.view.as_ref().map(|view| &view.in_force)) {
                (Some(before), Some(now)) => before != now,
                (None, Some(now)) => !now.is_empty(),
                (_, None) => false,
            };
            if is_placed {
                self.placed_us = Some(now_unix_us);
            }
        }
    }

    /// Takes a complete view, at the begin or instead of missed steps. Windows that were missed are not in it.
    pub fn catch_up(&mut self, view: &View, missed: u64, now_unix_us: u64) {
        let updates = view.updates_since(self.view.as_ref());
        self.missed_steps += missed;
        self.follow(&updates, now_unix_us);
    }

    fn add_round(&mut self, round: &Round) {
        self.rounds = self.rounds.max(round.number);
        self.moved += round.pinning.outcome().map_or(0, |pinned| u64::from(pinned.changed));
        round.events.iter().for_each(|event| self.add_event(event.kind));
        // Sums of VMs that are gone, or that are not the same any more, go with them.
        let mut before = std::mem::take(&mut self.vms);
        for vm in &*round.vms {
            let same = before.remove(&vm.name).filter(|sums| sums.id == vm.id);
            self.vms.insert(vm.name.clone(), same.unwrap_or_else(|| VmSums::new(vm.id)));
        }
    }

    fn add_event(&mut self, kind: EventKind) {
        *self.events.entry(kind.name()).or_default() += 1;
    }

    fn add_window(&mut self, window: &Observation) {
        self.windows += 1;
        self.window_end_us = Some(window.end_unix_us);
        let window_us = window.end_unix_us.saturating_sub(window.begin_unix_us);
        let topology = self.view.as_ref().and_then(|view| view.round.topology.value());
        for of_vm in window.vcpus.chunk_by(|one, next| one.vm == next.vm) {
            if let Some(sums) = self.vms.get_mut(&of_vm[0].vm) {
                sums.add_vcpus(of_vm, topology.map(|topology| &**topology), window_us);
            }
        }
        for merging in &window.merging {
            add(&mut self.merges, merging.merges.value().copied());
            add(&mut self.breaks, merging.breaks.value().copied());
            if let Some(sums) = self.vms.get_mut(&merging.vm).filter(|sums| sums.id == merging.id) {
                sums.add_merging(merging);
            }
        }
        for occupied in window.occupancy.value().into_iter().flatten() {
            if let (Some(sums), Some(bytes)) = (self.vms.get_mut(&occupied.vm), occupied.total_bytes.value())
            {
                *sums.transfers.entry(occupied.cache).or_default() += bytes;
            }
        }
        for reported in &window.reported {
            if let Some(sums) = self.vms.get_mut(&reported.vm) {
                add(&mut sums.operations, Some(reported.operations));
            }
        }
        for program in &window.programs {
            if let Some(cost) = program.cost.value() {
                let sums = self.programs.entry(program.name.clone()).or_default();
                sums.runs += cost.runs;
                sums.run_ns += cost.run_ns;
            }
        }
        if let Some(lost) = window.losses.value() {
            let sums = self.losses.get_or_insert_default();
            sums.pass_events += lost.pass_events;
            sums.ksm_events += lost.ksm_events;
            sums.exit_reasons += lost.exit_reasons;
            sums.vcpu_threads += lost.vcpu_threads;
        }
        add(&mut self.reading_cpu_us, window.reading_cpu_us.value().copied());
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::rates::{CounterDelta, DID_NOT_RUN};
    use huddle_model::vm::TaskId;
    use huddle_testing::sample_observed::observed;

    use super::*;

    fn followed(views: impl IntoIterator<Item = View>) -> Fold {
        let mut fold = Fold::default();
        let mut before: Option<View> = None;
        for (at, view) in views.into_iter().enumerate() {
            fold.follow(&view.updates_since(before.as_ref()), at as u64);
            before = Some(view);
        }
        fold
    }

    /// With other VMs than those of its first ones.
    fn only(mut view: View, keep: impl Fn(&str) -> bool) -> View {
        let round = Arc::make_mut(&mut view.round);
        Arc::make_mut(&mut round.vms).retain(|vm| keep(&vm.name));
        view
    }

    #[test]
    fn windows_are_summed_up_and_each_is_counted_once() {
        let fold = followed((1..=4).map(|round| observed(round, 2)));
        let vm = &fold.vms["vm0"];
        assert_eq!((fold.rounds, fold.windows), (4, 4));
        // 800 ms in `before`, 500 ms in `paper`.
        assert_eq!(vm.run_ns, Some(2_600_000_000));
        assert_eq!(vm.run_ns_by_domain[&DomainId(1)], 400_000_000);
        assert_eq!(vm.counts[1], Some(4_000_000.0));
        assert_eq!((vm.counted_us, vm.merges, fold.merges), (Some(4_000_000), Some(28), Some(56)));
        assert_eq!(fold.losses.unwrap().ksm_events, 4);
        assert_eq!(fold.placed_us, Some(3), "it is placed and taken back in turn");
    }

    #[test]
    fn a_vm_that_goes_takes_its_sums_along_and_the_host_keeps_its_own() {
        let gone = only(observed(5, 2), |name| name != "vm1");
        let fold = followed((1..=4).map(|round| observed(round, 2)).chain([gone]));
        assert!(!fold.vms.contains_key("vm1"));
        // Its last window still has it, as the loop's would.
        assert_eq!((fold.vms["vm0"].merges, fold.merges), (Some(35), Some(70)));

        // Another VM of the same name begins at nothing.
        let mut another = observed(5, 2);
        let round = Arc::make_mut(&mut another.round);
        Arc::make_mut(&mut round.vms)[0].id = TaskId { id: 100, start_ticks: 99 }.into();
        let fold = followed((1..=4).map(|round| observed(round, 2)).chain([another]));
        assert_eq!((fold.vms["vm0"].merges, fold.vms["vm1"].merges), (None, Some(35)));
    }

    #[test]
    fn what_is_unavailable_adds_nothing_and_is_not_zero() {
        let mut view = observed(1, 2);
        let window = view.observation.value().unwrap();
        let mut window = Observation::clone(window);
        window.vcpus[0].counters = CounterDelta::unavailable("no PMU");
        window.merging[0].merges = Availability::Unavailable("no KSM".into());
        view.observation = Availability::Available(Arc::new(window));
        let fold = followed([view]);
        assert_eq!((fold.vms["vm0"].counts, fold.vms["vm0"].counted_us), ([None; 4], None));
        assert_eq!(fold.vms["vm0"].merges, None);
        assert!(fold.vms["vm1"].counts[1].is_some());
        assert_eq!(followed([]).merges, None);
    }

    #[test]
    fn a_sum_over_vcpus_is_unavailable_where_one_of_them_is() {
        // The window of round 1 as of a VM with two vCPUs, of which the second one is changed.
        let with = |change: &dyn Fn(&mut VcpuObservation)| {
            let mut view = observed(1, 1);
            let mut window = Observation::clone(view.observation.value().unwrap());
            let mut second = VcpuObservation { vcpu: 1, ..window.vcpus[0].clone() };
            change(&mut second);
            window.vcpus.push(second);
            view.observation = Availability::Available(Arc::new(window));
            followed([view]).vms["vm0"].clone()
        };
        let gone = || "no probe".to_owned();
        let whole = with(&|_| {});
        let known = (whole.run_ns, whole.guest_ns, whole.migrations, whole.domain_migrations);
        assert_eq!(whole.run_ns, Some(1_600_000_000));
        assert!(known.1.is_some() && known.2.is_some() && known.3.is_some(), "{known:?}");
        let without = with(&|vcpu| {
            vcpu.residency = Availability::Unavailable(gone());
            vcpu.guest_ns = Availability::Unavailable(gone());
            vcpu.migrations = Availability::Unavailable(gone());
            vcpu.domain_migrations = Availability::Unavailable(gone());
        });
        let unknown = (without.run_ns, without.guest_ns, without.migrations, without.domain_migrations);
        assert_eq!(unknown, (None, None, None, None));
        assert_eq!(without.run_ns_by_domain, BTreeMap::new());
        // What did not run had no misses.
        let ended = with(&|vcpu| vcpu.counters = CounterDelta::unavailable("the thread ended"));
        assert_eq!((ended.counts, ended.counted_us), ([None; 4], None));
        let idle = with(&|vcpu| vcpu.counters = CounterDelta::unavailable(DID_NOT_RUN));
        assert_eq!((idle.counts[1], idle.counted_us), (Some(1_000_000.0), Some(1_000_000)));
        // Xen tells how long, and not where.
        let somewhere = with(&|vcpu| {
            vcpu.residency = Availability::Unavailable(gone());
            vcpu.run_ns_anywhere = Some(5);
        });
        assert_eq!((somewhere.run_ns, somewhere.run_ns_by_domain.len()), (Some(800_000_005), 0));
    }

    #[test]
    fn a_missed_step_is_counted_and_nothing_is_counted_twice() {
        let mut fold = followed((1..=2).map(|round| observed(round, 2)));
        fold.catch_up(&observed(6, 2), 4, 10);
        assert_eq!((fold.rounds, fold.windows, fold.missed_steps), (6, 3, 4));
        assert_eq!(fold.view.as_ref().map(|view| view.decisions.len()), Some(1));
        fold.catch_up(&observed(6, 2), 0, 11);
        assert_eq!((fold.windows, fold.merges), (3, Some(42)));
    }
}
