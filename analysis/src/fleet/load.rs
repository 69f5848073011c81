//! The newest sketches of each host, as a fleet.

use std::collections::{BTreeMap, BTreeSet};

use huddle_model::fleet::{Fleet, FleetContents, FleetHost, FleetVm};
use huddle_model::schema::{SketchFact, Table};
use polars::prelude::*;

use crate::AnalysisError;
use crate::frame::Answer;
use crate::run::RunDir;

/// What hosts may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetLimits {
    /// Part of a host's memory, from 0 to 1, that VMs may have together, as if they shared nothing.
    pub memory_share: f64,
    /// Most vCPUs of a host for each of its CPUs.
    pub vcpus_per_cpu: f64,
}

/// A fleet, with how its contents were sketched.
#[derive(Clone, Debug)]
pub struct LoadedFleet {
    /// Hosts, VMs and what they have in common.
    pub fleet: Fleet,
    /// How its sketches were made; the same on all hosts.
    pub sketched: SketchFact,
    /// What was left out, one sentence each.
    pub left_out: Vec<String>,
}

/// One host's rows of its newest sketches.
struct HostRows {
    run: RunDir,
    begin_us: i64,
    /// What it has; `None` where that is not known.
    cpus: Option<u64>,
    memory_bytes: Option<u64>,
    vms: Vec<VmFacts>,
}

struct VmFacts {
    name: String,
    uuid: Option<String>,
    vcpus: Option<u32>,
    memory_bytes: Option<u64>,
    apart: Vec<String>,
    not_sketched: Option<String>,
}

impl LoadedFleet {
    /// The newest sketches of each host among these runs. A VM that is known by its UUID and was sketched on two hosts is
    /// on the one where it was seen last.
    ///
    /// # Errors
    /// No run has sketches; two were made in different ways; a recording cannot be read.
    pub fn of(runs: &[RunDir], limits: FleetLimits) -> Result<Self, AnalysisError> {
        let mut hosts: BTreeMap<String, HostRows> = BTreeMap::new();
        let mut sketched: Option<(SketchFact, RunDir)> = None;
        for run in runs {
            let Some(rows) = HostRows::of(run)? else { continue };
            let manifest = run.manifest()?;
            let Some(fact) = manifest.sketches else { continue };
            match &sketched {
                Some((first, of)) if *first != fact => {
                    return Err(AnalysisError::OtherSketches {
                        run: run.path().to_owned(),
                        of: of.path().to_owned(),
                    });
                }
                Some(_) => {}
                None => sketched = Some((fact, run.clone())),
            }
            let newest = hosts.get(&manifest.host).is_none_or(|known| known.begin_us < rows.begin_us);
            if newest {
                hosts.insert(manifest.host, rows);
            }
        }
        let Some((sketched, _)) = sketched else { return Err(AnalysisError::NoSketches) };
        let mut left_out: Vec<String> =
            hosts.values().flat_map(|host| host.run.losses().iter().cloned()).collect();
        keep_the_newest(&mut hosts, &mut left_out);
        let fleet = fleet(&hosts, limits, &mut left_out)?;
        Ok(Self { fleet, sketched, left_out })
    }

    /// Bytes that stand behind so many kept contents, and the standard error of that estimate.
    pub fn bytes_of(&self, kept: u64) -> (u64, u64) {
        let each = self.sketched.one_in.saturating_mul(self.sketched.page_bytes);
        // A Poisson sample: the variance of a count is the count, less the part that is seen completely.
        let error = (kept as f64 * (1.0 - 1.0 / self.sketched.one_in as f64)).sqrt() * each as f64;
        (kept.saturating_mul(each), error as u64)
    }
}

/// Removes VMs from hosts where they were seen before.
fn keep_the_newest(hosts: &mut BTreeMap<String, HostRows>, left_out: &mut Vec<String>) {
    let mut last_seen: BTreeMap<String, i64> = BTreeMap::new();
    for host in hosts.values() {
        for uuid in host.vms.iter().filter_map(|vm| vm.uuid.clone()) {
            let seen = last_seen.entry(uuid).or_insert(host.begin_us);
            *seen = (*seen).max(host.begin_us);
        }
    }
    let mut placed = BTreeSet::new();
    for (name, host) in hosts {
        host.vms.retain(|vm| {
            let Some(uuid) = &vm.uuid else { return true };
            let is_here = last_seen.get(uuid) == Some(&host.begin_us) && placed.insert(uuid.clone());
            if !is_here {
                left_out.push(format!("VM {:?} of host {name:?} was seen on another host later", vm.name));
            }
            is_here
        });
    }
}

