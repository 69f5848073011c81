//! Prints a plan.

use huddle_model::plan::Plan;
use huddle_model::text::{bytes, plain};

use crate::cli::failure::Failure;
use crate::cli::table::{print, print_table, right, table};

/// Prints the domains with the vCPUs placed there, and the reasons.
pub(crate) fn print_plan(plan: &Plan) -> Result<(), Failure> {
    let mut domains = table(&["domain", "CPUs", "cache", "vCPUs", "placed there"]);
    right(&mut domains, [0, 3]);
    for domain in &plan.domains {
        let there: Vec<String> = plan
            .placement
            .iter()
            .filter(|placed| placed.domain == domain.id)
            .map(|placed| format!("{}/{}", placed.vm, placed.vcpu))
            .collect();
        domains.add_row([
            domain.id.to_string(),
            domain.cpus.to_string(),
            domain.size_bytes.map_or_else(|| "?".into(), bytes),
            there.len().to_string(),
            there.join(" "),
        ]);
    }
    print_table(&domains)?;
    print("")?;
    match (plan.shared_within, plan.shared_total) {
        (Some(within), Some(total)) => {
            print(format!("policy {}: {within} of {total} shared frames within domains", plan.policy))?;
        }
        (None, Some(total)) => print(format!("policy {}: {total} shared frames in all", plan.policy))?,
        _ => print(format!("policy {} (the matrix gives rates only, no frames)", plan.policy))?,
    }
    let unavailable = plan.expected.as_ref().and_then(|expected| expected.misses_unavailable.as_ref());
    if let Some(reason) = unavailable {
        print(format!("no estimate of misses: {}", plain(reason)))?;
    }
    for reason in &plan.reasons {
        // Names in it may be a stranger's: a reason is one line.
        print(format!("- {}", plain(reason)))?;
    }
    Ok(())
}
