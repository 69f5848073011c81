use super::*;
use crate::perf::meaning::CountedCache;
use crate::perf::resolve::fixture::{Tree, neoverse};

fn code(event: &Availability<EventSpec>) -> (String, Option<u64>) {
    let event = event.value().unwrap_or_else(|| panic!("{event:?}"));
    (event.name.clone(), event.raw_code())
}

fn x86(vendor: &str, family: u32, model: u32) -> Processor {
    Processor { vendor: vendor.into(), family, model }
}

#[test]
fn amd_never_counts_the_generic_event_as_l3() {
    for family in [0x17, 0x19, 0x1a] {
        let events = CacheEvents::of(Some(&x86("AuthenticAMD", family, 1)));
        assert_eq!(code(&events.llc_misses).1.unwrap() & 0xff, 0x43);
        assert_ne!(events.llc_misses.value().unwrap().meaning.unwrap().cache, CountedCache::L2);
    }
}

#[test]
fn intel_counts_the_generic_events_and_an_unknown_processor_none() {
    let events = CacheEvents::of(Some(&x86("GenuineIntel", 6, 143)));
    assert_eq!(code(&events.llc_misses), ("cache-misses".into(), None));
    let meaning = events.llc_misses.value().unwrap().meaning.unwrap().to_string();
    assert!(meaning.starts_with("the L3: ") && meaning.contains("prefetches of L1 and L2"), "{meaning}");
    for (processor, word) in [(None, "not known"), (Some(x86("CentaurHauls", 7, 91)), "CentaurHauls")] {
        let events = CacheEvents::of(processor.as_ref());
        assert_eq!(code(&events.cycles).0, "cycles");
        let reason = events.llc_misses.reason().unwrap();
        assert!(reason.contains(word) && reason.contains("--event llc_misses=cache-misses"), "{reason}");
        assert!(events.llc_references.reason().is_some());
    }
}

#[test]
fn arm_counts_the_last_level_cache_as_far_as_sysfs_lists_it() {
    let tree = Tree::new(&[("proc/cpuinfo", &neoverse(0xd0c))]);
    let found = || CacheEvents::for_host(&tree.root).unwrap();
    // No PMU in sysfs: the kernel checks its own names.
    assert_eq!(code(&found().llc_misses), ("LLC-load-misses".into(), None));
    assert_eq!(code(&found().llc_references), ("LLC-loads".into(), None));
    let attributes = |event: &Availability<EventSpec>| {
        let builder = event.value().unwrap().code.builder();
        (builder.attrs().type_, builder.attrs().config)
    };
    assert_eq!(attributes(&found().llc_references), (3, 0x2));
    assert_eq!(attributes(&found().llc_misses), (3, 0x1_0002));

    tree.pmu("armv8_pmuv3_0", &[("events/cpu_cycles", "event=0x0011\n"), ("cpus", "0-1\n")]);
    let reason = found().llc_misses.reason().unwrap().to_owned();
    assert!(reason.contains("armv8_pmuv3_0 has neither") && reason.contains("first-level cache"), "{reason}");
    assert!(found().llc_references.reason().is_some());
    assert_eq!(code(&found().cycles), ("cycles".into(), None));

    tree.pmu(
        "armv8_pmuv3_0",
        &[("events/l3d_cache", "event=0x002b\n"), ("events/l3d_cache_refill", "event=0x002a\n")],
    );
    assert_eq!(code(&found().llc_misses), ("l3d_cache_refill".into(), Some(0x2a)));
    assert_eq!(code(&found().llc_references), ("l3d_cache".into(), Some(0x2b)));
    assert_eq!(found().llc_misses.value().unwrap().meaning.unwrap().cache, CountedCache::L3OfCluster);

    // References of one cache are never set against misses of another.
    tree.pmu("armv8_pmuv3_0", &[("events/ll_cache_miss_rd", "event=0x0037\n")]);
    assert_eq!(code(&found().llc_misses), ("ll_cache_miss_rd".into(), Some(0x37)));
    assert!(found().llc_references.reason().unwrap().contains("no event ll_cache_rd"));
    tree.pmu("armv8_pmuv3_0", &[("events/ll_cache_rd", "event=0x0036\n")]);
    assert_eq!(code(&found().llc_references), ("ll_cache_rd".into(), Some(0x36)));
    let meaning = found().llc_misses.value().unwrap().meaning.unwrap();
    assert!(meaning.cache == CountedCache::SystemOrCluster && meaning.to_string().contains("EXTLLC"));
    // Another maker's core: the architecture's words.
    tree.write("proc/cpuinfo", "CPU implementer\t: 0xc0\nCPU part\t: 0xac3\n");
    assert_eq!(found().llc_misses.value().unwrap().meaning.unwrap().cache, CountedCache::LastOfArm);

    // A second kind of cores.
    tree.pmu("armv8_cortex_a55", &[("cpus", "2-3\n")]);
    let reason = found().llc_misses.reason().unwrap().to_owned();
    assert!(
        reason.contains("armv8_cortex_a55, armv8_pmuv3_0") && reason.contains("several kinds"),
        "{reason}"
    );
    assert!(found().cycles.value().unwrap().note.as_ref().unwrap().contains("one kind only"));
}

#[test]
fn on_a_hybrid_processor_it_is_said_which_cores_count() {
    let tree = Tree::new(&[("proc/cpuinfo", "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 151\n")]);
    tree.pmu("cpu", &[("type", "4\n")]);
    let note = || CacheEvents::for_host(&tree.root).unwrap().llc_misses.value().unwrap().note.clone();
    assert_eq!(note(), None);
    std::fs::remove_dir_all(tree.root.sys("bus/event_source/devices/cpu")).unwrap();
    tree.pmu("cpu_core", &[("type", "4\n"), ("cpus", "0-15\n")]);
    tree.pmu("cpu_atom", &[("type", "10\n"), ("cpus", "16-23\n")]);
    assert_eq!(
        note().unwrap(),
        "the cores are of several kinds (cpu_atom, cpu_core): counted only while a thread is on cpu_core (CPUs 0-15)"
    );
}
