//! Models from files, presets and hosts.

use proptest::prelude::*;

use crate::cache::{
    CacheDescription, CacheError, CacheModel, DomainPlacement, HostCache, Inclusion, PRESETS, PrivateLevel,
    Replacement, Sampling, Simulator, Synthetic,
};
use crate::topology::{CacheInfo, Topology};

fn paper() -> CacheDescription {
    CacheModel::preset("paper").unwrap().into()
}

fn refused(change: impl FnOnce(&mut CacheDescription)) -> CacheError {
    let mut description = paper();
    change(&mut description);
    CacheModel::try_from(description).unwrap_err()
}

#[test]
fn presets_are_what_they_are_named_for() {
    let of = |name: &str| {
        let model = CacheModel::preset(name).unwrap();
        assert_eq!(model.name(), name);
        (model.domains(), model.size_bytes() >> 20, model.sets(), model.private_sets().unwrap())
    };
    assert_eq!(PRESETS.map(of), [(2, 20, 16_384, 512), (16, 16, 16_384, 1024), (8, 32, 32_768, 1024)]);
    assert_eq!(CacheModel::preset("e5"), None);
}

/// With eight slices by parity, lines of one page are in all of them, and each slice has an eighth of memory.
#[test]
fn the_slices_of_the_paper_have_equal_parts() {
    let model = CacheModel::preset("paper").unwrap();
    let sampler = crate::cache::Sampler::new(&model, crate::cache::Sampling::ALL).unwrap();
    let mut lines = vec![0; 16_384];
    (0..16_384u64 * 16).for_each(|line| lines[sampler.set(line)] += 1);
    assert!(lines.iter().all(|lines| *lines == 16));
    let page: std::collections::BTreeSet<usize> = (0..64).map(|line| sampler.set(line) >> 11).collect();
    assert_eq!(page.len(), 8);
}

#[test]
fn json_is_read_as_it_is_written() {
    for name in PRESETS {
        let model = CacheModel::preset(name).unwrap();
        let text = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<CacheModel>(&text).unwrap(), model);
    }
    let short = r#"{"name":"mine","domains":2,"size_bytes":8388608,"ways":16,"replacement":"lru"}"#;
    let model: CacheModel = serde_json::from_str(short).unwrap();
    assert_eq!((model.line_bytes(), model.inclusion(), model.private()), (64, Inclusion::NonInclusive, None));
    let unknown = short.replace("\"lru\"", "\"lru\",\"level\":3");
    assert!(serde_json::from_str::<CacheModel>(&unknown).unwrap_err().to_string().contains("level"));
    let bad = short.replace("16", "17");
    let error = serde_json::from_str::<CacheModel>(&bad).unwrap_err().to_string();
    assert!(error.contains("size_bytes = 8388608 of the shared cache is no multiple of 17 ways"), "{error}");
}

#[test]
fn each_bad_value_has_its_error() {
    assert_eq!(refused(|model| model.name.clear()), CacheError::NoName);
    assert_eq!(refused(|model| model.domains = 0), CacheError::Domains(0));
    assert_eq!(refused(|model| model.line_bytes = 48), CacheError::Line(48));
    let ways = |cache, ways, most| CacheError::Ways { cache, ways, most };
    assert_eq!(refused(|model| model.ways = 0), ways("shared", 0, 64));
    assert_eq!(refused(|model| model.ways = 65), ways("shared", 65, 64));
    let size_bytes = 20 << 20 | 64;
    let size = CacheError::Size { cache: "shared", size_bytes, ways: 20, line_bytes: 64 };
    assert_eq!(refused(|model| model.size_bytes = size_bytes), size);
    let large = CacheError::TooLarge { cache: "shared", size_bytes: u64::MAX, most: 1 << 34 };
    assert_eq!(refused(|model| model.size_bytes = u64::MAX), large);
    let tree = CacheError::Tree { cache: "shared", ways: 20 };
    assert_eq!(refused(|model| model.replacement = Replacement::TreePlru), tree);
    assert_eq!(refused(|model| model.slice_masks = vec![0x60]), CacheError::SliceMask(0x60));
    let slices = CacheError::Slices { masks: 15, slices: 1 << 15, sets: 16_384 };
    assert_eq!(refused(|model| model.slice_masks = vec![64; 15]), slices);
    assert_eq!(refused(|model| model.private = None), CacheError::NoPrivate("inclusive"));
    let private = |size_bytes, ways, replacement| {
        refused(|model| model.private = Some(PrivateLevel { size_bytes, ways, replacement }))
    };
    assert_eq!(private(384 << 10, 8, Replacement::Mru), CacheError::PrivateSets(768));
    assert_eq!(private(32 << 10, 26, Replacement::Lru), ways("private", 26, 25));
    let same = CacheError::PrivateSize { private: 32 << 20, shared: 20 << 20 };
    assert_eq!(private(32 << 20, 8, Replacement::Lru), same);
    for error in [CacheError::NoName, CacheError::Domains(0), ways("shared", 65, 64), slices] {
        assert!(error.to_string().len() > 20);
    }
}

fn cache(level: u8, cpus: &str, kib: u64, ways: u32) -> HostCache {
    let info = CacheInfo {
        level,
        instruction_only: false,
        shared_cpus: cpus.parse().unwrap(),
        size_bytes: Some(kib * 1024),
    };
    HostCache { info, ways: Some(ways), line_bytes: Some(64) }
}

