//! The file of `--config`. Its documentation for users, `docs/configuration.md`, is made from the comments here.

#[cfg(test)]
mod page;
pub(crate) mod reload;
mod sketch;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use huddle_engine::backend::SharingChoice;
use huddle_host::discover::DiscoverOptions;
use huddle_host::limits::Limits;
use huddle_host::users::{Users, VM_USERS};
use huddle_metrics::MetricsSettings;
use huddle_model::counters::CounterRole;
use huddle_model::cpuset::{CpuSet, ParseCpuSetError};
use huddle_model::matrix::{Method, ReadBy, Weigh};
use huddle_model::plan::{PlanLimits, Policy};
use huddle_model::selection::{Selection, VmPattern};
use huddle_model::trial::{Objective, TrialSettings};
use huddle_observe::perf::{EventChoice, EventError};
use huddle_record::KeepLimits;
use huddle_sharing::ReadSettings;
use huddle_sharing::content::{ContentSettings, Share};
use huddle_tui::{KeyMap, KeysError, Palette, PaletteError};
use huddle_xen::toolstack::AffinityKind;
use serde::Deserialize;

use self::sketch::SketchingSettings;
use super::failure::Failure;

/// `huddle --config FILE` reads settings in TOML. A flag on the command line wins over its setting here. Unknown
/// keys are errors, so that a misspelt one is not ignored.
///
/// ```toml
/// cache_level = 2
/// policy = "paper"
/// objective = "reported"
/// report_socket = "/run/huddle/reports"
///
/// [[vm]]
/// name = "web"
/// cgroup = "system.slice/web.service"
///
/// [[vm]]
/// name = "database"
/// process = "postgres"
/// owner = "postgres"
///
/// [discover]
/// owners = ["libvirt-qemu", "64055"]
/// include = ["lab-*", { owner = "alice", cgroup = "/user.slice/*" }]
/// exclude = [{ name = "build-*" }, "6a8c3a1e-6e1c-4c0e-9c3c-1f0e5a6b7c8d"]
///
/// [plan]
/// apart = [["web", "database"], ["libvirt-qemu:a", "b", "c"]]
/// vcpus_per_core = 2.0
/// load_per_cpu = 0.8
/// local_memory = 0.9
/// working_set_kib = { web = 2048 }
///
/// [sharing]
/// method = "merged"
///
/// [counters]
/// guest_only = true
/// llc_misses = "r412e"
/// llc_references = "none"
///
/// [trial]
/// least_effect = 0.05
///
/// [record]
/// total_max_mib = 4096
/// keep = "10m"
/// keep_dir = "/var/log/huddle"
///
/// [sketch]
/// seed = "/etc/huddle/fleet.seed"
/// every = "6h"
///
/// [metrics]
/// listen = "127.0.0.1:9188"
///
/// [top]
/// palette = "ember"
///
/// [top.keys]
/// quit = ["q", "F10"]
/// "sharing.order" = ["o"]
/// ```
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Cache level that makes the cache domains, 1 to 4, as `--cache-level`. [default: the highest with more than
    /// one domain]
    pub(crate) cache_level: Option<u8>,
    /// How VMs are placed, as `--policy`. [default: `paper`]
    pub(crate) policy: Option<Policy>,
    /// Where the journal, its lock and the sockets are, as `--state-dir`. [default: `$HUDDLE_STATE_DIR`, or
    /// `/run/huddle` for root, or `$XDG_RUNTIME_DIR/huddle`]
    pub(crate) state_dir: Option<PathBuf>,
    /// What placements are compared by in trials, as `--trial`. [default: no trials]
    pub(crate) objective: Option<Objective>,
    /// Unix datagram socket for the reports of workloads, as `--report-socket`. [default: with objective
    /// `reported`, `reports` in the state directory]
    pub(crate) report_socket: Option<PathBuf>,
    /// Processes and cgroups to treat as VMs.
    pub(crate) vm: Vec<VmEntry>,
    /// Which processes are taken for VMs.
    pub(crate) discover: DiscoverSettings,
    /// How much is read of what others write.
    pub(crate) limits: Limits,
    /// Limits for every plan.
    pub(crate) plan: PlanLimits,
    /// Which vCPUs are pinned.
    pub(crate) pin: PinSettings,
    /// How the loop measures what VMs share.
    pub(crate) sharing: SharingSettings,
    /// Which events are counted.
    pub(crate) counters: CounterSettings,
    /// What only concerns a Xen host.
    pub(crate) xen: XenSettings,
    /// Limits of trials.
    pub(crate) trial: TrialSettings,
    /// Limits of recordings.
    pub(crate) record: RecordSettings,
    /// Sketches of what VMs hold.
    pub(crate) sketch: SketchingSettings,
    /// Metrics for monitoring.
    pub(crate) metrics: MetricsSettings,
    /// How the terminal looks and is used.
    pub(crate) top: TopSettings,
}

