//! `huddle restore`.

use huddle_engine::backend::undoers;
use huddle_host::pin::restore;
use huddle_observe::resctrl::remove_leftovers;
use serde::Serialize;

use crate::cli::args::{Common, Format};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::table::{print, print_json};

#[derive(Serialize)]
struct Out<'a> {
    schema: &'static str,
    restored: u32,
    notes: &'a [String],
    failures: &'a [String],
}

pub(crate) fn run(common: &Common) -> Result<(), Failure> {
    let context = Context::new(common)?;
    let lock = context.state()?.lock().map_err(Failure::failed)?;
    let mut report = restore(&undoers(&context.root), &lock).map_err(Failure::failed)?;
    let left = remove_leftovers(&context.root);
    report.restored += left.removed;
    report.notes.extend(left.notes);
    report.failures.extend(left.failures);
    match common.format {
        Format::Json => print_json(&Out {
            schema: "huddle/restore/1",
            restored: report.restored,
            notes: &report.notes,
            failures: &report.failures,
        })?,
        Format::Table => {
            for note in &report.notes {
                print(format!("- {note}"))?;
            }
            match report.restored {
                0 if report.failures.is_empty() => print("nothing to undo")?,
                restored => print(format!("{restored} changes undone"))?,
            }
        }
    }
    if report.failures.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(anyhow::anyhow!(
            "not everything could be undone: {}",
            report.failures.join("; ")
        )))
    }
}
