//! The specification of the microbenchmark: keys of its own, presets, and their checks.

use std::collections::BTreeSet;
use std::time::Duration;

use huddle_guest::chase::PAGE_BYTES;
use huddle_observe::perf::{EventChoice, EventError};
use serde::{Deserialize, Serialize};

use crate::frame::spec::{GuestKind, Settings, Spec, SpecError, check_seconds, require, seconds};
use crate::guest::TimeLimits;
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
    /// Pairs that share much and do not read it, and others that share less and read it all
    Cold,
}

impl crate::frame::spec::Preset for Preset {
    fn toml(self) -> &'static str {
        match self {
            Self::Quick => include_str!("../../presets/quick.toml"),
            Self::Paper => include_str!("../../presets/paper.toml"),
            Self::Table2 => include_str!("../../presets/table2.toml"),
            Self::Scan => include_str!("../../presets/scan.toml"),
            Self::Cold => include_str!("../../presets/cold.toml"),
        }
    }
}

/// A specification of the microbenchmark. Its data fills three quarters of a cache, the paper's part (15 MB of
/// 20 MB), where neither a size nor a part is given; with stand-ins five eighths, since caches that others
/// use too hold no more for long; and under TCG a quarter: its own tables and code need room too, and more data
/// was measured to be evicted however VMs are placed.
pub type MicrobenchSpec = Spec<MicrobenchSettings>;

/// The order in which a simulation has stand-ins read their data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ReadOrder {
    /// That of the ring, as stand-ins do: every line once a round
    #[default]
    Ring,
    /// A line at random each time, as the paper has it
    Random,
}

/// Keys of the microbenchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct MicrobenchSettings {
    /// For each VM, which kernel and userland it runs; stand-ins have none.
    #[arg(skip)]
    pub flavours: Vec<String>,
    /// How domains are virtualised, with --guest xen; only those of type pvh can be merged
    #[arg(long, value_enum)]
    pub domain_type: DomainType,
    /// vCPUs of each VM.
    #[arg(skip)]
    pub vcpus: u32,
    /// KiB of memory of each stand-in that no other holds, whole pages
    // A VM has its own anyway.
    #[arg(long)]
    pub private_kib: u64,
    /// KiB of each data set, whole pages; several, with commas, are measured one after the other [default: a part
    /// of the cache: three quarters, with stand-ins five eighths, with VMs that are emulated (TCG) a quarter]
    #[arg(long, value_delimiter = ',')]
    pub data_kib: Vec<u64>,
    /// For each VM, a name of the data that it holds besides and never reads: equal names, equal data; an empty name
    /// for none. Nothing where no VM holds any.
    #[arg(skip)]
    pub cold: Vec<String>,
    /// KiB of the data that is held and not read, of each VM that holds any, whole pages [default: four data sets]
    #[arg(long)]
    pub cold_kib: Option<u64>,
    /// Reads of a VM between two idle times [default: a quarter more than the data has lines]
    // So each burst uses all of the data and pays for what the one before it evicted; with longer bursts the guests
    // alternate less and the effect is smaller.
    #[arg(long)]
    pub burst_reads: Option<u64>,
    /// How long a guest is idle between bursts, in microseconds; 0 only yields the CPU. `None` for 0, and 50 for
    /// VMs: a guest's kernel cannot give its CPU to another VM but by being idle, and where idle times are much
    /// longer than bursts the CPU is idle too and time depends less on the cache.
    #[arg(skip)]
    pub idle_us: Option<u64>,
    /// With --simulate and stand-ins, in which order their data is read
    #[arg(long, value_enum)]
    pub simulated_order: ReadOrder,
    /// Whether equal pages are merged. Without it the run is a placebo: the same guests, data and placements,
    /// among which no difference comes from sharing.
    #[arg(skip)]
    pub merge: bool,
    /// Seconds each arm is measured in each block
    #[arg(long, value_parser = seconds)]
    pub seconds_per_arm: f64,
    /// Seconds the VMs run in a new placement before they are measured
    #[arg(long, value_parser = seconds)]
    pub settle_seconds: f64,
    /// How long a guest may take to be up, and to load its data; `None` for a minute, three for VMs.
    #[arg(skip)]
    pub ready_seconds: Option<f64>,
    /// Seconds a VM may take to answer before it counts as hung [default: 15, QEMU's 30]
    #[arg(long, value_parser = seconds)]
    pub answer_seconds: Option<f64>,
    /// The event that is counted for a role (cycles, instructions, llc_references, llc_misses) instead of the
    /// processor's default, as in `llc_misses=r412e` or `cycles=none`; repeatable
    #[arg(long = "event", value_name = "ROLE=EVENT")]
    pub events: Vec<String>,
}

