//! On a Xen host, in its dom0, as root: run this crate's test program there with `--ignored tests::real`. They
//! leave affinities as they were.

use super::super::*;
use crate::is_control_domain;
use crate::toolstack::CacheMonitor;
use crate::xenstore::Xenstore;

fn xl() -> Xl {
    let root = HostRoot::real();
    assert!(is_control_domain(&root), "this is not dom0");
    Xl::find(&root).unwrap()
}

#[test]
#[ignore = "needs dom0 of a Xen host"]
fn xl_and_xenstore_agree() {
    let xl = xl();
    let store = Xenstore::new(&HostRoot::real());
    let machine = xl.machine().unwrap();
    let domains = xl.domains().unwrap();
    assert_eq!(domains[0].domain, DomainRef { id: 0, uuid: [0; 16] });
    let online: CpuSet = machine.cpus.iter().map(|cpu| cpu.cpu).collect();
    for domain in &domains {
        let name = store.domain_name(domain.domain.id).unwrap();
        assert_eq!(name.as_deref(), Some(domain.name.as_str()));
        assert!(domain.kind.is_some() && domain.pages > 0, "{domain:?}");
        assert!(machine.pools.iter().any(|pool| pool.id == domain.pool));
        for vcpu in &domain.vcpus {
            assert!(!vcpu.hard.is_empty() && vcpu.hard.is_subset(&online), "{vcpu:?}");
        }
    }
    assert_eq!(store.domain_name(32_000).unwrap(), None);
}

#[test]
#[ignore = "needs dom0 of a Xen host with another domain"]
fn affinities_are_set_and_restored() {
    let xl = xl();
    let domains = xl.domains().unwrap();
    let tried = domains.iter().find(|domain| domain.domain.id != 0 && !domain.vcpus.is_empty()).unwrap();
    let (domain, vcpu) = (tried.domain, tried.vcpus[0].index);
    let pools = xl.machine().unwrap().pools;
    let pool = &pools.iter().find(|pool| pool.id == tried.pool).unwrap().cpus;
    let one: CpuSet = pool.first().into_iter().collect();
    for kind in [AffinityKind::Hard, AffinityKind::Soft] {
        let other = if kind == AffinityKind::Hard { AffinityKind::Soft } else { AffinityKind::Hard };
        let (before, kept) =
            (xl.affinity(domain, vcpu, kind).unwrap(), xl.affinity(domain, vcpu, other).unwrap());
        xl.set_affinity(domain, vcpu, kind, &one).unwrap();
        let set = xl.affinity(domain, vcpu, kind).unwrap();
        xl.set_affinity(domain, vcpu, kind, &before).unwrap();
        assert_eq!(set, one);
        assert_eq!(xl.affinity(domain, vcpu, kind).unwrap(), before);
        assert_eq!(xl.affinity(domain, vcpu, other).unwrap(), kept);
    }
    let impostor = DomainRef { uuid: [0xff; 16], ..domain };
    assert!(xl.set_affinity(impostor, vcpu, AffinityKind::Hard, &one).unwrap_err().is_gone());
    assert!(xl.set_affinity(domain, 99, AffinityKind::Hard, &one).unwrap_err().is_gone());
    let absent: CpuSet = [60_000].into_iter().collect();
    let refused = xl.set_affinity(domain, vcpu, AffinityKind::Hard, &absent).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::EINVAL));
}

#[test]
#[ignore = "needs dom0 of a Xen host"]
fn cache_monitoring_works_or_is_reported_as_missing() {
    let mut xl = xl();
    let domain = DomainRef { id: 0, uuid: [0; 16] };
    match xl.attach(domain) {
        Ok(()) => {
            let readings = xl.read(domain);
            xl.detach(domain).unwrap();
            assert!(!readings.unwrap().is_empty());
        }
        Err(error) => assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}"),
    }
}
