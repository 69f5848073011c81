//! `huddle plan`.

use std::path::Path;

use anyhow::Context as _;
use huddle_model::matrix::SharingMatrix;
use huddle_model::topology::Topology;

use super::show_plan::print_plan;
use super::what_if;
use crate::cli::args::{Common, ContentArgs, Format, PlanArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::table::print_json;

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
        Some(path) => (None, read(path, "matrix", SharingMatrix::from_file_text)?),
        None => {
            let (vms, matrix) = context.measure(None, &ContentArgs::default())?;
            (Some(vms), matrix)
        }
    };
    // CPUs of a topology file are not this host's: limits and placements of the VMs here do not apply to them.
    let limiting = vms.as_deref().filter(|_| args.topology.is_none()).unwrap_or_default();
    let plan = context.plan(limiting, &matrix, &topology, vms.as_deref())?;
    match common.format {
        Format::Json => print_json(&plan.of_vms(matrix.vms())),
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
        .map_err(Failure::Usage)?;
    parse(&text).with_context(named).map_err(Failure::Usage)
}
