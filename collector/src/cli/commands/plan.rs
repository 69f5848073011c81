//! `huddle plan`.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use huddle_host::pin::AffinityKind;
use huddle_model::matrix::{MatrixFile, SharingMatrix};
use huddle_model::plan::{Commands, Manager};
use huddle_model::topology::Topology;

use super::show_plan::print_plan;
use super::what_if;
use crate::cli::args::{Common, ContentArgs, Format, PlanArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::table::{print, print_json};

pub(crate) fn run(common: &Common, args: &PlanArgs) -> Result<(), Failure> {
    if let Some(name) = common.format.of_manager()
        && (args.matrix.is_some() || args.topology.is_some() || args.replay.is_some())
    {
        return Err(Failure::usage(anyhow!(
            "--format {name} is for the VMs that run on this host; leave out --matrix, --topology and --replay"
        )));
    }
    let context = Context::new(common)?;
    if let Some(dir) = &args.replay {
        return what_if::run(
            common.format,
            context.policy,
            context.weigh,
            &context.config.plan,
            dir,
            args.at,
        );
    }
    let topology = match &args.topology {
        Some(path) => read(path, "topology", Topology::from_json)?,
        None => context.topology()?,
    };
    let (vms, matrix) = match &args.matrix {
        Some(path) => {
            let MatrixFile { matrix, notes } = read(path, "matrix", SharingMatrix::from_file)?;
            for note in notes {
                tracing::warn!("matrix file {}: {note}", path.display());
            }
            (None, matrix)
        }
        None => {
            let (vms, matrix) = context.measure(None, &ContentArgs::default())?;
            (Some(vms), matrix)
        }
    };
    // CPUs of a topology file are not this host's: limits and placements of the VMs here do not apply to them.
    let limiting = vms.as_deref().filter(|_| args.topology.is_none()).unwrap_or_default();
    let plan = context.plan(limiting, &matrix, &topology, vms.as_deref())?;
    let is_soft = context.xen_affinity == AffinityKind::Soft;
    let manager = match common.format {
        Format::Json => return print_json(&plan.of_vms(matrix.vms())),
        Format::Table => return print_plan(&plan),
        Format::Virsh => Manager::Libvirt,
        Format::Qm => Manager::Proxmox,
        Format::Xl => Manager::Xen { is_soft },
    };
    let Commands { script, left_out } = manager.commands(vms.as_deref().unwrap_or_default(), &plan);
    for (vm, reason) in left_out {
        tracing::warn!("{vm} is left out: {reason}");
    }
    print(script.trim_end())
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
