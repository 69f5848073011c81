//! The file of `--config`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::Context;
use huddle_engine::backend::SharingChoice;
use huddle_model::counters::CounterRole;
use huddle_model::cpuset::{CpuSet, ParseCpuSetError};
use huddle_model::matrix::Method;
use huddle_model::plan::{PlanLimits, Policy};
use huddle_model::trial::{Objective, TrialSettings};
use huddle_observe::perf::{EventChoice, EventError};
use huddle_sharing::content::{ContentSettings, Share};
use huddle_tui::{KeyMap, KeysError, Palette, PaletteError};
use huddle_xen::toolstack::AffinityKind;
use serde::Deserialize;

use super::failure::Failure;

/// Settings in TOML; a flag on the command line wins over its setting here.
///
/// ```toml
/// cache_level = 2
/// policy = "paper"
/// state_dir = "/run/huddle"
/// objective = "reported" # as --trial
/// report_socket = "/run/huddle/reports"
///
/// [[vm]]                # each names exactly one of pid, cgroup and process
/// name = "web"
/// cgroup = "system.slice/web.service"
///
/// [[vm]]
/// name = "database"
/// process = "postgres"  # the name (comm) of one running process
///
/// [plan]                # what every plan has to keep to, see `PlanLimits`
/// apart = [["web", "database"], ["a", "b", "c"]]  # no two of a group may share a cache
/// vcpus_per_cpu = 2.0   # most vCPUs on a domain for each of its CPUs
/// vcpus_per_core = 2.0  # and for each of its cores, whose siblings (SMT) count as one
/// load_per_cpu = 0.8    # most CPU time its VMs use for each of its CPUs
/// local_memory = 0.9    # least share of a VM's memory on the NUMA node of a domain it goes to
/// contention = 1.0      # policy sharing: shared frames worth a frame beyond the cache
/// working_set_kib = { web = 2048 }  # what VMs use of a cache; else as resctrl measures
///
/// [sharing]
/// method = "events"     # or "merged", the default: read all page tables in each round; or "content"
/// rescan_rounds = 10    # with "events": read them all at the latest after so many rounds
/// sample = 0.1          # with "content": look at this share of the pages [default: all]
/// cpu_share = 0.5       # with "content": most processor time, as a share of one CPU
/// memory_mib = 256      # with "content": most memory to remember pages in
///
/// [counters]
/// guest_only = true     # count hardware events only while vCPUs run their guest (KVM)
/// llc_misses = "r412e"  # also cycles, instructions, llc_references; a name as in perf, a raw code, or none
///
/// [xen]                 # in dom0 of a Xen host
/// affinity = "soft"     # or "hard", the default, as --xen-affinity
/// exclude = ["firewall"]  # domains that are left alone; dom0 always is
/// last_level_caches = ["0-3", "4-7"]  # CPUs of each; else one a socket
///
/// [trial]               # limits of trials, see `TrialSettings`
/// least_effect = 0.03
/// moves_per_hour = 1000
///
/// [record]
/// segment_max_mib = 64
/// segment_max_age_s = 300
/// total_max_mib = 4096
/// max_age_s = 604800
///
/// [top]                 # the terminal
/// palette = "ember"     # or "cividis", the default, or "grey"
/// ascii = false         # as --ascii
///
/// [top.keys]            # commands as the help (?) names them, with all the keys each is to have
/// quit = ["q", "F10"]
/// "sharing.order" = ["o"]  # in one view only
/// ```
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) cache_level: Option<u8>,
    pub(crate) policy: Option<Policy>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) objective: Option<Objective>,
    pub(crate) report_socket: Option<PathBuf>,
    pub(crate) vm: Vec<VmEntry>,
    pub(crate) plan: PlanLimits,
    pub(crate) sharing: SharingSettings,
    pub(crate) counters: CounterSettings,
    pub(crate) xen: XenSettings,
    pub(crate) trial: TrialSettings,
    pub(crate) record: RecordSettings,
    pub(crate) top: TopSettings,
}

/// How the terminal looks and is used.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TopSettings {
    palette: Option<String>,
    pub(crate) ascii: bool,
    keys: BTreeMap<String, Vec<String>>,
}

