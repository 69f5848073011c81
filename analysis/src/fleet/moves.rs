//! Moves between hosts that bring shared contents together, for people, programs and libvirt.

use std::fmt;

use huddle_model::fleet::{MoveLimits, propose};
use huddle_model::text::counted;
use serde::Serialize;

use super::LoadedFleet;
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
    saved_today_bytes: u64,
    /// The same after all moves.
    saved_bytes: u64,
    /// Standard error of the difference of both.
    saved_more_standard_error_bytes: u64,
    /// Memory of the VMs that move.
    moved_bytes: u64,
    moves: Vec<ProposedMove>,
    left_out: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ProposedMove {
    vm: String,
    from: String,
    to: String,
    /// What it saves at its turn; negative if it only makes room for others.
    saved_bytes: i64,
    /// Its memory, which is copied.
    memory_bytes: u64,
}

impl ProposedMoves {
    /// At most so many moves.
    pub fn of(loaded: &LoadedFleet, limits: MoveLimits) -> Self {
        let (fleet, proposal) = (&loaded.fleet, propose(&loaded.fleet, limits));
        let bytes = |kept: u64| loaded.bytes_of(kept).0;
        let moves: Vec<ProposedMove> = (proposal.moves.iter())
            .map(|one| {
                let size = i64::try_from(bytes(one.saved_kept.unsigned_abs())).unwrap_or(i64::MAX);
                ProposedMove {
                    vm: fleet.vms()[one.vm].name.clone(),
                    from: fleet.hosts()[one.from].name.clone(),
                    to: fleet.hosts()[one.to].name.clone(),
                    saved_bytes: size * one.saved_kept.signum(),
                    memory_bytes: fleet.vms()[one.vm].memory_bytes,
                }
            })
            .collect();
        let more = proposal.saved_kept - proposal.saved_today_kept;
        Self {
            schema: "huddle/fleet-moves/1",
            hosts: fleet.hosts().len(),
            vms: fleet.vms().len(),
            saved_today_bytes: bytes(proposal.saved_today_kept),
            saved_bytes: bytes(proposal.saved_kept),
            saved_more_standard_error_bytes: loaded.bytes_of(more).1,
            moved_bytes: moves.iter().map(|one| one.memory_bytes).sum(),
            moves,
            left_out: loaded.left_out.clone(),
        }
    }

    /// A script for libvirt, to be read before it is run: one live migration a line, in order.
    pub fn virsh(&self) -> String {
        let mut script = String::from(
            "#!/bin/sh\n# Live migrations in an order in which each has room. Read it before you run it.\nset -e\n",
        );
        for one in &self.moves {
            let (from, to) = (uri(&one.from), uri(&one.to));
            script += &format!(
                "virsh --connect {from} migrate --live --persistent --undefinesource -- {} {to}\n",
                quoted(&one.vm)
            );
        }
        script
    }
}

/// The address of a host's libvirt, quoted for a shell.
fn uri(host: &str) -> String {
    quoted(&format!("qemu+ssh://{host}/system"))
}

/// A word of a shell, whatever characters it has: names are written by others.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn mib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
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
            mib(self.saved_bytes - self.saved_today_bytes),
            mib(self.saved_more_standard_error_bytes),
            mib(self.moved_bytes)
        )?;
        let mut rows = table(&[">move", "VM", "from", "to", ">MiB together", ">MiB copied"]);
        for (number, one) in self.moves.iter().enumerate() {
            let sign = if one.saved_bytes < 0 { "-" } else { "" };
            rows.add_row([
                (number + 1).to_string(),
                clean(&one.vm),
                clean(&one.from),
                clean(&one.to),
                format!("{sign}{}", mib(one.saved_bytes.unsigned_abs())),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vms_are_words_of_the_script_and_nothing_else() {
        assert_eq!(quoted("web"), "'web'");
        assert_eq!(quoted("a'; reboot '"), "'a'\\''; reboot '\\'''");
    }
}
