//! VMs to be kept apart, against all placements of small hosts.

use proptest::prelude::*;

use super::super::*;
use super::{host, vms};
use crate::rng::Rng;

/// A small host with VMs to be kept apart.
#[derive(Debug)]
struct Case {
    vcpus: Vec<u32>,
    cpus: Vec<u32>,
    allowed: Vec<Option<BTreeSet<DomainId>>>,
    apart: Vec<(usize, usize)>,
    shared: Vec<(usize, usize, u64)>,
    current: Vec<Option<u32>>,
}

fn case(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let (n, d) = (2 + rng.below(5), 2 + rng.below(3));
    let vcpus = (0..n).map(|_| 1 + rng.below(3) as u32).collect();
    let cpus = (0..d).map(|_| 1 + rng.below(4) as u32).collect();
    let allowed = (0..n).map(|_| {
        let some: BTreeSet<DomainId> = (0..d as u32).filter(|_| rng.below(3) > 0).map(DomainId).collect();
        (rng.below(3) == 0 && !some.is_empty()).then_some(some)
    });
    let allowed: Vec<_> = allowed.collect();
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect();
    let apart = pairs.iter().copied().filter(|_| rng.below(5) < 2).collect();
    let shared = pairs.iter().map(|(i, j)| (*i, *j, rng.below(1000) as u64)).collect();
    let current = (0..n).map(|_| Some(rng.below(d) as u32).filter(|_| rng.below(2) == 0)).collect();
    Case { vcpus, cpus, allowed, apart, shared, current }
}

impl Case {
    fn is_allowed(&self, vm: usize, domain: usize) -> bool {
        self.allowed[vm].as_ref().is_none_or(|allowed| allowed.contains(&DomainId(domain as u32)))
    }

    fn is_apart(&self, at: &[usize]) -> bool {
        self.apart.iter().all(|(a, b)| at[*a] != at[*b])
    }

    /// Whether they can be kept apart, and whether within the shares as well, each VM in one domain.
    fn by_trying_all(&self, room: &[u32], stretches: &[bool], extra: u32) -> (bool, bool) {
        let (n, d) = (self.vcpus.len(), self.cpus.len());
        let (mut apart, mut within) = (false, false);
        for mut code in 0..d.pow(n as u32) {
            let at: Vec<usize> = (0..n)
                .map(|_| {
                    let domain = code % d;
                    code /= d;
                    domain
                })
                .collect();
            if !self.is_apart(&at) || (0..n).any(|vm| !self.is_allowed(vm, at[vm])) {
                continue;
            }
            apart = true;
            let mut stretched = 0;
            within |= (0..d).all(|domain| {
                let load: u32 = (0..n).filter(|vm| at[*vm] == domain).map(|vm| self.vcpus[vm]).sum();
                let over = load.saturating_sub(room[domain]);
                stretched += over;
                over == 0 || over == 1 && stretches[domain]
            }) && stretched <= extra;
        }
        (apart, within)
    }

    fn check(&self) -> Result<(bool, bool), TestCaseError> {
        let (matrix, topology) = (vms(&self.vcpus, &self.shared), host(&self.cpus));
        let places: Vec<PlanVm> = (0..self.vcpus.len())
            .map(|vm| PlanVm {
                allowed: self.allowed[vm].clone(),
                current: vec![self.current[vm].map(DomainId); self.vcpus[vm] as usize],
                ..PlanVm::default()
            })
            .collect();
        let input = PlanInput::new(&matrix, &topology, &places).apart(&self.apart);
        let (room, stretches, extra) = PlacementState::new(&input).shares();
        let (can_be_apart, can_be_within) = self.by_trying_all(&room, &stretches, extra);
        for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::None) {
            let plan = policy.plan(&input);
            let broken = input.broken(&plan.placement);
            prop_assert!(
                !can_be_apart || broken.apart.is_empty(),
                "{}: {} {:?}",
                policy,
                broken,
                plan.reasons
            );
            let over = |reason: &String| reason.contains("more vCPUs than their share");
            let divides = |reason: &String| reason.contains("does not fit into the share");
            prop_assert!(
                !can_be_within
                    || self.apart.is_empty()
                    || !plan.reasons.iter().any(|r| over(r) || divides(r)),
                "{}: {:?}",
                policy,
                plan.reasons
            );
        }
        Ok((can_be_apart && !self.apart.is_empty(), can_be_within && !self.apart.is_empty()))
    }
}

/// By every policy, in each of some thousand instances.
#[test]
fn vms_are_kept_apart_wherever_they_can_be() {
    let mut sums = (0, 0);
    for seed in 0..3000 {
        let (apart, within) =
            case(seed).check().unwrap_or_else(|error| panic!("seed {seed}: {error}\n{:?}", case(seed)));
        sums = (sums.0 + u32::from(apart), sums.1 + u32::from(within));
    }
    assert!(sums.0 > 1500 && sums.1 > 1000, "enough of them are feasible: {sums:?}");
}

#[test]
fn near_memory_gives_way_to_keeping_apart() {
    let matrix = vms(&[1, 1], &[(0, 1, 900)]);
    let domains = host(&[2, 2]);
    let on_node = |domain: &CacheDomain| CacheDomain { nodes: [domain.id.0].into(), ..domain.clone() };
    let topology = Topology::new(None, domains.domains().iter().map(on_node).collect()).unwrap();
    let near = PlanVm { node_pages: [(0, 100)].into(), ..PlanVm::default() };
    let places = [near.clone(), near];
    let limits = PlanLimits { local_memory: Some(0.9), ..PlanLimits::default() };
    let apart = [(0, 1)];
    let input = PlanInput::new(&matrix, &topology, &places).limits(&limits).apart(&apart);
    for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::None) {
        let plan = policy.plan(&input);
        assert!(input.broken(&plan.placement).apart.is_empty(), "{policy}: {:?}", plan.reasons);
        assert!(plan.reasons.iter().any(|reason| reason.contains("local memory")), "{:?}", plan.reasons);
    }
}

#[test]
fn what_cannot_be_kept_apart_does_not_cost_what_can() {
    // Three of one group on two domains, and two of another.
    let matrix = vms(&[1; 5], &[(3, 4, 900)]);
    let topology = host(&[4, 4]);
    let apart = [(0, 1), (0, 2), (1, 2), (3, 4)];
    let input = PlanInput::new(&matrix, &topology, &[]).apart(&apart);
    for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::None) {
        let broken = input.broken(&policy.plan(&input).placement);
        assert_eq!(broken.apart.len(), 1, "{policy}: {broken}");
    }
}
