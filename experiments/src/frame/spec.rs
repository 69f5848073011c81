//! What is run: a specification in TOML. [`Spec`] has what is common to all experiments, and beside it the
//! [`Settings`] of the workload, with keys of the same file. The command line [`Changes`] single keys.

use std::marker::PhantomData;
use std::path::Path;

use clap::{ArgMatches, FromArgMatches, ValueEnum};
use huddle_guest::chase::PAGE_BYTES;
use huddle_model::cache::CacheModel;
use huddle_model::summary::Arm;
use huddle_model::topology::Topology;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::simulate::emulated::FOLD;

/// What the VMs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// Stand-ins: processes of this host, `huddle-standin` or Apache
    Process,
    /// VMs of QEMU, under KVM where it runs at native speed, else emulated (TCG)
    Qemu,
    /// Domains of Xen, in whose dom0 this runs
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

    /// Whether they boot their own kernels.
    pub fn has_kernels(self) -> bool {
        self != Self::Process
    }
}

/// A specification that comes with the program.
pub trait Preset: ValueEnum + Copy {
    /// Its text, as it would be read from a file.
    fn toml(self) -> &'static str;
}

/// What is run. Keys that a file does not have take their default values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, bound(deserialize = "S: Settings"))]
pub struct Spec<S: Settings> {
    /// What the VMs are; domains of Xen are made in its dom0
    #[arg(long, value_enum)]
    pub guest: GuestKind,
    /// Memory of a VM in MiB; not used with processes.
    #[arg(skip)]
    pub memory_mib: u64,
    /// For each VM, a name of the data it holds: equal names, equal data.
    #[arg(skip)]
    pub data: Vec<String>,
    /// The part of the smallest of the caches that a data set fills where no size is given; `None` for a default
    /// that depends on the guests.
    #[arg(skip)]
    pub data_cache_fraction: Option<f64>,
    /// The arms.
    #[arg(skip)]
    pub arms: Vec<Arm>,
    /// Blocks before those that are measured.
    #[arg(skip)]
    pub warm_up_blocks: usize,
    /// Blocks; every block measures every arm once
    #[arg(long)]
    pub repetitions: usize,
    /// Cache level of the domains [default: the highest that divides the CPUs]
    #[arg(long)]
    pub cache_level: Option<u8>,
    /// Seed of data, order of arms and intervals
    #[arg(long)]
    pub seed: u64,
    /// Simulate the misses of last-level caches besides: of a machine that is known (paper, epyc-16, epyc-32), of this
    /// host, or of a description in a file (TOML)
    #[arg(long, value_name = "paper|epyc-16|epyc-32|host|FILE")]
    pub simulate: Option<String>,
    /// With --simulate, one of how many sets is simulated [default: 8, and 64 for emulated VMs]
    #[arg(long, value_name = "SETS")]
    pub simulated_fold: Option<u32>,
    /// With --simulate, time nothing
    #[arg(skip)]
    pub untimed: bool,
    /// Most seconds that merging may take
    #[arg(long, value_parser = seconds)]
    pub merge_seconds: f64,
    /// Settings of the workload.
    #[serde(flatten)]
    #[command(flatten)]
    pub settings: S,
}

/// Keys that only the specification of one workload has.
pub trait Settings: Clone + Default + Serialize + DeserializeOwned + clap::Args {
    /// Default of [`Spec::memory_mib`].
    const MEMORY_MIB: u64;
    /// Default of [`Spec::data_cache_fraction`].
    const DATA_CACHE_FRACTION: Option<f64>;
    /// Default of [`Spec::repetitions`].
    const REPETITIONS: usize;

    /// KiB of a data set, whole pages; several are measured one after the other; none for a part of a cache.
    fn data_kib(&self) -> &[u64];

    /// Makes sure that it can be run, as far as only the workload knows.
    ///
    /// # Errors
    /// One sentence that says what to change.
    fn check(spec: &Spec<Self>) -> Result<(), SpecError>;
}

