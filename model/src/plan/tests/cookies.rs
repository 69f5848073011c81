//! Plans for VMs with core scheduling cookies.

use super::super::*;
use super::{drawn, host, vms};

/// Domains of so many CPUs, two threads a core.
fn smt(cpus: &[u32]) -> Topology {
    let topology = host(cpus);
    let all: Vec<u32> = topology.cpus().iter().collect();
    topology.with_cores(all.chunks(2).map(|core| core.iter().copied().collect()).collect())
}

fn with_cookies(cookies: &[&[u64]]) -> Vec<PlanVm> {
    cookies.iter().map(|of| PlanVm { core_cookies: of.to_vec(), ..PlanVm::default() }).collect()
}

#[test]
fn two_cookies_on_one_core_count_as_one_cpu() {
    let matrix = vms(&[1, 1], &[(0, 1, 900)]);
    let planned = |topology: &Topology, cookies: &[&[u64]]| {
        let vms = with_cookies(cookies);
        let plan = Policy::Paper.plan(&PlanInput::new(&matrix, topology, &vms));
        (drawn(&plan), plan.reasons.iter().filter(|reason| reason.contains("core scheduling")).count())
    };
    let cores = smt(&[2, 2]);
    assert_eq!(planned(&cores, &[&[7], &[7]]), ("ab|".into(), 0));
    assert_eq!(planned(&cores, &[]), ("ab|".into(), 0), "cookies are not known");
    assert_eq!(planned(&cores, &[&[7], &[8]]), ("a|b".into(), 1));
    assert_eq!(planned(&cores, &[&[7], &[0]]), ("a|b".into(), 1), "none is a cookie too");
    assert_eq!(planned(&host(&[2, 2]), &[&[7], &[8]]), ("ab|".into(), 0), "each CPU is a core");
    // Two cores have room for both.
    assert_eq!(planned(&smt(&[4, 4]), &[&[7], &[8]]).0, "ab|");
}

#[test]
fn vcpus_that_fill_the_cores_of_their_cookie_lose_nothing() {
    let matrix = vms(&[2, 2], &[(0, 1, 900)]);
    let vms = with_cookies(&[&[7, 7], &[8, 8]]);
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &smt(&[4, 4]), &vms));
    assert_eq!(drawn(&plan), "aabb|");
    assert!(!plan.reasons.join("\n").contains("core scheduling"), "{:?}", plan.reasons);
    // A cookie for each vCPU: four cores.
    let vms = with_cookies(&[&[1, 2], &[3, 4]]);
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &smt(&[4, 4]), &vms));
    assert_eq!(drawn(&plan), "aa|bb");
    assert!(
        plan.reasons[0].contains("cookies (4)") && plan.reasons[0].contains("50 %"),
        "{:?}",
        plan.reasons
    );
}
