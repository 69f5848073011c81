//! `huddle restore`.

use huddle_model::text::counted;
use std::path::Path;

use huddle_engine::attach::SOCKET_FILE;
use huddle_engine::backend::undoers;
use huddle_host::pin::{StateDir, UndoReport, restore};
use huddle_host::socket::{NoRoom, SocketKind, remove_stale};
use huddle_observe::resctrl::remove_leftovers;
use serde::Serialize;

use crate::cli::args::{Common, Format};
use crate::cli::context::{Context, state_failure};
use crate::cli::failure::Failure;
use crate::cli::looping::REPORTS_FILE;
use crate::cli::signals::BlockedSignals;
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
    // An undo that has begun is finished: signals are blocked until then.
    let _blocked = BlockedSignals::block();
    let report = match context.state_to_undo()? {
        Some(state) => undo(&context, &state)?,
        None => UndoReport::default(),
    };
    match common.format {
        Format::Json => print_json(&Out {
            schema: "huddle/restore/1",
            restored: report.restored,
            notes: &report.notes,
            failures: &report.failures,
        })?,
        _ => {
            for note in &report.notes {
                print(format!("- {note}"))?;
            }
            match report.restored {
                0 if report.failures.is_empty() => print("nothing to undo")?,
                restored => print(format!("{} undone", counted(restored, "change")))?,
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

fn undo(context: &Context, state: &StateDir) -> Result<UndoReport, Failure> {
    let lock = state.lock(&context.root).map_err(state_failure)?;
    let mut report = restore(&undoers(&context.root), &lock).map_err(Failure::failed)?;
    let left = remove_leftovers(&context.root);
    report.restored += left.removed;
    report.notes.extend(left.notes);
    report.failures.extend(left.failures);
    for (name, kind) in [(SOCKET_FILE, SocketKind::Stream), (REPORTS_FILE, SocketKind::Datagram)] {
        report.notes.extend(remove_socket(&state.path().join(name), kind));
    }
    Ok(report)
}

/// Removes a socket that a killed loop left; returns a note if there was one.
fn remove_socket(path: &Path, kind: SocketKind) -> Option<String> {
    let shown = path.display();
    let is_there = path.symlink_metadata().is_ok();
    match remove_stale(path, kind) {
        Ok(()) => is_there.then(|| format!("the socket {shown} of a loop that ended was removed")),
        Err(NoRoom::Taken) => Some(format!("another program listens at {shown}: it is left alone")),
        Err(NoRoom::NotASocket) => Some(format!("{shown} is not a socket: it is left alone")),
        Err(NoRoom::Io(error)) => Some(format!("the socket {shown} stays: {error}")),
    }
}