/// Which of the processes that look like VMs are taken for VMs. By default those that hold a VM of KVM, those in a
/// control group that a VM manager made, and those of root, of the user of huddle, and of `owners`. The others are
/// listed by `huddle vms`, with the reason, and nothing else is done with them.
///
/// A pattern is a name of VMs, in which `*` stands for any text, `?` for any character and `[ab]` for one of several;
/// or a UUID; or a table with one or more of `name`, `owner` (name or number), `cgroup` (a path as in
/// `/proc/PID/cgroup`) and `uuid`, all of which must match.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DiscoverSettings {
    /// Users that run VMs, by name or number. [default: `libvirt-qemu`, `qemu`, `nova`, `oneadmin`, `vdsm`, `lxd`,
    /// `incus`, where the host has them]
    owners: Option<Vec<String>>,
    /// Patterns of VMs that are taken whoever owns them. [default: none]
    include: Vec<VmPattern>,
    /// Patterns of VMs that are left alone, also Xen domains. They win over `include`. [default: none]
    exclude: Vec<VmPattern>,
}

impl DiscoverSettings {
    /// The selection on a host with these users; `more` is excluded too.
    pub(crate) fn selection(&self, users: &Users, more: &[String]) -> Result<Selection, String> {
        // Root, and the user who starts huddle.
        let DiscoverOptions { mut selection, .. } = DiscoverOptions::default();
        match &self.owners {
            None => selection.owners.extend(VM_USERS.iter().filter_map(|user| users.uid(user))),
            Some(owners) => {
                for owner in owners {
                    let uid = users.uid(owner);
                    selection.owners.insert(uid.ok_or_else(|| unknown_user("[discover] owners", owner))?);
                }
            }
        }
        selection.include.clone_from(&self.include);
        selection.exclude.clone_from(&self.exclude);
        selection.exclude.extend(more.iter().map(|name| VmPattern::of_name(name)));
        Ok(selection)
    }
}

/// The error for an unknown user.
pub(crate) fn unknown_user(place: &str, user: &str) -> String {
    format!("{place} names user {user:?}, who is not in /etc/passwd; give the number")
}

/// Which vCPUs are pinned. vCPUs that their owner bound are left as they are: those whose affinity is narrower than
/// their cpuset, those with a real-time policy, and those on isolated CPUs. `vms`, `plan`, `pin` and `run` name them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PinSettings {
    /// Pin vCPUs that their owner bound, too, as `--override-bindings`; no two with a real-time policy get one CPU.
    /// [default: false]
    pub(crate) override_bindings: bool,
}

/// How the terminal looks and is used.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TopSettings {
    /// Colours of the heatmap. `cividis` is ranked alike with every kind of colour vision. [default: `cividis`]
    palette: Option<String>,
    /// Draw with ASCII characters only, as `--ascii`. [default: false]
    pub(crate) ascii: bool,
    /// Keys of commands, see below.
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

/// What only concerns a Xen host. It is read in dom0.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct XenSettings {
    /// Which affinity of vCPUs is set, as `--xen-affinity`: with `hard` they run nowhere else, with `soft` they
    /// prefer those CPUs. [default: `hard`]
    pub(crate) affinity: Option<AffinityKind>,
    /// Names of Xen domains that are left alone, besides those of `[discover] exclude`. dom0 always is.
    /// [default: none]
    pub(crate) exclude: Vec<String>,
    /// CPUs of each last-level cache, as lists such as `"0-3"`. [default: one cache per socket]
    last_level_caches: Vec<String>,
}

impl XenSettings {
    pub(crate) fn last_level_caches(&self) -> Result<Vec<CpuSet>, ParseCpuSetError> {
        self.last_level_caches.iter().map(|list| list.parse()).collect()
    }
}

