//! What the web experiment runs: a specification in TOML, presets, and their checks.

use std::path::Path;

use huddle_guest::chase::NODE_WORDS;
use serde::{Deserialize, Serialize};

use crate::design::Arm;
use crate::spec::{Config, GuestKind, SpecError};

/// What stands for the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// Apaches on this host
    Process,
    /// VMs of QEMU's with a Debian and an Apache each
    Qemu,
}

impl ServerKind {
    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        self.guest().name()
    }

    /// The same among the guests of all experiments.
    pub fn guest(self) -> GuestKind {
        match self {
            Self::Process => GuestKind::Process,
            Self::Qemu => GuestKind::Qemu,
        }
    }
}

/// What a request asks its server for; the programs are in `experiments/web`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Page {
    /// Follows data that stays in the server's private memory: all of it merges where two servers hold
    /// the same.
    Resident,
    /// Reads the data's file on every request, as the paper's program does. Nothing of it merges between
    /// processes: the string lives no longer than its request, and the file's pages are the host's page
    /// cache, which is not the memory of any tenant. In a VM that cache is the VM's own memory, and merges.
    Paper,
}

impl Page {
    /// Its name in files and reports, and of its program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resident => "resident",
            Self::Paper => "paper",
        }
    }
}

/// The specifications that come with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Four servers, two data sets
    Quick,
    /// Seven servers, four data sets, one of the servers writes: where the method helps little
    Mixed,
    /// Four VMs with a Debian, Apache and PHP each, two data sets: the paper's set-up, and the default of
    /// `--guest qemu`
    Paper,
}

impl Preset {
    fn toml(self) -> &'static str {
        match self {
            Self::Quick => include_str!("../../presets/web-quick.toml"),
            Self::Mixed => include_str!("../../presets/web-mixed.toml"),
            Self::Paper => include_str!("../../presets/web-paper.toml"),
        }
    }
}

/// Less memory than this does not hold the VMs' files, which an initramfs keeps in half of it.
const LEAST_MIB: u64 = 384;

/// What is run. Keys that a file leaves out have the values of [`WebConfig::default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// What stands for the VMs: Apaches on this host, or VMs with one each.
    pub guest: ServerKind,
    /// Memory of each VM in MiB; not used with processes.
    pub memory_mib: u64,
    /// What requests ask for.
    pub page: Page,
    /// For each server, a name of the data it holds: equal names, equal data.
    pub data: Vec<String>,
    /// Names of the servers (`vm1`, `vm2`, ...) whose requests write to all of the data they visit.
    pub writers: Vec<String>,
    /// KiB of a data set, whole pages; `None` for a part of the smallest of the caches.
    pub data_kib: Option<u64>,
    /// That part.
    pub data_cache_fraction: f64,
    /// How often a request of the page `resident` visits its data. Between two visits it waits, as pages do
    /// for a database, and another server runs; with more visits what a request costs beside reading
    /// weighs less.
    pub visits: u64,
    /// Dependent reads of one visit; `None` for a quarter more than the data has cache lines, so that
    /// a visit uses all of the data, and on the page `paper` for one read in 16 lines: there reading
    /// the file is what a request does.
    pub reads_per_visit: Option<u64>,
    /// Requests to each server that are measured in each arm of each block.
    pub requests: usize,
    /// Requests before them in the new placement.
    pub warm_up_requests: usize,
    /// Open loop: requests per second to each server, sent at constant distances whether or not the one
    /// before has been answered; a response time counts from when it was to be sent. `None` for a closed
    /// loop: the next request follows the response.
    pub rate_per_s: Option<f64>,
    /// After how many seconds a request that is not answered counts as timed out.
    pub timeout_seconds: f64,
    /// How many seconds an arm may take in a block before the block is given up.
    pub most_seconds_per_arm: f64,
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
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            guest: ServerKind::Process,
            memory_mib: 512,
            page: Page::Resident,
            data: ["A", "A", "B", "B"].map(str::to_owned).to_vec(),
            writers: Vec::new(),
            data_kib: None,
            // Two data sets with what two servers use besides are more than a cache holds, and one leaves
            // room for what others put into it.
            data_cache_fraction: 0.4375,
            visits: 8,
            reads_per_visit: None,
            requests: 40,
            warm_up_requests: 10,
            rate_per_s: None,
            timeout_seconds: 10.0,
            most_seconds_per_arm: 60.0,
            arms: vec![Arm::Recommended, Arm::Opposed],
            warm_up_blocks: 1,
            repetitions: 40,
            cache_level: None,
            seed: 1,
            merge_seconds: 60.0,
        }
    }
}

