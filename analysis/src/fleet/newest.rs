//! The newest sketches of each host, as tables.

use std::collections::BTreeMap;

use huddle_model::fleet::{Containment, Scale};
use huddle_model::schema::{SketchFact, Table};
use polars::prelude::*;
use serde::Serialize;

use super::views::FleetTables;
use crate::AnalysisError;
use crate::frame::{Answer, collect};
use crate::run::RunDir;

/// The newest sketches of each host among some recordings.
pub struct NewestSketches {
    /// How they were made; alike on all hosts.
    pub(super) sketched: SketchFact,
    /// What was left out, one sentence each.
    pub(super) left_out: Vec<String>,
    /// The hosts in order of name.
    pub(super) hosts: Vec<HostFacts>,
    /// The VMs in order of host and name; a VM's number in the views is its place here, from 1.
    pub(super) vms: Vec<VmFacts>,
    pub(super) tables: FleetTables,
}

/// A host, as it was when it was sketched.
#[derive(Clone, Debug)]
pub(super) struct HostFacts {
    pub(super) name: String,
    pub(super) cpus: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    /// vCPUs and memory of VMs that are left out and take its room all the same.
    pub(super) also_taken: Vec<(Option<u32>, Option<u64>)>,
}

/// A VM, as it was when it was sketched.
#[derive(Clone, Debug)]
pub(super) struct VmFacts {
    pub(super) name: String,
    /// Place of its host.
    pub(super) host: usize,
    /// `process` or `xen_domain`.
    pub(super) kind: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) apart: Vec<String>,
    pub(super) not_sketched: Option<String>,
    /// Number by which Proxmox VE knows it.
    pub(super) vmid: Option<u32>,
    /// Pages with contents that were read for its sketch.
    pub(super) pages: Option<u64>,
}

/// The newest sketches of one host.
struct Newest {
    dir: RunDir,
    run: String,
    begin_us: i64,
    sketched: SketchFact,
    /// Its rows of the table `hosts`, with the columns `host` and `run`.
    rows: DataFrame,
}

impl NewestSketches {
    /// Of each host its newest sketches. A VM that is known by its UUID on several hosts is on the one where it was seen
    /// last.
    ///
    /// # Errors
    /// No run has sketches; the newest ones of two hosts were made in different ways; a recording cannot be read.
    pub fn of(runs: &[RunDir]) -> Result<Self, AnalysisError> {
        let mut newest: BTreeMap<String, Newest> = BTreeMap::new();
        let mut left_out = Vec::new();
        for dir in runs {
            let Some((host, found)) = Newest::of(dir)? else {
                // One of sketches whose table of hosts cannot be read: its host is missing, or older than it need be.
                let has_some = dir.manifest().is_ok_and(|manifest| manifest.sketches.is_some());
                left_out.extend(dir.losses().iter().filter(|_| has_some).cloned());
                continue;
            };
            let age = |of: &Newest| (of.begin_us, of.run.clone());
            if newest.get(&host).is_none_or(|known| age(known) < age(&found)) {
                newest.insert(host, found);
            }
        }
        let Some(first) = newest.values().next() else { return Err(AnalysisError::NoSketches) };
        if let Some(other) = newest.values().find(|other| other.sketched != first.sketched) {
            return Err(AnalysisError::OtherSketches {
                run: other.dir.path().to_owned(),
                of: first.dir.path().to_owned(),
            });
        }
        let sketched = first.sketched.clone();
        left_out.extend(newest.values().flat_map(|host| host.dir.losses().iter().cloned()));
        let (hosts, vms) = facts(&newest, &mut left_out)?;
        let tables = tables(&newest)?;
        Ok(Self { sketched, left_out, hosts, vms, tables })
    }

    /// Bytes that stand behind so many kept contents.
    pub(super) fn bytes_of(&self, kept: u64) -> u64 {
        kept.saturating_mul(self.sketched.one_in.saturating_mul(self.sketched.page_bytes))
    }