/// How the loop (`run`, `top`) measures what VMs share.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SharingSettings {
    /// `merged` reads all page tables in each round. `content` compares the contents of pages; on Xen it is the only
    /// one. [default: `merged`; on Xen `content`]
    method: Option<LoopMethod>,
    /// What tells which frames VMs map: `auto` reads the page tables themselves where the kernel allows it (x86-64, BPF),
    /// and else `/proc/PID/pagemap`; `pagemap` reads always that, which takes 2 to 12 times as long. [default: `auto`]
    read_by: Option<FramesBy>,
    /// With `content`: compare this share of the contents, drawn by their hashes; every page is read anyway, once.
    /// [default: all contents]
    sample: Option<Share>,
    /// Which shared frames count when VMs are placed, as `--weigh`: `all`, or with `merged` `read`, those that both VMs of a
    /// pair read within a window. Accessed bits of their page tables are cleared for that in each round, so the kernel takes
    /// their memory for unused until it is used again. Not seen are reads of guests in KVM, where all shared frames count.
    /// [default: `all`]
    weigh: Option<Weigh>,
    /// With `weigh = "read"`: least time between clearing an accessed bit and reading it again, in milliseconds, up to 60000.
    /// [default: 1000]
    read_window_ms: Option<ReadWindow>,
    /// Most processor time, as a share of one CPU: with `content`; and with `weigh = "read"` for clearing accessed bits, for
    /// which rounds wait. [default: 0.5, and 0.05 for clearing]
    cpu_share: Option<Share>,
    /// With `content`: most memory to remember pages in, in MiB. [default: 256]
    memory_mib: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LoopMethod {
    Merged,
    Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FramesBy {
    Auto,
    Pagemap,
}

/// Milliseconds, from 1 to a minute.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u32")]
struct ReadWindow(u32);

impl TryFrom<u32> for ReadWindow {
    type Error = String;

    fn try_from(window_ms: u32) -> Result<Self, String> {
        match window_ms {
            1..=60_000 => Ok(Self(window_ms)),
            _ => Err(format!("a window of {window_ms} ms; expected 1 to 60000 ms")),
        }
    }
}

impl SharingSettings {
    /// The settings, with defaults for the rest.
    pub(crate) fn choice(&self) -> SharingChoice {
        let (default, reads) = (ContentSettings::default(), ReadSettings::default());
        SharingChoice {
            method: self.method.map(|method| match method {
                LoopMethod::Merged => Method::Merged,
                LoopMethod::Content => Method::Content,
            }),
            read_by: match self.read_by {
                None | Some(FramesBy::Auto) => None,
                Some(FramesBy::Pagemap) => Some(ReadBy::Pagemap),
            },
            weigh: self.weigh.unwrap_or_default(),
            reads: ReadSettings {
                window_ms: self.read_window_ms.map_or(reads.window_ms, |window| window.0),
                cpu_share: self.cpu_share.unwrap_or(reads.cpu_share),
            },
            content: ContentSettings {
                cpu_share: self.cpu_share.unwrap_or(default.cpu_share),
                memory_mib: self.memory_mib.map_or(default.memory_mib, NonZeroU32::get),
                sample: self.sample,
                ..default
            },
        }
    }
}

/// The event that is counted for each role, in the notation of perf: a name, a raw code (`r412e`), fields of the cores' PMU
/// (`event=0x2e,umask=0x41`) or of one that is named (`armv8_pmuv3_0/ll_cache_miss_rd/`), or `none`. What is not given is
/// the processor's usual event, as `huddle doctor` lists it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CounterSettings {
    /// Count hardware events only while vCPUs run their guest (KVM), as `--guest-only`. [default: false]
    pub(crate) guest_only: bool,
    /// Event for cycles. [default: by processor]
    cycles: Option<String>,
    /// Event for instructions. [default: by processor]
    instructions: Option<String>,
    /// Event for references to the last-level cache. [default: by processor]
    llc_references: Option<String>,
    /// Event for misses of the last-level cache. [default: by processor]
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

/// A process or a cgroup to treat as a VM, whoever owns it. Each entry names exactly one of `pid`, `cgroup` and `process`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmEntry {
    /// Name of the VM. Required.
    pub(crate) name: String,
    /// Process id.
    pid: Option<i32>,
    /// Directory of a cgroup: absolute, or below `/sys/fs/cgroup`. Groups below it belong to it.
    cgroup: Option<PathBuf>,
    /// Name (comm) of one running process. Any user can give a process this name, so name the `owner` too.
    process: Option<String>,
    /// With `process`: only processes of this user, by name or number. [default: any user]
    pub(crate) owner: Option<String>,
}

