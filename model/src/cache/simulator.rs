//! The simulator: a stream of accesses through the caches of several placements at once.

use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::groups::Groups;
use super::policy::{Ages, AnyPolicy, Lru, Mru, Tree};
use super::private::{Found, PrivateCaches};
use super::{
    Access, CacheError, CacheModel, DomainPlacement, Inclusion, Sampler, Sampling, SharedSets, StreamError,
    bits,
};

/// A number for each kind of access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByKind {
    /// Reads of data.
    pub reads: u64,
    /// Writes of data.
    pub writes: u64,
    /// Fetches of instructions.
    pub fetches: u64,
}

impl ByKind {
    /// All kinds together.
    pub fn all(self) -> u64 {
        self.reads + self.writes + self.fetches
    }

    fn of(by_number: &[u64; 4]) -> Self {
        let [reads, writes, fetches, _] = *by_number;
        Self { reads, writes, fetches }
    }

    fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.fetches += other.fetches;
    }
}

/// What a vCPU did in the kept sets, under one placement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Accesses; the same for all placements.
    pub accesses: ByKind,
    /// Those that reached the shared cache, because the private level had no line. All, if none is modelled.
    pub references: ByKind,
    /// Those of them that left the domain, because the shared cache had no line either.
    pub misses: ByKind,
}

impl Counts {
    /// Adds those of another.
    pub fn add(&mut self, other: Self) {
        self.accesses.add(other.accesses);
        self.references.add(other.references);
        self.misses.add(other.misses);
    }

    /// Misses of reads for a thousand reads; `None` without reads.
    pub fn misses_per_thousand_reads(self) -> Option<f64> {
        let reads = self.accesses.reads;
        (reads > 0).then(|| self.misses.reads as f64 * 1000.0 / reads as f64)
    }
}

/// Caches of several placements, and what went through them.
#[derive(Clone, Debug)]
pub struct Simulator {
    sampler: Sampler,
    placements: Vec<DomainPlacement>,
    domains: u32,
    caches: Caches,
    tally: Tally,
    shared: Shared,
}

/// The shared caches, with code for each kind of policy.
#[derive(Clone, Debug)]
enum Shared {
    Lru(Directory<Lru>),
    Tree(Directory<Tree>),
    Mru(Directory<Mru>),
    Ages(Directory<Ages>),
}

impl Shared {
    fn new(model: &CacheModel, sets: usize, groups: usize) -> Self {
        let ways = model.ways();
        match AnyPolicy::new(model.replacement(), ways) {
            AnyPolicy::Lru(policy) => Self::Lru(Directory::new(sets, ways, groups, policy)),
            AnyPolicy::Tree(policy) => Self::Tree(Directory::new(sets, ways, groups, policy)),
            AnyPolicy::Mru(policy) => Self::Mru(Directory::new(sets, ways, groups, policy)),
            AnyPolicy::Ages(policy) => Self::Ages(Directory::new(sets, ways, groups, policy)),
        }
    }
}

/// All but the shared caches.
#[derive(Clone, Debug)]
struct Caches {
    groups: Groups,
    private: Option<PrivateCaches>,
    private_sets: u64,
    inclusion: Inclusion,
}

/// Numbers by kind; the fourth kind never comes.
#[derive(Clone, Debug)]
struct Tally {
    groups: usize,
    /// Of each vCPU.
    accesses: Vec<[u64; 4]>,
    /// Of each vCPU: those that all its groups were asked for.
    asked_of_all: Vec<[u64; 4]>,
    /// Of each vCPU and group: those that not all were asked for.
    asked: Vec<[u64; 4]>,
    /// Of each vCPU and group.
    missed: Vec<[u64; 4]>,
}

impl Tally {
    fn new(vcpus: usize, groups: usize) -> Self {
        let (by_vcpu, by_group) = (vec![[0; 4]; vcpus], vec![[0; 4]; vcpus * groups]);
        Self {
            groups,
            accesses: by_vcpu.clone(),
            asked_of_all: by_vcpu,
            asked: by_group.clone(),
            missed: by_group,
        }
    }
}

impl Simulator {
    /// Empty caches of a model for these placements.
    ///
    /// # Errors
    /// A sampling that the model does not allow, or placements that do not fit; see [`CacheError`].
    pub fn new(
        model: &CacheModel,
        placements: &[DomainPlacement],
        sampling: Sampling,
    ) -> Result<Self, CacheError> {
        let sampler = Sampler::new(model, sampling)?;
        let groups = Groups::new(model, placements)?;
        let (vcpus, count) = (groups.masks.len(), groups.members.len());
        let sets = (model.sets() / u64::from(sampling.fold)) as usize;
        let shared = Shared::new(model, sets, count);
        let private_sets = model.private_sets().unwrap_or(1);
        let private = model.private().map(|level| {
            PrivateCaches::new(level, vcpus, (private_sets / u64::from(sampling.fold)) as usize)
        });
        let caches = Caches { groups, private, private_sets, inclusion: model.inclusion() };
        Ok(Self {
            sampler,
            placements: placements.to_vec(),
            domains: model.domains(),
            caches,
            tally: Tally::new(vcpus, count),
            shared,
        })
    }

    /// Runs accesses through the caches of all placements. Those to sets that are not kept are skipped.
    ///
    /// # Errors
    /// An access of a vCPU that no placement has; those before it are counted.
    pub fn feed(&mut self, accesses: &[Access]) -> Result<(), StreamError> {
        let Self { sampler, caches, tally, shared, .. } = self;
        match shared {
            Shared::Lru(sets) => run(sampler, caches, tally, sets, accesses),
            Shared::Tree(sets) => run(sampler, caches, tally, sets, accesses),
            Shared::Mru(sets) => run(sampler, caches, tally, sets, accesses),
            Shared::Ages(sets) => run(sampler, caches, tally, sets, accesses),
        }
    }

