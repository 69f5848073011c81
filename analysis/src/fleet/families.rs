//! Families: contents that many VMs hold, such as systems and libraries.

use std::fmt;

use huddle_model::text::{bytes, counted};
use polars::prelude::PolarsResult;
use serde::Serialize;

use super::newest::NewestSketches;
use super::views::Parameters;
use crate::AnalysisError;
use crate::frame::Answer;
use crate::text::{clean, lines, table, write_losses};

/// The families of a fleet, those first that take most memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FleetFamilies {
    /// Always `huddle/fleet-families/1`.
    schema: &'static str,
    hosts: usize,
    vms: usize,
    /// A family's contents are held by more VMs than this.
    max_holders: u64,
    /// Contents are of one family if of the VMs that hold one of both, so many percent hold both.
    family_percent: u64,
    rows: Vec<Family>,
    left_out: Vec<String>,
}

/// Contents that nearly the same VMs hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Family {
    /// Its number in this answer's views.
    family_key: u64,
    /// Kept contents that belong to it.
    kept: u64,
    /// How often VMs hold one of them.
    held: u64,
    /// The same with each content once on each host: what is left where hosts merge it.
    on_hosts: u64,
    /// VMs that hold at least half of it.
    pub(super) vms: u64,
    /// Hosts whose VMs together hold at least half of it.
    hosts: u64,
    /// The VM that holds most of it, and its host.
    example_host: String,
    example_vm: String,
    /// Bytes of its contents, each once; an estimate, as those that follow.
    pub(super) contents_bytes: u64,
    /// Bytes that its VMs have of it, as if nothing were merged.
    held_bytes: u64,
    /// Bytes of that which hosts save if they merge all of it.
    saved_bytes: u64,
}

impl Family {
    /// Its number.
    pub(super) fn key(&self) -> u64 {
        self.family_key
    }
}

/// What the VMs of a host hold of a family.
pub(super) struct OnHost {
    pub(super) family_key: u64,
    /// Place of the host.
    pub(super) host: usize,
    /// Kept contents of the family, each once.
    pub(super) kept: u64,
    /// VMs that hold some of it.
    pub(super) vms: u64,
}

/// A quarter of the VMs, so that small fleets have families, too; within what keeps large ones fast.
pub(super) fn holders_of_families(vms: usize) -> u64 {
    (vms as u64 / 4).clamp(3, Parameters::default().max_holders)
}

impl FleetFamilies {
    /// Families of contents that more than `max_holders` VMs hold.
    ///
    /// # Errors
    /// A recording cannot be read.
    pub fn of(sketches: &NewestSketches, max_holders: Option<u64>) -> Result<Self, AnalysisError> {
        Ok(Self::with_hosts(sketches, max_holders)?.0)
    }

    /// The families, and how much of each the VMs of each host hold.
    pub(super) fn with_hosts(
        sketches: &NewestSketches,
        max_holders: Option<u64>,
    ) -> Result<(Self, Vec<OnHost>), AnalysisError> {
        let max_holders = max_holders.unwrap_or_else(|| holders_of_families(sketches.vms.len()));
        let parameters = Parameters { max_holders, ..Parameters::default() };
        let mut answered = sketches.tables.ask("families", &["family_hosts"], parameters)?;
        let hosts = Answer::from(answered.take("family_hosts"));
        let read = || rows(sketches, &Answer::from(answered.answer));
        let families = Self {
            schema: "huddle/fleet-families/1",
            hosts: sketches.hosts.len(),
            vms: sketches.vms.len(),
            max_holders,
            family_percent: parameters.family_percent,
            rows: read().map_err(AnalysisError::view("families"))?,
            left_out: sketches.left_out_of_sketches(),
        };
        Ok((families, of_hosts(&hosts).map_err(AnalysisError::view("family_hosts"))?))
    }

    /// The families.
    pub(super) fn rows(&self) -> &[Family] {
        &self.rows
    }
}

fn of_hosts(answer: &Answer) -> PolarsResult<Vec<OnHost>> {
    let (families, hosts) = (answer.all_u64s("family_key")?, answer.all_u64s("host_key")?);
    let (kept, vms) = (answer.all_u64s("kept")?, answer.all_u64s("vms")?);
    let row = |row: usize| OnHost {
        family_key: families[row],
        host: (hosts[row] as usize).saturating_sub(1),
        kept: kept[row],
        vms: vms[row],
    };
    Ok((0..answer.rows()).map(row).collect())
}

fn rows(sketches: &NewestSketches, answer: &Answer) -> PolarsResult<Vec<Family>> {
    let (keys, kept) = (answer.all_u64s("family_key")?, answer.all_u64s("kept")?);
    let (held, on_hosts) = (answer.all_u64s("held")?, answer.all_u64s("on_hosts")?);
    let (vms, hosts) = (answer.all_u64s("vms")?, answer.all_u64s("hosts")?);
    let (example_hosts, example_vms) = (answer.all_texts("example_host")?, answer.all_texts("example_vm")?);
    let row = |row: usize| Family {
        family_key: keys[row],
        kept: kept[row],
        held: held[row],
        on_hosts: on_hosts[row],
        vms: vms[row],
        hosts: hosts[row],
        example_host: example_hosts[row].clone(),
        example_vm: example_vms[row].clone(),
        contents_bytes: sketches.bytes_of(kept[row]),
        held_bytes: sketches.bytes_of(held[row]),
        saved_bytes: sketches.bytes_of(held[row].saturating_sub(on_hosts[row])),
    };
    Ok((0..answer.rows()).map(row).collect())
}

/// Families that a table shows.
const SHOWN: usize = 30;

impl fmt::Display for FleetFamilies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_losses(f, &self.left_out)?;
        writeln!(
            f,
            "{} with {}; {} of contents that more than {} VMs hold",
            counted(self.hosts as u64, "host"),
            counted(self.vms as u64, "VM"),
            match self.rows.len() {
                1 => "1 family".to_owned(),
                many => format!("{many} families"),
            },
            self.max_holders
        )?;
        if self.rows.is_empty() {
            return writeln!(f, "with fewer VMs, `--max-holders N` takes contents together that fewer hold");
        }
        writeln!(f)?;
        let headings = [
            ">family",
            ">contents",
            ">VMs",
            ">hosts",
            ">held by VMs",
            ">saved if merged",
            "most of it",
            "on",
        ];
        let mut rows = table(&headings);
        for family in self.rows.iter().take(SHOWN) {
            rows.add_row([
                family.family_key.to_string(),
                bytes(family.contents_bytes),
                family.vms.to_string(),
                family.hosts.to_string(),
                bytes(family.held_bytes),
                bytes(family.saved_bytes),
                clean(&family.example_vm),
                clean(&family.example_host),
            ]);
        }
        writeln!(f, "{}", lines(&rows))?;
        if self.rows.len() > SHOWN {
            writeln!(f, "\nand {} more (--format json has all)", self.rows.len() - SHOWN)?;
        }
        writeln!(f, "\nVMs and hosts are those that hold at least half of it; sizes are estimates")
    }
}
