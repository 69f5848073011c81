//! The best grouping that a generated fleet has by its construction, and what a grouping saves.

use super::GeneratedFleet;

impl GeneratedFleet {
    /// The host that would have all VMs of this one's application, if none were kept apart.
    pub(super) fn home(&self, vm: u32) -> u32 {
        vm / self.shape.vms_per_host
    }

    /// The host of a VM in the planted grouping: each application on one host, beside others of the same system, and as many
    /// VMs on each host as today. Of VMs that are kept apart the second is on the neighbour of its application's host, which
    /// has the same system.
    pub fn planted_host(&self, vm: u32) -> u32 {
        let home = self.home(vm);
        if self.apart(vm).is_some_and(|[_, second]| second == vm) { home ^ 1 } else { home }
    }

    /// The two VMs, this one among them, that may not be on one host, like replicas of a service: the first two of the first
    /// application of each host that has a neighbour.
    pub fn apart(&self, vm: u32) -> Option<[u32; 2]> {
        let first = self.home(vm) * self.shape.vms_per_host;
        let has_neighbour = self.home(vm) ^ 1 < self.shape.hosts;
        (self.shape.application_vms > 1 && has_neighbour && vm - first < 2).then_some([first, first + 1])
    }

    /// VMs of each host in the planted grouping, ascending.
    pub fn planted(&self) -> Vec<Vec<u32>> {
        let mut hosts = vec![Vec::new(); self.shape.hosts as usize];
        for vm in 0..self.vms() {
            hosts[self.planted_host(vm) as usize].push(vm);
        }
        hosts
    }

    /// Kept contents that need no memory of their own where these VMs are on one host.
    pub fn saved_kept(&self, vms: &[u32]) -> u64 {
        let mut hashes: Vec<u64> = vms.iter().flat_map(|vm| self.sketch(*vm)).collect();
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        (all - hashes.len()) as u64
    }
}
