//! What the microbenchmark runs: keys of its own in a specification, presets, and their checks.

use std::collections::BTreeSet;
use std::time::Duration;

use huddle_guest::chase::PAGE_BYTES;
use huddle_model::summary::Arm;
use huddle_observe::perf::{EventChoice, EventError};
use serde::{Deserialize, Serialize};

use crate::frame::spec::{GuestKind, Settings, Spec, SpecError, check_seconds};
use crate::guest::Patience;
use crate::guest::qemu::Accelerator;
use crate::guest::xen::DomainType;

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

impl crate::frame::spec::Preset for Preset {
    fn toml(self) -> &'static str {
        match self {
            Self::Quick => include_str!("../../presets/quick.toml"),
            Self::Paper => include_str!("../../presets/paper.toml"),
            Self::Table2 => include_str!("../../presets/table2.toml"),
            Self::Scan => include_str!("../../presets/scan.toml"),
        }
    }
}

/// A specification of the microbenchmark. Its data fills three quarters of a cache, the paper's part (15 MB of
/// 20 MB), where neither a size nor a part is given; with stand-ins five eighths, since caches that others
/// use too hold no more for long; and under TCG a quarter: its own tables and code need room too, and what
/// is more was measured to be displaced however VMs are placed.
pub type Config = Spec<Own>;

/// What the microbenchmark's specification has beside what every one has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Own {
    /// For each VM, which kernel and userland it runs; stand-ins have none.
    pub flavours: Vec<String>,
    /// How domains of Xen's are virtualised; others are not.
    pub domain_type: DomainType,
    /// vCPUs of each VM.
    pub vcpus: u32,
    /// KiB of memory of each stand-in that no other holds, whole pages. A VM has its own anyway.
    pub private_kib: u64,
    /// KiB of a data set, whole pages; several are measured one after the other; none for a part of the
    /// smallest of the caches.
    pub data_kib: Vec<u64>,
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
    /// How long one arm is measured in each block.
    pub seconds_per_arm: f64,
    /// How long the guests run in a new placement before they are measured.
    pub settle_seconds: f64,
    /// How long a guest may take to be up, and to load its data; `None` for a minute, three for VMs.
    pub ready_seconds: Option<f64>,
    /// How long a guest may take to answer anything else; `None` for 15 s, 30 for VMs.
    pub answer_seconds: Option<f64>,
    /// What is counted on each vCPU instead of what suits the processor, as ROLE=EVENT
    /// (`llc_misses=r412e`, `cycles=none`).
    pub events: Vec<String>,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            flavours: ["cloud", "cloud", "generic", "generic"].map(str::to_owned).to_vec(),
            domain_type: DomainType::default(),
            vcpus: 1,
            private_kib: 256,
            data_kib: Vec::new(),
            burst_reads: None,
            idle_us: None,
            merge: true,
            seconds_per_arm: 0.5,
            settle_seconds: 0.1,
            ready_seconds: None,
            answer_seconds: None,
            events: Vec::new(),
        }
    }
}

impl Settings for Own {
    fn defaults() -> Config {
        Config {
            guest: GuestKind::Process,
            memory_mib: 128,
            data: ["A", "A", "B", "B"].map(str::to_owned).to_vec(),
            data_cache_fraction: None,
            arms: vec![Arm::Recommended, Arm::Opposed],
            warm_up_blocks: 1,
            repetitions: 30,
            cache_level: None,
            seed: 1,
            merge_seconds: 60.0,
            own: Self::default(),
        }
    }

    fn data_kib(&self) -> &[u64] {
        &self.data_kib
    }

    fn check(spec: &Config) -> Result<(), SpecError> {
        let refuse = |text: &str| Err(SpecError::settings(text));
        let own = &spec.own;
        if own.private_kib == 0 || !(own.private_kib * 1024).is_multiple_of(PAGE_BYTES as u64) {
            return refuse("--private-kib must be a multiple of 4 and not 0");
        }
        if own.burst_reads == Some(0) || (spec.is_timed() && own.seconds_per_arm <= 0.0) {
            return refuse("--burst-reads and --seconds-per-arm must be more than 0");
        }
        if own.vcpus == 0 {
            return refuse("`vcpus` must be at least 1");
        }
        if spec.guest.has_kernels() && own.flavours.len() != spec.guests() {
            return refuse("`flavours` must name one flavour for each VM that `data` has");
        }
        if spec.guest == GuestKind::Xen && own.domain_type == DomainType::Pv && own.merge {
            return refuse(
                "Xen merges nothing of paravirtualised domains: take `domain_type` pvh, or run a placebo with --no-merge",
            );
        }
        check_seconds(&[own.seconds_per_arm, own.settle_seconds])?;
        let waits = own.ready_seconds.into_iter().chain(own.answer_seconds);
        check_seconds(&waits.collect::<Vec<_>>())?;
        spec.event_choices().map(drop)
    }
}

impl Config {
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

    /// How long its guests may take to answer.
    pub fn patience(&self) -> Patience {
        let (ready, answer) = match self.guest {
            GuestKind::Process => (60.0, 15.0),
            GuestKind::Qemu | GuestKind::Xen => (180.0, 30.0),
        };
        let seconds = |chosen: Option<f64>, usual| Duration::from_secs_f64(chosen.unwrap_or(usual));
        Patience {
            ready: seconds(self.own.ready_seconds, ready),
            answer: seconds(self.own.answer_seconds, answer),
        }
    }

    /// What is counted where something else than usual was chosen.
    ///
    /// # Errors
    /// A choice that is none.
    pub fn event_choices(&self) -> Result<Vec<EventChoice>, SpecError> {
        let choices = self.own.events.iter().map(|text| text.parse());
        choices.collect::<Result<_, EventError>>().map_err(|error| SpecError::Settings(error.to_string()))
    }

    /// The flavours whose kernels and initramfs it needs, each once.
    pub fn flavours_needed(&self) -> BTreeSet<&str> {
        match self.guest {
            GuestKind::Process => BTreeSet::new(),
            GuestKind::Qemu | GuestKind::Xen => self.own.flavours.iter().map(String::as_str).collect(),
        }
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
        assert_eq!(
            (paper.memory_mib, &paper.own.data_kib[..], paper.cache_level),
            (512, &[15_360][..], Some(3))
        );
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
