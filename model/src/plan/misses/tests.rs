use super::*;
use crate::matrix::{MatrixVm, MemoryUse, Method, SharedGroup, SharedGroups, SharedReads, SharingMatrix};
use crate::plan::{Expected, PlanLimits, PlanVm, Policy};
use crate::topology::{CacheSets, Topology};

/// Two domains of 20 MiB, of which the ways are known of the first.
fn host() -> Topology {
    let text = r#"{"domains":[{"id":0,"cpus":[0,1],"size_bytes":20971520},{"id":3,"cpus":[2,3],"size_bytes":20971520}]}"#;
    let sets = CacheSets { domain: DomainId(0), ways: Some(20), line_bytes: Some(64) };
    Topology::from_json(text).unwrap().with_sets(vec![sets])
}

/// VMs of 1 GiB that share these frames.
fn matrix(names: &[&str], groups: &[(&[u32], u64)]) -> SharingMatrix {
    let memory = Some(MemoryUse { frames_used: 1 << 18, ..MemoryUse::default() });
    let vms: Vec<_> = names.iter().map(|name| MatrixVm { memory, ..MatrixVm::named(*name) }).collect();
    let mut shared = vec![vec![0; vms.len()]; vms.len()];
    for (group, frames) in groups {
        for (at, i) in group.iter().enumerate() {
            group[at + 1..].iter().for_each(|j| shared[*i as usize][*j as usize] += frames);
        }
    }
    let groups = groups.iter().map(|(vms, frames)| SharedGroup { vms: vms.to_vec(), frames: *frames });
    SharingMatrix::measured(Method::Merged, vms, &shared, 0.0, 1.0).with_groups(SharedGroups::of(groups, 0))
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Two pairs that share all of their memory.
fn pairs() -> SharingMatrix {
    matrix(&NAMES, &[(&[0, 1], 1 << 18), (&[2, 3], 1 << 18)])
}

fn placed(domains: &[(&str, u32)]) -> Vec<VcpuPlacement> {
    let of = |(vm, domain): &(&str, u32)| VcpuPlacement {
        vm: (*vm).to_owned(),
        vcpu: 0,
        domain: DomainId(*domain),
    };
    domains.iter().map(of).collect()
}

fn sets(kib: &[(&str, u64)]) -> PlanLimits {
    let working_set_kib = kib.iter().map(|(vm, kib)| ((*vm).to_owned(), *kib)).collect();
    PlanLimits { working_set_kib, ..PlanLimits::default() }
}

const UNKNOWN: Result<&[VcpuPlacement], String> = Err(String::new());

/// The case of the paper: 15 MB each, caches of 20 MiB.
#[test]
fn pairs_together_miss_less_than_apart() {
    let (matrix, topology) = (pairs(), host());
    let limits = sets(&NAMES.map(|name| (name, 15 << 10)));
    let apart = |domain| PlanVm { current: vec![Some(DomainId(domain))], ..PlanVm::default() };
    let vms = [apart(0), apart(3), apart(0), apart(3)];
    let plan = Policy::Sharing.plan(&PlanInput::new(&matrix, &topology, &vms).limits(&limits));
    let misses = plan.expected.as_ref().unwrap().misses.clone().unwrap();
    // One copy of 15 MiB nearly fits into 20 MiB; of two, a third does not.
    assert!(misses.misses_per_million_reads < 30_000, "{misses:?}");
    let now = misses.now_misses_per_million_reads.unwrap();
    assert!((330_000..360_000).contains(&now), "{misses:?}");
    let part = f64::from(misses.misses_per_million_reads) / f64::from(now) * 1000.0;
    assert!((f64::from(misses.misses_permille_of_now.unwrap()) - part).abs() < 1.0, "{misses:?}");
    let time = |misses: u32| 1.0 + 5.0 * f64::from(misses) / 1e6;
    let part = time(misses.misses_per_million_reads) / time(now) * 1000.0;
    assert!((f64::from(misses.read_time_permille_of_now.unwrap()) - part).abs() < 1.0, "{misses:?}");
    let domains = |of: &[DomainMisses]| -> Vec<(u32, Vec<String>)> {
        of.iter().map(|of| (of.domain.0, of.vms.iter().map(|vm| vm.vm.clone()).collect())).collect()
    };
    let two = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
    assert_eq!(domains(&misses.now_domains), [(0, two("a", "c")), (3, two("b", "d"))]);
    assert!(domains(&misses.domains).iter().any(|(_, vms)| *vms == two("a", "b")), "{misses:?}");
    let ways: Vec<_> = misses.basis.caches.iter().map(|cache| (cache.ways, cache.ways_assumed)).collect();
    assert_eq!(ways, [(20, false), (16, true)]);
    assert_eq!((misses.basis.rates_by, misses.basis.shared_by), (RatesBy::Vcpus, SharedBy::EvenUse));
    let said = plan.reasons.iter().find(|reason| reason.starts_with("estimated: ")).unwrap();
    assert!(said.contains("where the vCPUs are now (a read takes 0."), "{said}");
    assert!(
        said.ends_with(
            "as configured, used evenly; reads by vCPUs; caches of 16 ways assumed; lines of 64 bytes assumed"
        ),
        "{said}"
    );
    // As other programs read it, and as earlier versions wrote it.
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["expected"]["misses"]["basis"]["working_sets"][1]["source"], "configured");
    assert_eq!(serde_json::from_value::<crate::plan::Plan>(json.clone()).unwrap(), plan);
    let mut old = json["expected"].clone();
    ["misses", "misses_unavailable"].iter().for_each(|field| _ = old.as_object_mut().unwrap().remove(*field));
    let old: Expected = serde_json::from_value(old).unwrap();
    assert_eq!((old.misses, old.misses_unavailable), (None, None));
}

