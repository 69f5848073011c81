//! Where the VMs of a fleet are while moves are considered: room of the hosts, and what they save.

use std::collections::BTreeMap;

use super::Fleet;

/// A placement of all VMs.
#[derive(Clone)]
pub(super) struct Placement<'a> {
    fleet: &'a Fleet,
    host_of: Vec<Option<usize>>,
    vms_of: Vec<Vec<usize>>,
    /// How many VMs of a host hold a content, by its number.
    held: Vec<BTreeMap<u32, u32>>,
    /// Negative where a host holds more than it should.
    memory_free: Vec<i128>,
    vcpus_free: Vec<i128>,
    /// How many VMs of a host are of a group that is kept apart.
    apart: Vec<BTreeMap<usize, u32>>,
    /// Kept contents that need no memory of their own, on all hosts.
    saved: u64,
}

impl<'a> Placement<'a> {
    /// Without any VM.
    pub(super) fn empty(fleet: &'a Fleet) -> Self {
        let hosts = fleet.hosts.len();
        Self {
            fleet,
            host_of: vec![None; fleet.vms.len()],
            vms_of: vec![Vec::new(); hosts],
            held: vec![BTreeMap::new(); hosts],
            memory_free: fleet.hosts.iter().map(|host| host.memory_bytes.into()).collect(),
            vcpus_free: fleet.hosts.iter().map(|host| host.vcpus.into()).collect(),
            apart: vec![BTreeMap::new(); hosts],
            saved: 0,
        }
    }

    /// As the fleet is now.
    pub(super) fn of_today(fleet: &'a Fleet) -> Self {
        let mut today = Self::empty(fleet);
        for (vm, facts) in fleet.vms.iter().enumerate() {
            today.add(vm, facts.host);
        }
        today
    }

    pub(super) fn host_of(&self, vm: usize) -> Option<usize> {
        self.host_of[vm]
    }

    pub(super) fn vms_of(&self, host: usize) -> &[usize] {
        &self.vms_of[host]
    }

    /// Kept contents that need no memory of their own.
    pub(super) fn saved(&self) -> u64 {
        self.saved
    }

    /// Whether a host has room for a VM, and none that it is kept apart from. Where a VM is, it fits.
    pub(super) fn fits(&self, vm: usize, host: usize) -> bool {
        let facts = &self.fleet.vms[vm];
        self.host_of[vm] == Some(host)
            || self.memory_free[host] >= facts.memory_bytes.into()
                && self.vcpus_free[host] >= facts.vcpus.into()
                && self.fleet.apart_of(vm).iter().all(|group| !self.apart[host].contains_key(group))
    }

    /// Kept contents of a VM that others on a host hold.
    pub(super) fn gain(&self, vm: usize, host: usize) -> u64 {
        let least = if self.host_of[vm] == Some(host) { 2 } else { 1 };
        let contents = &self.fleet.contents;
        let held = |number: &&u32| self.held[host].get(number).is_some_and(|vms| *vms >= least);
        contents.of_vm(vm).iter().filter(held).map(|number| contents.kept(*number)).sum()
    }

    /// Puts a VM that is nowhere on a host. Its new contents there are returned by number.
    pub(super) fn add(&mut self, vm: usize, host: usize) -> Vec<u32> {
        self.saved += self.gain(vm, host);
        let facts = &self.fleet.vms[vm];
        self.memory_free[host] -= i128::from(facts.memory_bytes);
        self.vcpus_free[host] -= i128::from(facts.vcpus);
        for group in self.fleet.apart_of(vm) {
            *self.apart[host].entry(*group).or_default() += 1;
        }
        let mut new = Vec::new();
        for number in self.fleet.contents.of_vm(vm) {
            let vms = self.held[host].entry(*number).or_default();
            *vms += 1;
            if *vms == 1 {
                new.push(*number);
            }
        }
        self.host_of[vm] = Some(host);
        self.vms_of[host].push(vm);
        new
    }

    /// Takes a VM from its host.
    pub(super) fn remove(&mut self, vm: usize) {
        let Some(host) = self.host_of[vm] else { return };
        self.saved -= self.gain(vm, host);
        self.host_of[vm] = None;
        self.vms_of[host].retain(|other| *other != vm);
        for number in self.fleet.contents.of_vm(vm) {
            if let Some(vms) = self.held[host].get_mut(number) {
                *vms -= 1;
                if *vms == 0 {
                    self.held[host].remove(number);
                }
            }
        }
        for group in self.fleet.apart_of(vm) {
            if let Some(vms) = self.apart[host].get_mut(group) {
                *vms -= 1;
                if *vms == 0 {
                    self.apart[host].remove(group);
                }
            }
        }
        let facts = &self.fleet.vms[vm];
        self.memory_free[host] += i128::from(facts.memory_bytes);
        self.vcpus_free[host] += i128::from(facts.vcpus);
    }

    /// Moves a VM.
    pub(super) fn shift(&mut self, vm: usize, host: usize) {
        self.remove(vm);
        self.add(vm, host);
    }
}
