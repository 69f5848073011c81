//! Measuring one block: place, send requests, keep those after the warm-up.

use std::time::{Duration, Instant};

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;
use serde::Serialize;

use super::load::{Failure, Response};
use super::spec::WebConfig;
use super::tenant::Tenant;
use crate::course::{RunError, plan_of};
use crate::design::Arm;
use crate::guest::{GuestData, Pace};
use crate::host::Host;
use crate::interrupt::Interrupt;
use crate::microbench::{Expected, drawn};
use crate::probes::VcpuProbe;

/// How often it is looked whether all requests are done: seldom, since this is work on the CPUs that are
/// measured.
const LOOK: Duration = Duration::from_millis(10);

/// What the users of one server got in one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantSample {
    /// Name of its VM.
    pub vm: String,
    /// The measured requests; they stand in the table `responses`.
    #[serde(skip)]
    pub responses: Vec<Response>,
    /// Requests that were measured.
    pub requests: usize,
    /// Those without a good response, time-outs among them.
    pub failed: usize,
    /// Those without one in time.
    pub timed_out: usize,
    /// Mean response time of the good ones, in microseconds; `None` when there are none.
    pub mean_us: Option<f64>,
    /// All requests of the window, the warm-up among them: what the host's counters are of.
    pub requests_in_window: usize,
    /// What the host counted of the server in the window.
    pub host: Option<VcpuProbe>,
}

impl TenantSample {
    /// What one server gave.
    pub fn new(
        vm: &str,
        all: Vec<Response>,
        measured: std::ops::Range<usize>,
        host: Option<VcpuProbe>,
    ) -> Self {
        let requests_in_window = all.len();
        let responses: Vec<Response> = all.into_iter().take(measured.end).skip(measured.start).collect();
        let failed = responses.iter().filter(|response| response.failure.is_some()).count();
        let late = |response: &&Response| response.failure == Some(Failure::TimedOut);
        let timed_out = responses.iter().filter(late).count();
        let good: Vec<f64> = good_us(&responses).collect();
        let mean_us = (!good.is_empty()).then(|| good.iter().sum::<f64>() / good.len() as f64);
        let (vm, requests) = (vm.to_owned(), responses.len());
        Self { vm, responses, requests, failed, timed_out, mean_us, requests_in_window, host }
    }

    /// LLC misses of the server for each request; `None` where there is no such counter.
    pub fn llc_misses_per_request(&self) -> Option<f64> {
        let misses = self.host.as_ref()?.llc_misses().value()?;
        (self.requests_in_window > 0).then(|| misses / self.requests_in_window as f64)
    }
}

/// The response times of the good ones, in microseconds.
pub(crate) fn good_us(responses: &[Response]) -> impl Iterator<Item = f64> {
    responses
        .iter()
        .filter(|response| response.failure.is_none())
        .map(|response| response.latency_ns as f64 / 1000.0)
}

/// What all users got in one window of one arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WebSample {
    /// The arm.
    pub arm: Arm,
    /// Each server, in the order of the matrix.
    pub tenants: Vec<TenantSample>,
    /// Where they were placed by lot; `None` where the arm's plan tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

impl WebSample {
    /// Mean response time over all good responses, in microseconds; `None` when there are none.
    pub fn mean_us(&self) -> Option<f64> {
        let all: Vec<f64> = self.tenants.iter().flat_map(|tenant| good_us(&tenant.responses)).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    /// LLC misses of the servers for each request; `None` where one has no such counter.
    pub fn llc_misses_per_request(&self) -> Option<f64> {
        let requests: usize = self.tenants.iter().map(|tenant| tenant.requests_in_window).sum();
        let misses =
            |tenant: &TenantSample| Some(tenant.llc_misses_per_request()? * tenant.requests_in_window as f64);
        let misses: f64 = self.tenants.iter().map(misses).sum::<Option<f64>>()?;
        (requests > 0).then(|| misses / requests as f64)
    }

    /// Why misses cannot be told, where they cannot.
    pub fn no_misses(&self) -> Option<&str> {
        self.tenants.iter().find_map(|tenant| tenant.host.as_ref()?.llc_misses().reason())
    }
}

/// One block: every arm once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WebBlock {
    /// Counted from 1.
    pub number: usize,
    /// The arms, in the order they were measured; in an invalid block one may be missing.
    pub samples: Vec<WebSample>,
    /// Why it must enter no figure; `None` when it is valid.
    pub invalid: Option<String>,
}

