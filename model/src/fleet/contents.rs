//! Which VMs hold which contents, with contents that the same VMs hold taken together.

use std::collections::BTreeMap;

/// Contents that the same VMs hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Indices of the VMs that hold them, ascending; two or more.
    pub holders: Vec<u32>,
    /// How many kept contents these are.
    pub kept: u64,
}

/// What the VMs of a fleet have in common. What only one VM holds is left out: no placement brings it together with
/// anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetContents {
    contents: Vec<Contents>,
    of_vms: Vec<Vec<u32>>,
}

impl FleetContents {
    /// From the kept hashes of each VM.
    pub fn of_sketches<'a>(vms: impl IntoIterator<Item = &'a [u64]>) -> Self {
        let mut held: Vec<(u64, u32)> = Vec::new();
        let mut count = 0;
        for (vm, hashes) in (0..).zip(vms) {
            held.extend(hashes.iter().map(|hash| (*hash, vm)));
            count = vm as usize + 1;
        }
        held.sort_unstable();
        held.dedup();
        let groups = held.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
        Self::of_holders(count, groups.map(|group| group.iter().map(|(_, vm)| *vm).collect()))
    }

    /// From the holders of each content, ascending, for a fleet of so many VMs.
    pub fn of_holders(vms: usize, contents: impl IntoIterator<Item = Vec<u32>>) -> Self {
        Self::of_contents(vms, contents.into_iter().map(|holders| Contents { holders, kept: 1 }))
    }

    /// From contents that are taken together already, for a fleet of so many VMs.
    pub fn of_contents(vms: usize, contents: impl IntoIterator<Item = Contents>) -> Self {
        let mut kept: BTreeMap<Vec<u32>, u64> = BTreeMap::new();
        for Contents { holders, kept: more } in contents.into_iter().filter(|of| of.holders.len() > 1) {
            *kept.entry(holders).or_default() += more;
        }
        let contents: Vec<_> = kept.into_iter().map(|(holders, kept)| Contents { holders, kept }).collect();
        let mut of_vms = vec![Vec::new(); vms];
        for (number, group) in (0..).zip(&contents) {
            for vm in &group.holders {
                if let Some(of_vm) = of_vms.get_mut(*vm as usize) {
                    of_vm.push(number);
                }
            }
        }
        Self { contents, of_vms }
    }

    /// Number of VMs.
    pub fn vms(&self) -> usize {
        self.of_vms.len()
    }

    /// All contents that two or more VMs hold.
    pub fn all(&self) -> &[Contents] {
        &self.contents
    }

    /// Numbers, in [`Self::all`], of what one VM holds.
    pub(super) fn of_vm(&self, vm: usize) -> &[u32] {
        &self.of_vms[vm]
    }

    /// How many kept contents stand behind a number.
    pub(super) fn kept(&self, number: u32) -> u64 {
        self.contents[number as usize].kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_the_same_vms_are_one() {
        let found = FleetContents::of_sketches([&[1, 2, 3, 9][..], &[1, 2, 3], &[3, 8], &[]]);
        let expected =
            [Contents { holders: vec![0, 1], kept: 2 }, Contents { holders: vec![0, 1, 2], kept: 1 }];
        assert_eq!(found.all(), expected);
        assert_eq!(found.vms(), 4);
        assert_eq!((found.of_vm(0), found.of_vm(2), found.of_vm(3)), (&[0, 1][..], &[1][..], &[][..]));
    }

    #[test]
    fn contents_that_are_taken_together_already_keep_their_number() {
        let of = |holders: &[u32], kept| Contents { holders: holders.to_vec(), kept };
        let found = FleetContents::of_contents(3, [of(&[0, 2], 7), of(&[1], 9), of(&[0, 2], 3)]);
        assert_eq!(found.all(), [of(&[0, 2], 10)]);
    }
}
