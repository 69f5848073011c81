//! What is read of configuration files, and which mistakes are named.

use std::num::NonZeroU32;
use std::time::Duration;

use huddle_engine::backend::SharingChoice;
use huddle_model::matrix::{ReadBy, Weigh};
use huddle_record::KeepLimits;
use huddle_sharing::content::Share;

use super::sharing::LoopMethod;
use super::*;

#[test]
fn the_documented_file_is_read() {
    let text = r#"
        cache_level = 2
        policy = "opposed"
        [[vm]]
        name = "web"
        cgroup = "system.slice/web.service"
        [[vm]]
        name = "database"
        process = "postgres"
        [plan]
        apart = [["web", "database"]]
        vcpus_per_cpu = 2.0
        load_per_cpu = 0.8
        working_set_kib = { web = 2048 }
        [pin]
        override_bindings = true
        [sharing]
        method = "content"
        read_by = "pagemap"
        weigh = "read"
        read_window_ms = 250
        sample = 0.25
        cpu_share = 1
        memory_mib = 64
        [counters]
        guest_only = true
        llc_misses = "event=0x2e,umask=0x41"
        llc_references = "none"
        [xen]
        affinity = "soft"
        last_level_caches = ["0-3", "4-7"]
        [trial]
        blocks = 12
        [record]
        segment_max_mib = 64
        keep = "10m"
        keep_max_mib = 32
        [metrics]
        listen = "unix:/run/huddle/metrics"
        pair_threshold = 0.2
        [top]
        palette = "ember"
        [top.keys]
        quit = ["q", "F10"]
        "sharing.order" = ["O"]
    "#;
    let config = Config::parse(text).unwrap();
    assert_eq!((config.cache_level, config.policy), (Some(2), Some(Policy::Opposed)));
    assert!(matches!(config.vm[1].target(), Ok(VmTarget::Process("postgres"))));
    assert_eq!(config.record.segment_max_mib, Some(64));
    let limits = KeepLimits { age: Duration::from_secs(600), max_bytes: 32 << 20 };
    assert_eq!(config.record.keep_limits(), Some(limits));
    assert_eq!(Config::default().record.keep_limits(), None);
    assert_eq!((config.metrics.pair_threshold, config.metrics.max_vms), (0.2, 1000));
    assert_eq!(config.sharing.method, Some(LoopMethod::Content));
    assert_eq!(config.sharing.choice().read_by, Some(ReadBy::Pagemap));
    let SharingChoice { weigh, reads, .. } = config.sharing.choice();
    assert_eq!((weigh, reads.window_ms, reads.cpu_share), (Weigh::Read, 250, Share::ALL));
    assert!(Config::parse("[sharing]\nread_window_ms = 0").is_err());
    assert_eq!(config.sharing.sample.map(Share::get), Some(0.25));
    assert_eq!(config.sharing.cpu_share, Some(Share::ALL));
    assert_eq!(config.sharing.memory_mib, NonZeroU32::new(64));
    assert_eq!(config.xen.affinity, Some(AffinityKind::Soft));
    assert_eq!(config.xen.last_level_caches().unwrap()[1].to_string(), "4-7");
    assert_eq!(config.plan.apart, [["web", "database"]]);
    assert_eq!(config.plan.vcpus_per_cpu, Some(2.0));
    assert_eq!((config.plan.load_per_cpu, config.plan.working_set_kib["web"]), (Some(0.8), 2048));
    assert!(config.counters.guest_only && config.pin.override_bindings);
    let choices = config.counters.choices().unwrap();
    assert_eq!(choices.len(), 2);
    assert_eq!((choices[0].role, &choices[0].event), (CounterRole::LlcReferences, &None));
    assert_eq!(config.top.palette(), Ok(Palette::Ember));
    assert_eq!(choices[1].event, Some("event=0x2e,umask=0x41".parse().unwrap()));
}