impl WebBlock {
    /// The sample of one arm.
    pub fn sample(&self, arm: Arm) -> Option<&WebSample> {
        self.samples.iter().find(|sample| sample.arm == arm)
    }
}

pub(super) struct Bench<'a> {
    pub(super) config: &'a WebConfig,
    pub(super) host: &'a mut dyn Host,
    pub(super) tenants: &'a mut Vec<Box<dyn Tenant>>,
    pub(super) vms: &'a [Vm],
    /// What each server holds, as far as it is verified.
    pub(super) data: &'a [GuestData],
    pub(super) plans: &'a [(Arm, Plan)],
    pub(super) topology: &'a Topology,
    pub(super) matrix: &'a SharingMatrix,
    pub(super) pace: Pace,
    pub(super) interrupt: &'a Interrupt,
}

impl Bench<'_> {
    /// `expected` is `None` where nothing of the data can be merged.
    pub(super) fn block(
        &mut self,
        number: usize,
        order: &[Arm],
        expected: Option<&Expected>,
    ) -> Result<WebBlock, RunError> {
        let mut samples = Vec::new();
        let mut invalid = None;
        for arm in order {
            match self.sample(*arm, number)? {
                Ok(sample) => samples.push(sample),
                Err(why) => invalid = Some(why),
            }
        }
        if let Some(expected) = expected
            && let Err(why) = expected.verify(&self.host.data_shared(self.vms, self.data)?)
        {
            invalid = Some(format!("at the end of the block {why}"));
        }
        Ok(WebBlock { number, samples, invalid })
    }

    /// One window, or why it gives no figure.
    fn sample(&mut self, arm: Arm, block: usize) -> Result<Result<WebSample, String>, RunError> {
        let lot = arm.is_drawn().then(|| drawn(self.matrix, self.topology, self.config.seed, block));
        self.host.place(self.vms, plan_of(arm, lot.as_ref(), self.plans)?)?;
        let pace = self.pace;
        // What ends here holds the placing.
        self.host.window();
        self.tenants.iter_mut().try_for_each(|tenant| tenant.start(pace, arm.reads_own()))?;
        let late = self.wait_until_answered(arm)?;
        self.tenants.iter_mut().try_for_each(|tenant| tenant.stop().map(drop))?;
        let mut probes = self.host.window().vcpus.into_iter();
        let measured = self.config.warm_up_requests..self.config.warm_up_requests + self.config.requests;
        let mut samples = Vec::new();
        for tenant in self.tenants.iter_mut() {
            let responses = tenant.take_responses();
            samples.push(TenantSample::new(tenant.name(), responses, measured.clone(), probes.next()));
        }
        let mut found = late;
        if let Some(silent) = samples.iter().find(|sample| sample.mean_us.is_none()) {
            found.get_or_insert(format!("in arm {arm} {} gave not one good response", silent.vm));
        }
        Ok(found.map_or(Ok(WebSample { arm, tenants: samples, plan: lot }), Err))
    }

    /// Lets all users work until each has had its requests, so that the load is the same to the last of
    /// them; tells who was too late.
    fn wait_until_answered(&mut self, arm: Arm) -> Result<Option<String>, RunError> {
        let wanted = self.config.warm_up_requests + self.config.requests;
        let until = Instant::now() + Duration::from_secs_f64(self.config.most_seconds_per_arm);
        loop {
            self.interrupt.sleep(LOOK)?;
            let Some(slow) = self.tenants.iter_mut().find(|tenant| tenant.answered() < wanted) else {
                return Ok(None);
            };
            slow.check()?;
            if Instant::now() >= until {
                return Ok(Some(format!(
                    "in arm {arm} {} answered {} of {wanted} requests within {} s",
                    slow.name(),
                    slow.answered(),
                    self.config.most_seconds_per_arm
                )));
            }
        }
    }
}

/// The misses of each arm, or why there are none.
pub(crate) fn misses_reason(blocks: &[&WebBlock]) -> Availability<()> {
    let reason = blocks.iter().flat_map(|block| &block.samples).find_map(WebSample::no_misses);
    Availability::Unavailable(reason.unwrap_or("no valid block has them").to_owned())
}
