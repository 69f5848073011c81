//! A run of an experiment: start guests, merge, verify, plan, measure in blocks. However it ends, all changes of
//! the host are undone.

use std::time::{Duration, Instant};

use huddle_model::availability::Availability;
use huddle_model::matrix::{SharingMatrix, Weigh};
use huddle_model::summary::Arm;
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;

use super::block::{BlockRunner, Window};
use super::expected::{Expected, NotMerged};
use super::order::orders;
use super::placement::{Basis, plans, two_domains};
use super::simulate::{Machine, Reads, Simulation, predicted};
use super::spec::{GuestKind, SpecError};
use super::{Outcome, Verify, Workload, guest_data};
use crate::guest::{Guest, GuestData, GuestError, GuestId};
use crate::host::{Host, HostFailure};
use crate::interrupt::{Interrupt, Interrupted};

/// For how long what VMs share must not have grown to count as merged.
const STABLE_FOR: Duration = Duration::from_secs(3);

/// The most relative growth, in that time, of what VMs share after boot.
const BOOT_GROWTH: f64 = 0.02;

/// How long a killed process may take, after its first thread is gone, until its parent sees its end: all its
/// memory is freed before.
const MAX_ENDING: Duration = Duration::from_secs(2);

/// Why a run gave no result. Changes of the host are undone in every case but the last.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host cannot do it, or failed.
    #[error(transparent)]
    Host(#[from] HostFailure),
    /// A guest failed.
    #[error(transparent)]
    Guest(GuestError),
    /// The host did not merge, or merged what it should not.
    #[error(
        "after {seconds:.0} s the guests' data was not merged as it should be: {why}; look at /sys/kernel/mm/ksm (on \
         Xen at `xl info`), or give it more time with --merge-seconds"
    )]
    NotMerged {
        /// How long it waited, in seconds.
        seconds: f64,
        /// What was wrong at the end.
        why: NotMerged,
    },
    /// The two placements do not differ in what data is shared within caches.
    #[error(
        "in arm {under} {better} pairs of guests with the same data are on one cache, in arm {over} {worse}: the \
         placements do not differ in what is to be compared; {}",
        remedy(*under)
    )]
    SamePlacement {
        /// The arm that should have more of them.
        under: Arm,
        /// Pairs on one cache in it.
        better: u64,
        /// The other arm.
        over: Arm,
        /// Pairs on one cache in it.
        worse: u64,
    },
    /// The specification cannot be run.
    #[error(transparent)]
    Settings(#[from] SpecError),
    /// Ctrl-C or SIGTERM.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A change could not be undone.
    #[error("THE HOST IS NOT AS IT WAS: {undo}; run `huddle restore` as root{}", earlier(.cause))]
    NotUndone {
        /// What failed.
        undo: HostFailure,
        /// What had ended the run before.
        cause: Option<Box<RunError>>,
    },
}

impl From<GuestError> for RunError {
    fn from(error: GuestError) -> Self {
        match error {
            // Not the guest's fault.
            GuestError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            error => Self::Guest(error),
        }
    }
}

/// What makes an arm differ from the one it is compared with.
fn remedy(arm: Arm) -> &'static str {
    match arm {
        Arm::ByReads => {
            "more data that nobody reads (`cold`, --cold-kib) makes what is read differ from what is shared"
        }
        _ => "more data (--data-kib) makes the guests better apart",
    }
}

fn earlier(cause: &Option<Box<RunError>>) -> String {
    cause.as_ref().map(|cause| format!(" (the run had ended with: {cause})")).unwrap_or_default()
}

/// Progress of a run.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What is being done.
    pub text: &'a str,
    /// Blocks done, the warm-up included.
    pub done: usize,
    /// Blocks in all.
    pub of: usize,
    /// About how long the remaining blocks take: as long as those before them, or, before the first, as their
    /// arms take; `None` while guests start and merge, which cannot be estimated.
    pub left: Option<Duration>,
}

/// Starts the guest of a number, without waiting until it is up.
pub type StartGuest<'a, G> = &'a mut dyn FnMut(usize) -> Result<Box<G>, GuestError>;