impl Default for MicrobenchSettings {
    fn default() -> Self {
        Self {
            flavours: ["cloud", "cloud", "generic", "generic"].map(str::to_owned).to_vec(),
            domain_type: DomainType::default(),
            vcpus: 1,
            private_kib: 256,
            data_kib: Vec::new(),
            cold: Vec::new(),
            cold_kib: None,
            burst_reads: None,
            idle_us: None,
            simulated_order: ReadOrder::Ring,
            merge: true,
            seconds_per_arm: 0.5,
            settle_seconds: 0.1,
            ready_seconds: None,
            answer_seconds: None,
            events: Vec::new(),
        }
    }
}

impl Settings for MicrobenchSettings {
    const MEMORY_MIB: u64 = 128;
    const DATA_CACHE_FRACTION: Option<f64> = None;
    const REPETITIONS: usize = 30;

    fn data_kib(&self) -> &[u64] {
        &self.data_kib
    }

    fn check(spec: &MicrobenchSpec) -> Result<(), SpecError> {
        let settings = &spec.settings;
        let private_bytes = settings.private_kib * 1024;
        require(
            private_bytes > 0 && private_bytes.is_multiple_of(PAGE_BYTES as u64),
            "--private-kib must be a multiple of 4 and not 0",
        )?;
        require(
            settings.simulated_order == ReadOrder::Ring || spec.guest == GuestKind::Process,
            "--simulated-order random needs stand-ins (--guest process): what VMs read is recorded as it is",
        )?;
        require(
            settings.cold.is_empty() || settings.cold.len() == spec.guests(),
            "`cold` must name for each VM that `data` has what it holds and does not read, \"\" for nothing",
        )?;
        require(
            settings.cold_kib.is_none_or(|kib| kib > 0 && kib.is_multiple_of(PAGE_BYTES as u64 / 1024)),
            "--cold-kib must be a multiple of 4 and not 0",
        )?;
        require(
            settings.burst_reads != Some(0) && (settings.seconds_per_arm > 0.0 || !spec.is_timed()),
            "--burst-reads and --seconds-per-arm must be more than 0",
        )?;
        require(settings.vcpus > 0, "`vcpus` must be at least 1")?;
        require(
            settings.flavours.len() == spec.guests() || !spec.guest.has_kernels(),
            "`flavours` must name one flavour for each VM that `data` has",
        )?;
        require(
            spec.guest != GuestKind::Xen || settings.domain_type != DomainType::Pv || !settings.merge,
            "Xen merges nothing of paravirtualised domains: take `domain_type` pvh, or run a placebo with --no-merge",
        )?;
        check_seconds(&[settings.seconds_per_arm, settings.settle_seconds])?;
        let limits = settings.ready_seconds.into_iter().chain(settings.answer_seconds);
        check_seconds(&limits.collect::<Vec<_>>())?;
        spec.event_choices().map(drop)
    }
}

impl MicrobenchSpec {
    /// With the data size for what runs the VMs' instructions, unless the specification has one.
    #[must_use]
    pub fn with_data_for(mut self, accelerator: Option<Accelerator>) -> Self {
        let part = match (self.guest, accelerator) {
            // A simulated cache is used by guests alone.
            _ if self.simulate.as_deref().is_some_and(|machine| machine != "host") => 0.75,
            (GuestKind::Process, _) => 0.625,
            (_, Some(Accelerator::Tcg)) => 0.25,
            (_, Some(Accelerator::Kvm) | None) => 0.75,
        };
        self.data_cache_fraction.get_or_insert(part);
        self
    }

    /// How long its guests may take to answer.
    pub fn limits(&self) -> TimeLimits {
        let (ready, answer) = match self.guest {
            GuestKind::Process => (60.0, 15.0),
            GuestKind::Qemu | GuestKind::Xen => (180.0, 30.0),
        };
        let seconds = |chosen: Option<f64>, default| Duration::from_secs_f64(chosen.unwrap_or(default));
        TimeLimits {
            ready: seconds(self.settings.ready_seconds, ready),
            answer: seconds(self.settings.answer_seconds, answer),
        }
    }

