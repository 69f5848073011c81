//! Pairs of VMs, of one host or of two, that have much in common.

use std::fmt;

use huddle_model::text::{bytes, counted};
use polars::prelude::PolarsResult;
use serde::Serialize;

use super::newest::{Contained, NewestSketches};
use super::views::Parameters;
use crate::AnalysisError;
use crate::frame::Answer;
use crate::text::{clean, lines, percent, table, write_losses};

/// Pairs of VMs that have much in common, those first that have most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetPairs {
    /// Always `huddle/fleet-pairs/1`.
    schema: &'static str,
    hosts: usize,
    vms: usize,
    /// Contents that more VMs hold do not make a pair; they count where two VMs are compared.
    max_holders: u64,
    rows: Vec<Pair>,
    left_out: Vec<String>,
}

/// Two VMs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    host: String,
    vm: String,
    uuid: Option<String>,
    /// Kept contents of the first VM.
    kept: u64,
    other_host: String,
    other_vm: String,
    other_uuid: Option<String>,
    /// Kept contents of the other VM.
    other_kept: u64,
    /// Kept contents that both have.
    common: u64,
    /// Whether they are on one host today.
    one_host: bool,
    /// Bytes of contents that both have; an estimate.
    common_bytes: u64,
    /// The share of the first VM's contents that the other has.
    contained: Option<Contained>,
    /// The share of the other VM's contents that the first has.
    other_contained: Option<Contained>,
}

impl FleetPairs {
    /// The first `pairs` of all, among the first `of_vm` of each VM.
    ///
    /// # Errors
    /// A recording cannot be read.
    pub fn of(
        sketches: &NewestSketches,
        max_holders: u64,
        pairs: u64,
        of_vm: u64,
    ) -> Result<Self, AnalysisError> {
        let parameters = Parameters { max_holders, pairs, candidates: of_vm, ..Parameters::default() };
        let answered = sketches.tables.ask("pairs", &[], parameters)?;
        let read = || rows(sketches, &Answer::from(answered.answer));
        Ok(Self {
            schema: "huddle/fleet-pairs/1",
            hosts: sketches.hosts.len(),
            vms: sketches.vms.len(),
            max_holders,
            rows: read().map_err(AnalysisError::view("pairs"))?,
            left_out: sketches.left_out_of_sketches(),
        })
    }
}

fn rows(sketches: &NewestSketches, answer: &Answer) -> PolarsResult<Vec<Pair>> {
    let (hosts, others) = (answer.all_texts("host")?, answer.all_texts("other_host")?);
    let (vms, other_vms) = (answer.all_texts("vm")?, answer.all_texts("other_vm")?);
    let (uuids, other_uuids) = (answer.texts("uuid")?, answer.texts("other_uuid")?);
    let (kept, other_kept) = (answer.all_u64s("kept")?, answer.all_u64s("other_kept")?);
    let (common, one_host) = (answer.all_u64s("common")?, answer.all_u64s("one_host")?);
    let row = |row: usize| Pair {
        host: hosts[row].clone(),
        vm: vms[row].clone(),
        uuid: uuids[row].clone(),
        kept: kept[row],
        other_host: others[row].clone(),
        other_vm: other_vms[row].clone(),
        other_uuid: other_uuids[row].clone(),
        other_kept: other_kept[row],
        common: common[row],
        one_host: one_host[row] == 1,
        common_bytes: sketches.bytes_of(common[row]),
        contained: sketches.containment(common[row], kept[row]),
        other_contained: sketches.containment(common[row], other_kept[row]),
    };
    Ok((0..answer.rows()).map(row).collect())
}

/// A share with its standard error, in percent.
pub(super) fn share(contained: Option<Contained>) -> String {
    contained.map_or_else(
        || "-".to_owned(),
        |of| format!("{} ± {:.1}", percent(of.rate).trim_end_matches(" %"), of.standard_error * 100.0),
    )
}

impl fmt::Display for FleetPairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_losses(f, &self.left_out)?;
        writeln!(f, "{} with {}", counted(self.hosts as u64, "host"), counted(self.vms as u64, "VM"))?;
        if self.rows.is_empty() {
            return writeln!(f, "no two VMs have something in common that at most {} hold", self.max_holders);
        }
        writeln!(
            f,
            "pairs that have most in common, in percent of each VM's contents with the standard error:\n"
        )?;
        let headings = ["VM", "host", "other VM", "its host", ">of VM", ">of other", ">in common", "today"];
        let mut rows = table(&headings);
        for pair in &self.rows {
            rows.add_row([
                clean(&pair.vm),
                clean(&pair.host),
                clean(&pair.other_vm),
                clean(&pair.other_host),
                share(pair.contained),
                share(pair.other_contained),
                bytes(pair.common_bytes),
                (if pair.one_host { "together" } else { "apart" }).to_owned(),
            ]);
        }
        writeln!(f, "{}", lines(&rows))
    }
}
