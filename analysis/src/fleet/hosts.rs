//! How well hosts suit each VM.

use std::cmp::Reverse;
use std::fmt;

use huddle_model::text::{bytes, counted};
use polars::prelude::PolarsResult;
use serde::Serialize;

use super::newest::{Contained, NewestSketches};
use super::pairs::share;
use super::views::Parameters;
use crate::AnalysisError;
use crate::frame::Answer;
use crate::text::{clean, lines, table, write_losses};

/// For each VM how much of it other VMs of its host hold, and those of the ten hosts that suit it best.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VmHosts {
    /// Always `huddle/fleet-hosts/1`.
    schema: &'static str,
    hosts: usize,
    vms: usize,
    /// Contents that more VMs hold suggest a host by their family only; they count where a host is looked at.
    max_holders: u64,
    rows: Vec<VmHost>,
    left_out: Vec<String>,
}

/// A VM and a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VmHost {
    /// Where the VM is.
    pub(super) host: String,
    vm: String,
    pub(super) uuid: Option<String>,
    /// Kept contents of the VM.
    kept: u64,
    /// 0 for its own host; others from 1, the best first.
    pub(super) choice: u64,
    pub(super) other_host: String,
    /// Kept contents of the VM that another VM of that host holds.
    common: u64,
    /// Bytes of those contents; an estimate.
    common_bytes: u64,
    /// The share of the VM's contents that it is.
    pub(super) contained: Option<Contained>,
}

impl VmHosts {
    /// The hosts of each VM that has a sketch.
    ///
    /// # Errors
    /// A recording cannot be read.
    pub fn of(sketches: &NewestSketches, max_holders: u64) -> Result<Self, AnalysisError> {
        let parameters = Parameters { max_holders, ..Parameters::default() };
        let answered = sketches.tables.ask("hosts", &[], parameters)?;
        let read = || rows(sketches, &Answer::from(answered.answer));
        Ok(Self {
            schema: "huddle/fleet-hosts/1",
            hosts: sketches.hosts.len(),
            vms: sketches.vms.len(),
            max_holders,
            rows: read().map_err(AnalysisError::view("vm_hosts"))?,
            left_out: sketches.left_out_of_sketches(),
        })
    }

    /// All rows, those of a VM together.
    pub(super) fn rows(&self) -> &[VmHost] {
        &self.rows
    }

    /// Its own host and the best other one of each VM, those first that would gain most.
    fn by_gain(&self) -> Vec<(&VmHost, Option<&VmHost>)> {
        let of_vms = self.rows.chunk_by(|a, b| (&a.host, &a.vm) == (&b.host, &b.vm));
        let mut found: Vec<_> = of_vms
            .filter_map(|rows| {
                let best = rows.iter().find(|row| row.choice == 1);
                Some((rows.iter().find(|row| row.choice == 0)?, best))
            })
            .collect();
        let gain = |(own, best): &(&VmHost, Option<&VmHost>)| {
            best.map_or(0, |best| best.common).saturating_sub(own.common)
        };
        found.sort_by_key(|row| Reverse(gain(row)));
        found
    }
}

fn rows(sketches: &NewestSketches, answer: &Answer) -> PolarsResult<Vec<VmHost>> {
    let (hosts, others) = (answer.all_texts("host")?, answer.all_texts("other_host")?);
    let (vms, uuids) = (answer.all_texts("vm")?, answer.texts("uuid")?);
    let (kept, common) = (answer.all_u64s("kept")?, answer.all_u64s("common")?);
    let choices = answer.all_u64s("choice")?;
    let row = |row: usize| VmHost {
        host: hosts[row].clone(),
        vm: vms[row].clone(),
        uuid: uuids[row].clone(),
        kept: kept[row],
        choice: choices[row],
        other_host: others[row].clone(),
        common: common[row],
        common_bytes: sketches.bytes_of(common[row]),
        contained: sketches.containment(common[row], kept[row]),
    };
    Ok((0..answer.rows()).map(row).collect())
}

/// VMs that a table shows.
const SHOWN: usize = 30;

impl fmt::Display for VmHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_losses(f, &self.left_out)?;
        writeln!(
            f,
            "{} with {}; what other VMs of its host hold of each VM, and of the host that suits it best, in percent of \
             its contents with the standard error:\n",
            counted(self.hosts as u64, "host"),
            counted(self.vms as u64, "VM")
        )?;
        let mut rows = table(&["VM", "host", ">there today", "best other host", ">there", ">more"]);
        let all = self.by_gain();
        for (own, best) in all.iter().take(SHOWN) {
            let more = best.map_or(0, |best| best.common_bytes).saturating_sub(own.common_bytes);
            rows.add_row([
                clean(&own.vm),
                clean(&own.host),
                share(own.contained),
                best.map_or_else(|| "-".to_owned(), |best| clean(&best.other_host)),
                best.map_or_else(|| "-".to_owned(), |best| share(best.contained)),
                bytes(more),
            ]);
        }
        writeln!(f, "{}", lines(&rows))?;
        if all.len() > SHOWN {
            writeln!(f, "\nand {} more VMs (--format json has all, with ten hosts each)", all.len() - SHOWN)?;
        }
        writeln!(f, "\nwhether a host has room is not looked at here; `huddle-analysis fleet propose` does")
    }
}