    /// The standard error, in bytes, of a sum over kept contents: `squares` are the squares of what each content adds to it,
    /// added up, which in a Poisson sample is the variance, less the part that is seen completely.
    pub(super) fn error_bytes(&self, squares: u64) -> u64 {
        let unseen = 1.0 - 1.0 / self.sketched.one_in as f64;
        ((squares as f64 * unseen).sqrt() * self.bytes_of(1) as f64) as u64
    }

    /// The share of a VM's contents that stands behind `common` of its `kept` ones; `None` if none is kept.
    pub(super) fn containment(&self, common: u64, kept: u64) -> Option<Contained> {
        let scale = Scale::new(self.sketched.one_in).ok()?;
        let Containment { rate, standard_error, ci95 } = Containment::of_counts(common, kept, scale)?;
        Some(Contained { rate, standard_error, ci95 })
    }

    /// Adds those VMs of which there is no sketch to what is left out.
    pub(super) fn left_out_of_sketches(&self) -> Vec<String> {
        let without = self.vms.iter().filter_map(|vm| Some((vm, vm.not_sketched.as_ref()?)));
        let host = |vm: &VmFacts| &self.hosts[vm.host].name;
        let sentence = |(vm, why): (&VmFacts, &String)| {
            format!("VM {:?} of host {:?} has no sketch: {why}", vm.name, host(vm))
        };
        self.left_out.iter().cloned().chain(without.map(sentence)).collect()
    }
}

/// The share of one VM's distinct contents that another VM, or a host, has too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Contained {
    /// The estimate, from 0 to 1.
    pub rate: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Lower and upper end of the 95 % interval.
    pub ci95: [f64; 2],
}

impl Newest {
    /// The newest sketches of a run with the name of its host; `None` if it has none.
    fn of(dir: &RunDir) -> Result<Option<(String, Self)>, AnalysisError> {
        let Some(frame) = dir.scan(Table::Hosts)? else { return Ok(None) };
        let manifest = dir.manifest()?;
        let Some(sketched) = manifest.sketches else { return Ok(None) };
        let read = || -> PolarsResult<Option<(i64, DataFrame)>> {
            let newest = Answer::of(frame.clone().select([col("begin_us").max()]))?;
            let Some(begin_us) = newest.i64s("begin_us")?.first().copied().flatten() else { return Ok(None) };
            let rows = frame.filter(col("begin_us").eq(lit(begin_us)));
            Ok(Some((begin_us, collect(placed(rows, &manifest.host, &manifest.run))?)))
        };
        let Some((begin_us, rows)) = read().map_err(AnalysisError::table(dir.path(), Table::Hosts))? else {
            return Ok(None);
        };
        Ok(Some((manifest.host, Self { dir: dir.clone(), run: manifest.run, begin_us, sketched, rows })))
    }
}

/// The columns that recordings of a fleet have by their directories.
fn placed(frame: LazyFrame, host: &str, run: &str) -> LazyFrame {
    frame.with_columns([lit(host.to_owned()).alias("host"), lit(run.to_owned()).alias("run")])
}

fn tables(newest: &BTreeMap<String, Newest>) -> Result<FleetTables, AnalysisError> {
    let (mut hosts, mut sketches) = (Vec::new(), Vec::new());
    for (host, found) in newest {
        hosts.push(found.rows.clone().lazy());
        if let Some(frame) = found.dir.scan(Table::Sketches)? {
            sketches.push(placed(frame, host, &found.run));
        }
    }
    let Some(first) = newest.values().next() else { return Err(AnalysisError::NoSketches) };
    let failed = |table| AnalysisError::table(first.dir.path(), table);
    // All hosts are without a VM.
    if sketches.is_empty() {
        sketches.push(empty_sketches());
    }
    let all = |frames: Vec<LazyFrame>, table| concat(frames, UnionArgs::default()).map_err(failed(table));
    let hosts = collect(all(hosts, Table::Hosts)?).map_err(failed(Table::Hosts))?;
    Ok(FleetTables { sketches: all(sketches, Table::Sketches)?, hosts: hosts.lazy() })
}

fn empty_sketches() -> LazyFrame {
    let columns = Table::Sketches.columns();
    let columns =
        columns.iter().map(|column| Field::new(column.name.into(), crate::scan::data_type(column.kind)));
    let schema: Schema = columns.collect();
    placed(DataFrame::empty_with_schema(&schema).lazy(), "", "")
}

