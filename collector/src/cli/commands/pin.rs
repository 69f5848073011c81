//! `huddle pin`.

use huddle_model::pinning::PinOutcome;
use huddle_model::plan::PlanOfVms;
use serde::Serialize;

use super::show_plan::print_plan;
use crate::cli::args::{Common, ContentArgs, Format, PinArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::signals::BlockedSignals;
use crate::cli::table::{print, print_json};

#[derive(Serialize)]
struct Out<'a> {
    schema: &'static str,
    plan: PlanOfVms<'a>,
    /// `None` in a dry run.
    changed: Option<u32>,
    unchanged: Option<u32>,
    skipped: Option<u32>,
    notes: &'a [String],
}

pub(crate) fn run(common: &Common, args: &PinArgs) -> Result<(), Failure> {
    let context = Context::new(common)?;
    let pinner = if args.dry_run { None } else { Some(context.pinner(false)?) };
    let topology = context.topology()?;
    let (vms, matrix) = context.measure(None, &ContentArgs::default())?;
    let plan = context.plan(&vms, &matrix, &topology, Some(&vms))?;
    let (outcome, notes): (Option<PinOutcome>, Vec<String>) = match pinner {
        None => (None, Vec::new()),
        Some(pinner) => {
            // Signals must not interrupt this: before it nothing is changed, and after it everything.
            let blocked = BlockedSignals::block();
            // An error drops the pinner, which undoes its changes while signals are still blocked.
            let mut pinner = pinner;
            let report = pinner.apply(&vms, &plan).map_err(Failure::failed)?;
            if let Some(signal) = blocked.take_pending() {
                return Err(Failure::failed(anyhow::anyhow!("{signal}: what was pinned is undone")));
            }
            pinner.keep();
            (Some(report.outcome), report.notes)
        }
    };
    match common.format {
        Format::Json => print_json(&Out {
            schema: "huddle/pin/1",
            plan: plan.of_vms(matrix.vms()),
            changed: outcome.map(|outcome| outcome.changed),
            unchanged: outcome.map(|outcome| outcome.unchanged),
            skipped: outcome.map(|outcome| outcome.skipped),
            notes: &notes,
        }),
        _ => {
            print_plan(&plan)?;
            for note in &notes {
                print(format!("- {note}"))?;
            }
            match outcome {
                None => print("\ndry run: affinities were left as they are"),
                Some(PinOutcome { changed: 0, .. }) if plan.waiting.is_some() => print("\nnothing moved"),
                Some(PinOutcome { changed, unchanged, skipped }) => print(format!(
                    "\n{changed} vCPU threads changed, {unchanged} already in place, {skipped} skipped; \
                     `huddle restore` undoes it"
                )),
            }
        }
    }
}
