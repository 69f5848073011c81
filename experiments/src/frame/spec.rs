//! What is run: a specification in TOML. What every experiment has of it stands in [`Spec`], and beside
//! it the [`Settings`] of the workload, with keys of the same file.

use std::path::Path;

use clap::ValueEnum;
use huddle_guest::chase::PAGE_BYTES;
use huddle_model::summary::Arm;
use huddle_model::topology::Topology;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What stands for the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// Processes of this host: the program `huddle-standin`, or Apaches.
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

/// A specification that comes with the program.
pub trait Preset: ValueEnum + Copy {
    /// Its text, as it would be read from a file.
    fn toml(self) -> &'static str;
}

/// What is run. Keys that a file leaves out have the values of [`Settings::defaults`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "S: Settings"))]
pub struct Spec<S> {
    /// What stands for the VMs.
    pub guest: GuestKind,
    /// Memory of a VM in MiB; not used with processes.
    pub memory_mib: u64,
    /// For each VM, a name of the data it holds: equal names, equal data.
    pub data: Vec<String>,
    /// The part of the smallest of the caches that a data set fills where no size is given; `None` for what
    /// suits the guests.
    pub data_cache_fraction: Option<f64>,
    /// The arms.
    pub arms: Vec<Arm>,
    /// Blocks before those that are measured.
    pub warm_up_blocks: usize,
    /// Blocks that are measured.
    pub repetitions: usize,
    /// Cache level of the domains; `None` for the highest that parts the CPUs.
    pub cache_level: Option<u8>,
    /// Seed of data, orders and intervals.
    pub seed: u64,
    /// How long merging may take.
    pub merge_seconds: f64,
    /// What the workload has beside that.
    #[serde(flatten)]
    pub own: S,
}

/// What a workload's specification has beside what all of them have.
pub trait Settings: Clone + Default + Serialize + DeserializeOwned {
    /// A specification of which a file says nothing.
    fn defaults() -> Spec<Self>;

    /// KiB of a data set, whole pages; several are measured one after the other; none for a part of a cache.
    fn data_kib(&self) -> &[u64];

    /// Makes sure that it can be run, as far as only the workload knows.
    ///
    /// # Errors
    /// One sentence that says what to change.
    fn check(spec: &Spec<Self>) -> Result<(), SpecError>;
}

/// A specification that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read the specification {0}: {1}")]
    Read(String, std::io::Error),
    /// It is no TOML, or a value is of another type.
    #[error("the specification {0} cannot be understood: {1}")]
    Parse(String, toml::de::Error),
    /// It names what does not exist.
    #[error("the specification {0} has the key {1:?}, which does not exist; there are {2}")]
    Key(String, String, String),
    /// It makes no sense.
    #[error("{0}")]
    Settings(String),
}

impl SpecError {
    /// Settings that make no sense, said in one sentence.
    pub fn settings(text: &str) -> Self {
        Self::Settings(text.to_owned())
    }
}

impl<S: Settings> Default for Spec<S> {
    fn default() -> Self {
        S::defaults()
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

    /// Whether anything is timed; else only what is shared is measured.
    pub fn is_timed(&self) -> bool {
        !self.arms.is_empty() && self.repetitions > 0
    }

    /// Blocks in all.
    pub fn blocks(&self) -> usize {
        self.warm_up_blocks + self.repetitions
    }

    /// Bytes of a data set: the first size, or a part of the smallest of the caches.
    ///
    /// # Errors
    /// Neither is known.
    pub fn data_bytes(&self, topology: &Topology) -> Result<u64, SpecError> {
        /// The paper's 15 MB of 20 MB.
        const USUAL_PART: f64 = 0.75;
        if let Some(kib) = self.own.data_kib().first() {
            return Ok(kib * 1024);
        }
        let smallest = topology.domains().iter().map(|domain| domain.size_bytes).min().flatten();
        let bytes = smallest.ok_or_else(|| {
            SpecError::settings(
                "the host does not tell how large its caches are; give --data-kib, about three quarters of one",
            )
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
        let refuse = |text: &str| Err(SpecError::settings(text));
        let page_kib = PAGE_BYTES as u64 / 1024;
        if self.own.data_kib().iter().any(|kib| *kib == 0 || !kib.is_multiple_of(page_kib)) {
            return refuse("--data-kib must be a multiple of 4 and not 0: KSM merges whole pages");
        }
        if self.data_cache_fraction.is_some_and(|part| !(0.01..=100.0).contains(&part)) {
            return refuse("data_cache_fraction must be between 0.01 and 100");
        }
        if self.repetitions == 0 && !self.arms.is_empty() {
            return refuse("--repetitions must be more than 0 when there are arms");
        }
        if !(2..=64).contains(&self.guests()) {
            return refuse("`data` must name the data of 2 to 64 VMs");
        }
        if !has_twice(&self.data) {
            return refuse("no two VMs hold the same data: nothing would be shared");
        }
        if has_twice(&self.arms) {
            return refuse("an arm is named twice; the arm that repeats `recommended` is `control`");
        }
        check_seconds(&[self.merge_seconds])?;
        S::check(self)
    }
}

/// Whether one of the values is there twice.
pub fn has_twice<T: PartialEq>(values: &[T]) -> bool {
    values.iter().enumerate().any(|(i, value)| values[i + 1..].contains(value))
}

/// Makes sure that these are lengths of time that can be waited for.
///
/// # Errors
/// One is none.
pub fn check_seconds(seconds: &[f64]) -> Result<(), SpecError> {
    if seconds.iter().all(|seconds| (0.0..=86_400.0).contains(seconds)) {
        return Ok(());
    }
    Err(SpecError::settings("a number of seconds must be from 0 to 86400"))
}