impl WebConfig {
    /// The specification of a preset.
    ///
    /// # Errors
    /// Never for the presets that come with the program.
    pub fn preset(preset: Preset) -> Result<Self, SpecError> {
        Self::parse(&format!("web-{preset:?}").to_lowercase(), preset.toml())
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

    /// The same in the words of the microbenchmark, for what both do alike.
    pub(crate) fn bench(&self) -> Config {
        Config {
            data: self.data.clone(),
            data_kib: self.data_kib.into_iter().collect(),
            data_cache_fraction: Some(self.data_cache_fraction),
            arms: self.arms.clone(),
            warm_up_blocks: self.warm_up_blocks,
            repetitions: self.repetitions,
            cache_level: self.cache_level,
            seed: self.seed,
            merge_seconds: self.merge_seconds,
            ..Config::default()
        }
    }

    /// Whether what servers hold merges where it is the same: always in VMs, whose page cache is memory of
    /// theirs; in processes what stays in their private memory.
    pub fn data_merges(&self) -> bool {
        self.guest == ServerKind::Qemu || self.page == Page::Resident
    }

    /// Whether the requests to this server write.
    pub fn writes(&self, server: usize) -> bool {
        self.writers.contains(&self.bench().guest_name(server))
    }

    /// Reads of one visit to data of so many bytes.
    pub fn reads(&self, data_bytes: u64) -> u64 {
        let lines = data_bytes / (NODE_WORDS * size_of::<u64>()) as u64;
        self.reads_per_visit.unwrap_or(match self.page {
            Page::Resident => lines * 5 / 4,
            Page::Paper => lines / 16,
        })
    }

    /// What each server holds as far as it can be shared: what a writer holds, nobody else does.
    pub fn holds(&self) -> Vec<String> {
        let held = |(server, data): (usize, &String)| match self.writes(server) {
            true => format!("{data}, written by vm{}", server + 1),
            false => data.clone(),
        };
        self.data.iter().enumerate().map(held).collect()
    }

    /// Makes sure that it can be run.
    ///
    /// # Errors
    /// One sentence that says what to change.
    pub fn check(&self) -> Result<(), SpecError> {
        let refuse = |text: &str| Err(SpecError::Settings(text.to_owned()));
        self.bench().check()?;
        if self.guest == ServerKind::Qemu && self.memory_mib < LEAST_MIB {
            return refuse(&format!(
                "memory_mib must be {LEAST_MIB} or more: half of it holds the VM's files"
            ));
        }
        if self.requests == 0 || self.reads_per_visit == Some(0) || self.visits == 0 || self.arms.is_empty() {
            return refuse(
                "--requests, --reads-per-visit, --visits and the number of arms must be more than 0",
            );
        }
        if self.rate_per_s.is_some_and(|rate| !(0.001..=1e6).contains(&rate)) {
            return refuse("--rate must be between 0.001 and 1000000 requests per second");
        }
        for (what, seconds) in
            [("timeout_seconds", self.timeout_seconds), ("most_seconds_per_arm", self.most_seconds_per_arm)]
        {
            if !(0.001..=86_400.0).contains(&seconds) {
                return refuse(&format!("{what} must be between 0.001 and 86400"));
            }
        }
        let names: Vec<String> = (0..self.data.len()).map(|server| self.bench().guest_name(server)).collect();
        if let Some(writer) = self.writers.iter().find(|writer| !names.contains(writer)) {
            return refuse(&format!("`writers` names {writer}, and there are only {}", names.join(", ")));
        }
        if self.page == Page::Paper && !self.writers.is_empty() {
            return refuse("the page `paper` reads files: with it no server can write to data in memory");
        }
        let holds = self.holds();
        if !holds.iter().enumerate().any(|(i, held)| holds[i + 1..].contains(held)) {
            return refuse("no two servers that only read hold the same data: nothing would be shared");
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
            WebConfig::preset(*preset).unwrap().check().unwrap();
        }
        let mixed = WebConfig::preset(Preset::Mixed).unwrap();
        assert!(mixed.writes(5) && !mixed.writes(4));
        let holds = mixed.holds();
        assert_eq!((&holds[4][..], holds[0] == holds[1], holds[4] == holds[5]), ("C", true, false));
        let paper = WebConfig::preset(Preset::Paper).unwrap();
        assert_eq!((paper.requests * paper.repetitions, paper.memory_mib), (600, 512));
        assert!(paper.data_merges());
        assert!(!WebConfig { guest: ServerKind::Process, ..paper }.data_merges());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_change() {
        for (text, word) in [
            ("guest = \"qemu\"\nmemory_mib = 256", "memory_mib"),
            ("requests = 0", "--requests"),
            ("reads_per_visit = 0", "--reads-per-visit"),
            ("visits = 0", "--visits"),
            ("rate_per_s = -1.0", "--rate"),
            ("timeout_seconds = nan", "timeout_seconds"),
            ("writers = [\"vm9\"]", "vm9"),
            ("page = \"paper\"\nwriters = [\"vm1\"]", "paper"),
            ("data = [\"A\", \"B\"]", "nothing would be shared"),
            ("data = [\"A\", \"A\"]\nwriters = [\"vm2\"]", "nothing would be shared"),
            ("data_kib = 3", "--data-kib"),
            ("arms = []", "arms"),
        ] {
            let error = WebConfig::parse("spec", text).unwrap().check().unwrap_err();
            assert!(matches!(error, SpecError::Settings(_)), "{text}: {error}");
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        assert!(WebConfig::parse("my.toml", "pages = 1").unwrap_err().to_string().contains("my.toml"));
    }

    #[test]
    fn a_visit_reads_all_of_the_data_or_a_sample_of_the_file() {
        let config = WebConfig::default();
        assert_eq!(config.reads(64 * 1000), 1250);
        assert_eq!(WebConfig { page: Page::Paper, ..config.clone() }.reads(64 * 1600), 100);
        assert_eq!(WebConfig { reads_per_visit: Some(7), ..config }.reads(64 * 1000), 7);
    }
}