impl TopSettings {
    /// The default keys with those that are given.
    pub(crate) fn keys(&self) -> Result<KeyMap, KeysError> {
        let entries = self.keys.iter();
        KeyMap::with_keys(entries.map(|(name, keys)| (name.as_str(), keys.iter().map(String::as_str))))
    }

    pub(crate) fn palette(&self) -> Result<Palette, PaletteError> {
        self.palette.as_deref().map_or(Ok(Palette::default()), str::parse)
    }
}

/// What only concerns a Xen host.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct XenSettings {
    pub(crate) affinity: Option<AffinityKind>,
    pub(crate) exclude: Vec<String>,
    /// Lists of CPUs, as the kernel writes them.
    last_level_caches: Vec<String>,
}

impl XenSettings {
    pub(crate) fn last_level_caches(&self) -> Result<Vec<CpuSet>, ParseCpuSetError> {
        self.last_level_caches.iter().map(|list| list.parse()).collect()
    }
}

/// How the loop measures what VMs share.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SharingSettings {
    /// `None`: as the host can.
    method: Option<LoopMethod>,
    rescan_rounds: Option<u32>,
    sample: Option<Share>,
    cpu_share: Option<Share>,
    memory_mib: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LoopMethod {
    Merged,
    Events,
    Content,
}

impl SharingSettings {
    /// What is given, and defaults for the rest.
    pub(crate) fn choice(&self) -> SharingChoice {
        let default = ContentSettings::default();
        SharingChoice {
            method: self.method.map(|method| match method {
                LoopMethod::Merged => Method::Merged,
                LoopMethod::Events => Method::Events,
                LoopMethod::Content => Method::Content,
            }),
            rescan_rounds: self.rescan_rounds,
            content: ContentSettings {
                cpu_share: self.cpu_share.unwrap_or(default.cpu_share),
                memory_mib: self.memory_mib.map_or(default.memory_mib, NonZeroU32::get),
                sample: self.sample,
                ..default
            },
        }
    }
}

/// What to count; what is not given is the processor's usual event.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CounterSettings {
    pub(crate) guest_only: bool,
    cycles: Option<String>,
    instructions: Option<String>,
    llc_references: Option<String>,
    llc_misses: Option<String>,
}

impl CounterSettings {
    /// The events that are given.
    pub(crate) fn choices(&self) -> Result<Vec<EventChoice>, EventError> {
        let given = [
            (CounterRole::Cycles, &self.cycles),
            (CounterRole::Instructions, &self.instructions),
            (CounterRole::LlcReferences, &self.llc_references),
            (CounterRole::LlcMisses, &self.llc_misses),
        ];
        let given = given.into_iter().filter_map(|(role, text)| Some((role, text.as_ref()?)));
        given.map(|(role, text)| EventChoice::of(role, text)).collect()
    }
}

/// A VM that the file names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmEntry {
    pub(crate) name: String,
    pid: Option<i32>,
    cgroup: Option<PathBuf>,
    process: Option<String>,
}

/// What a [`VmEntry`] names.
pub(crate) enum VmTarget<'a> {
    Pid(i32),
    Cgroup(&'a Path),
    Process(&'a str),
}

/// Limits of recordings; what is not given has the recorder's default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RecordSettings {
    pub(crate) segment_max_mib: Option<u64>,
    pub(crate) segment_max_age_s: Option<u64>,
    pub(crate) total_max_mib: Option<u64>,
    pub(crate) max_age_s: Option<u64>,
}

impl VmEntry {
    pub(crate) fn target(&self) -> Result<VmTarget<'_>, String> {
        match (self.pid, &self.cgroup, &self.process) {
            (Some(pid), None, None) => Ok(VmTarget::Pid(pid)),
            (None, Some(path), None) => Ok(VmTarget::Cgroup(path)),
            (None, None, Some(name)) => Ok(VmTarget::Process(name)),
            _ => Err(format!("[[vm]] {:?} must name exactly one of pid, cgroup and process", self.name)),
        }
    }
}

