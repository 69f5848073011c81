//! Measuring one arm: settle, read all counters, wait, read them again.

use std::time::Duration;

use huddle_model::plan::Plan;
use huddle_model::summary::{Arm, GuestSample, Sample, Seen};
use huddle_model::vm::Vm;

use super::MicrobenchSettings;
use crate::frame::Window;
use crate::frame::run::RunError;
use crate::guest::{Reader, Reading};

/// One window, or why it has no result: a guest that other programs kept from finishing one burst has no rate,
/// and one such window must not end a long run.
pub(super) fn sample(
    settings: &MicrobenchSettings,
    window: &mut Window<'_, dyn Reader>,
    arm: Arm,
    plan: &Plan,
) -> Result<Result<Sample, String>, RunError> {
    window.start(arm.reads_own())?;
    window.interrupt.sleep(Duration::from_secs_f64(settings.settle_seconds))?;
    // Ends the host's window in which guests were placed; the next one is measured.
    let (before, _) = (window.read()?, window.host.window());
    window.interrupt.sleep(Duration::from_secs_f64(settings.seconds_per_arm))?;
    let (after, seen) = (window.read()?, window.host.window());
    window.stop()?;

    let mut probes = seen.vcpus.into_iter();
    let mut guests = Vec::new();
    for ((guest, before), after) in window.guests.iter().zip(before).zip(after) {
        for (vcpu, (before, after)) in (0..).zip(before.into_iter().zip(after)) {
            let host = probes.next();
            let done = after.since(&before).filter(|done| done.reads > 0 && done.elapsed_ns > 0);
            let Some(Reading { reads, elapsed_ns, busy_ns, .. }) = done else {
                return Ok(Err(format!(
                    "in arm {arm} the guest {} finished no burst within {} s, so little CPU time did \
                     other programs leave it",
                    guest.name(),
                    settings.seconds_per_arm
                )));
            };
            let vm = guest.name().to_owned();
            guests.push(GuestSample { vm, vcpu, reads, elapsed_ns, busy_ns, host });
        }
    }
    let used: f64 = guests.iter().map(|guest| guest.busy_ns as f64 / guest.elapsed_ns as f64).sum();
    let cpu_share = used / usable_cpus(plan, window.vms);
    let seen = Seen { merging: seen.merging, occupancy: seen.occupancy, cpu_share };
    Ok(Ok(Sample { guests, seen: Some(seen), ..Sample::new(arm) }))
}

/// How many CPUs the placed vCPUs can use at once.
fn usable_cpus(plan: &Plan, vms: &[Vm]) -> f64 {
    let cpus = |domain: &huddle_model::topology::CacheDomain| domain.cpus.len();
    if plan.placement.is_empty() {
        let vcpus: usize = vms.iter().map(|vm| vm.vcpus.len().max(1)).sum();
        return vcpus.min(plan.domains.iter().map(cpus).sum()) as f64;
    }
    let usable = plan.domains.iter().map(|domain| {
        plan.placement.iter().filter(|placed| placed.domain == domain.id).count().min(cpus(domain))
    });
    usable.sum::<usize>() as f64
}
