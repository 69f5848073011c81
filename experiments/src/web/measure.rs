//! Measuring one arm: send requests, keep those after the warm-up.

use std::time::{Duration, Instant};

use huddle_model::summary::{Arm, Sample, TenantSample};

use super::Own;
use super::tenant::Tenant;
use crate::frame::Window;
use crate::frame::course::RunError;

/// How often it is looked whether all requests are done: seldom, since this is work on the CPUs that are
/// measured.
const LOOK: Duration = Duration::from_millis(10);

/// One window, or why it gives no figure.
pub(super) fn sample(
    own: &Own,
    window: &mut Window<'_, dyn Tenant>,
    arm: Arm,
) -> Result<Result<Sample, String>, RunError> {
    let wanted = own.warm_up_requests + own.requests;
    // What ends here holds the placing.
    window.host.window();
    window.start(arm.reads_own())?;
    let late = wait_until_answered(own, window, wanted)?;
    window.stop()?;
    let mut probes = window.host.window().vcpus.into_iter();
    let mut tenants = Vec::new();
    for tenant in window.guests.iter_mut() {
        let responses = tenant.take_responses();
        tenants.push(TenantSample::new(
            tenant.name(),
            responses,
            own.warm_up_requests..wanted,
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

/// Lets all users work until each has had `wanted` requests, so that the load is the same to the last of
/// them; tells who was too late.
pub(super) fn wait_until_answered(
    own: &Own,
    window: &mut Window<'_, dyn Tenant>,
    wanted: usize,
) -> Result<Option<String>, RunError> {
    let until = Instant::now() + Duration::from_secs_f64(own.most_seconds_per_arm);
    loop {
        window.interrupt.sleep(LOOK)?;
        let Some(slow) = window.guests.iter_mut().find(|tenant| tenant.answered() < wanted) else {
            return Ok(None);
        };
        slow.check()?;
        if Instant::now() >= until {
            return Ok(Some(format!(
                "{} answered {} of {wanted} requests within {} s",
                slow.name(),
                slow.answered(),
                own.most_seconds_per_arm
            )));
        }
    }
}
