use super::fixture::Tree;
use super::*;

/// `type`, `config`, `config1` and `config2` as passed to the kernel.
fn attributes(tree: &Tree, text: &str) -> (u32, u64, u64, u64) {
    let event = text.parse::<EventText>().unwrap().resolve(&tree.root).unwrap();
    let event = event.value().unwrap_or_else(|| panic!("{text}: {event:?}")).clone();
    assert_eq!(event.name, text);
    let builder = event.code.builder();
    let attrs = builder.attrs();
    (attrs.type_, attrs.config, attrs.config1, attrs.config2)
}

fn unavailable(tree: &Tree, text: &str) -> String {
    let event = text.parse::<EventText>().unwrap().resolve(&tree.root).unwrap();
    let reason = event.reason().unwrap_or_else(|| panic!("{text}: {event:?}")).to_owned();
    assert!(!reason.contains('\n') && reason.contains(text), "{reason}");
    reason
}

fn wrong(tree: &Tree, text: &str) -> String {
    let error = text.parse::<EventText>().unwrap().resolve(&tree.root).unwrap_err().to_string();
    assert!(!error.contains('\n') && error.contains(text), "{error}");
    error
}

#[test]
fn fields_are_placed_as_each_pmu_says() {
    let (intel, amd, arm) = (Tree::intel(), Tree::amd(), Tree::arm());
    assert_eq!(attributes(&intel, "event=0x2e,umask=0x41"), (4, 0x412e, 0, 0));
    assert_eq!(attributes(&intel, "cpu/event=0x2e,umask=0x41/"), (4, 0x412e, 0, 0));
    assert_eq!(attributes(&intel, "cpu/cache-misses/"), (4, 0x412e, 0, 0));
    // A later field replaces that of the event.
    assert_eq!(attributes(&intel, "cpu/cache-misses,umask=0x4f,edge/"), (4, 0x4_4f2e, 0, 0));
    assert_eq!(
        attributes(&intel, "cpu/event=0x2a,umask=0x101,offcore_rsp=0x10003/"),
        (4, 0x100_0000_012a, 0x1_0003, 0)
    );
    assert_eq!(attributes(&intel, "cpu/config=0x412e,config2=7/"), (4, 0x412e, 0, 7));
    assert_eq!(attributes(&intel, "r412e"), (4, 0x412e, 0, 0));
    assert_eq!(attributes(&amd, "event=0x1c7,cmask=1,inv=1,edge=1"), (4, 0x1_0184_00c7, 0, 0));
    assert_eq!(attributes(&amd, "cpu/event=67,umask=0x5c/"), (4, 0x5c43, 0, 0));
    assert_eq!(attributes(&arm, "event=0x8"), (8, 8, 0, 0));
    assert_eq!(attributes(&arm, "armv8_pmuv3_0/inst_retired/"), (8, 8, 0, 0));
    assert_eq!(attributes(&arm, "armv8_pmuv3/cpu_cycles,long/"), (8, 0x11, 1, 0));
    assert_eq!(attributes(&arm, "armv8_pmuv3_0/event=0xa0/"), (8, 0xa0, 0, 0));
}

#[test]
fn bits_that_do_not_fit_are_named_with_the_largest_value() {
    let (intel, amd, arm) = (Tree::intel(), Tree::amd(), Tree::arm());
    // On ARM 0x108 is a number of its own, and not 8.
    assert_eq!(attributes(&arm, "event=0x108"), (8, 0x108, 0, 0));
    let error = wrong(&arm, "event=0x10008");
    assert!(error.contains("event is 0x10008, beyond 0xffff"), "{error}");
    let error = wrong(&intel, "event=0x1c7");
    assert!(error.contains("event is 0x1c7, beyond 0xff"), "{error}");
    assert!(wrong(&amd, "cpu/event=1,umask=256/").contains("umask is 0x100, beyond 0xff"));
    assert!(wrong(&arm, "r10008").contains("bits 0x10000"));
    assert!(wrong(&arm, "armv8_pmuv3/event=8,long=2/").contains("long is 0x2, beyond 0x1"));
    let error = wrong(&arm, "event=0x8,umask=1");
    assert!(error.contains("no field umask; its fields are event, long, rdpmc"), "{error}");
    assert!(wrong(&intel, "umask=1").contains("no event"));
    assert!(wrong(&intel, "cpu/cache-mises/").contains("no event or field cache-mises"));
    assert!(wrong(&intel, "cpu/mem-loads/").contains("no field ldlat"));
}

