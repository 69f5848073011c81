//! The web experiment of the paper (Table 4 and Figure 5): how the placement of web servers changes the response
//! times of their users.
//!
//! Every server is a real Apache with PHP, a process of this host ([`apache`]) or in a VM with a Debian of
//! its own ([`vm`]), and every user a thread that sends one request after the other and records each
//! response time ([`load`]). Two servers hold data A, two data B, each beside a copy of its own that equals
//! nobody else's. KSM merges what is equal; then arms alternate in blocks, as in every
//! [experiment](crate::frame).
//!
//! Two pages ([`spec::Page`]): `resident`, whose data stays in the server's own memory and merges, and
//! `paper`, which reads the data's file on every request, as the paper's program does. In VMs the file
//! merges, since a VM's page cache is guest memory. Between processes it does not, so plans are made there from
//! the data that servers are known to hold.

pub mod apache;
mod command;
pub mod load;
mod measure;
mod report;
mod responses;
pub mod run_directory;
pub mod server;
mod spec;
pub mod tenant;
#[cfg(test)]
pub(crate) mod tests;
pub mod vm;

use std::path::PathBuf;
use std::rc::Rc;

use huddle_model::plan::Plan;
use huddle_model::rng::Rng;
use huddle_model::stats::{Distribution, quantiles};
use huddle_model::summary::{
    Arm, Block, Ratio, Requests, Sample, TenantFigures, TenantSample, WebConfig, WebFigures, figures,
};

use crate::access_stream::Recorders;
use crate::frame::run::RunError;
use crate::frame::simulate::AccessSource;
use crate::frame::simulate::emulated::EmulatedAccesses;
use crate::frame::{Figure, Metric, Outcome, RatioSpec, Verify, Window, Workload};
use crate::guest::{GuestData, Pace};
use tenant::Tenant;

pub use command::{Args, execute};
pub use spec::{Page, Preset, WebSettings, WebSpec};

/// Requests to each server after merging and before its sharing is measured: merged memory that they write to is
/// merged no more, as in any window.
const AFTER_MERGING: usize = 50;

/// The random stream of intervals (see [`Rng::of_part`]).
const INTERVALS: u64 = 30;

/// The web experiment of a specification.
#[derive(Clone, Debug)]
pub struct Web {
    /// What is run.
    pub spec: WebSpec,
    /// Apache's program, for servers that are processes.
    pub apache: PathBuf,
    /// What records the accesses of emulated VMs, if that is wanted.
    pub recorders: Option<Rc<Recorders>>,
}

const fn ratio(name: &'static str, text: &'static str, arms: (Arm, Arm), of: Metric) -> RatioSpec {
    RatioSpec { name, text, over: arms.0, under: arms.1, of }
}

const OPPOSED: (Arm, Arm) = (Arm::Opposed, Arm::Recommended);

impl Workload for Web {
    const NAME: &'static str = "web";
    type Settings = WebSettings;
    type Guest = dyn Tenant;
    type Figures = WebFigures;

    fn spec(&self) -> &WebSpec {
        &self.spec
    }

    fn guests(&self) -> String {
        format!("{} web servers, page {}", self.spec.guests(), self.spec.settings.page.name())
    }

    fn vcpus(&self) -> usize {
        self.spec.guests()
    }

    fn pace(&self, data_bytes: u64) -> Pace {
        Pace { burst_reads: self.spec.reads(data_bytes), idle_us: 0 }
    }

    fn verify(&self) -> Verify {
        if self.spec.data_merges() { Verify::Merged } else { Verify::Nothing }
    }

    fn data_names(&self) -> Vec<String> {
        self.spec.data_names()
    }

    fn shareable_data(&self, server: usize, data: GuestData) -> GuestData {
        // The data of a writer equals nobody else's from its first request on.
        let seed = if self.spec.writes(server) { !data.own_seed } else { data.seed };
        GuestData { seed, ..data }
    }

    fn settling_growth(&self) -> Option<f64> {
        // The paper's Table 4 is of all memory, and operating systems write to theirs all the time.
        Some(if self.spec.guest.has_kernels() { 0.01 } else { 0.0 })
    }

    fn after_merging(&self, window: &mut Window<'_, dyn Tenant>) -> Result<(), RunError> {
        for own in [false, true] {
            window.start(own)?;
            // One that is too slow for it will be too slow for the blocks, which say so.
            let _ = measure::wait_until_answered(&self.spec.settings, window, AFTER_MERGING)?;
            window.stop()?;
        }
        Ok(())
    }