    /// The placements, in the order in which they were given.
    pub fn placements(&self) -> &[DomainPlacement] {
        &self.placements
    }

    /// One of how many sets is kept: counts are of these sets.
    pub fn fold(&self) -> u32 {
        self.sampler.fold()
    }

    /// What each vCPU did under the placement with this number; empty for a number that there is not.
    pub fn by_vcpu(&self, placement: usize) -> Vec<Counts> {
        let groups = self.caches.groups.of.get(placement).map_or(&[][..], Vec::as_slice);
        let counts = groups.iter().enumerate().map(|(vcpu, group)| {
            let at = vcpu * self.tally.groups + usize::from(*group);
            let mut references = ByKind::of(&self.tally.asked_of_all[vcpu]);
            references.add(ByKind::of(&self.tally.asked[at]));
            Counts {
                accesses: ByKind::of(&self.tally.accesses[vcpu]),
                references,
                misses: ByKind::of(&self.tally.missed[at]),
            }
        });
        counts.collect()
    }

    /// The same by domain, from 0.
    pub fn by_domain(&self, placement: usize) -> Vec<Counts> {
        let mut domains = vec![Counts::default(); self.domains as usize];
        if let Some(DomainPlacement { domain_of, .. }) = self.placements.get(placement) {
            for (counts, domain) in self.by_vcpu(placement).into_iter().zip(domain_of) {
                domains[*domain as usize].add(counts);
            }
        }
        domains
    }

    /// The same for all vCPUs together.
    pub fn total(&self, placement: usize) -> Counts {
        self.by_vcpu(placement).into_iter().fold(Counts::default(), |mut total, counts| {
            total.add(counts);
            total
        })
    }

    /// Sets all counts to 0 and leaves the lines where they are: what was fed was the warm-up.
    pub fn start_counting(&mut self) {
        self.tally = Tally::new(self.caches.groups.masks.len(), self.tally.groups);
    }

    /// Memory of the caches in bytes. Parts that were never used may not be resident.
    pub fn bytes(&self) -> usize {
        let shared = match &self.shared {
            Shared::Lru(sets) => sets.bytes(),
            Shared::Tree(sets) => sets.bytes(),
            Shared::Mru(sets) => sets.bytes(),
            Shared::Ages(sets) => sets.bytes(),
        };
        shared + self.caches.private.as_ref().map_or(0, PrivateCaches::bytes)
    }

    /// How many copies in private caches are gone, over all groups.
    #[cfg(test)]
    pub(super) fn gone(&self) -> usize {
        self.caches.private.as_ref().map_or(0, PrivateCaches::gone)
    }
}

fn run(
    sampler: &Sampler,
    caches: &mut Caches,
    tally: &mut Tally,
    sets: &mut impl SharedSets,
    accesses: &[Access],
) -> Result<(), StreamError> {
    let vcpus = tally.accesses.len();
    for (at, access) in accesses.iter().enumerate() {
        let line = sampler.line(*access);
        let vcpu = usize::from(access.vcpu());
        if vcpu >= vcpus {
            return Err(StreamError { at, vcpu: access.vcpu(), vcpus });
        }
        if !sampler.keeps(line) {
            continue;
        }
        let kind = access.kind_number();
        tally.accesses[vcpu][kind] += 1;
        let all = caches.groups.masks[vcpu];
        let (wanted, victim) = match &mut caches.private {
            None => (all, None),
            Some(private) => match private.access(vcpu, sampler.private_set(line, caches.private_sets), line)
            {
                Found::Hit(0) => continue,
                Found::Hit(gone) => (gone, None),
                Found::Miss(victim) => (all, victim),
            },
        };
        if wanted == all {
            tally.asked_of_all[vcpu][kind] += 1;
        } else {
            bits(wanted).for_each(|group| tally.asked[vcpu * tally.groups + group][kind] += 1);
        }
        let missed = caches.shared_access(sampler, sets, vcpu, line, wanted, victim);
        bits(missed).for_each(|group| tally.missed[vcpu * tally.groups + group][kind] += 1);
    }
    Ok(())
}

impl Caches {
    /// What the private level missed; `victim` is the line that left it. Returns the groups that had no line.
    fn shared_access(
        &mut self,
        sampler: &Sampler,
        sets: &mut impl SharedSets,
        vcpu: usize,
        line: u64,
        wanted: u64,
        victim: Option<u64>,
    ) -> u64 {
        let set = sampler.set(line);
        match (self.inclusion, &mut self.private) {
            (Inclusion::Inclusive, Some(private)) => {
                let members = &self.groups.members;
                sets.access(set, line, wanted, |group, evicted| {
                    let set = sampler.private_set(evicted, self.private_sets);
                    private.take_back(&members[group], set, evicted, group);
                })
            }
            (Inclusion::Victim, Some(private)) => {
                let had = sets.take(set, line, wanted);
                let private_set = sampler.private_set(line, self.private_sets);
                let masks = self.groups.masks.iter().enumerate();
                let others = masks.filter(|(other, mask)| *other != vcpu && **mask & wanted & !had != 0);
                let near = others.filter(|(other, _)| private.has(*other, private_set, line));
                let near = near.fold(0, |near, (_, mask)| near | mask);
                if let Some(victim) = victim {
                    sets.access(sampler.set(victim), victim, wanted, |_, _| {});
                }
                wanted & !had & !near
            }
            _ => sets.access(set, line, wanted, |_, _| {}),
        }
    }
}