/// Options of the command line that are keys of a specification: those that are given change it.
#[derive(Clone, Debug)]
pub struct Changes<S>(ArgMatches, PhantomData<S>);

impl<S: Settings> Changes<S> {
    /// Changes `spec`.
    ///
    /// # Errors
    /// A value is not one of its key, which the parser of the command line has refused before.
    pub fn apply(&self, spec: &mut Spec<S>) -> Result<(), SpecError> {
        spec.update_from_arg_matches(&self.0).map_err(|error| SpecError::Settings(error.to_string()))
    }
}

impl<S: Settings> clap::Args for Changes<S> {
    fn augment_args(command: clap::Command) -> clap::Command {
        Spec::<S>::augment_args_for_update(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Spec::<S>::augment_args_for_update(command)
    }
}

impl<S: Settings> FromArgMatches for Changes<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.clone(), PhantomData))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

/// A specification that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read the specification {0}: {1}")]
    Read(String, std::io::Error),
    /// It is not TOML, or a value has the wrong type.
    #[error("the specification {0} cannot be understood: {1}")]
    Parse(String, toml::de::Error),
    /// It has an unknown key.
    #[error("the specification {0} has the unknown key {1:?}; known are {2}")]
    Key(String, String, String),
    /// A value is out of range, or does not go with another.
    #[error("{0}")]
    Settings(String),
}

impl<S: Settings> Default for Spec<S> {
    fn default() -> Self {
        Self {
            guest: GuestKind::Process,
            memory_mib: S::MEMORY_MIB,
            data: ["A", "A", "B", "B"].map(str::to_owned).to_vec(),
            data_cache_fraction: S::DATA_CACHE_FRACTION,
            arms: vec![Arm::Recommended, Arm::Opposed],
            warm_up_blocks: 1,
            repetitions: S::REPETITIONS,
            cache_level: None,
            seed: 1,
            simulate: None,
            simulated_fold: None,
            untimed: false,
            merge_seconds: 60.0,
            settings: S::default(),
        }
    }
}

