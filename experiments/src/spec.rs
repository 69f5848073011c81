//! What is run: a specification in TOML, presets, and what the command line changes of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use huddle_guest::chase::PAGE_BYTES;
use huddle_observe::perf::{EventChoice, EventError};
use serde::{Deserialize, Serialize};

use crate::design::Arm;
use crate::guest::Patience;
use crate::guest::qemu::Accelerator;
use crate::guest::xen::DomainType;

/// What stands for the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// Processes of the program `huddle-standin`.
    Process,
    /// VMs of QEMU, under KVM where it runs at native speed, else translated (TCG).
    Qemu,
    /// Domains of Xen's, in whose dom0 this runs.
    Xen,
}

impl GuestKind {
    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Qemu => "qemu",
            Self::Xen => "xen",
        }
    }

    /// Whether they boot kernels of their own.
    pub fn has_kernels(self) -> bool {
        self != Self::Process
    }
}

/// The specifications that come with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// A few minutes on two cores
    Quick,
    /// The paper's sizes: 4 VMs of 512 MiB, 15 MiB of data a pair, two sockets
    Paper,
    /// The paper's Table 2: four VMs of one flavour, 18 MiB of data; nothing is timed
    Table2,
    /// Several data sizes, one after the other
    Scan,
}

impl Preset {
    /// Its specification, as it would be read from a file.
    pub fn toml(self) -> &'static str {
        match self {
            Self::Quick => include_str!("../presets/quick.toml"),
            Self::Paper => include_str!("../presets/paper.toml"),
            Self::Table2 => include_str!("../presets/table2.toml"),
            Self::Scan => include_str!("../presets/scan.toml"),
        }
    }
}

/// What is run. Keys that a file leaves out have the values of [`Config::default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What stands for the VMs.
    pub guest: GuestKind,
    /// For each VM, which kernel and userland it runs; stand-ins have none.
    pub flavours: Vec<String>,
    /// For each VM, a name of the data it holds: equal names, equal data.
    pub data: Vec<String>,
    /// How domains of Xen's are virtualised; others are not.
    pub domain_type: DomainType,
    /// Memory of a VM in MiB; a stand-in has what it needs.
    pub memory_mib: u64,
    /// vCPUs of each VM.
    pub vcpus: u32,
    /// KiB of memory of each stand-in that no other holds, whole pages. A VM has its own anyway.
    pub private_kib: u64,
    /// KiB of a data set, whole pages; several are measured one after the other; none for a part of the
    /// smallest of the caches.
    pub data_kib: Vec<u64>,
    /// That part; `None` for three quarters, the paper's (15 MB of 20 MB); for five eighths with stand-ins, since
    /// caches that others use too hold no more for long; and for a quarter under TCG: its own tables and code need
    /// room too, and what is more was measured to be displaced however VMs are placed.
    pub data_cache_fraction: Option<f64>,
    /// Reads of a guest between two rests; `None` for a quarter more than the data has lines, so that
    /// each turn uses all of the data and pays for what the turn before it displaced (with longer turns
    /// the guests alternate less and the effect is smaller).
    pub burst_reads: Option<u64>,
    /// How long a rest is, in microseconds; 0 only lets others run. `None` for 0, and 50 for VMs: a
    /// guest's kernel cannot give its CPU to another VM but by being idle, and where rests are much longer
    /// than turns the CPU is idle too and time says less of the cache.
    pub idle_us: Option<u64>,
    /// Whether what is equal is merged. Without it the run is a placebo: the same guests, data and placements,
    /// among which no difference comes from sharing.
    pub merge: bool,
    /// The arms.
    pub arms: Vec<Arm>,
    /// How long one arm is measured in each block.
    pub seconds_per_arm: f64,
    /// How long the guests run in a new placement before they are measured.
    pub settle_seconds: f64,
    /// Blocks before those that are measured.
    pub warm_up_blocks: usize,
    /// Blocks that are measured.
    pub repetitions: usize,
    /// Cache level of the domains; `None` for the highest that parts the CPUs.
    pub cache_level: Option<u8>,
    /// Seed of data and orders.
    pub seed: u64,
    /// How long merging may take.
    pub merge_seconds: f64,
    /// How long a guest may take to be up, and to load its data; `None` for a minute, three for VMs.
    pub ready_seconds: Option<f64>,
    /// How long a guest may take to answer anything else; `None` for 15 s, 30 for VMs.
    pub answer_seconds: Option<f64>,
    /// What is counted on each vCPU instead of what suits the processor, as ROLE=EVENT
    /// (`llc_misses=r412e`, `cycles=none`).
    pub events: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let words = |words: [&str; 4]| words.map(str::to_owned).to_vec();
        Self {
            guest: GuestKind::Process,
            flavours: words(["cloud", "cloud", "generic", "generic"]),
            data: words(["A", "A", "B", "B"]),
            domain_type: DomainType::default(),
            memory_mib: 128,
            vcpus: 1,
            private_kib: 256,
            data_kib: Vec::new(),
            data_cache_fraction: None,
            burst_reads: None,
            idle_us: None,
            merge: true,
            arms: vec![Arm::Recommended, Arm::Opposed],
            seconds_per_arm: 0.5,
            settle_seconds: 0.1,
            warm_up_blocks: 1,
            repetitions: 30,
            cache_level: None,
            seed: 1,
            merge_seconds: 60.0,
            ready_seconds: None,
            answer_seconds: None,
            events: Vec::new(),
        }
    }
}