#[test]
fn an_event_of_the_architecture_that_arm_does_not_list_is_not_counted() {
    let arm = Tree::arm();
    for text in ["r37", "event=0x37", "armv8_pmuv3_0/event=0x37/", "r4006"] {
        let reason = unavailable(&arm, text);
        assert!(reason.contains("does not list event") && reason.contains("reads 0 for ever"), "{reason}");
    }
    assert!(wrong(&arm, "armv8_pmuv3/ll_cache_miss_rd/").contains("no event or field ll_cache_miss_rd"));
    assert_eq!(attributes(&arm, "r8"), (4, 8, 0, 0));
    arm.pmu("armv8_pmuv3_0", &[("events/ll_cache_miss_rd", "event=0x0037\n")]);
    assert_eq!(attributes(&arm, "r37"), (4, 0x37, 0, 0));
    assert_eq!(attributes(&arm, "armv8_pmuv3/ll_cache_miss_rd/"), (8, 0x37, 0, 0));
}

#[test]
fn without_the_pmu_the_layout_of_another_is_not_assumed() {
    let tree = Tree::new(&[("proc/cpuinfo", "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 143\n")]);
    assert!(unavailable(&tree, "event=0x2e,umask=0x41").contains("no PMU of its cores"));
    assert!(unavailable(&tree, "cpu/event=0x2e,umask=0x41/").contains("no PMU cpu, and none of its cores"));
    // A number needs no fields.
    assert_eq!(attributes(&tree, "r412e"), (4, 0x412e, 0, 0));
    let reason = unavailable(&Tree::arm(), "cpu/event=0x2e,umask=0x41/");
    assert!(reason.contains("no PMU cpu; that of its cores is armv8_pmuv3_0"), "{reason}");
    tree.pmu("cpu", &[("type", "4\n")]);
    assert!(unavailable(&tree, "event=0x2e,umask=0x41").contains("cpu has no fields in sysfs"));
}

#[test]
fn what_counts_outside_of_the_cores_is_refused() {
    for (tree, text) in [
        (Tree::intel(), "uncore_cha_0/event=1/"),
        (Tree::intel(), "uncore_cha/event=1/"),
        (Tree::amd(), "amd_l3/event=4/"),
    ] {
        let error = wrong(&tree, text);
        assert!(error.contains("cannot count threads"), "{error}");
    }
}

#[test]
fn cores_of_several_kinds_are_named() {
    let tree = Tree::new(&[("proc/cpuinfo", "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 151\n")]);
    for (pmu, kind, cpus) in [("cpu_core", "4\n", "0-15\n"), ("cpu_atom", "10\n", "16-23\n")] {
        let files = [
            ("type", kind),
            ("cpus", cpus),
            ("format/event", "config:0-7\n"),
            ("format/umask", "config:8-15\n"),
        ];
        tree.pmu(pmu, &files);
    }
    assert!(wrong(&tree, "event=0x2e,umask=0x41").contains("name one, as cpu_atom/EVENT/"));
    assert_eq!(attributes(&tree, "cpu_atom/event=0x2e,umask=0x41/"), (10, 0x412e, 0, 0));
    let note = |text: &str| {
        let event = text.parse::<EventText>().unwrap().resolve(&tree.root).unwrap();
        event.value().unwrap().note.clone().unwrap()
    };
    assert!(note("cpu_atom/event=0x2e,umask=0x41/").ends_with("on cpu_atom (CPUs 16-23)"));
    for text in ["r412e", "cache-misses", "cycles"] {
        assert!(note(text).ends_with("on cpu_core (CPUs 0-15)"), "{text}: {}", note(text));
    }
    // Two kinds under one name.
    let tree = Tree::arm();
    tree.pmu("armv8_pmuv3_1", &[("cpus", "2-3\n")]);
    assert!(wrong(&tree, "armv8_pmuv3/cpu_cycles/").contains("armv8_pmuv3_0 and armv8_pmuv3_1"));
}

#[test]
fn generic_events_say_what_they_count() {
    let note = |tree: &Tree, text: &str| {
        let event = text.parse::<EventText>().unwrap().resolve(&tree.root).unwrap();
        event.value().unwrap().note.clone()
    };
    assert_eq!((note(&Tree::intel(), "cache-misses"), note(&Tree::arm(), "cycles")), (None, None));
    assert!(note(&Tree::arm(), "cache-misses").unwrap().contains("first-level data cache"));
    assert!(note(&Tree::arm(), "cache-references").unwrap().starts_with("cache-references counts the first"));
    assert!(note(&Tree::amd(), "cache-misses").unwrap().contains("the L2 of the core"));
    let intel = Tree::intel();
    intel.pmu("msr", &[("type", "11\n"), ("format/event", "config:0-63\n"), ("events/tsc", "event=0x00\n")]);
    assert_eq!(attributes(&intel, "msr/tsc/"), (11, 0, 0, 0));
    assert!(note(&intel, "msr/tsc/").unwrap().contains("msr is not that of the cores"));
    let power = Tree::new(&[("proc/cpuinfo", "cpu\t: POWER9\n")]);
    assert!(note(&power, "cache-misses").unwrap().contains("does not identify"));
    assert_eq!((note(&power, "page-faults"), note(&power, "cycles")), (None, None));
}