impl<S: Settings> Spec<S> {
    /// The specification of a preset.
    ///
    /// # Errors
    /// Never for the presets that come with the program.
    pub fn preset(preset: impl Preset) -> Result<Self, SpecError> {
        let name = preset.to_possible_value().map(|value| value.get_name().to_owned());
        Self::parse(&name.unwrap_or_default(), preset.toml())
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

    /// Reads the text of a file called `name`.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn parse(name: &str, text: &str) -> Result<Self, SpecError> {
        let failed = |error| SpecError::Parse(name.to_owned(), error);
        let spec: Self = toml::from_str(text).map_err(failed)?;
        let table: toml::Table = toml::from_str(text).map_err(failed)?;
        // Not by `deny_unknown_fields`, which serde does not have together with `flatten`.
        let known = spec.to_json();
        let known: Vec<&str> = known.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        match table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(SpecError::Key(name.to_owned(), key.clone(), known.join(", "))),
            None => Ok(spec),
        }
    }

    /// As it stands in a summary.
    pub fn to_json(&self) -> serde_json::Value {
        // Plain data with text as keys, which can always be written.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// How many VMs there are.
    pub fn guests(&self) -> usize {
        self.data.len()
    }

    /// The name of VM `i`, as in the paper's tables.
    pub fn guest_name(&self, guest: usize) -> String {
        format!("vm{}", guest + 1)
    }

    /// Whether anything is timed; else only what is shared is measured, and simulated what misses.
    pub fn is_timed(&self) -> bool {
        !self.arms.is_empty() && self.repetitions > 0 && !self.untimed
    }

    /// Blocks in all.
    pub fn blocks(&self) -> usize {
        self.warm_up_blocks + self.repetitions
    }

    /// Bytes of a data set: the first size, or a part of the cache that is simulated, or of the smallest of those of the
    /// host.
    ///
    /// # Errors
    /// Neither is known.
    pub fn data_bytes(&self, topology: &Topology, simulated: Option<&CacheModel>) -> Result<u64, SpecError> {
        /// The paper's 15 MB of 20 MB.
        const USUAL_PART: f64 = 0.75;
        if let Some(kib) = self.settings.data_kib().first() {
            return Ok(kib * 1024);
        }
        let smallest = match simulated {
            Some(model) => Some(model.size_bytes()),
            None => topology.domains().iter().map(|domain| domain.size_bytes).min().flatten(),
        };
        let bytes = smallest.ok_or_else(|| {
            let text = "the host does not report the size of its caches; give --data-kib, about three quarters of one";
            SpecError::Settings(text.to_owned())
        })?;
        let part = self.data_cache_fraction.unwrap_or(USUAL_PART);
        let pages = (bytes as f64 * part) as u64 / PAGE_BYTES as u64;
        Ok(pages.max(1) * PAGE_BYTES as u64)
    }

    /// Makes sure that it can be run.
    ///
    /// # Errors
    /// One sentence that says what to change.
    pub fn check(&self) -> Result<(), SpecError> {
        let page_kib = PAGE_BYTES as u64 / 1024;
        let are_pages = self.settings.data_kib().iter().all(|kib| *kib > 0 && kib.is_multiple_of(page_kib));
        let fraction = self.data_cache_fraction.is_none_or(|part| (0.01..=100.0).contains(&part));
        require(are_pages, "--data-kib must be a multiple of 4 and not 0: KSM merges whole pages")?;
        require(fraction, "data_cache_fraction must be between 0.01 and 100")?;
        require(
            self.repetitions > 0 || self.arms.is_empty(),
            "--repetitions must be more than 0 when there are arms",
        )?;
        require((2..=64).contains(&self.guests()), "`data` must name the data of 2 to 64 VMs")?;
        require(self.data.iter().all(|name| !name.is_empty()), "`data` has an empty name")?;
        require(has_twice(&self.data), "no two VMs hold the same data: nothing would be shared")?;
        require(
            !has_twice(&self.arms),
            "an arm is named twice; the arm that repeats `recommended` is `control`",
        )?;
        require(
            self.simulate.is_some() || (self.simulated_fold.is_none() && !self.untimed),
            "--simulated-fold and --untimed need --simulate",
        )?;
        require(
            self.simulate.is_none() || self.repetitions > 0,
            "--simulate needs --repetitions: each has accesses of its own",
        )?;
        require(
            self.simulate.is_none() || self.guest != GuestKind::Xen,
            "--simulate needs stand-ins or VMs of QEMU (--guest process or qemu): what domains of Xen read is not recorded",
        )?;
        require(
            self.guest != GuestKind::Qemu || self.simulated_fold.is_none_or(|fold| fold == FOLD),
            "--simulated-fold must be 64 with emulated VMs: one line of each page is recorded",
        )?;
        check_seconds(&[self.merge_seconds])?;
        S::check(self)
    }
}

/// The error `text`, unless `holds`.
///
/// # Errors
/// It does not hold.
pub fn require(holds: bool, text: &str) -> Result<(), SpecError> {
    if holds { Ok(()) } else { Err(SpecError::Settings(text.to_owned())) }
}

/// Whether one of the values is there twice.
pub fn has_twice<T: PartialEq>(values: &[T]) -> bool {
    values.iter().enumerate().any(|(i, value)| values[i + 1..].contains(value))
}

/// Makes sure that these are numbers of seconds that can be waited for.
///
/// # Errors
/// One is negative, too large or not a number.
pub fn check_seconds(seconds: &[f64]) -> Result<(), SpecError> {
    let are_valid = seconds.iter().all(|seconds| (0.0..=86_400.0).contains(seconds));
    require(are_valid, "a number of seconds must be from 0 to 86400")
}

/// Seconds on the command line.
///
/// # Errors
/// As [`check_seconds`].
pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().map_err(|error| format!("{error}"))?;
    check_seconds(&[seconds]).map(|()| seconds).map_err(|error| error.to_string())
}