fn fleet(
    hosts: &BTreeMap<String, HostRows>,
    limits: FleetLimits,
    left_out: &mut Vec<String>,
) -> Result<Fleet, AnalysisError> {
    let (mut fleet_hosts, mut vms) = (Vec::new(), Vec::new());
    let mut hashes: Vec<Vec<u64>> = Vec::new();
    let mut apart: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (name, host) in hosts {
        let mut of_vms = host.hashes()?;
        for vm in &host.vms {
            for group in &vm.apart {
                apart.entry(group).or_default().push(vms.len());
            }
            let stays = match &vm.not_sketched {
                Some(why) => Some(format!("has no sketch: {why}")),
                None if vm.vcpus.is_none() || vm.memory_bytes.is_none() => {
                    Some("has an unknown number of vCPUs or size".to_owned())
                }
                None => None,
            };
            if let Some(why) = &stays {
                left_out
                    .push(format!("VM {:?} of host {name:?} is left where it is, since it {why}", vm.name));
            }
            hashes.push(of_vms.remove(&vm.name).unwrap_or_default());
            vms.push(FleetVm {
                name: vm.name.clone(),
                host: fleet_hosts.len(),
                memory_bytes: vm.memory_bytes.unwrap_or(0),
                vcpus: vm.vcpus.unwrap_or(0),
                is_movable: stays.is_none(),
            });
        }
        // Nothing is proposed for a host of which it is not known what it may hold, or already holds.
        let is_known = host.vms.iter().all(|vm| vm.vcpus.is_some() && vm.memory_bytes.is_some());
        let room = host.cpus.zip(host.memory_bytes).filter(|_| is_known);
        if room.is_none() {
            left_out.push(format!("host {name:?} gets no VM, since it is not known how much it may hold"));
        }
        let (cpus, memory_bytes) = room.unwrap_or((0, 0));
        fleet_hosts.push(FleetHost {
            name: name.clone(),
            memory_bytes: (memory_bytes as f64 * limits.memory_share) as u64,
            vcpus: (cpus as f64 * limits.vcpus_per_cpu) as u64,
        });
    }
    let contents = FleetContents::of_sketches(hashes.iter().map(Vec::as_slice));
    let apart: Vec<Vec<usize>> = apart.into_values().collect();
    Fleet::new(fleet_hosts, vms, contents, &apart).map_err(AnalysisError::Fleet)
}

impl HostRows {
    /// The rows of the newest sketches of a run; `None` if it has none.
    fn of(run: &RunDir) -> Result<Option<Self>, AnalysisError> {
        let Some(frame) = run.scan(Table::Hosts)? else { return Ok(None) };
        Self::read(run, frame).map_err(AnalysisError::table(run.path(), Table::Hosts))
    }

    fn read(run: &RunDir, frame: LazyFrame) -> PolarsResult<Option<Self>> {
        let newest = Answer::of(frame.clone().select([col("begin_us").max()]))?;
        let Some(begin_us) = newest.i64s("begin_us")?.first().copied().flatten() else { return Ok(None) };
        let rows = Answer::of(frame.filter(col("begin_us").eq(lit(begin_us))))?;
        let (cpus, memory) = (rows.u64s("host_cpus")?, rows.u64s("host_memory_bytes")?);
        let (names, uuids) = (rows.texts("vm")?, rows.texts("uuid")?);
        let (vcpus, bytes) = (rows.u64s("vm_vcpus")?, rows.u64s("vm_memory_bytes")?);
        let (apart, why_not) = (rows.texts("vm_apart")?, rows.texts("vm_not_sketched")?);
        let first = |column: &[Option<u64>]| column.first().copied().flatten();
        let mut found = Self {
            run: run.clone(),
            begin_us,
            cpus: first(&cpus),
            memory_bytes: first(&memory),
            vms: Vec::new(),
        };
        for row in 0..rows.rows() {
            let Some(name) = names[row].clone() else { continue };
            let groups = apart[row].as_deref().unwrap_or("");
            found.vms.push(VmFacts {
                name,
                uuid: uuids[row].clone(),
                vcpus: vcpus[row].and_then(|vcpus| u32::try_from(vcpus).ok()),
                memory_bytes: bytes[row],
                apart: groups.lines().map(str::to_owned).collect(),
                not_sketched: why_not[row].clone(),
            });
        }
        Ok(Some(found))
    }

    /// The kept hashes of each VM, by name.
    fn hashes(&self) -> Result<BTreeMap<String, Vec<u64>>, AnalysisError> {
        let failed = AnalysisError::table(self.run.path(), Table::Sketches);
        let Some(frame) = self.run.scan(Table::Sketches)? else { return Ok(BTreeMap::new()) };
        let rows = frame.filter(col("begin_us").eq(lit(self.begin_us))).select([col("vm"), col("hash")]);
        let read = || -> PolarsResult<BTreeMap<String, Vec<u64>>> {
            let rows = Answer::of(rows)?;
            let mut hashes: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for (vm, hash) in rows.texts("vm")?.into_iter().zip(rows.u64s("hash")?) {
                if let (Some(vm), Some(hash)) = (vm, hash) {
                    hashes.entry(vm).or_default().push(hash);
                }
            }
            Ok(hashes)
        };
        read().map_err(failed)
    }
}