    fn measure(
        &self,
        window: &mut Window<'_, dyn Tenant>,
        arm: Arm,
        _: &Plan,
    ) -> Result<Result<Sample, String>, RunError> {
        measure::sample(&self.spec.settings, window, arm)
    }

    fn accesses<'a>(
        &'a self,
        window: Window<'a, dyn Tenant>,
        _: &'a [GuestData],
    ) -> Result<Box<dyn AccessSource + 'a>, RunError> {
        let recorders = self.recorders.as_ref().map_or(&[][..], |recorders| recorders.streams());
        let streams = window.host.access_streams(window.vms, self.spec.memory_mib, recorders)?;
        let work = Box::new(measure::Answers::new(self.spec.settings.clone()));
        Ok(Box::new(EmulatedAccesses { window, streams, seed: self.spec.seed, set_forward: 0, work }))
    }

    const MAIN: Figure = Figure { name: "mean response time", unit: "us", of: Sample::mean_us };
    const TIME: Metric = Sample::mean_us;
    const MISSES: Figure =
        Figure { name: "misses per request", unit: "misses/request", of: Sample::llc_misses_per_request };
    /// The first is the paper's Figure 5: 6.15 ms over 5.25 ms, 1.17.
    const RATIOS: &'static [RatioSpec] = &[
        ratio(
            "opposed_over_recommended",
            "opposed over recommended, mean response time",
            OPPOSED,
            Sample::mean_us,
        ),
        ratio("opposed_over_recommended_p50", "  the same of the medians", OPPOSED, |sample| {
            Some(quantiles(&sample.times_us(), &[0.5])?[0])
        }),
        ratio("opposed_over_recommended_p95", "  the same of the 95th percentiles", OPPOSED, |sample| {
            Some(quantiles(&sample.times_us(), &[0.95])?[0])
        }),
        ratio(
            "not_merged_opposed_over_not_merged",
            "  the same placements when not merged",
            (Arm::NotMergedOpposed, Arm::NotMerged),
            Sample::mean_us,
        ),
    ];

    fn figures(&self, valid: &[&Block], outcome: &Outcome) -> WebFigures {
        let settings = &self.spec.settings;
        let seed = Rng::of_part(self.spec.seed, INTERVALS).next_u64();
        let samples = |arm| valid.iter().filter_map(move |block| block.sample(arm));
        WebFigures {
            page: settings.page.name().to_owned(),
            latency_us: Arm::by_name(|arm| {
                Distribution::of(&samples(arm).map(Sample::times_us).collect::<Vec<_>>(), seed)
            }),
            requests: Arm::by_name(|arm| {
                let tenants: Vec<&TenantSample> = samples(arm).flat_map(|sample| &sample.tenants).collect();
                let sum = |of: fn(&TenantSample) -> usize| tenants.iter().copied().map(of).sum();
                let (sent, failed) = (sum(|tenant| tenant.requests), sum(|tenant| tenant.failed));
                let timed_out = sum(|tenant| tenant.timed_out);
                (!tenants.is_empty()).then_some(Requests { sent, failed, timed_out })
            }),
            tenants: (0..self.spec.guests()).map(|server| self.tenant(server, valid)).collect(),
            data_shared_pages: outcome.data_shared.clone(),
            placed_by: match self.verify() {
                Verify::Nothing => "the data that servers are known to hold",
                Verify::Merged | Verify::Unmerged => "measured sharing",
            }
            .to_owned(),
            config: WebConfig {
                data_kib: outcome.data_bytes / 1024,
                visits: settings.visits,
                reads_per_visit: outcome.pace.burst_reads,
                loop_kind: if settings.rate_per_s.is_some() { "open" } else { "closed" }.to_owned(),
                cache_level: outcome.topology.level(),
                merging_s: outcome.merging_s,
            },
        }
    }

    fn effect(ratio: f64) -> String {
        match ratio > 1.0 {
            true => format!(
                "placed the opposite way, users wait {ratio:.2} times as long as placed as recommended"
            ),
            false => format!(
                "placed as recommended, users wait LONGER: placed the opposite way they wait {ratio:.2} times as long"
            ),
        }
    }
}

impl Web {
    fn tenant(&self, server: usize, blocks: &[&Block]) -> TenantFigures {
        let mean = |sample: &Sample| sample.tenants.get(server)?.mean_us;
        TenantFigures {
            vm: self.spec.guest_name(server),
            data: self.spec.data[server].clone(),
            writes: self.spec.writes(server),
            arms: figures(blocks, "us", mean),
            opposed_over_recommended: Ratio::of(blocks, Arm::Opposed, Arm::Recommended, mean),
        }
    }
}
