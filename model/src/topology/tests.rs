use proptest::prelude::*;

use super::*;

fn cache(level: u8, cpus: &str, kib: u64) -> CacheInfo {
    CacheInfo {
        level,
        instruction_only: false,
        shared_cpus: cpus.parse().unwrap(),
        size_bytes: Some(kib * 1024),
    }
}

/// Two sockets of two cores with two threads: private L2, one L3 per socket.
fn two_sockets() -> Vec<CacheInfo> {
    let mut caches = vec![cache(3, "0-3", 20480), cache(3, "4-7", 20480)];
    for core in 0..4u32 {
        caches.push(cache(2, &format!("{}-{}", core * 2, core * 2 + 1), 256));
    }
    caches
}

#[test]
fn siblings_are_one_core() {
    let usable = "0-6".parse().unwrap();
    let topology = Topology::from_caches(&two_sockets(), &usable, Some(3), |_| None).unwrap();
    let counted = |topology: &Topology| -> Vec<usize> {
        topology.domains().iter().map(|domain| topology.cores_in(domain)).collect()
    };
    assert_eq!(counted(&topology), [4, 3], "cores are unknown");
    let cores = ["0-1", "2-3", "6-7"].map(|core| core.parse().unwrap()).to_vec();
    let topology = topology.with_cores(cores);
    // In the second socket the core of 4 and 5 is unknown, and 7 is not usable.
    assert_eq!(counted(&topology), [2, 3]);
    let text = serde_json::to_string(&topology).unwrap();
    assert_eq!(Topology::from_json(&text).unwrap(), topology);
}

fn cpus(topology: &Topology) -> Vec<String> {
    topology.domains().iter().map(|domain| domain.cpus.to_string()).collect()
}

#[test]
fn the_default_level_is_the_highest_that_separates_the_usable_cpus() {
    let all = "0-7".parse().unwrap();
    let topology = Topology::from_caches(&two_sockets(), &all, None, |cpu| Some(cpu / 4)).unwrap();
    assert_eq!((topology.level(), cpus(&topology)), (Some(3), vec!["0-3".into(), "4-7".into()]));
    assert_eq!(topology.domains()[1].nodes, [1].into());

    let one_socket = "0-3".parse().unwrap();
    let topology = Topology::from_caches(&two_sockets(), &one_socket, None, |_| None).unwrap();
    assert_eq!((topology.level(), cpus(&topology)), (Some(2), vec!["0-1".into(), "2-3".into()]));
    assert_eq!(topology.single_domain_note(), None);
    let descended = "all usable CPUs share one cache at level 3, so the domains are the caches at level 2";
    assert_eq!(topology.notes(), [descended]);

    let mut private = vec![cache(3, "0-1", 20480)];
    private.extend(["0", "1"].map(|cpu| cache(2, cpu, 256)));
    let topology = Topology::from_caches(&private, &"0-1".parse().unwrap(), None, |_| None).unwrap();
    assert!(topology.notes()[0] == descended && topology.notes()[1].contains("runs on that CPU alone"));
}

#[test]
fn a_single_domain_has_a_note() {
    let topology = Topology::from_caches(&two_sockets(), &"0-1".parse().unwrap(), None, |_| None).unwrap();
    assert_eq!(topology.level(), Some(3));
    assert!(topology.single_domain_note().unwrap().contains("(0-1) share one cache at level 3"));
}

/// One L3 over 0-15, second-level caches of four efficient cores, and two low-power cores that share one.
fn meteor_lake() -> Vec<CacheInfo> {
    let l2 = ["0-1", "2-3", "4-5", "6-7", "8-11", "12-15", "16-17"];
    let mut caches: Vec<_> = l2.iter().map(|cpus| cache(2, cpus, 2048)).collect();
    caches.extend((8..18).map(|cpu| cache(1, &cpu.to_string(), 32)));
    caches.push(cache(3, "0-15", 18432));
    caches
}