impl Config {
    /// The settings of the file, and its text.
    pub(crate) fn read(path: &Path) -> Result<(Self, String), Failure> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the config {}", path.display()))
            .map_err(Failure::Usage)?;
        let config = Self::parse(&text).with_context(|| format!("config {}", path.display()));
        Ok((config.map_err(Failure::Usage)?, text))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let place = line.map_or_else(String::new, |line| format!("line {line}: "));
            anyhow::anyhow!("{place}{}", error.message())
        })?;
        for vm in &config.vm {
            anyhow::ensure!(!vm.name.is_empty(), "a [[vm]] has an empty name");
            let is_plain = !vm.name.chars().any(char::is_control);
            anyhow::ensure!(is_plain, "the name {:?} of a [[vm]] holds a control character", vm.name);
            vm.target().map_err(anyhow::Error::msg)?;
        }
        anyhow::ensure!(
            config.sharing.rescan_rounds != Some(0),
            "[sharing] rescan_rounds is 0, expected 1 or more"
        );
        config.counters.choices().context("[counters]")?;
        config.plan.check().context("[plan]")?;
        config.xen.last_level_caches().context("[xen] last_level_caches")?;
        config.trial.check().context("[trial]")?;
        config.top.palette().context("[top]")?;
        config.top.keys().context("[top.keys]")?;
        if let Some(level) = config.cache_level {
            anyhow::ensure!((1..=4).contains(&level), "cache_level is {level}, expected 1 to 4");
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
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
            [sharing]
            method = "events"
            rescan_rounds = 3
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
        assert_eq!(
            (config.sharing.method, config.sharing.rescan_rounds),
            (Some(LoopMethod::Events), Some(3))
        );
        assert_eq!(config.sharing.sample.map(Share::get), Some(0.25));
        assert_eq!(config.sharing.cpu_share, Some(Share::ALL));
        assert_eq!(config.sharing.memory_mib, NonZeroU32::new(64));
        assert_eq!(config.xen.affinity, Some(AffinityKind::Soft));
        assert_eq!(config.xen.last_level_caches().unwrap()[1].to_string(), "4-7");
        assert_eq!(config.plan.apart, [["web", "database"]]);
        assert_eq!(config.plan.vcpus_per_cpu, Some(2.0));
        assert_eq!((config.plan.load_per_cpu, config.plan.working_set_kib["web"]), (Some(0.8), 2048));
        assert!(config.counters.guest_only);
        let choices = config.counters.choices().unwrap();
        assert_eq!(choices.len(), 2);
        assert_eq!((choices[0].role, &choices[0].event), (CounterRole::LlcReferences, &None));
        assert_eq!(config.top.palette(), Ok(Palette::Ember));
        assert_eq!(choices[1].event.as_ref().unwrap().config, 0x412e);
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
            ("[sharing]\nmethod = \"event\"\n", "line 2"),
            ("[sharing]\nrescan_rounds = 0\n", "expected 1 or more"),
            ("[sharing]\nsample = 0.0\n", "above 0 and up to 1"),
            ("[sharing]\nmemory_mib = 0\n", "line 2"),
            ("[counters]\nllc_misses = \"cache-mises\"\n", "cache-mises"),
            ("[plan]\napart = [[\"a\"]]\n", "two or more different VMs"),
            ("[plan]\nvcpus_per_cpu = 0.0\n", "expected more than 0"),
            ("[plan]\nload_per_cpu = 80\n", "at most 1"),
            ("[plan]\nworking_set_kib = { web = -1 }\n", "line 2"),
            ("[plan]\napart = [\"a\", \"b\"]\n", "line 2"),
            ("[xen]\nlast_level_caches = [\"0-\"]\n", "0-"),
            ("[xen]\naffinity = \"firm\"\n", "line 2"),
            ("[trial]\nblocks = 3\n", "blocks is 3, expected 8 to 50"),
            ("[top]\npalette = \"rainbow\"\n", "cividis, ember and grey"),
            ("[top.keys]\nqiut = [\"q\"]\n", "no command `qiut`"),
            ("[top.keys]\nquit = [\"x\"]\nhelp = [\"x\"]\n", "both"),
            ("[counters]\nllc_mises = \"r1\"\n", "line 2"),
        ] {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(error.contains(word), "{text:?}: {error}");
            assert!(!error.trim_end().contains('\n'), "one line: {error:?}");
        }
    }
}
