//! A fleet for the search for moves: its contents taken together as families.

use std::collections::BTreeMap;

use huddle_model::fleet::{Contents, Fleet, FleetContents, FleetHost, FleetVm};
use polars::prelude::*;

use super::exact::Exact;
use super::newest::{NewestSketches, VmFacts};
use super::views::Parameters;
use crate::AnalysisError;
use crate::frame::Answer;

/// What hosts may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetLimits {
    /// Part of a host's memory, from 0 to 1, that VMs may have together, as if they shared nothing.
    pub memory_share: f64,
    /// Most vCPUs of a host for each of its CPUs.
    pub vcpus_per_cpu: f64,
}

/// A fleet with its families as contents, and all contents to count with.
pub(super) struct LoadedFleet {
    pub(super) fleet: Fleet,
    pub(super) exact: Exact,
    /// How many contents of each VM are kept.
    pub(super) kept: Vec<u64>,
    /// What was left out, one sentence each.
    pub(super) left_out: Vec<String>,
}

/// Contents that two VMs hold are of a family here if half of their holders hold both: rather larger families than
/// contents that are left out.
const FAMILY_PERCENT: u64 = 50;

impl LoadedFleet {
    /// # Errors
    /// A recording cannot be read.
    pub(super) fn of(sketches: &NewestSketches, limits: FleetLimits) -> Result<Self, AnalysisError> {
        let parameters =
            Parameters { max_holders: 1, family_percent: FAMILY_PERCENT, ..Parameters::default() };
        let mut answered = sketches.tables.ask("propose", &["shared", "kept"], parameters)?;
        let count = sketches.vms.len();
        let exact = Exact::of(count, &answered.take("shared")).map_err(AnalysisError::view("shared"))?;
        let kept = kept(count, &Answer::from(answered.take("kept"))).map_err(AnalysisError::view("kept"))?;
        let contents =
            contents(count, &Answer::from(answered.answer)).map_err(AnalysisError::view("family_vms"))?;
        let mut left_out = sketches.left_out.clone();
        let hosts = hosts(sketches, limits, &mut left_out);
        let vms = sketches.vms.iter().zip(&kept);
        let vms = vms.map(|(vm, kept)| movable(sketches, vm, *kept, &mut left_out)).collect();
        let mut apart: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, vm) in sketches.vms.iter().enumerate() {
            for group in &vm.apart {
                apart.entry(group).or_default().push(place);
            }
        }
        let apart: Vec<Vec<usize>> = apart.into_values().collect();
        let fleet = Fleet::new(hosts, vms, contents, &apart).map_err(AnalysisError::Fleet)?;
        Ok(Self { fleet, exact, kept, left_out })
    }

    /// The VMs of each host.
    pub(super) fn vms_of(&self) -> Vec<Vec<usize>> {
        let mut vms_of = vec![Vec::new(); self.fleet.hosts().len()];
        for (vm, facts) in self.fleet.vms().iter().enumerate() {
            vms_of[facts.host].push(vm);
        }
        vms_of
    }
}

fn kept(vms: usize, answer: &Answer) -> PolarsResult<Vec<u64>> {
    let mut found = vec![0; vms];
    for (key, kept) in answer.all_u64s("vm_key")?.into_iter().zip(answer.all_u64s("kept")?) {
        if let Some(of_vm) = (key as usize).checked_sub(1).and_then(|vm| found.get_mut(vm)) {
            *of_vm = kept;
        }
    }
    Ok(found)
}