#[test]
fn what_is_not_known_is_no_estimate_and_has_its_reason() {
    let (matrix, topology) = (pairs(), host());
    let together = placed(&[("a", 0), ("b", 0), ("c", 3), ("d", 3)]);
    let reason = |topology: &Topology, limits: &PlanLimits, placement: &[VcpuPlacement]| {
        let input = PlanInput::new(&matrix, topology, &[]).limits(limits);
        input.expected_misses(placement, UNKNOWN).unwrap_err()
    };
    let all = sets(&NAMES.map(|name| (name, 15 << 10)));
    let three = sets(&[("a", 1), ("b", 1), ("d", 1)]);
    assert!(reason(&topology, &three, &together).starts_with("the working set of c is unknown"));
    assert_eq!(reason(&topology, &all, &together[..3]), "vCPUs of d have no place");
    let elsewhere = placed(&[("a", 0), ("b", 0), ("c", 3), ("d", 9)]);
    assert_eq!(reason(&topology, &all, &elsewhere), "domain 9 is not of this host");
    let no_size = Topology::from_json(r#"{"domains":[{"id":0,"cpus":[0]},{"id":3,"cpus":[1]}]}"#).unwrap();
    assert_eq!(reason(&no_size, &all, &together), "the size of the cache of domain 0 is unknown");
    let absurd = CacheSets { domain: DomainId(0), ways: Some(9999), line_bytes: None };
    let absurd = host().with_sets(vec![absurd]);
    assert_eq!(reason(&absurd, &all, &together), "domain 0: a cache of 9999 ways, expected 1 to 512");
    // A plan without working sets has null, not 0.
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &[]));
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["expected"]["misses"], serde_json::Value::Null);
    assert!(json["expected"]["misses_unavailable"].as_str().unwrap().contains("working set of a"), "{json}");
    assert!(!plan.reasons.iter().any(|reason| reason.starts_with("estimated")), "{:?}", plan.reasons);
    // Known, but not where the vCPUs are now.
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &[]).limits(&all));
    let misses = plan.expected.unwrap().misses.unwrap();
    assert_eq!((misses.now_misses_per_million_reads, misses.misses_permille_of_now), (None, None));
    assert_eq!(misses.now_unavailable.as_deref(), Some("vCPUs of a are not bound to one domain now"));
    assert!(misses.to_string().contains("how many do now is unknown: vCPUs of a are not"), "{misses}");
    // Sizes that do not fit anywhere.
    let huge = sets(&NAMES.map(|name| (name, u64::MAX)));
    let input = PlanInput::new(&matrix, &topology, &[]).limits(&huge);
    assert_eq!(input.expected_misses(&together, UNKNOWN).unwrap().misses_per_million_reads, 1_000_000);
}

