use huddle_model::topology::DomainId;
use huddle_testing::machines::{self, Machine};

use super::*;

/// Two sockets of four CPUs, L2 per pair of threads, L3 per socket.
fn two_sockets() -> (tempfile::TempDir, HostRoot) {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::at(dir.path());
    let write = |path: String, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    };
    write("proc/self/status".into(), "CapEff:\t0\nCpus_allowed_list:\t0-63");
    write("sys/devices/system/cpu/online".into(), "0-7");
    write("sys/devices/system/cpu/isolated".into(), "");
    write("sys/devices/system/node/online".into(), "0,2");
    write("sys/devices/system/node/node0/cpulist".into(), "0-3");
    write("sys/devices/system/node/node2/cpulist".into(), "4-7");
    for cpu in 0..8u32 {
        let pair = format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1);
        let socket = format!("{}-{}", cpu / 4 * 4, cpu / 4 * 4 + 3);
        for (index, level, kind, size, shared) in [
            (0, "1", "Data", "48K", &pair),
            (1, "1", "Instruction", "32K", &pair),
            (2, "2", "Unified", "2048K", &pair),
            (3, "3", "Unified", "20M", &socket),
        ] {
            let at = format!("sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
            write(format!("{at}/level"), level);
            write(format!("{at}/type"), kind);
            write(format!("{at}/size"), size);
            write(format!("{at}/shared_cpu_list"), shared);
            // The instructions' cache reports no ways, and 0 is what kernels print where they do not know.
            if index != 1 {
                write(format!("{at}/ways_of_associativity"), ["12", "", "16", "0"][index]);
                write(format!("{at}/coherency_line_size"), "64");
            }
        }
    }
    (dir, root)
}

fn domains(topology: &Topology) -> Vec<(String, Option<u64>, Option<u32>)> {
    let domain = topology.domains().iter();
    domain.map(|domain| (domain.cpus.to_string(), domain.size_bytes, domain.nodes.first().copied())).collect()
}

#[test]
fn domains_are_drawn_at_the_default_and_the_asked_level() {
    let (_dir, root) = two_sockets();
    let topology = read(&root, None).unwrap();
    let size = Some(20 << 20);
    assert_eq!(topology.level(), Some(3));
    assert_eq!(domains(&topology), [("0-3".into(), size, Some(0)), ("4-7".into(), size, Some(2))]);
    assert_eq!(read(&root, Some(2)).unwrap().domains().len(), 4);
    let error = read(&root, Some(4)).unwrap_err().to_string();
    assert!(error.contains("level 4") && error.contains("1, 2, 3"), "{error}");
}

/// 0 is what the kernel has for unknown.
#[test]
fn ways_and_lines_are_those_of_the_level() {
    let (_dir, root) = two_sockets();
    let write = |cpu: u32, index: u32, name: &str, text: &str| {
        std::fs::write(root.sys(format!("{CPUS}/cpu{cpu}/cache/index{index}/{name}")), text).unwrap();
    };
    let of = |domain, ways| CacheSets { domain: DomainId(domain), ways, line_bytes: Some(64) };
    assert_eq!(read(&root, None).unwrap().sets(), [of(0, None), of(1, None)], "0 is no number of ways");
    write(0, 2, "ways_of_associativity", "8\n");
    write(0, 3, "ways_of_associativity", "20\n");
    assert_eq!(read(&root, None).unwrap().sets(), [of(0, Some(20)), of(1, None)]);
    let pairs = [of(0, Some(8)), of(1, Some(16)), of(2, Some(16)), of(3, Some(16))];
    assert_eq!(read(&root, Some(2)).unwrap().sets(), pairs);
    std::fs::remove_file(root.sys(format!("{CPUS}/cpu4/cache/index3/ways_of_associativity"))).unwrap();
    std::fs::remove_file(root.sys(format!("{CPUS}/cpu4/cache/index3/coherency_line_size"))).unwrap();
    assert_eq!(read(&root, None).unwrap().sets(), [of(0, Some(20))], "nothing is known of the other");
    write(4, 3, "coherency_line_size", "many\n");
    let error = read(&root, None).unwrap_err().to_string();
    assert!(error.contains("cpu4/cache/index3/coherency_line_size") && error.contains("many"), "{error}");
}

#[test]
fn ways_and_lines_are_read_and_unknown_ones_are_none() {
    let (_dir, root) = two_sockets();
    let found = cache_geometries(&root, &"0-7".parse().unwrap()).unwrap();
    let of = |cpus: &str, level| {
        let is_it = |cache: &&HostCache| {
            cache.info.shared_cpus.to_string() == cpus
                && cache.info.level == level
                && !cache.info.instruction_only
        };
        found.iter().find(is_it).map(|cache| (cache.ways, cache.line_bytes))
    };
    assert_eq!(of("2-3", 1), Some((Some(12), Some(64))));
    assert_eq!(of("2-3", 2), Some((Some(16), Some(64))));
    assert_eq!(of("4-7", 3), Some((None, Some(64))), "0 is no number of ways");
    let instructions = found.iter().find(|cache| cache.info.instruction_only).unwrap();
    assert_eq!((instructions.ways, instructions.line_bytes), (None, None));
    assert_eq!(found.len(), caches(&root, &"0-7".parse().unwrap()).unwrap().len());
}