fn topology(caches: &[HostCache], usable: &str) -> Topology {
    let infos: Vec<CacheInfo> = caches.iter().map(|cache| cache.info.clone()).collect();
    Topology::from_caches(&infos, &usable.parse().unwrap(), Some(3), |_| None).unwrap()
}

/// As sysfs of a Sapphire Rapids has it, whose number of sets is no power of two.
fn host() -> Vec<HostCache> {
    let mut caches = vec![cache(3, "0-1", 307_200, 20), cache(3, "2-3", 307_200, 20)];
    for cpu in 0..4 {
        caches.push(cache(1, &cpu.to_string(), 48, 12));
        caches.push(cache(2, &cpu.to_string(), 2048, 16));
    }
    caches
}

#[test]
fn a_host_is_modelled_by_what_sysfs_has() {
    let caches = host();
    let model = CacheModel::of_host("host", &topology(&caches, "0-3"), &caches).unwrap();
    assert_eq!(
        (model.domains(), model.size_bytes(), model.ways(), model.sets()),
        (2, 300 << 20, 20, 245_760)
    );
    let private = PrivateLevel { size_bytes: 2 << 20, ways: 16, replacement: Replacement::Lru };
    assert_eq!(model.private(), Some(private));
    let placement = crate::cache::DomainPlacement::new("one", [0, 1]);
    let sampling = crate::cache::Sampling::one_of(64);
    assert!(crate::cache::Simulator::new(&model, &[placement], sampling).is_ok());
}

#[test]
fn a_private_cache_belongs_to_one_core() {
    let mut caches = vec![cache(3, "0-3", 20_480, 20), cache(2, "0-1", 256, 8), cache(2, "2-3", 256, 8)];
    let shared = topology(&caches, "0-3");
    assert_eq!(CacheModel::of_host("host", &shared, &caches).unwrap().private(), None);
    let cores = ["0-1", "2-3"].map(|core| core.parse().unwrap()).to_vec();
    assert!(
        CacheModel::of_host("host", &shared.clone().with_cores(cores), &caches).unwrap().private().is_some()
    );
    caches.truncate(1);
    assert_eq!(CacheModel::of_host("host", &shared, &caches).unwrap().private(), None);
}

#[test]
fn what_a_host_does_not_tell_is_named() {
    let mut caches = host();
    let topology = topology(&caches, "0-3");
    assert_eq!(CacheModel::of_host("host", &topology, &[]), Err(CacheError::NoHostCache(3)));
    caches[1].info.size_bytes = Some(1 << 20);
    let different = CacheModel::of_host("host", &topology, &caches).unwrap_err();
    assert!(
        different.to_string().contains("1048576 bytes in 20 ways of 64 bytes on CPUs 2-3"),
        "{different}"
    );
    caches = host();
    caches.iter_mut().for_each(|cache| cache.ways = None);
    assert_eq!(CacheModel::of_host("host", &topology, &caches), Err(CacheError::UnknownOfHost("ways", 3)));
}

/// Numbers as files have them: usual ones, and any.
fn any_size() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), (0..200u64, 6..18u32).prop_map(|(many, shift)| many << shift)]
}

fn any_level() -> impl Strategy<Value = (u64, u32, Replacement)> {
    let names = prop::sample::select(&crate::cache::policy::tests::NAMES[..]);
    let ways = prop_oneof![any::<u32>(), 0..70u32, Just(4), Just(8)];
    (any_size(), ways, names.prop_map(|name| name.parse().unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a file says is refused or can be simulated.
    #[test]
    fn no_description_panics(
        (size_bytes, ways, replacement) in any_level(),
        domains in prop_oneof![any::<u32>(), 1..4u32],
        line_bytes in prop_oneof![any::<u32>(), prop::sample::select(&[32, 64, 128, 256][..])],
        inclusion in prop::sample::select(&[Inclusion::NonInclusive, Inclusion::Inclusive, Inclusion::Victim][..]),
        slice_masks in prop::collection::vec(prop_oneof![any::<u64>(), Just(0x12C0), Just(64)], 0..3),
        private in prop::option::of(any_level()),
        fold in prop_oneof![any::<u32>(), Just(1), Just(2)],
    ) {
        let private =
            private.map(|(size_bytes, ways, replacement)| PrivateLevel { size_bytes, ways, replacement });
        let description = CacheDescription {
            name: "any".to_owned(),
            domains, size_bytes, ways, line_bytes, replacement, inclusion, slice_masks, private,
        };
        let Ok(model) = CacheModel::try_from(description) else { return Ok(()) };
        if model.size_bytes() > 1 << 24 {
            return Ok(());
        }
        let placement = DomainPlacement::new("one", [0, 0]);
        let Ok(mut simulator) = Simulator::new(&model, &[placement], Sampling::one_of(fold)) else { return Ok(()) };
        for pattern in crate::cache::Pattern::ALL {
            let stream: Vec<_> = Synthetic::new(pattern, 2, 1).take(200).collect();
            simulator.feed(&stream).unwrap();
        }
        let total = simulator.total(0);
        prop_assert!(total.misses.all() <= total.references.all());
        prop_assert!(total.references.all() <= total.accesses.all());
        prop_assert!(fold > 1 || total.accesses.all() == 1000);
    }

    #[test]
    fn no_name_of_a_policy_panics(name: String, parts in "(qlru_)?[hmru0-9_]{0,20}") {
        for name in [name, parts] {
            if let Ok(replacement) = name.parse::<Replacement>() {
                prop_assert_eq!(replacement.to_string(), name);
            }
        }
    }
}