fn drawn(caches: &[CacheInfo], usable: &str, level: Option<u8>) -> (Topology, Vec<String>, String) {
    let topology = Topology::from_caches(caches, &usable.parse().unwrap(), level, |_| Some(0)).unwrap();
    let (cpus, notes) = (cpus(&topology), topology.notes().join("\n"));
    (topology, cpus, notes)
}

#[test]
fn cores_without_the_last_level_cache_are_a_domain_by_the_cache_they_share() {
    let (topology, cpus, notes) = drawn(&meteor_lake(), "0-17", None);
    assert_eq!((topology.level(), cpus), (Some(3), vec!["0-15".into(), "16-17".into()]));
    assert_eq!(topology.domains()[1].size_bytes, Some(2048 << 10));
    assert_eq!(notes, "CPUs 16-17 have no cache at level 3: their domain is the cache at level 2");
    // If only one of them is usable, it still has that cache.
    assert_eq!(drawn(&meteor_lake(), "0-16", None).1, ["0-15", "16"]);
    let descended = "all usable CPUs share one cache at level 3, so the domains are the caches at level 2";
    assert_eq!(drawn(&meteor_lake(), "0-15", None).2, descended);
}

#[test]
fn cpus_that_are_missing_in_a_table_are_one_domain_by_the_wider_cache_or_the_node() {
    let sky1 = [cache(1, "0-11", 64), cache(2, "0-11", 512), cache(3, "0-1,6-11", 12288)];
    let (topology, cpus, notes) = drawn(&sky1, "0-11", None);
    assert_eq!((topology.level(), cpus), (Some(3), vec!["0-1,6-11".into(), "2-5".into()]));
    assert_eq!(topology.domains()[1].size_bytes, None);
    assert!(notes.contains("CPUs 2-5 have no cache at level 3") && notes.contains("NUMA node 0"), "{notes}");

    let wider = [cache(2, "0-3", 512), cache(3, "0-7", 12288)];
    let (topology, cpus, notes) = drawn(&wider, "0-7", Some(2));
    assert_eq!((cpus, topology.domains()[1].size_bytes), (vec!["0-3".into(), "4-7".into()], None));
    assert!(notes.contains("CPUs 4-7") && notes.contains("by the cache at level 3"), "{notes}");
}

#[test]
fn a_given_level_is_used_and_a_cpu_without_a_cache_is_never_alone_beside_others() {
    let (topology, cpus, notes) = drawn(&[cache(2, "0-1", 256)], "0-2", Some(2));
    assert_eq!(cpus, ["0-2"]);
    assert_eq!(topology.domains()[0].size_bytes, Some(256 << 10));
    assert!(notes.contains("CPU 2 has no cache at level 2: counted to the domain of CPUs 0-1"), "{notes}");
    assert_eq!(drawn(&[cache(2, "0-1", 256)], "2", Some(2)).1, ["2"]);
}

#[test]
fn without_a_shared_cache_the_domains_are_the_nodes() {
    let altra: Vec<_> = (0..160).map(|cpu| cache(2, &cpu.to_string(), 1024)).collect();
    let usable = "0-159".parse().unwrap();
    let topology = Topology::from_caches(&altra, &usable, None, |cpu| Some(cpu / 80)).unwrap();
    assert_eq!((topology.level(), cpus(&topology)), (None, vec!["0-79".into(), "80-159".into()]));
    assert!(topology.is_by_node() && topology.domains()[1].size_bytes.is_none());
    assert!(topology.notes()[0].contains("no shared cache is known"), "{:?}", topology.notes());
    assert_eq!(Topology::from_json(&serde_json::to_string(&topology).unwrap()).unwrap(), topology);

    let topology = Topology::from_caches(&altra, &usable, None, |_| None).unwrap();
    assert_eq!(cpus(&topology), ["0-159"]);
    let note = topology.single_domain_note().unwrap();
    assert!(note.contains("no shared cache is known") && !note.contains("share one cache"), "{note}");
    // Whoever asks for that level gets it.
    let private = Topology::from_caches(&altra, &usable, Some(2), |_| None).unwrap();
    assert!(private.domains().len() == 160 && private.notes()[0].contains("runs on that CPU alone"));
    // One CPU that is usable says nothing about which caches are shared.
    assert_eq!(drawn(&altra, "3", None).0.level(), Some(2));
}