/// A specification that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read the specification {0}: {1}")]
    Read(String, std::io::Error),
    /// It is no TOML, or names what does not exist.
    #[error("the specification {0} cannot be understood: {1}")]
    Parse(String, toml::de::Error),
    /// It makes no sense.
    #[error("{0}")]
    Settings(String),
}

impl Config {
    /// The specification of a preset.
    ///
    /// # Errors
    /// Never for the presets that come with the program.
    pub fn preset(preset: Preset) -> Result<Self, SpecError> {
        Self::parse(&format!("{preset:?}").to_lowercase(), preset.toml())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| SpecError::Read(name.clone(), error))?;
        Self::parse(&name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self, SpecError> {
        toml::from_str(text).map_err(|error| SpecError::Parse(name.to_owned(), error))
    }

    /// How many VMs there are.
    pub fn guests(&self) -> usize {
        self.data.len()
    }

    /// Data as it suits what runs the VMs' instructions, where the specification does not say.
    #[must_use]
    pub fn suited_to(mut self, accelerator: Option<Accelerator>) -> Self {
        let part = match (self.guest, accelerator) {
            (GuestKind::Process, _) => 0.625,
            (_, Some(Accelerator::Tcg)) => 0.25,
            (_, Some(Accelerator::Kvm) | None) => 0.75,
        };
        self.data_cache_fraction.get_or_insert(part);
        self
    }

    /// The name of VM `i`, as in the paper's tables.
    pub fn guest_name(&self, guest: usize) -> String {
        format!("vm{}", guest + 1)
    }

    /// Whether anything is timed; else only what is shared is measured.
    pub fn is_timed(&self) -> bool {
        !self.arms.is_empty() && self.repetitions > 0
    }

    /// How long its guests may take to answer.
    pub fn patience(&self) -> Patience {
        let (ready, answer) = match self.guest {
            GuestKind::Process => (60.0, 15.0),
            GuestKind::Qemu | GuestKind::Xen => (180.0, 30.0),
        };
        let seconds = |chosen: Option<f64>, usual| Duration::from_secs_f64(chosen.unwrap_or(usual));
        Patience { ready: seconds(self.ready_seconds, ready), answer: seconds(self.answer_seconds, answer) }
    }

    /// What is counted where something else than usual was chosen.
    ///
    /// # Errors
    /// A choice that is none.
    pub fn event_choices(&self) -> Result<Vec<EventChoice>, SpecError> {
        let choices = self.events.iter().map(|text| text.parse());
        choices.collect::<Result<_, EventError>>().map_err(|error| SpecError::Settings(error.to_string()))
    }

    /// The flavours whose kernels and initramfs it needs, each once.
    pub fn flavours_needed(&self) -> BTreeSet<&str> {
        match self.guest {
            GuestKind::Process => BTreeSet::new(),
            GuestKind::Qemu | GuestKind::Xen => self.flavours.iter().map(String::as_str).collect(),
        }
    }

    /// Makes sure that it can be run.
    ///
    /// # Errors
    /// One sentence that says what to change.
    pub fn check(&self) -> Result<(), SpecError> {
        let refuse = |text: &str| Err(SpecError::Settings(text.to_owned()));
        let page_kib = PAGE_BYTES as u64 / 1024;
        if self.data_kib.iter().any(|kib| *kib == 0 || !kib.is_multiple_of(page_kib)) {
            return refuse("--data-kib must be a multiple of 4 and not 0: KSM merges whole pages");
        }
        if self.private_kib == 0 || !self.private_kib.is_multiple_of(page_kib) {
            return refuse("--private-kib must be a multiple of 4 and not 0");
        }
        if self.burst_reads == Some(0) || (self.is_timed() && self.seconds_per_arm <= 0.0) {
            return refuse("--burst-reads and --seconds-per-arm must be more than 0");
        }
        if self.repetitions == 0 && !self.arms.is_empty() {
            return refuse("--repetitions must be more than 0 when there are arms");
        }
        if !(2..=64).contains(&self.guests()) || self.vcpus == 0 {
            return refuse("`data` must name the data of 2 to 64 VMs, and `vcpus` be at least 1");
        }
        if self.guest.has_kernels() && self.flavours.len() != self.guests() {
            return refuse("`flavours` must name one flavour for each VM that `data` has");
        }
        if self.guest == GuestKind::Xen && self.domain_type == DomainType::Pv && self.merge {
            return refuse(
                "Xen merges nothing of paravirtualised domains: take `domain_type` pvh, or run a placebo with --no-merge",
            );
        }
        let same = |(i, name): (usize, &String)| self.data.iter().skip(i + 1).any(|other| other == name);
        if !self.data.iter().enumerate().any(same) {
            return refuse("no two VMs hold the same data: nothing would be shared");
        }
        for (i, arm) in self.arms.iter().enumerate() {
            if self.arms[..i].contains(arm) {
                return refuse("an arm is named twice; the arm that repeats `recommended` is `control`");
            }
        }
        let seconds = [self.seconds_per_arm, self.settle_seconds, self.merge_seconds];
        let waits = self.ready_seconds.into_iter().chain(self.answer_seconds);
        if seconds.into_iter().chain(waits).any(|seconds| !(0.0..=86_400.0).contains(&seconds)) {
            return refuse("a number of seconds must be from 0 to 86400");
        }
        self.event_choices()?;
        if self.data_cache_fraction.is_some_and(|part| !(0.01..=100.0).contains(&part)) {
            return refuse("data_cache_fraction must be between 0.01 and 100");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_preset_can_be_run() {
        for preset in Preset::value_variants() {
            Config::preset(*preset).unwrap().check().unwrap();
        }
        let paper = Config::preset(Preset::Paper).unwrap();
        assert_eq!((paper.memory_mib, &paper.data_kib[..], paper.cache_level), (512, &[15_360][..], Some(3)));
        assert!(!Config::preset(Preset::Table2).unwrap().is_timed());
        assert_eq!(paper.flavours_needed().into_iter().collect::<Vec<_>>(), ["cloud", "generic"]);
        assert!(Config::preset(Preset::Quick).unwrap().flavours_needed().is_empty());
    }

    #[test]
    fn data_suits_what_runs_the_vms_unless_it_is_given() {
        let part = |config: Config, accelerator| config.suited_to(accelerator).data_cache_fraction;
        let quick = |guest| Config { guest, ..Config::preset(Preset::Quick).unwrap() };
        assert_eq!(part(quick(GuestKind::Process), None), Some(0.625));
        assert_eq!(part(quick(GuestKind::Qemu), Some(Accelerator::Tcg)), Some(0.25));
        assert_eq!(part(quick(GuestKind::Qemu), Some(Accelerator::Kvm)), Some(0.75));
        assert_eq!(part(quick(GuestKind::Xen), None), Some(0.75));
        let given = Config { data_cache_fraction: Some(0.4), ..quick(GuestKind::Qemu) };
        assert_eq!(part(given, Some(Accelerator::Tcg)), Some(0.4));
    }

    #[test]
    fn a_placebo_of_paravirtualised_domains_can_be_run() {
        let text = "guest = \"xen\"\ndomain_type = \"pv\"\nmerge = false";
        Config::parse("spec", text).unwrap().check().unwrap();
    }

    #[test]
    fn a_key_that_does_not_exist_is_named() {
        let error = Config::parse("my.toml", "seeed = 3").unwrap_err().to_string();
        assert!(error.contains("my.toml") && error.contains("seeed"), "{error}");
        let error = Config::parse("my.toml", "arms = [\"best\"]").unwrap_err().to_string();
        assert!(error.contains("best") && error.contains("recommended"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "data_kib = [1]",
            "private_kib = 0",
            "burst_reads = 0",
            "repetitions = 0",
            "vcpus = 0",
            "data = [\"A\", \"B\"]",
            "merge_seconds = -1.0",
            "answer_seconds = 1e300",
            "events = [\"llc_misses\"]",
            "arms = [\"opposed\", \"opposed\"]",
            "guest = \"qemu\"\nflavours = [\"cloud\"]",
            "guest = \"xen\"\nflavours = [\"cloud\"]",
            "guest = \"xen\"\ndomain_type = \"pv\"",
        ] {
            let config = Config::parse("spec", text).unwrap();
            assert!(matches!(config.check(), Err(SpecError::Settings(_))), "{text}");
        }
    }
}
