//! `huddle plan`.

use std::path::Path;

use anyhow::Context as _;
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::text::bytes;
use huddle_model::topology::Topology;

use super::what_if;
use crate::cli::args::{Common, ContentArgs, Format, PlanArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::table::{print, print_json, print_table, right, table};

pub(crate) fn run(common: &Common, args: &PlanArgs) -> Result<(), Failure> {
    let context = Context::new(common)?;
    if let Some(dir) = &args.replay {
        return what_if::run(common.format, context.policy, dir, args.at);
    }
    let topology = match &args.topology {
        Some(path) => read(path, "topology", Topology::from_json)?,
        None => context.topology()?,
    };
    let (vms, matrix) = match &args.matrix {
        Some(path) => (Vec::new(), read(path, "matrix", SharingMatrix::from_file_text)?),
        None => context.measure(None, &ContentArgs::default())?,
    };
    // CPUs of a topology file are not this host's: what the VMs may and do here says nothing there.
    let limiting = if args.topology.is_some() { &[] } else { vms.as_slice() };
    let plan = context.plan(limiting, &matrix, &topology);
    match common.format {
        Format::Json => print_json(&plan),
        Format::Table => print_plan(&plan),
    }
}

fn read<T, E: std::error::Error + Send + Sync + 'static>(
    path: &Path,
    what: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, Failure> {
    let named = || format!("{what} file {}", path.display());
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the {}", named()))
        .map_err(Failure::Failed)?;
    parse(&text).with_context(named).map_err(Failure::Failed)
}

/// The domains with who goes there, and why.
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
    for reason in &plan.reasons {
        print(format!("- {reason}"))?;
    }
    Ok(())
}