/// An idle VM, or one whose monitoring has just begun: that it occupies nothing is not that it uses nothing.
#[test]
fn a_working_set_of_nothing_is_unknown() {
    let (matrix, topology) = (matrix(&["a", "b"], &[(&[0, 1], 100)]), host());
    let together = placed(&[("a", 0), ("b", 0)]);
    let occupied = |bytes| PlanVm { working_set_bytes: Some(bytes), ..PlanVm::default() };
    let of = |matrix: &SharingMatrix, limits: &PlanLimits, a_bytes| {
        let vms = [occupied(a_bytes), occupied(5 << 20)];
        PlanInput::new(matrix, &topology, &vms).limits(limits).expected_misses(&together, UNKNOWN)
    };
    let none = PlanLimits::default();
    assert!(of(&matrix, &none, 4096).is_ok());
    let why = of(&matrix, &none, 0).unwrap_err();
    assert!(why.starts_with("the working set of a is unknown (it occupied no cache"), "{why}");
    // 0 as configured is none either.
    let why = of(&matrix, &sets(&[("b", 0)]), 4096);
    assert_eq!(why.unwrap().basis.working_sets[1].source, WorkingSetSource::Occupancy);
    // What was seen to be read is known all the same.
    let reads = SharedReads::new(&[vec![0, 50], vec![0, 0]], None, 100, vec![None; 2]);
    let found = of(&matrix.clone().with_reads(reads), &none, 0).unwrap();
    assert_eq!(found.basis.working_sets[0].source, WorkingSetSource::SharedReads);
    let vms = [occupied(0), occupied(4096)];
    let input = PlanInput::new(&matrix, &topology, &vms);
    assert_eq!([0, 1].map(|vm| input.working_set_frames(vm)), [None, Some(1)]);
}

#[test]
fn what_is_configured_goes_before_what_was_measured() {
    let matrix = pairs();
    let reads = vec![vec![0, 500, 0, 0], vec![0; 4], vec![0, 0, 0, 300], vec![0; 4]];
    let groups = [(vec![0, 1], 500), (vec![2, 3], 300)];
    let groups = groups.map(|(vms, frames)| SharedGroup { vms, frames });
    let reads = SharedReads::new(&reads, Some(SharedGroups::of(groups, 0)), 100, vec![None; 4]);
    let matrix = matrix.with_reads(reads);
    let (topology, limits) = (host(), sets(&[("b", 3000)]));
    let occupied = |bytes| PlanVm { working_set_bytes: bytes, ..PlanVm::default() };
    let vms = [occupied(Some(5 << 20)), occupied(Some(6 << 20)), occupied(None), occupied(None)];
    let input = PlanInput::new(&matrix, &topology, &vms).limits(&limits);
    let found = input.expected_misses(&placed(&[("a", 0), ("b", 0), ("c", 3), ("d", 3)]), UNKNOWN).unwrap();
    let sets: Vec<_> = found.basis.working_sets.iter().map(|set| (set.bytes, set.source)).collect();
    let read = (300 * 4096, WorkingSetSource::SharedReads);
    assert_eq!(
        sets,
        [(5 << 20, WorkingSetSource::Occupancy), (3000 << 10, WorkingSetSource::Configured), read, read]
    );
    assert_eq!(found.basis.shared_by, SharedBy::Reads);
    let said = found.to_string();
    assert!(
        said.contains(
            "as configured for 1 of 4 VMs, as they occupied caches, or more for 1 of 4 VMs, of the"
        ),
        "{said}"
    );
}

/// Frames that are read are in use, whatever else VMs map.
#[test]
fn reads_say_what_is_in_use() {
    let (topology, limits) = (host(), sets(&[("a", 15 << 10), ("b", 15 << 10)]));
    let plain = matrix(&["a", "b"], &[(&[0, 1], 4000)]);
    let groups = SharedGroups::of([SharedGroup { vms: vec![0, 1], frames: 3840 }], 0);
    let reads = SharedReads::new(&[vec![0, 3840], vec![0, 0]], Some(groups), 100, vec![None; 2]);
    let read = plain.clone().with_reads(reads);
    let of = |matrix: &SharingMatrix| {
        let input = PlanInput::new(matrix, &topology, &[]).limits(&limits);
        input.expected_misses(&placed(&[("a", 0), ("b", 0)]), UNKNOWN).unwrap().misses_per_million_reads
    };
    // 4,000 of 262,144 frames are common: of the working sets next to nothing.
    assert!(of(&plain) > 300_000, "{}", of(&plain));
    // All 15 MiB that they use are.
    assert!(of(&read) < 30_000, "{}", of(&read));
    // The matrix that plans go by has only what is read.
    assert_eq!(of(&read), of(&read.of_reads().unwrap()));
}