#[test]
fn owners_are_looked_up_among_the_hosts_users() {
    let dir = tempfile::tempdir().unwrap();
    let root = huddle_host::HostRoot::at(dir.path());
    std::fs::create_dir_all(root.etc("")).unwrap();
    std::fs::write(root.etc("passwd"), "root:x:0:0:\nqemu:x:107:107:\nalice:x:1000:1000:\n").unwrap();
    let users = Users::read(&root).unwrap();
    let selection = |text: &str| Config::parse(text).unwrap().discover.selection(&users, &["a[b".into()]);
    let default = selection("").unwrap();
    assert!(default.owners.is_superset(&[0, 107].into()) && !default.owners.contains(&1000));
    assert_eq!(default.exclude.len(), 1, "a name of [xen] exclude is no pattern");
    let given = selection("[discover]\nowners = [\"alice\", \"5\"]\ninclude = [\"x\"]\n").unwrap();
    assert!(given.owners.is_superset(&[0, 5, 1000].into()) && !given.owners.contains(&107));
    assert_eq!(given.include.len(), 1);
    let why = selection("[discover]\nowners = [\"bob\"]\n").unwrap_err();
    assert!(why.contains("\"bob\"") && why.contains("/etc/passwd"), "{why}");
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (text, word) in [
        ("\npolicy = \"papre\"\n", "line 2"),
        ("cache_levle = 2\n", "cache_levle"),
        ("cache_level = 9\n", "expected 1 to 4"),
        ("[[vm]]\nname = \"a\"\n", "exactly one of"),
        ("[[vm]]\nname = \"a\"\npid = 1\ncgroup = \"x\"\n", "exactly one of"),
        ("[[vm]]\nname = \"\"\npid = 1\n", "empty name"),
        ("[[vm]]\nname = \"a\\nb\"\npid = 1\n", "control character"),
        ("[[vm]]\nname = \"a\"\npid = 1\nowner = \"b\"\n", "only goes with process"),
        ("[discover]\nexclude = [\"a[\"]\n", "line 2: \"a[\" is no pattern"),
        ("[discover]\ninclude = [{ nmae = \"a\" }]\n", "nmae"),
        ("[discover]\ninclude = [{}]\n", "none of name"),
        ("[limits]\nthreads = 0\n", "threads is 0, expected 1 or more"),
        ("[limits]\nname_bytes = 5\n", "16 to 4096"),
        ("[limits]\nthread = 5\n", "line 2"),
        ("[sharing]\nmethod = \"event\"\n", "line 2"),
        ("[sharing]\nmethod = \"events\"\n", "unknown variant `events`, expected `merged` or `content`"),
        ("[record]\ntotal_max_mib = 17592186044416\n", "total_max_mib is 17592186044416, expected at most"),
        ("[record]\nsegment_max_mib = 9000000000000000000\n", "segment_max_mib is 9000000000000000000"),
        ("[record]\nkeep = \"10 parsecs\"\n", "line 2: \"10 parsecs\" is no time to keep"),
        ("[record]\nkeep = \"0s\"\n", "from 1 second to 1 day"),
        ("[record]\nkeep_max_mib = 0\n", "expected 1 to 4096"),
        ("[metrics]\nlisten = \"0.0.0.0:9188\"\n", "other hosts may reach"),
        ("[metrics]\nlisten = \"9188\"\n", "line 2: \"9188\" is no place to listen at"),
        ("[metrics]\npair_threshold = 2.0\n", "[metrics]: pair_threshold is 2, expected 0 to 1"),
        ("[metrics]\ntextfile = \"/x\"\n", "ends with .prom"),
        ("[sharing]\nsample = 0.0\n", "above 0 and up to 1"),
        ("[sharing]\nmemory_mib = 0\n", "line 2"),
        ("[counters]\nllc_misses = \"cache-mises\"\n", "cache-mises"),
        ("[pin]\noverride_binding = true\n", "line 2"),
        ("[plan]\napart = [[\"a\"]]\n", "two or more different VMs"),
        ("[plan]\nvcpus_per_cpu = 0.0\n", "expected more than 0"),
        ("[plan]\nload_per_cpu = 80\n", "at most 1"),
        ("[plan]\nworking_set_kib = { web = -1 }\n", "line 2"),
        ("[plan]\napart = [\"a\", \"b\"]\n", "line 2"),
        ("[xen]\nlast_level_caches = [\"0-\"]\n", "0-"),
        ("[xen]\naffinity = \"firm\"\n", "line 2"),
        ("[trial]\nblocks = 3\n", "blocks is 3, expected 8 to 1000"),
        ("[top]\npalette = \"rainbow\"\n", "cividis, ember and grey"),
        ("[top.keys]\nqiut = [\"q\"]\n", "unknown command `qiut`"),
        ("[top.keys]\nquit = [\"x\"]\nhelp = [\"x\"]\n", "both"),
        ("[counters]\nllc_mises = \"r1\"\n", "line 2"),
    ] {
        let error = format!("{:#}", Config::parse(text).unwrap_err());
        assert!(error.contains(word), "{text:?}: {error}");
        assert!(!error.trim_end().contains('\n'), "one line: {error:?}");
    }
}