/// What a [`VmEntry`] names.
pub(crate) enum VmTarget<'a> {
    Pid(i32),
    Cgroup(&'a Path),
    Process(&'a str),
}

/// Limits of recordings. A recording that exceeds its total loses its oldest closed segments, and the manifest counts
/// them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RecordSettings {
    /// Record each run of `huddle run` into a new directory in this one, which exists. The oldest are removed when
    /// another one begins, as long as all of them are larger than `total_max_mib`. `--record` wins. [default: none]
    pub(crate) directory: Option<PathBuf>,
    /// Close a segment at this size, in MiB. [default: 8]
    pub(crate) segment_max_mib: Option<u64>,
    /// Close a segment at this age, in seconds. A crash loses at most the open segments. [default: 60]
    pub(crate) segment_max_age_s: Option<u64>,
    /// Most size of all segments of a recording, in MiB. [default: 4096]
    pub(crate) total_max_mib: Option<u64>,
    /// Remove segments that were closed longer ago than this, in seconds. [default: no limit]
    pub(crate) max_age_s: Option<u64>,
    /// Keep the last minutes in memory, such as `"10m"`, from 1 second to 1 day. They are written as a recording of their own
    /// on SIGUSR1, by `K` in the terminal, and when a trial is aborted. [default: nothing is kept]
    pub(crate) keep: Option<KeepTime>,
    /// Most memory for them, in MiB, from 1 to 4096; beyond it the oldest fall out early, which is said when they are
    /// written. [default: 64]
    pub(crate) keep_max_mib: Option<u32>,
    /// Directory for these recordings, each in one of its own, which is named by its time. [default: beside the directory
    /// of `--record`]
    pub(crate) keep_dir: Option<PathBuf>,
    /// How many aborted trials have such a recording in one run. [default: 8]
    pub(crate) keep_aborted_trials: Option<u32>,
}

/// A time such as `10m`, from 1 second to 1 day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct KeepTime(Duration);

impl TryFrom<String> for KeepTime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let time = humantime::parse_duration(&text).ok();
        let time = time.filter(|time| (1..=86_400).contains(&time.as_secs()));
        time.map(Self).ok_or_else(|| {
            format!(
                "{text:?} is no time to keep; give one from 1 second to 1 day, such as \"10m\" or \"90s\""
            )
        })
    }
}

impl RecordSettings {
    /// How much of the last minutes is kept; `None` if nothing is.
    pub(crate) fn keep_limits(&self) -> Option<KeepLimits> {
        let max_bytes = u64::from(self.keep_max_mib.unwrap_or(64)) << 20;
        self.keep.map(|time| KeepLimits { age: time.0, max_bytes })
    }

    fn check_keep(&self) -> anyhow::Result<()> {
        if let Some(mib) = self.keep_max_mib {
            anyhow::ensure!((1..=4096).contains(&mib), "[record] keep_max_mib is {mib}, expected 1 to 4096");
        }
        Ok(())
    }
}

impl VmEntry {
    pub(crate) fn target(&self) -> Result<VmTarget<'_>, String> {
        match (self.pid, &self.cgroup, &self.process) {
            _ if self.owner.is_some() && self.process.is_none() => {
                Err(format!("[[vm]] {:?} has an owner, which only goes with process", self.name))
            }
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

    /// The settings of a table of such a file.
    pub(crate) fn of_table(table: &toml::Table) -> anyhow::Result<Self> {
        Self::parse(&toml::to_string(table).context("the settings in force cannot be written")?)
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
        for (name, mib) in [
            ("segment_max_mib", config.record.segment_max_mib),
            ("total_max_mib", config.record.total_max_mib),
        ] {
            let most = u64::MAX >> 20;
            anyhow::ensure!(
                mib.is_none_or(|mib| mib <= most),
                "[record] {name} is {}, expected at most {most} MiB",
                mib.unwrap_or_default()
            );
        }
        config.record.check_keep()?;
        config.metrics.check().context("[metrics]")?;
        config.counters.choices().context("[counters]")?;
        config.limits.check().context("[limits]")?;
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

/// The keys of a configuration file and their values, as they are written there.
pub(crate) fn table_of(text: &str) -> anyhow::Result<toml::Table> {
    text.parse().context("no TOML")
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
            (
                "[record]\ntotal_max_mib = 17592186044416\n",
                "total_max_mib is 17592186044416, expected at most",
            ),
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
}
