//! Moves between hosts that bring shared contents together.

mod gather;
mod placement;
mod sequence;
#[cfg(test)]
mod tests;

use self::placement::Placement;
use super::contents::FleetContents;

/// A host, with what it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetHost {
    /// Its name.
    pub name: String,
    /// Memory for VMs, in bytes.
    pub memory_bytes: u64,
    /// Most vCPUs of all its VMs.
    pub vcpus: u64,
}

/// A VM, with what it takes of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetVm {
    /// Its name.
    pub name: String,
    /// The index of its host.
    pub host: usize,
    /// Its memory, in bytes: what it has without any sharing, which may end at any time.
    pub memory_bytes: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Whether it may be proposed to move.
    pub is_movable: bool,
}

/// Hosts, VMs, and what the VMs have in common.
#[derive(Clone, Debug)]
pub struct Fleet {
    hosts: Vec<FleetHost>,
    vms: Vec<FleetVm>,
    contents: FleetContents,
    /// The groups that each VM is kept apart from, by their numbers.
    apart: Vec<Vec<usize>>,
}

/// Facts that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFleet {
    /// A VM is on no host.
    #[error("VM {vm:?} is on host number {host}, and there are {hosts} hosts")]
    NoHost {
        /// Its name.
        vm: String,
        /// The index of the host.
        host: usize,
        /// The number of hosts.
        hosts: usize,
    },
    /// A group that is kept apart names a VM that does not exist.
    #[error("a group that is kept apart has VM number {vm}, and there are {vms} VMs")]
    NoVm {
        /// The index of the VM.
        vm: usize,
        /// The number of VMs.
        vms: usize,
    },
    /// Contents of another number of VMs.
    #[error("contents of {contents} VMs, and there are {vms} VMs")]
    Contents {
        /// VMs of the contents.
        contents: usize,
        /// VMs of the fleet.
        vms: usize,
    },
}

impl Fleet {
    /// VMs of one group of `apart`, given by indices, are never proposed to be on one host.
    ///
    /// # Errors
    /// [`InvalidFleet`] if an index is of nothing.
    pub fn new(
        hosts: Vec<FleetHost>,
        vms: Vec<FleetVm>,
        contents: FleetContents,
        apart: &[Vec<usize>],
    ) -> Result<Self, InvalidFleet> {
        if let Some(vm) = vms.iter().find(|vm| vm.host >= hosts.len()) {
            return Err(InvalidFleet::NoHost { vm: vm.name.clone(), host: vm.host, hosts: hosts.len() });
        }
        if contents.vms() != vms.len() {
            return Err(InvalidFleet::Contents { contents: contents.vms(), vms: vms.len() });
        }
        let mut groups_of = vec![Vec::new(); vms.len()];
        for (group, members) in apart.iter().enumerate() {
            for vm in members {
                let groups = groups_of.get_mut(*vm);
                let groups = groups.ok_or(InvalidFleet::NoVm { vm: *vm, vms: vms.len() })?;
                if !groups.contains(&group) {
                    groups.push(group);
                }
            }
        }
        Ok(Self { hosts, vms, contents, apart: groups_of })
    }

    /// The hosts.
    pub fn hosts(&self) -> &[FleetHost] {
        &self.hosts
    }

    /// The VMs.
    pub fn vms(&self) -> &[FleetVm] {
        &self.vms
    }

    fn apart_of(&self, vm: usize) -> &[usize] {
        &self.apart[vm]
    }

    /// Contents with more holders than this are on about every host, wherever a VM goes.
    fn common_holders(&self) -> usize {
        (self.hosts.len() * 4).max(64)
    }
}

/// Limits of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveLimits {
    /// Most moves.
    pub moves: usize,
}

/// One VM from one host to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Index of the VM.
    pub vm: usize,
    /// Index of its host before.
    pub from: usize,
    /// Index of its host afterwards.
    pub to: usize,
    /// Kept contents that need no memory of their own any more; negative if it only makes room.
    pub saved_kept: i64,
}

/// Moves, in an order in which each has room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The moves.
    pub moves: Vec<Move>,
    /// Kept contents that need no memory of their own today.
    pub saved_today_kept: u64,
    /// The same after all moves.
    pub saved_kept: u64,
}

/// The moves, at most so many, that bring the most shared contents together. Memory, vCPUs and groups that are kept
/// apart are respected after each move; a host that breaks a limit today gets nothing more.
///
/// Two placements are looked for, one from where the VMs are today, one that fills hosts from nothing ([`gather`]), and
/// the one is taken from which more is left within the limit of moves.
pub fn propose(fleet: &Fleet, limits: MoveLimits) -> Proposal {
    let today = Placement::of_today(fleet);
    let saved_today_kept = today.saved();
    let mut near = today;
    gather::improve(fleet, &mut near);
    let far = gather::gather(fleet).map(|mut far| {
        gather::improve(fleet, &mut far);
        far
    });
    let gain = |moves: &[Move]| moves.iter().map(|one| one.saved_kept).sum::<i64>();
    let found =
        std::iter::once(near).chain(far).map(|target| sequence::towards(fleet, &target, limits.moves));
    // The last of equals is the better one of `max_by_key`: fewer moves are preferred.
    let moves = found.max_by_key(|moves| (gain(moves), std::cmp::Reverse(moves.len()))).unwrap_or_default();
    let saved_kept = saved_today_kept.saturating_add_signed(gain(&moves));
    Proposal { moves, saved_today_kept, saved_kept }
}