/// Where groups are not known pairs are, and a frame of three VMs counts as three: fewer misses, never more.
#[test]
fn pairs_instead_of_groups_are_a_bound() {
    let (topology, limits) = (host(), sets(&["a", "b", "c"].map(|name| (name, 12 << 10))));
    let by_groups = matrix(&["a", "b", "c"], &[(&[0, 1, 2], 100_000)]);
    let shared = vec![vec![100_000; 3]; 3];
    let by_pairs = SharingMatrix::measured(Method::Merged, by_groups.vms().to_vec(), &shared, 0.0, 1.0);
    let of = |matrix: &SharingMatrix| {
        let input = PlanInput::new(matrix, &topology, &[]).limits(&limits);
        let together = placed(&[("a", 0), ("b", 0), ("c", 0)]);
        input.expected_misses(&together, UNKNOWN).unwrap().misses_per_million_reads
    };
    assert!(of(&by_pairs) < of(&by_groups), "{} {}", of(&by_pairs), of(&by_groups));
}

#[test]
fn a_vm_that_is_busier_has_more_of_the_cache() {
    let matrix = matrix(&["a", "b"], &[]);
    let (topology, limits) = (host(), sets(&[("a", 15 << 10), ("b", 15 << 10)]));
    let busy = |cpus_busy| PlanVm { cpus_busy: Some(cpus_busy), ..PlanVm::default() };
    let vms = [busy(0.9), busy(0.1)];
    let input = PlanInput::new(&matrix, &topology, &vms).limits(&limits);
    let found = input.expected_misses(&placed(&[("a", 0), ("b", 0)]), UNKNOWN).unwrap();
    let of = |vm: usize| f64::from(found.domains[0].vms[vm].misses_per_million_reads);
    assert!(found.basis.rates_by == RatesBy::CpuTime && of(0) * 2.0 < of(1), "{found:?}");
    let mean = 0.9 * of(0) + 0.1 * of(1);
    assert!((f64::from(found.misses_per_million_reads) - mean).abs() < 2.0, "{found:?}");
    // Nothing was seen to run.
    let idle = [busy(0.0), busy(0.0)];
    let input = PlanInput::new(&matrix, &topology, &idle).limits(&limits);
    let found = input.expected_misses(&placed(&[("a", 0), ("b", 0)]), UNKNOWN).unwrap();
    assert_eq!(found.basis.rates_by, RatesBy::Vcpus);
}

/// vCPUs in two domains load both with the whole working set.
#[test]
fn a_divided_vm_is_cached_twice() {
    let mut vms = matrix(&["a", "b"], &[]).vms().to_vec();
    vms[0].vcpus = 2;
    let matrix = SharingMatrix::measured(Method::Merged, vms, &vec![vec![0; 2]; 2], 0.0, 1.0);
    let (topology, limits) = (host(), sets(&[("a", 15 << 10), ("b", 15 << 10)]));
    let input = PlanInput::new(&matrix, &topology, &[]).limits(&limits);
    let place = |second| {
        let vcpu =
            |vm: &str, vcpu, domain| VcpuPlacement { vm: vm.to_owned(), vcpu, domain: DomainId(domain) };
        let entries = [vcpu("a", 0, 0), vcpu("a", 1, second), vcpu("b", 0, 3)];
        input.expected_misses(&entries, UNKNOWN).unwrap()
    };
    let (whole, divided) = (place(0), place(3));
    assert_eq!((whole.domains[1].vms.len(), divided.domains[1].vms.len()), (1, 2));
    assert!(divided.misses_per_million_reads > whole.misses_per_million_reads + 100_000, "{divided:?}");
}