#[test]
fn a_cache_over_two_nodes_makes_a_domain_of_both() {
    let caches = [cache(3, "0-7", 107_520), cache(3, "8-15", 107_520)];
    let usable = "0-15".parse().unwrap();
    let topology = Topology::from_caches(&caches, &usable, None, |cpu| Some(cpu / 4)).unwrap();
    let nodes: Vec<_> = topology.domains().iter().map(CacheDomain::nodes_text).collect();
    assert_eq!(nodes, [Some("0-1".into()), Some("2-3".into())]);
}

#[test]
fn cpus_beyond_1024_are_cpus_like_others() {
    let caches = [cache(3, "0", 131_072), cache(3, "1,1024-1151", 131_072)];
    assert_eq!(drawn(&caches, "0-1,1024-1151", None).1, ["0", "1,1024-1151"]);
}

#[test]
fn classes_are_those_of_the_domains_cpus() {
    let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
    let classes = CoreClasses::of_kinds(&cpus("0-7"), &cpus("8-17"), &CpuSet::new(), &meteor_lake());
    let topology = drawn(&meteor_lake(), "0-17", None).0.with_classes(classes.clone());
    let of: Vec<String> =
        topology.domains().iter().map(|domain| topology.classes_in(domain).to_string()).collect();
    assert_eq!(of, ["performance 0-7, efficient 8-15", "low power 16-17"]);
    assert_eq!(Topology::from_json(&serde_json::to_string(&topology).unwrap()).unwrap(), topology);
    assert!(drawn(&meteor_lake(), "0-7", None).0.with_classes(classes).classes().is_empty());
}

#[test]
fn invalid_files_are_rejected() {
    for (json, word) in [
        (r#"{"domains":[]}"#, "no domain"),
        (r#"{"domains":[{"id":0,"cpus":[]}]}"#, "no CPU"),
        (r#"{"domains":[{"id":0,"cpus":[0,1]},{"id":1,"cpus":[1]}]}"#, "CPU 1 is in domain 0"),
        (r#"{"domains":[{"id":0,"cpus":[0]},{"id":0,"cpus":[1]}]}"#, "id 0"),
        (r#"{"domains":[{"id":0,"cpus":[-1]}]}"#, "not a topology"),
        (r#"{"domains":[{"id":0,"cpus":[0],"size":1}]}"#, "size"),
        ("", "not a topology"),
    ] {
        let error = Topology::from_json(json).unwrap_err().to_string();
        assert!(error.contains(word), "{json}: {error}");
    }
}

#[test]
fn the_documented_json_is_read() {
    let json = r#"{"domains":[{"id":0,"cpus":[0,1],"size_bytes":20971520,"node":0}]}"#;
    let topology = Topology::from_json(json).unwrap();
    assert_eq!(topology.domain_of(1), Some(DomainId(0)));
    assert_eq!(topology.domain_of(2), None);
}

proptest! {
    #[test]
    fn domains_partition_the_usable_cpus(
        caches in proptest::collection::vec((1u8..4, proptest::collection::btree_set(0u32..16, 1..6)), 0..12),
        usable in proptest::collection::btree_set(0u32..16, 1..16),
        level in proptest::option::of(1u8..4),
    ) {
        let caches: Vec<_> = caches.into_iter().map(|(level, cpus)| CacheInfo {
            level, instruction_only: false, shared_cpus: cpus.into_iter().collect(), size_bytes: None,
        }).collect();
        let usable: CpuSet = usable.into_iter().collect();
        let topology = Topology::from_caches(&caches, &usable, level, |cpu| (cpu > 3).then_some(cpu / 8)).unwrap();
        prop_assert_eq!(topology.cpus(), usable.clone());
        let total: usize = topology.domains().iter().map(|domain| domain.cpus.len()).sum();
        prop_assert_eq!(total, usable.len());
    }
}