/// Hosts and VMs in the order of their numbers in the views.
fn facts(
    newest: &BTreeMap<String, Newest>,
    left_out: &mut Vec<String>,
) -> Result<(Vec<HostFacts>, Vec<VmFacts>), AnalysisError> {
    let (mut hosts, mut vms) = (Vec::new(), Vec::<VmFacts>::new());
    for (name, found) in newest {
        let failed = AnalysisError::table(found.dir.path(), Table::Hosts);
        let (host, mut of_host) = facts_of(name, hosts.len(), &found.rows).map_err(failed)?;
        of_host.sort_by(|a, b| a.name.cmp(&b.name));
        hosts.push(host);
        vms.append(&mut of_host);
    }
    let begins: Vec<i64> = newest.values().map(|found| found.begin_us).collect();
    // As the view `vms` has it: of those seen last the last by host and name.
    let mut last_seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, vm) in vms.iter().enumerate() {
        let Some(uuid) = &vm.uuid else { continue };
        let seen = last_seen.entry(uuid).or_insert(place);
        if begins[vm.host] >= begins[vms[*seen].host] {
            *seen = place;
        }
    }
    let mut is_here = vec![true; vms.len()];
    for (place, vm) in vms.iter().enumerate() {
        if vm.uuid.as_deref().and_then(|uuid| last_seen.get(uuid)).is_some_and(|last| *last != place) {
            let last = vm.uuid.as_deref().and_then(|uuid| last_seen.get(uuid)).map(|last| vms[*last].host);
            let host = &mut hosts[vm.host];
            let why = match last == Some(vm.host) {
                false => "was seen on another host later",
                true => {
                    // It runs beside the other, and takes its room.
                    host.also_taken.push((vm.vcpus, vm.memory_bytes));
                    "has the UUID of another VM of that host"
                }
            };
            left_out.push(format!("VM {:?} of host {:?} {why}", vm.name, host.name));
            is_here[place] = false;
        }
    }
    let mut is_here = is_here.into_iter();
    vms.retain(|_| is_here.next().unwrap_or(false));
    Ok((hosts, vms))
}

fn facts_of(name: &str, place: usize, rows: &DataFrame) -> PolarsResult<(HostFacts, Vec<VmFacts>)> {
    let rows = Answer::of(rows.clone().lazy())?;
    let (cpus, memory) = (rows.u64s("host_cpus")?, rows.u64s("host_memory_bytes")?);
    let (names, uuids, kinds) = (rows.texts("vm")?, rows.texts("uuid")?, rows.texts("vm_kind")?);
    let (vcpus, bytes) = (rows.u64s("vm_vcpus")?, rows.u64s("vm_memory_bytes")?);
    let (apart, why_not) = (rows.texts("vm_apart")?, rows.texts("vm_not_sketched")?);
    let (vmids, read, zero) =
        (rows.u64s("vm_vmid")?, rows.u64s("vm_pages_read")?, rows.u64s("vm_pages_zero")?);
    let first = |column: &[Option<u64>]| column.first().copied().flatten();
    let host = HostFacts {
        name: name.to_owned(),
        cpus: first(&cpus),
        memory_bytes: first(&memory),
        also_taken: Vec::new(),
    };
    let vm = |row: usize| {
        Some(VmFacts {
            name: names[row].clone()?,
            host: place,
            kind: kinds[row].clone(),
            uuid: uuids[row].clone(),
            vcpus: vcpus[row].and_then(|vcpus| u32::try_from(vcpus).ok()),
            memory_bytes: bytes[row],
            apart: apart[row].as_deref().unwrap_or("").lines().map(str::to_owned).collect(),
            not_sketched: why_not[row].clone(),
            vmid: vmids[row].and_then(|vmid| u32::try_from(vmid).ok()),
            pages: read[row].zip(zero[row]).map(|(read, zero)| read.saturating_sub(zero)),
        })
    };
    Ok((host, (0..rows.rows()).filter_map(vm).collect()))
}
