//! The web experiment of the paper (Table 4 and Figure 5): what the users of web servers feel of where
//! the servers run.
//!
//! Every server is a real Apache with PHP, a process of this host ([`apache`]) or in a VM with a Debian of
//! its own ([`vm`]), and every user a thread that sends one request after the other and records each
//! response time ([`load`]). Two servers hold data A, two data B, each
//! beside a copy of its own that equals nobody else's. KSM merges what is equal; then arms alternate in
//! blocks as in the [microbenchmark](crate::microbench), with the same host, orders, checks and statistics.
//!
//! Two pages ([`spec::Page`]): `resident`, whose data stays in the server's own memory and merges, and
//! `paper`, which reads the data's file on every request, as the paper's program does. In VMs the file
//! merges, since a VM's page cache is memory of its own. Between processes nothing of it does, so that
//! there it is not what is shared that tells the placements apart, but what the servers are known to hold.

pub mod apache;
pub mod command;
pub mod distribution;
pub mod load;
mod measure;
pub mod report;
pub mod responses;
pub mod server;
pub mod site;
pub mod spec;
pub mod summary;
pub mod tenant;
#[cfg(test)]
mod tests;
pub mod vm;

use std::time::{Duration, Instant};

use huddle_guest::chase::PAGE_BYTES;
use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use huddle_model::plan::Plan;
use huddle_model::topology::Topology;

use crate::course::{Merging, RunError, Step, blocks, two_domains, undone_after};
use crate::design::{Arm, orders};
use crate::guest::{GuestData, GuestError, Holder, Pace};
use crate::host::Host;
use crate::interrupt::Interrupt;
use crate::microbench::{Expected, data_bytes, guest_data, plans};
use spec::{ServerKind, WebConfig};
use tenant::Tenant;

pub use measure::{TenantSample, WebBlock, WebSample};

/// Requests to each server after merging and before its sharing is measured: what they write of merged
/// memory is no longer merged, and would not be in any window.
const AFTER_MERGING: usize = 50;

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The two cache domains that were used.
    pub topology: Topology,
    /// Bytes of a data set.
    pub data_bytes: u64,
    /// Reads of a visit to the data.
    pub reads: u64,
    /// Which servers hold the same data.
    pub expected: Expected,
    /// What the servers shared before the first window.
    pub matrix: SharingMatrix,
    /// Pages of the data that each pair had merged then.
    pub data_shared: Vec<Vec<u64>>,
    /// How long merging took, in seconds.
    pub merging_s: f64,
    /// Where each arm placed the servers, in the order of the specification; not those placed by lot.
    pub plans: Vec<(Arm, Plan)>,
    /// The measured blocks, without the warm-up.
    pub blocks: Vec<WebBlock>,
}

/// Starts the servers of a specification, in its order; all of them ready.
pub type StartTenants<'a> = &'a mut dyn FnMut(&WebConfig) -> Result<Vec<Box<dyn Tenant>>, GuestError>;

/// Runs the experiment and leaves the host as it was.
///
/// # Errors
/// Nothing was measured; see [`RunError`].
pub fn run(
    config: &WebConfig,
    host: &mut dyn Host,
    start_tenants: StartTenants<'_>,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Outcome, RunError> {
    undone_after(host, |host, tenants| {
        Run { config, host, interrupt, progress }.measure_all(start_tenants, tenants)
    })
}

struct Run<'a> {
    config: &'a WebConfig,
    host: &'a mut dyn Host,
    interrupt: &'a Interrupt,
    progress: &'a mut dyn FnMut(Step<'_>),
}