#[test]
fn siblings_are_told_by_either_name() {
    let (_dir, root) = two_sockets();
    let count = || {
        let topology = read(&root, None).unwrap();
        let cores = topology.domains().iter().map(|domain| topology.cores_in(domain));
        cores.collect::<Vec<_>>()
    };
    assert_eq!(count(), [4, 4], "nothing is told");
    for (cpu, name, list) in
        [(0, "core_cpus_list", "0-1"), (1, "core_cpus_list", "0-1"), (6, "thread_siblings_list", "6-7")]
    {
        let directory = root.sys(format!("{CPUS}/cpu{cpu}/topology"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), list).unwrap();
    }
    assert_eq!(count(), [3, 3]);
    std::fs::write(root.sys("devices/system/cpu/isolated"), "1\n").unwrap();
    assert_eq!(count(), [3, 3], "the core of CPU 0 has one usable CPU left");
}

#[test]
fn only_usable_cpus_count() {
    let (_dir, root) = two_sockets();
    std::fs::write(root.sys("devices/system/cpu/isolated"), "2-3\n").unwrap();
    std::fs::write(root.proc("self/status"), "CapEff:\t0\nCpus_allowed_list:\t1-3,6\n").unwrap();
    assert_eq!(usable_cpus(&root).unwrap().to_string(), "1,6");
    let topology = read(&root, Some(3)).unwrap();
    assert_eq!(topology.cpus().to_string(), "1,6");
    std::fs::write(root.proc("self/status"), "CapEff:\t0\nCpus_allowed_list:\t2\n").unwrap();
    let error = read(&root, None).unwrap_err().to_string();
    assert!(error.contains("isolated are 2-3") && error.contains("taskset"), "{error}");
}

#[test]
fn a_host_that_hides_its_caches_is_told_apart_from_one_with_many() {
    let (_dir, root) = two_sockets();
    for cpu in 0..8 {
        std::fs::remove_dir_all(root.sys(format!("devices/system/cpu/cpu{cpu}/cache"))).unwrap();
    }
    assert!(matches!(read(&root, None), Err(TopologyReadError::NoCaches { .. })));
    std::fs::remove_file(root.sys("devices/system/cpu/online")).unwrap();
    assert!(matches!(read(&root, None), Err(TopologyReadError::Host(_))));
}

#[test]
fn damage_is_named() {
    let (_dir, root) = two_sockets();
    let size = root.sys("devices/system/cpu/cpu5/cache/index3/size");
    for text in ["20Q", "K", "99999999999999999999K"] {
        std::fs::write(&size, text).unwrap();
        let error = read(&root, None).unwrap_err().to_string();
        assert!(error.contains("cpu5/cache/index3/size") && error.contains(text), "{error}");
    }
}

#[test]
fn this_host_has_usable_cpus() {
    let root = HostRoot::real();
    let usable = usable_cpus(&root).unwrap();
    assert!(!usable.is_empty());
    match read(&root, None) {
        Ok(topology) => assert_eq!(topology.cpus(), usable),
        Err(error) => assert!(matches!(error, TopologyReadError::NoCaches { .. }), "{error}"),
    }
}

fn tree(machine: &Machine) -> (tempfile::TempDir, HostRoot) {
    let dir = tempfile::tempdir().unwrap();
    machine.write(dir.path());
    let root = HostRoot::at(dir.path());
    (dir, root)
}

/// The domains of a machine, its level, and what is said about them.
fn drawn(machine: &Machine) -> (Vec<String>, Option<u8>, Topology) {
    let (_dir, root) = tree(machine);
    let topology = read(&root, None).unwrap();
    let cpus = topology.domains().iter().map(|domain| domain.cpus.to_string());
    (cpus.collect(), topology.level(), topology)
}

#[test]
fn epyc_has_a_domain_for_each_of_its_third_level_caches() {
    let (cpus, level, topology) = drawn(&machines::epyc_7763());
    assert_eq!((cpus.len(), level, cpus[15].as_str()), (16, Some(3), "120-127,248-255"));
    let last = &topology.domains()[15];
    assert_eq!((topology.cores_in(last), last.nodes_text().as_deref()), (8, Some("1")));
    assert_eq!((topology.notes().len(), topology.classes().is_empty()), (0, true));
}

#[test]
fn a_hybrid_host_has_its_low_power_cores_in_a_domain_of_their_own() {
    let (cpus, level, topology) = drawn(&machines::meteor_lake());
    assert_eq!((cpus, level), (vec!["0-15".into(), "16-17".into()], Some(3)));
    assert_eq!(topology.classes().to_string(), "performance 0-7, efficient 8-15, low power 16-17");
    assert!(topology.notes()[0].contains("CPUs 16-17"), "{:?}", topology.notes());
    // As a kernel reports it that lists the low-power cores apart.
    let apart = machines::meteor_lake()
        .file("sys/devices/cpu_atom/cpus", "8-15")
        .file("sys/devices/cpu_lowpower/cpus", "16-17");
    assert_eq!(drawn(&apart).2.classes(), topology.classes());
}