/// Families as contents: of the VMs that hold at least half as much of one as the VM that holds most, each as much as
/// they hold on average.
fn contents(vms: usize, answer: &Answer) -> PolarsResult<FleetContents> {
    let (families, keys) = (answer.all_u64s("family_key")?, answer.all_u64s("vm_key")?);
    let mut of_families: BTreeMap<u64, Vec<(u32, u64)>> = BTreeMap::new();
    for ((family, key), kept) in families.into_iter().zip(keys).zip(answer.all_u64s("kept")?) {
        let vm = u32::try_from(key.saturating_sub(1)).unwrap_or(u32::MAX);
        of_families.entry(family).or_default().push((vm, kept));
    }
    let family = |mut holders: Vec<(u32, u64)>| {
        let most = holders.iter().map(|(_, kept)| *kept).max().unwrap_or(0);
        holders.retain(|(_, kept)| kept * 2 >= most);
        let held: u64 = holders.iter().map(|(_, kept)| *kept).sum();
        let count = holders.len() as u64;
        let mut holders: Vec<u32> = holders.into_iter().map(|(vm, _)| vm).collect();
        holders.sort_unstable();
        Contents { holders, kept: (held + count / 2) / count.max(1) }
    };
    Ok(FleetContents::of_contents(vms, of_families.into_values().map(family)))
}

/// The hosts. Nothing is proposed for one of which it is not known what it may hold, or already holds.
fn hosts(sketches: &NewestSketches, limits: FleetLimits, left_out: &mut Vec<String>) -> Vec<FleetHost> {
    let mut are_known = vec![true; sketches.hosts.len()];
    for vm in &sketches.vms {
        are_known[vm.host] &= vm.vcpus.is_some() && vm.memory_bytes.is_some();
    }
    for (place, host) in sketches.hosts.iter().enumerate() {
        are_known[place] &= host.also_taken.iter().all(|(vcpus, bytes)| vcpus.is_some() && bytes.is_some());
    }
    let host = |(place, host): (usize, &super::newest::HostFacts)| {
        let room = host.cpus.zip(host.memory_bytes).filter(|_| are_known[place]);
        if room.is_none() {
            let name = &host.name;
            left_out.push(format!("host {name:?} gets no VM, since it is not known how much it may hold"));
        }
        let (cpus, memory_bytes) = room.unwrap_or((0, 0));
        let also = host.also_taken.iter().fold((0_u64, 0_u64), |(vcpus, bytes), taken| {
            let (more_vcpus, more_bytes) = (u64::from(taken.0.unwrap_or(0)), taken.1.unwrap_or(0));
            (vcpus + more_vcpus, bytes.saturating_add(more_bytes))
        });
        FleetHost {
            name: host.name.clone(),
            memory_bytes: ((memory_bytes as f64 * limits.memory_share) as u64).saturating_sub(also.1),
            vcpus: ((cpus as f64 * limits.vcpus_per_cpu) as u64).saturating_sub(also.0),
        }
    };
    sketches.hosts.iter().enumerate().map(host).collect()
}

/// Of so many contents one or more is kept for certain: none by a chance of one in 500 million.
const SURELY_KEPT: u64 = 20;

fn movable(sketches: &NewestSketches, vm: &VmFacts, kept: u64, left_out: &mut Vec<String>) -> FleetVm {
    // Repeats count once, so it may be one content; then nothing is lost by leaving it where it is.
    let expected = vm.pages.unwrap_or(0) / sketches.sketched.one_in.max(1);
    let stays = match &vm.not_sketched {
        Some(why) => Some(format!("has no sketch: {why}")),
        None if kept == 0 && expected > SURELY_KEPT => Some(
            "has no hashes in the recording, though its pages were read: they were removed or are damaged"
                .to_owned(),
        ),
        None if vm.vcpus.is_none() || vm.memory_bytes.is_none() => {
            Some("has an unknown number of vCPUs or size".to_owned())
        }
        None => None,
    };
    if let Some(why) = &stays {
        let host = &sketches.hosts[vm.host].name;
        left_out.push(format!("VM {:?} of host {host:?} is left where it is, since it {why}", vm.name));
    }
    FleetVm {
        name: vm.name.clone(),
        host: vm.host,
        memory_bytes: vm.memory_bytes.unwrap_or(0),
        vcpus: vm.vcpus.unwrap_or(0),
        is_movable: stays.is_none(),
    }
}
