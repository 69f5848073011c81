//! Moves between hosts that bring shared contents together.

use std::fmt;

use huddle_model::fleet::{MoveLimits, propose};
use huddle_model::text::counted;
use serde::Serialize;

use super::exact::Brought;
use super::load::{FleetLimits, LoadedFleet};
use super::newest::NewestSketches;
use crate::AnalysisError;
use crate::text::{clean, lines, table, write_losses};

/// Moves, in an order in which each has room. Nothing moves by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProposedMoves {
    /// Always `huddle/fleet-moves/1`.
    schema: &'static str,
    /// Hosts that have sketches.
    hosts: usize,
    /// VMs on them.
    vms: usize,
    /// Memory that needs no room of its own today because VMs of one host hold the same, if all of it is merged; an
    /// estimate.
    pub(super) saved_today_bytes: u64,
    /// The same after all moves.
    pub(super) saved_bytes: u64,
    /// Standard error of the difference of both.
    pub(super) saved_more_standard_error_bytes: u64,
    /// Memory of the VMs that move.
    moved_bytes: u64,
    pub(super) moves: Vec<ProposedMove>,
    pub(super) left_out: Vec<String>,
}

/// One move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProposedMove {
    pub(super) vm: String,
    /// `process` or `xen_domain`.
    pub(super) vm_kind: Option<String>,
    pub(super) uuid: Option<String>,
    /// Number by which Proxmox VE knows it; null elsewhere.
    pub(super) vmid: Option<u32>,
    pub(super) from: String,
    pub(super) to: String,
    /// What it saves at its turn; negative if it only makes room for others.
    pub(super) saved_bytes: i64,
    /// Standard error of that.
    saved_standard_error_bytes: u64,
    /// Its memory, which is copied.
    pub(super) memory_bytes: u64,
}

impl ProposedMoves {
    /// At most so many moves.
    ///
    /// # Errors
    /// A recording cannot be read.
    pub fn of(
        sketches: &NewestSketches,
        limits: FleetLimits,
        moves: MoveLimits,
    ) -> Result<Self, AnalysisError> {
        Ok(Self::of_loaded(sketches, &LoadedFleet::of(sketches, limits)?, moves))
    }

    /// The same for a fleet that is loaded already.
    pub(super) fn of_loaded(sketches: &NewestSketches, loaded: &LoadedFleet, moves: MoveLimits) -> Self {
        let (fleet, vms_of) = (&loaded.fleet, loaded.vms_of());
        let found = loaded.exact.recounted(&vms_of, &propose(fleet, moves).moves);
        let saved_today = loaded.exact.saved(&vms_of);
        let more: i64 = found.moves.iter().map(|of| of.one.saved_kept).sum();
        let moves: Vec<ProposedMove> = (found.moves.iter())
            .map(|Brought { one, changed }| {
                let size = sketches.bytes_of(one.saved_kept.unsigned_abs());
                let facts = &sketches.vms[one.vm];
                ProposedMove {
                    vm: facts.name.clone(),
                    vm_kind: facts.kind.clone(),
                    uuid: facts.uuid.clone(),
                    vmid: facts.vmid,
                    from: fleet.hosts()[one.from].name.clone(),
                    to: fleet.hosts()[one.to].name.clone(),
                    saved_bytes: i64::try_from(size).unwrap_or(i64::MAX) * one.saved_kept.signum(),
                    saved_standard_error_bytes: sketches.error_bytes(*changed),
                    memory_bytes: fleet.vms()[one.vm].memory_bytes,
                }
            })
            .collect();
        Self {
            schema: "huddle/fleet-moves/1",
            hosts: fleet.hosts().len(),
            vms: fleet.vms().len(),
            saved_today_bytes: sketches.bytes_of(saved_today),
            saved_bytes: sketches.bytes_of(saved_today.saturating_add_signed(more)),
            saved_more_standard_error_bytes: sketches.error_bytes(found.squares),
            moved_bytes: moves.iter().fold(0, |sum, one| sum.saturating_add(one.memory_bytes)),
            moves,
            left_out: loaded.left_out.clone(),
        }
    }

    /// What the moves save more than today, in bytes.
    fn saved_more_bytes(&self) -> u64 {
        self.saved_bytes - self.saved_today_bytes
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
}

/// Mebibytes of a saving, with its sign if it is negative.
fn signed_mib(bytes: i64) -> String {
    format!("{}{}", if bytes < 0 { "-" } else { "" }, mib(bytes.unsigned_abs()))
}

impl fmt::Display for ProposedMoves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_losses(f, &self.left_out)?;
        writeln!(
            f,
            "{} with {}; VMs of one host hold the same in about {} MiB today",
            counted(self.hosts as u64, "host"),
            counted(self.vms as u64, "VM"),
            mib(self.saved_today_bytes)
        )?;
        if self.moves.is_empty() {
            return writeln!(f, "no move within the limits brings more together");
        }
        writeln!(
            f,
            "{} bring {} MiB more together (standard error {} MiB), and copy {} MiB of memory:\n",
            counted(self.moves.len() as u64, "move"),
            mib(self.saved_more_bytes()),
            mib(self.saved_more_standard_error_bytes),
            mib(self.moved_bytes)
        )?;
        let mut rows = table(&[">move", "VM", "from", "to", ">MiB together", ">MiB copied"]);
        for (number, one) in self.moves.iter().enumerate() {
            rows.add_row([
                (number + 1).to_string(),
                clean(&one.vm),
                clean(&one.from),
                clean(&one.to),
                signed_mib(one.saved_bytes),
                mib(one.memory_bytes),
            ]);
        }
        writeln!(f, "{}", lines(&rows))?;
        writeln!(
            f,
            "\na move that brings nothing makes room for the next ones; nothing is moved by this command"
        )
    }
}