#[test]
fn cpus_that_the_firmware_forgot_are_one_domain() {
    let (cpus, level, topology) = drawn(&machines::sky1());
    assert_eq!((cpus, level), (vec!["0-1,6-11".into(), "2-5".into()], Some(3)));
    assert!(topology.notes()[0].contains("CPUs 2-5") && topology.notes()[0].contains("node 0"));
    assert_eq!(topology.classes().to_string(), "performance 0-1,6-11, efficient 2-5");
}

#[test]
fn a_host_without_shared_caches_has_its_nodes_for_domains() {
    let (cpus, level, topology) = drawn(&machines::altra());
    assert_eq!((cpus, level), (vec!["0-79".into(), "80-159".into()], None));
    assert!(topology.notes()[0].contains("no shared cache is known"), "{:?}", topology.notes());
    let one = machines::altra().nodes(&[(0, "0-159")]);
    let note = drawn(&one).2.single_domain_note().unwrap();
    assert!(note.contains("no shared cache is known"), "{note}");
}

#[test]
fn a_cache_that_the_kernel_assumes_makes_no_domains() {
    let (cpus, level, topology) = drawn(&machines::qemu_virt());
    assert_eq!((cpus, level), (vec!["0-3".into()], None), "the node, not one domain for each CPU");
    let notes = topology.notes().join("; ");
    assert!(notes.contains("an assumption of the kernel") && !notes.contains("clusters"), "{notes}");
    // Two nodes, each with half of the CPUs.
    let (cpus, level, _) = drawn(&machines::qemu_virt().nodes(&[(0, "0-1"), (1, "2-3")]));
    assert_eq!((cpus, level), (vec!["0-1".into(), "2-3".into()], None));
    // The level that is asked for is there, as the kernel has it.
    let dir = tempfile::tempdir().unwrap();
    machines::qemu_virt().write(dir.path());
    let asked = read(&HostRoot::at(dir.path()), Some(2)).unwrap();
    assert_eq!((domains(&asked), asked.notes().len()), (vec![("0-3".into(), None, Some(0))], 0));
}

#[test]
fn clusters_stand_for_caches_that_no_firmware_describes() {
    let (cpus, level, topology) = drawn(&machines::qemu_virt_clusters());
    assert_eq!((cpus, level), (vec!["0-1".into(), "2-3".into()], Some(2)));
    assert!(
        topology.notes().iter().any(|note| note.contains("the clusters of CPUs")),
        "{:?}",
        topology.notes()
    );
    assert!(topology.domains().iter().all(|domain| domain.size_bytes.is_none()));
}

#[test]
fn caches_of_a_device_tree_or_a_table_are_taken() {
    let (cpus, level, topology) = drawn(&machines::qemu_virt_two_l3());
    assert_eq!((cpus, level), (vec!["0-1".into(), "2-3".into()], Some(3)));
    assert_eq!(topology.domains()[0].size_bytes, Some(8 << 20));
    assert!(topology.notes().is_empty(), "{:?}", topology.notes());
    let (cpus, level, topology) = drawn(&machines::pptt_without_sizes());
    assert_eq!((cpus, level), (vec!["0-3".into(), "4-7".into()], Some(3)));
    assert!(topology.domains().iter().all(|domain| domain.size_bytes.is_none()));
    assert!(topology.notes().is_empty(), "{:?}", topology.notes());
}

#[test]
fn sub_numa_clusters_make_domains_of_several_nodes() {
    let (cpus, _, topology) = drawn(&machines::snc());
    let nodes: Vec<_> = topology.domains().iter().filter_map(|domain| domain.nodes_text()).collect();
    assert_eq!((cpus, nodes), (vec!["0-7".into(), "8-15".into()], vec!["0-1".into(), "2-3".into()]));
}

#[test]
fn numbers_of_cpus_and_nodes_may_have_gaps() {
    let (cpus, level, topology) = drawn(&machines::power9());
    assert_eq!((cpus.len(), level, cpus[1].as_str()), (6, Some(3), "109-111"));
    assert_eq!(topology.domains()[1].nodes, [8].into());
}

#[test]
fn hosts_of_more_than_1024_cpus_are_read_whole() {
    let (cpus, _, _) = drawn(&machines::cpus_1920());
    assert_eq!((cpus.len(), cpus[15].as_str()), (16, "1800-1919"));
    let (cpus, level, _) = drawn(&machines::beyond_1024());
    assert_eq!((cpus, level), (vec!["0".into(), "1,1024-1151".into()], Some(3)));
}

#[test]
fn the_affinity_wins_over_lxcfs() {
    let (_dir, root) = tree(&machines::lxcfs());
    assert_eq!(
        (online_cpus(&root).unwrap().to_string(), usable_cpus(&root).unwrap().to_string()),
        ("1".into(), "1".into())
    );
    let topology = read(&root, None).unwrap();
    assert_eq!(topology.cpus().to_string(), "1");
    assert!(topology.notes().iter().any(|note| note.contains("lxcfs")), "{:?}", topology.notes());
}
