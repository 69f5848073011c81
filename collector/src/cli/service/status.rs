//! What is in force, in one line.

use huddle_model::text::{counted, plain};
use huddle_model::view::View;

/// The line that `systemctl status` shows.
pub(super) fn sentence(view: &View) -> String {
    let round = &view.round;
    let policy = match round.plan.value() {
        Some(plan) => format!("policy {}", plan.policy),
        None => format!("no plan ({})", round.plan.reason().unwrap_or("unknown")),
    };
    let pinned = match view.pinning.outcome() {
        Some(_) => format!("{} bound to cache domains", counted(view.in_force.len(), "vCPU")),
        None => format!("nothing is pinned ({})", view.pinning.reason().unwrap_or("unknown")),
    };
    let shared = match round.plan.value().map(|plan| (plan.shared_within, plan.shared_total)) {
        Some((Some(within), Some(total))) if total > 0 && view.pinning.outcome().is_some() => {
            format!(", {:.0} % of shared frames within them", 100.0 * within as f64 / total as f64)
        }
        _ => String::new(),
    };
    let text = format!("{}; {policy}; {pinned}{shared}", counted(round.vms.len(), "VM"));
    // Names of others may be part of a reason.
    plain(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use huddle_testing::sample;

    use super::*;

    #[test]
    fn it_says_what_is_in_force_on_one_line() {
        let text = sentence(&sample::view(1, 2));
        assert!(text.starts_with("2 VMs; ") && !text.contains('\n'), "{text}");
    }
}