    /// The events that were chosen instead of the default ones.
    ///
    /// # Errors
    /// One is not ROLE=EVENT.
    pub fn event_choices(&self) -> Result<Vec<EventChoice>, SpecError> {
        let choices = self.settings.events.iter().map(|text| text.parse());
        choices.collect::<Result<_, EventError>>().map_err(|error| SpecError::Settings(error.to_string()))
    }

    /// The flavours whose kernels and initramfs it needs, each once.
    pub fn flavours_needed(&self) -> BTreeSet<&str> {
        match self.guest {
            GuestKind::Process => BTreeSet::new(),
            GuestKind::Qemu | GuestKind::Xen => self.settings.flavours.iter().map(String::as_str).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::ValueEnum;
    use huddle_model::summary::Arm;

    use super::*;

    #[test]
    fn every_preset_can_be_run() {
        for preset in Preset::value_variants() {
            MicrobenchSpec::preset(*preset).unwrap().check().unwrap();
        }
        let paper = MicrobenchSpec::preset(Preset::Paper).unwrap();
        assert_eq!(
            (paper.memory_mib, &paper.settings.data_kib[..], paper.cache_level),
            (512, &[15_360][..], Some(3))
        );
        assert!(!MicrobenchSpec::preset(Preset::Table2).unwrap().is_timed());
        let cold = MicrobenchSpec::preset(Preset::Cold).unwrap();
        assert_eq!((cold.guests(), cold.settings.cold.len()), (4, 4));
        assert!(
            [Arm::ByReads, Arm::Recommended, Arm::Opposed, Arm::Kernel]
                .iter()
                .all(|arm| cold.arms.contains(arm))
        );
        assert_eq!(paper.flavours_needed().into_iter().collect::<Vec<_>>(), ["cloud", "generic"]);
        assert!(MicrobenchSpec::preset(Preset::Quick).unwrap().flavours_needed().is_empty());
    }

    #[test]
    fn the_data_size_depends_on_the_accelerator_unless_it_is_given() {
        let part =
            |config: MicrobenchSpec, accelerator| config.with_data_for(accelerator).data_cache_fraction;
        let quick = |guest| MicrobenchSpec { guest, ..MicrobenchSpec::preset(Preset::Quick).unwrap() };
        assert_eq!(part(quick(GuestKind::Process), None), Some(0.625));
        assert_eq!(part(quick(GuestKind::Qemu), Some(Accelerator::Tcg)), Some(0.25));
        assert_eq!(part(quick(GuestKind::Qemu), Some(Accelerator::Kvm)), Some(0.75));
        assert_eq!(part(quick(GuestKind::Xen), None), Some(0.75));
        let simulated = |machine: &str| MicrobenchSpec {
            simulate: Some(machine.to_owned()),
            ..quick(GuestKind::Process)
        };
        assert_eq!(part(simulated("paper"), None), Some(0.75));
        assert_eq!(part(simulated("host"), None), Some(0.625));
        let given = MicrobenchSpec { data_cache_fraction: Some(0.4), ..quick(GuestKind::Qemu) };
        assert_eq!(part(given, Some(Accelerator::Tcg)), Some(0.4));
    }

    #[test]
    fn a_placebo_of_paravirtualised_domains_can_be_run() {
        let text = "guest = \"xen\"\ndomain_type = \"pv\"\nmerge = false";
        MicrobenchSpec::parse("spec", text).unwrap().check().unwrap();
    }

    #[test]
    fn a_key_that_does_not_exist_is_named() {
        let error = MicrobenchSpec::parse("my.toml", "seeed = 3").unwrap_err().to_string();
        assert!(error.contains("my.toml") && error.contains("seeed"), "{error}");
        let error = MicrobenchSpec::parse("my.toml", "arms = [\"best\"]").unwrap_err().to_string();
        assert!(error.contains("best") && error.contains("recommended"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "data_kib = [1]",
            "private_kib = 0",
            "cold = [\"X\", \"X\"]",
            "cold_kib = 0",
            "cold_kib = 5",
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
            let config = MicrobenchSpec::parse("spec", text).unwrap();
            assert!(matches!(config.check(), Err(SpecError::Settings(_))), "{text}");
        }
    }
}