impl Run<'_> {
    fn merging(&mut self) -> Merging<'_> {
        Merging { host: &mut *self.host, interrupt: self.interrupt }
    }

    fn say(&mut self, text: &str) {
        let of = self.config.warm_up_blocks + self.config.repetitions;
        (self.progress)(Step { text, done: 0, of, left: None });
    }

    fn measure_all(
        &mut self,
        start_tenants: StartTenants<'_>,
        tenants: &mut Vec<Box<dyn Tenant>>,
    ) -> Result<Outcome, RunError> {
        let config = self.config;
        config.check()?;
        let bench = config.bench();
        let topology = two_domains(&self.host.topology(config.cache_level)?)?;
        let data_bytes = data_bytes(&bench, &topology)?;
        let reads = config.reads(data_bytes);
        let pace = Pace { burst_reads: reads, idle_us: 0 };
        self.say(&format!(
            "starting {} web servers ({}), page {}: {} KiB of data each, {reads} reads a visit",
            config.data.len(),
            config.guest.name(),
            config.page.name(),
            data_bytes / 1024,
        ));
        *tenants = start_tenants(config)?;
        self.interrupt.check()?;
        let holders: Vec<(String, Holder)> =
            tenants.iter().map(|tenant| (tenant.name().to_owned(), tenant.holder())).collect();

        self.say("loading the data, letting KSM merge it");
        let begun = Instant::now();
        let loaded: Vec<GuestData> =
            (0..config.data.len()).map(|server| guest_data(&bench, server, data_bytes)).collect();
        tenants.iter_mut().zip(&loaded).try_for_each(|(tenant, data)| tenant.load(*data))?;
        let vms = self.host.find(&holders)?;
        let expected = Expected::new(&config.holds(), data_bytes, true);
        // What a writer holds equals nobody else's from its first request on: it is not looked for.
        let held = |(server, data): (usize, &GuestData)| match config.writes(server) {
            true => GuestData { seed: !data.own_seed, ..*data },
            false => *data,
        };
        let data: Vec<GuestData> = loaded.iter().enumerate().map(held).collect();
        let merges = config.data_merges().then_some(&expected);
        self.host.merge()?;
        if let Some(expected) = merges {
            self.merging().wait_until_merged(&vms, &data, expected, config.merge_seconds)?;
        }
        // The rest of what servers have in common: the paper's Table 4 is of all their memory.
        self.merging().wait_until_still(&vms, growth(config), config.merge_seconds)?;
        let merging_s = begun.elapsed().as_secs_f64();
        self.host.pause_merging()?;
        for own in [false, true] {
            self.let_answer(tenants, pace, own)?;
        }
        let data_shared = match merges {
            Some(expected) => {
                let shared = self.host.data_shared(&vms, &data)?;
                expected.verify(&shared).map_err(|why| RunError::NotMerged { seconds: merging_s, why })?;
                shared
            }
            None => vec![vec![0; vms.len()]; vms.len()],
        };
        // What the plans are made from, except where nothing of the data can be merged.
        let matrix = self.host.measure(&vms)?;
        let known;
        let basis = match merges {
            Some(_) => &matrix,
            None => {
                known = held_in_common(&matrix, &expected, data_bytes);
                &known
            }
        };
        let plans = plans(&config.arms, basis, &topology, &expected)?;
        let mut bench = measure::Bench {
            config,
            host: &mut *self.host,
            tenants,
            vms: &vms,
            data: &data,
            plans: &plans,
            topology: &topology,
            matrix: basis,
            pace,
            interrupt: self.interrupt,
        };
        bench.host.watch(bench.vms, bench.topology);
        let orders = orders(&config.arms, config.warm_up_blocks + config.repetitions, config.seed);
        let blocks = blocks(&orders, config.warm_up_blocks, None, self.progress, |number, order| {
            bench.block(number, order, merges)
        })?;
        Ok(Outcome { topology, data_bytes, reads, expected, matrix, data_shared, merging_s, plans, blocks })
    }

    fn let_answer(&mut self, tenants: &mut [Box<dyn Tenant>], pace: Pace, own: bool) -> Result<(), RunError> {
        let until = Instant::now() + Duration::from_secs_f64(self.config.most_seconds_per_arm);
        tenants.iter_mut().try_for_each(|tenant| tenant.start(pace, own))?;
        while let Some(slow) = tenants.iter_mut().find(|tenant| tenant.answered() < AFTER_MERGING) {
            slow.check()?;
            if Instant::now() >= until {
                break;
            }
            self.interrupt.sleep(Duration::from_millis(10))?;
        }
        tenants.iter_mut().try_for_each(|tenant| tenant.stop().map(drop))?;
        Ok(())
    }
}

/// How much what servers share may still grow when it counts as merged: operating systems write to their
/// memory all the time.
fn growth(config: &WebConfig) -> f64 {
    match config.guest {
        ServerKind::Process => 0.0,
        ServerKind::Qemu => 0.01,
    }
}

/// What servers would share if the data they hold were merged and nothing else.
fn held_in_common(matrix: &SharingMatrix, expected: &Expected, data_bytes: u64) -> SharingMatrix {
    let pages = data_bytes / PAGE_BYTES as u64;
    let memory =
        MemoryUse { pages_resident: pages, pages_used: pages, frames_used: pages, ..Default::default() };
    let vms: Vec<MatrixVm> =
        matrix.vms().iter().map(|vm| MatrixVm { memory: Some(memory), ..vm.clone() }).collect();
    let shared = |i: usize, j: usize| if expected.same_data(i, j) { pages } else { 0 };
    let frames: Vec<Vec<u64>> =
        (0..vms.len()).map(|i| (0..vms.len()).map(|j| shared(i, j)).collect()).collect();
    SharingMatrix::measured(Method::File, vms, &frames, 0.0, 1.0)
}
