//! Placements as groups: the sets of vCPUs that have a cache of their own in at least one placement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CacheError, CacheModel, MAX_VCPU};

/// The most groups that are simulated at once: a bit of a word each.
pub const MAX_GROUPS: usize = 64;

/// A placement for the simulator: each vCPU, by its number in the stream, is in one domain throughout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainPlacement {
    /// How it is called in reports.
    pub name: String,
    /// The domain of each vCPU, from 0.
    pub domain_of: Vec<u32>,
}

impl DomainPlacement {
    /// A placement of the vCPUs from 0 on.
    pub fn new(name: impl Into<String>, domain_of: impl Into<Vec<u32>>) -> Self {
        Self { name: name.into(), domain_of: domain_of.into() }
    }
}

/// The groups of several placements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// The vCPUs of each, in ascending order; groups differ.
    pub(super) members: Vec<Vec<u16>>,
    /// For each placement and vCPU, its group.
    pub(super) of: Vec<Vec<u8>>,
    /// For each vCPU the groups that it is in.
    pub(super) masks: Vec<u64>,
}

impl Groups {
    /// # Errors
    /// No placements, vCPUs that differ between them, domains that the model lacks, too many groups.
    pub(super) fn new(model: &CacheModel, placements: &[DomainPlacement]) -> Result<Self, CacheError> {
        check(model, placements)?;
        let mut numbers: BTreeMap<Vec<u16>, usize> = BTreeMap::new();
        let mut of = Vec::new();
        for placement in placements {
            let mut members: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
            for (vcpu, domain) in (0..).zip(&placement.domain_of) {
                members.entry(*domain).or_default().push(vcpu);
            }
            let mut group_of = BTreeMap::new();
            for (domain, members) in members {
                let next = numbers.len();
                group_of.insert(domain, *numbers.entry(members).or_insert(next));
            }
            of.push(placement.domain_of.iter().map(|domain| group_of[domain]).collect::<Vec<usize>>());
        }
        if numbers.len() > MAX_GROUPS {
            return Err(CacheError::TooManyGroups(numbers.len()));
        }
        let mut masks = vec![0; of.first().map_or(0, Vec::len)];
        for groups in &of {
            masks.iter_mut().zip(groups).for_each(|(mask, group)| *mask |= 1 << group);
        }
        let of = of.into_iter().map(|groups| groups.into_iter().map(|group| group as u8).collect()).collect();
        let mut members: Vec<(Vec<u16>, usize)> = numbers.into_iter().collect();
        members.sort_by_key(|(_, number)| *number);
        Ok(Self { members: members.into_iter().map(|(members, _)| members).collect(), of, masks })
    }
}

fn check(model: &CacheModel, placements: &[DomainPlacement]) -> Result<(), CacheError> {
    let expected = placements.first().ok_or(CacheError::NoPlacement)?.domain_of.len();
    if expected > usize::from(MAX_VCPU) + 1 {
        return Err(CacheError::TooManyVcpus(expected));
    }
    for (at, DomainPlacement { name, domain_of }) in placements.iter().enumerate() {
        if domain_of.is_empty() {
            return Err(CacheError::EmptyPlacement(name.clone()));
        }
        if domain_of.len() != expected {
            return Err(CacheError::OtherVcpus { name: name.clone(), found: domain_of.len(), expected });
        }
        if placements[..at].iter().any(|other| other.name == *name) {
            return Err(CacheError::SamePlacementName(name.clone()));
        }
        let domains = model.domains();
        if let Some((vcpu, domain)) = domain_of.iter().enumerate().find(|(_, domain)| **domain >= domains) {
            return Err(CacheError::UnknownDomain { name: name.clone(), vcpu, domain: *domain, domains });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(placements: &[(&str, &[u32])]) -> Result<Groups, CacheError> {
        let placements: Vec<_> =
            placements.iter().map(|(name, of)| DomainPlacement::new(*name, *of)).collect();
        Groups::new(&CacheModel::preset("paper").unwrap(), &placements)
    }

    #[test]
    fn equal_sets_of_vcpus_are_one_group() {
        let found = groups(&[("a", &[0, 0, 1, 1]), ("mirror", &[1, 1, 0, 0]), ("b", &[0, 1, 0, 1])]).unwrap();
        assert_eq!(found.members, [vec![0, 1], vec![2, 3], vec![0, 2], vec![1, 3]]);
        assert_eq!(found.of, [[0, 0, 1, 1], [0, 0, 1, 1], [2, 3, 2, 3]]);
        assert_eq!(found.masks, [0b0101, 0b1001, 0b0110, 0b1010]);
    }

    #[test]
    fn placements_that_do_not_fit_are_refused() {
        assert_eq!(groups(&[]), Err(CacheError::NoPlacement));
        assert_eq!(groups(&[("a", &[])]), Err(CacheError::EmptyPlacement("a".into())));
        let other = CacheError::OtherVcpus { name: "b".into(), found: 1, expected: 2 };
        assert_eq!(groups(&[("a", &[0, 1]), ("b", &[0])]), Err(other));
        assert_eq!(groups(&[("a", &[0]), ("a", &[1])]), Err(CacheError::SamePlacementName("a".into())));
        let unknown = CacheError::UnknownDomain { name: "a".into(), vcpu: 1, domain: 2, domains: 2 };
        assert_eq!(groups(&[("a", &[1, 2])]), Err(unknown));
        // A vCPU alone, and the others, for each of 33 vCPUs.
        let many: Vec<_> = (0..33)
            .map(|alone| {
                DomainPlacement::new(
                    format!("{alone}"),
                    (0..33).map(|vcpu| u32::from(vcpu == alone)).collect::<Vec<_>>(),
                )
            })
            .collect();
        let found = Groups::new(&CacheModel::preset("paper").unwrap(), &many);
        assert_eq!(found, Err(CacheError::TooManyGroups(66)));
    }
}
