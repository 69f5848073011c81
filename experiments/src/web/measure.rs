//! Measuring one arm: send requests, keep those after the warm-up.

use std::time::{Duration, Instant};

use huddle_model::summary::{Arm, Sample, TenantSample};

use super::WebSettings;
use super::tenant::Tenant;
use crate::frame::Window;
use crate::frame::run::RunError;
use crate::frame::simulate::Phase;
use crate::frame::simulate::emulated::Work;

/// How often to check whether all requests are done: seldom, since this is work on the CPUs that are measured.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// One window, or why it has no result.
pub(super) fn sample(
    settings: &WebSettings,
    window: &mut Window<'_, dyn Tenant>,
    arm: Arm,
) -> Result<Result<Sample, String>, RunError> {
    let wanted = settings.warm_up_requests + settings.requests;
    // Ends the host's window in which guests were placed.
    window.host.window();
    window.start(arm.reads_own())?;
    let late = wait_until_answered(settings, window, wanted)?;
    window.stop()?;
    let mut probes = window.host.window().vcpus.into_iter();
    let mut tenants = Vec::new();
    for tenant in window.guests.iter_mut() {
        let responses = tenant.take_responses();
        tenants.push(TenantSample::new(
            tenant.name(),
            responses,
            settings.warm_up_requests..wanted,
            probes.next(),
        ));
    }
    let silent = tenants.iter().find(|tenant| tenant.mean_us.is_none());
    let why = late.or_else(|| silent.map(|silent| format!("{} gave not one good response", silent.vm)));
    Ok(match why {
        Some(why) => Err(format!("in arm {arm} {why}")),
        None => Ok(Sample { tenants, ..Sample::new(arm) }),
    })
}

/// Waits until each user has had `wanted` requests, with the same load until the last of them; returns who was too
/// slow.
pub(super) fn wait_until_answered(
    settings: &WebSettings,
    window: &mut Window<'_, dyn Tenant>,
    wanted: usize,
) -> Result<Option<String>, RunError> {
    let until = Instant::now() + Duration::from_secs_f64(settings.most_seconds_per_arm);
    loop {
        window.interrupt.sleep(POLL_INTERVAL)?;
        let Some(slow) = window.guests.iter_mut().find(|tenant| tenant.answered() < wanted) else {
            return Ok(None);
        };
        slow.check()?;
        if Instant::now() >= until {
            return Ok(Some(format!(
                "{} answered {} of {wanted} requests within {} s",
                slow.name(),
                slow.answered(),
                settings.most_seconds_per_arm
            )));
        }
    }
}

/// So many answers of each server. They are counted on the host: no server is waited for.
pub(super) struct Answers {
    settings: WebSettings,
    /// Answers of each server by which a phase is over.
    until: Vec<usize>,
}

impl Answers {
    pub(super) fn new(settings: WebSettings) -> Self {
        Self { settings, until: Vec::new() }
    }
}

impl Work<dyn Tenant> for Answers {
    fn prepare(&mut self, _: &mut Window<'_, dyn Tenant>) -> Result<(), RunError> {
        Ok(())
    }

    fn begin(&mut self, window: &mut Window<'_, dyn Tenant>, phase: Phase) {
        let wanted = match phase {
            Phase::WarmUp => self.settings.warm_up_requests,
            Phase::Counted => self.settings.requests,
        };
        self.until = window.guests.iter().map(|tenant| tenant.answered() + wanted).collect();
    }

    fn is_enough(&mut self, window: &mut Window<'_, dyn Tenant>, _: Duration) -> bool {
        window.guests.iter().zip(&self.until).all(|(tenant, until)| tenant.answered() >= *until)
    }
}
