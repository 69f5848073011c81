use proptest::prelude::*;

use super::*;

// Recorded on Xen 4.17 with two sockets and three cpupools, one of them without CPUs.
const INFO: &str = include_str!("../../fixtures/info-n.txt");
const COUNTS: &str = include_str!("../../fixtures/cpupool-list.txt");
const LISTS: &str = include_str!("../../fixtures/cpupool-list-c.txt");

#[test]
fn a_real_host() {
    let info = info(INFO).unwrap();
    let places: Vec<_> = info.cpus.iter().map(|cpu| (cpu.cpu, cpu.core, cpu.socket, cpu.node)).collect();
    assert_eq!(places, [(0, 0, 0, Some(0)), (1, 1, 0, Some(0)), (2, 0, 1, Some(1)), (3, 1, 1, Some(1))]);
    assert!(info.is_whole());
    let pools = pools(COUNTS, LISTS).unwrap();
    let found: Vec<_> = pools.iter().map(|pool| (pool.name.as_str(), pool.cpus.to_string())).collect();
    let expected = [("Pool-0", "0-2"), ("second", "3"), ("empty", "")];
    assert_eq!(found, expected.map(|(name, cpus)| (name, cpus.to_owned())));
}

#[test]
fn offline_cpus_cut_affinities_short() {
    // smt=0: every second CPU is offline, and only as many bits are printed as CPUs are online.
    let text = INFO.replace("  1:       1 ", "  4:       2 ").replace("  3:       1 ", "  6:       3 ");
    let mut lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("  4:")).unwrap();
    lines.swap(at, at + 1);
    assert!(!info(&lines.join("\n")).unwrap().is_whole());
}

#[test]
fn a_node_may_be_unknown() {
    let text = INFO.replace("  3:       1        1        1", "  3:       1        1       -1");
    assert_eq!(info(&text).unwrap().cpus[3].node, None);
}

#[test]
fn damage_is_named() {
    assert_eq!(info("libxl_physinfo failed.\n").unwrap_err().what, "xl info without nr_cpus");
    let error =
        info(&INFO.replace("  2:       0        1        1", "  2:       0        x        1")).unwrap_err();
    assert!(error.text.contains('x'), "{error:?}");
    assert!(info(&INFO.replace("  2:", "  0:")).is_err());
    assert!(info(&INFO.replace("cpu_topology", "topology")).is_err());

    assert!(pools("error getting cpupool info", "").is_err());
    // A pool was made between the two.
    let error = pools(COUNTS, LISTS.lines().take(3).collect::<Vec<_>>().join("\n").as_str()).unwrap_err();
    assert_eq!(error.what, "a pool of xl cpupool-list -c");
    let error = pools(COUNTS, &LISTS.replace("0,1,2", "0,1")).unwrap_err();
    assert!(error.text.starts_with("Pool-0"), "{error:?}");
    assert!(pools(&COUNTS.replace("second", "Pool-0"), &LISTS.replace("second", "Pool-0")).is_err());
}

proptest! {
    #[test]
    fn pools_of_any_name(
        name in "[!-~]([ -~]{0,30}[!-~])?",
        cpus in proptest::collection::btree_set(0u32..200, 0..120),
        domains in 0u32..5000,
    ) {
        let set: CpuSet = cpus.iter().copied().collect();
        let list = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let counts = format!(
            "Name               CPUs   Sched     Active   Domain count\n{name:<19}{:>3} {:>9}       y       {domains:>4}\n",
            set.len(), "credit2"
        );
        let lists = format!("Name               CPU list\n{name:<19}{list}\n");
        match pools(&counts, &lists) {
            Ok(pools) => prop_assert_eq!(pools, [ListedPool { name, cpus: set }]),
            // A number of three digits that touches a long name may be refused.
            Err(_) => prop_assert!(name.len() >= 19 && set.len() >= 100),
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}(\\n\\PC{0,60}){0,4}") {
        let _ = info(&text);
        let _ = info(&format!("nr_cpus : 4\ncpu_topology :\ncpu: core socket node\n{text}"));
        let _ = pools(&format!("Name CPUs Sched Active Domain count\n{text}"), &format!("Name CPU list\n{text}"));
    }
}
