//! The file of `--config`. Its documentation for users, `docs/configuration.md`, is made from the comments of its types.

#[cfg(test)]
mod page;
mod record;
pub(crate) mod reload;
mod sharing;
mod sketch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use huddle_host::discover::DiscoverOptions;
use huddle_host::limits::Limits;
use huddle_host::users::{Users, VM_USERS};
use huddle_metrics::MetricsSettings;
use huddle_model::counters::CounterRole;
use huddle_model::cpuset::{CpuSet, ParseCpuSetError};
use huddle_model::plan::{PlanLimits, Policy};
use huddle_model::selection::{Selection, VmPattern};
use huddle_model::trial::{Objective, TrialSettings};
use huddle_observe::perf::{EventChoice, EventError};
use huddle_tui::{KeyMap, KeysError, Palette, PaletteError};
use huddle_xen::toolstack::AffinityKind;
use serde::Deserialize;

use self::record::RecordSettings;
use self::sharing::SharingSettings;
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
mod tests;