/// Runs an experiment and leaves the host as it was, whatever the outcome. Of several data sizes it takes the
/// first.
///
/// # Errors
/// Nothing was measured; see [`RunError`].
pub fn run<W: Workload>(
    workload: &W,
    host: &mut dyn Host,
    start_guest: StartGuest<'_, W::Guest>,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Outcome, RunError> {
    let mut guests = Vec::new();
    let mut run = Run { workload, host: &mut *host, interrupt, progress };
    let mut result = run.measure(start_guest, &mut guests);
    // That a guest ends is noticed first by whoever reads its memory or places its vCPUs.
    if let Err(RunError::Host(HostFailure::Failed(_))) = &result
        && let Some(ended) = ended_guest(&mut guests)
    {
        result = Err(ended.into());
    }
    // First affinities and KSM's settings, while there are guests whose affinities can be set back.
    let undone = host.undo();
    drop(guests);
    match (result, undone) {
        (result, Ok(())) => result,
        (result, Err(undo)) => Err(RunError::NotUndone { undo, cause: result.err().map(Box::new) }),
    }
}

/// How a guest has ended, or ends within [`MAX_ENDING`].
fn ended_guest<G: Guest + ?Sized>(guests: &mut [Box<G>]) -> Option<GuestError> {
    let until = Instant::now() + MAX_ENDING;
    loop {
        let ended = guests.iter_mut().find_map(|guest| guest.check().err());
        if ended.is_some() || Instant::now() >= until {
            return ended;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The domains that guests are placed on.
struct Domains {
    /// The machine that is simulated.
    machine: Option<Machine>,
    topology: Topology,
    /// Why nothing can be timed.
    untimed: Option<String>,
}

/// Data whose merging is verified: of each VM, and which of it is the same.
struct Held {
    expected: Expected,
    data: Vec<GuestData>,
}

/// What the VMs share, and what of it they read while all of them do.
fn measure_reads<G: Guest + ?Sized>(window: &mut Window<'_, G>) -> Result<SharingMatrix, RunError> {
    window.start(false)?;
    let matrix = window.host.measure_reads(window.vms);
    window.stop()?;
    Ok(matrix?)
}

struct Run<'a, W> {
    workload: &'a W,
    host: &'a mut dyn Host,
    interrupt: &'a Interrupt,
    progress: &'a mut dyn FnMut(Step<'_>),
}

impl<W: Workload> Run<'_, W> {
    fn report(&mut self, text: &str) {
        (self.progress)(Step { text, done: 0, of: self.workload.spec().blocks(), left: None });
    }

    fn measure(
        &mut self,
        start_guest: StartGuest<'_, W::Guest>,
        guests: &mut Vec<Box<W::Guest>>,
    ) -> Result<Outcome, RunError> {
        let (workload, spec, verify) = (self.workload, self.workload.spec(), self.workload.verify());
        spec.check()?;
        let Domains { machine, topology, untimed } = self.domains()?;
        let data_bytes = spec.data_bytes(&topology, machine.as_ref().map(Machine::model))?;
        let is_timed = spec.is_timed() && untimed.is_none();
        let pace = workload.pace(data_bytes);
        self.report(&format!(
            "starting {} ({}): {} KiB of data each, {} reads a burst, {} us idle",
            workload.guests(),
            spec.guest.name(),
            data_bytes / 1024,
            pace.burst_reads,
            pace.idle_us
        ));
        if verify == Verify::Unmerged {
            // Before there is anything to merge: what was merged would stay merged.
            self.host.pause_merging()?;
        }
        for number in 0..spec.guests() {
            self.interrupt.check()?;
            guests.push(start_guest(number)?);
        }
        // All of them start at the same time.
        guests.iter_mut().try_for_each(|guest| guest.wait_ready())?;
        self.interrupt.check()?;
        let ids: Vec<(String, GuestId)> =
            guests.iter().map(|guest| (guest.name().to_owned(), guest.id())).collect();

        let begun = Instant::now();
        let boot = workload.measures_boot().then(|| self.boot(&ids)).transpose()?;
        self.report(if verify == Verify::Unmerged { "loading data" } else { "loading data and merging it" });
        let cold = workload.cold(data_bytes);
        let loaded: Vec<GuestData> =
            (0..spec.guests()).map(|i| guest_data(spec, i, data_bytes, cold.as_ref())).collect();
        guests.iter_mut().zip(&loaded).try_for_each(|(guest, data)| guest.load(*data))?;
        // Only now: processes allocate their memory when they load data.
        let vms = self.host.find(&ids)?;
        let merges = verify != Verify::Unmerged;
        let data: Vec<GuestData> =
            (0..).zip(loaded).map(|(guest, data)| workload.shareable_data(guest, data)).collect();
        let expected = Expected::new(&workload.data_names(), data_bytes, merges);
        let mut held = vec![Held { expected: expected.clone(), data: data.clone() }];
        held.extend(
            cold.iter().map(|cold| Held { expected: cold.expected(merges), data: cold.data(spec.seed) }),
        );
        let mut merging_s = None;
        if merges {
            self.host.merge()?;
            if verify == Verify::Merged {
                for held in &held {
                    self.wait_until_merged(&vms, held, spec.merge_seconds)?;
                }
            }
            if let Some(growth) = workload.settling_growth() {
                self.wait_until_stable(&vms, growth, spec.merge_seconds)?;
            }
            merging_s = Some(begun.elapsed().as_secs_f64());
            self.host.pause_merging()?;
        }
        let interrupt = self.interrupt;
        let mut window = Window { host: &mut *self.host, guests, vms: &vms, pace, interrupt };
        workload.after_merging(&mut window)?;
        // Once more with the scan paused: plans are made from this.
        let by_reads = spec.arms.iter().any(|arm| arm.weigh() == Weigh::Read);
        let matrix = match (by_reads, verify) {
            (true, Verify::Merged) => measure_reads(&mut window)?,
            _ => window.host.measure(&vms)?,
        };
        let mut data_shared = vec![vec![0; vms.len()]; vms.len()];
        if verify != Verify::Nothing {
            // The data that is read last: it is looked at again after every block.
            for held in held.iter().rev() {
                data_shared = self.host.data_shared(&vms, &held.data)?;
                let seconds = begun.elapsed().as_secs_f64();
                held.expected.verify(&data_shared).map_err(|why| RunError::NotMerged { seconds, why })?;
            }
        }
        let basis = Basis::new(&matrix, &expected, verify, by_reads)?;
        let timed_plans = plans(&spec.arms, &basis, &topology, &expected)?;
        let plans = match &machine {
            Some(_) => plans(&Simulation::arms(&spec.arms), &basis, &topology, &expected)?,
            None => Vec::new(),
        };

        let mut blocks = Vec::new();
        if is_timed {
            self.host.watch(&vms, &topology);
            let orders = orders(&spec.arms, spec.blocks(), spec.seed);
            let window = Window { host: &mut *self.host, guests, vms: &vms, pace, interrupt };
            let (data, topology, basis) = (&data, &topology, &*basis.all);
            let runner = BlockRunner {
                workload,
                window,
                data,
                plans: &timed_plans,
                topology,
                basis,
                expected: &expected,
            };
            blocks = runner.run(&orders, self.progress)?;
        }
        let simulated = match &machine {
            None => None,
            Some(machine) => {
                let window = Window { host: &mut *self.host, guests, vms: &vms, pace, interrupt };
                let (plans, basis, topology) = (&plans, &*basis.all, &topology);
                let (fold, seed, of) = (spec.simulated_fold, spec.seed, spec.repetitions);
                let simulation = Simulation { machine, plans, basis, topology, fold, seed };
                let progress = &mut *self.progress;
                let mut say = |done: usize| {
                    let text =
                        format!("simulating the caches of {}: block {done} of {of}", machine.model().name());
                    progress(Step { text: &text, done, of, left: None });
                };
                say(0);
                let mut source = workload.accesses(window, &data)?;
                Some(simulation.run(of, &mut *source, &mut say)?)
            }
        };
        let predicted = machine.as_ref().map(|machine| {
            let Some(pattern) = workload.read_pattern() else {
                return Availability::Unavailable("how often guests read which data is not known".to_owned());
            };
            let names = workload.data_names();
            let vms = basis.all.vms().iter().map(|vm| vm.name.as_str()).collect();
            let merges = verify != Verify::Unmerged;
            predicted(machine.model(), &Reads { pattern, vms, data: &names, data_bytes, merges }, &plans)
                .into()
        });
        drop(basis);
        let (events, event_notes) = self.host.counted();
        Ok(Outcome {
            topology,
            data_bytes,
            cold,
            pace,
            boot,
            expected,
            matrix,
            data_shared,
            merging_s,
            plans: timed_plans.into_iter().chain(plans).collect(),
            events,
            event_notes,
            blocks,
            predicted,
            simulated,
            untimed: match spec.untimed {
                true => Some("it was asked for (--untimed)".to_owned()),
                false => untimed.filter(|_| spec.is_timed()),
            },
        })
    }

    /// The domains of this host, and the machine that is simulated. Where only the latter has two, nothing is timed.
    fn domains(&mut self) -> Result<Domains, RunError> {
        let spec = self.workload.spec();
        let topology = self.host.topology(spec.cache_level).map_err(RunError::from);
        let topology = topology.and_then(|topology| two_domains(&topology));
        let Some(name) = &spec.simulate else {
            return Ok(Domains { machine: None, topology: topology?, untimed: None });
        };
        let vcpus = self.workload.vcpus();
        let machine = {
            let recorded = spec.guest == GuestKind::Qemu;
            Machine::open(name, &*self.host, topology.as_ref(), vcpus, recorded)?
        };
        let (topology, untimed) = match topology {
            Ok(topology) => (topology, None),
            Err(RunError::Host(HostFailure::Cannot(why))) => (machine.topology(vcpus)?, Some(why)),
            Err(error) => return Err(error),
        };
        Ok(Domains { machine: Some(machine), topology, untimed })
    }

    /// What VMs share once they are up.
    fn boot(&mut self, ids: &[(String, GuestId)]) -> Result<SharingMatrix, RunError> {
        let vms = self.host.find(ids)?;
        if self.workload.verify() == Verify::Unmerged {
            self.report("measuring what the VMs could share after boot");
            return Ok(self.host.measure(&vms)?);
        }
        self.report("merging what the VMs share after boot");
        self.host.merge()?;
        self.wait_until_stable(&vms, BOOT_GROWTH, self.workload.spec().merge_seconds / 2.0)
    }

    /// Waits until what the VMs share has not grown by more than the part `growth` of itself for a while, at most
    /// `limit_s`, and returns it.
    fn wait_until_stable(
        &mut self,
        vms: &[Vm],
        growth: f64,
        limit_s: f64,
    ) -> Result<SharingMatrix, RunError> {
        let (begun, mut stable_since, mut largest) = (Instant::now(), Instant::now(), 0);
        loop {
            let matrix = self.host.measure(vms)?;
            let shared: u64 = matrix.pairs().filter_map(|(i, j)| matrix.shared_frames(i, j)).sum();
            if shared as f64 > largest as f64 * (1.0 + growth) {
                (stable_since, largest) = (Instant::now(), shared);
            }
            let is_stable = largest > 0 && stable_since.elapsed() >= STABLE_FOR;
            if is_stable || begun.elapsed().as_secs_f64() >= limit_s {
                return Ok(matrix);
            }
            self.interrupt.sleep(Duration::from_millis(250))?;
        }
    }

    /// Waits until VMs with the same data share it.
    fn wait_until_merged(&mut self, vms: &[Vm], held: &Held, limit_s: f64) -> Result<(), RunError> {
        let (begun, limit) = (Instant::now(), Duration::from_secs_f64(limit_s));
        loop {
            let shared = self.host.data_shared(vms, &held.data)?;
            let Err(why) = held.expected.verify(&shared) else { return Ok(()) };
            if begun.elapsed() >= limit {
                return Err(RunError::NotMerged { seconds: begun.elapsed().as_secs_f64(), why });
            }
            self.interrupt.sleep(Duration::from_millis(100).min(limit))?;
            self.host.continue_merging()?;
        }
    }
}
