//! What the web experiment runs: keys of its own in a specification, presets, and their checks.

use huddle_guest::chase::NODE_WORDS;
use huddle_model::summary::Arm;
use serde::{Deserialize, Serialize};

use crate::frame::spec::{GuestKind, Settings, Spec, SpecError, has_twice};

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

impl crate::frame::spec::Preset for Preset {
    fn toml(self) -> &'static str {
        match self {
            Self::Quick => include_str!("../../presets/web-quick.toml"),
            Self::Mixed => include_str!("../../presets/web-mixed.toml"),
            Self::Paper => include_str!("../../presets/web-paper.toml"),
        }
    }
}

/// A specification of the web experiment. Its guests are Apaches on this host (`process`), or VMs of QEMU's
/// with a Debian and an Apache each (`qemu`).
pub type Config = Spec<Own>;

/// What the web experiment's specification has beside what every one has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Own {
    /// What requests ask for.
    pub page: Page,
    /// Names of the servers (`vm1`, `vm2`, ...) whose requests write to all of the data they visit.
    pub writers: Vec<String>,
    /// KiB of a data set, whole pages; `None` for seven sixteenths of a cache: two data sets with what two
    /// servers use besides are more than it holds, and one leaves room for what others put into it.
    pub data_kib: Option<u64>,
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
}

impl Default for Own {
    fn default() -> Self {
        Self {
            page: Page::Resident,
            writers: Vec::new(),
            data_kib: None,
            visits: 8,
            reads_per_visit: None,
            requests: 40,
            warm_up_requests: 10,
            rate_per_s: None,
            timeout_seconds: 10.0,
            most_seconds_per_arm: 60.0,
        }
    }
}

impl Settings for Own {
    fn defaults() -> Config {
        Config {
            guest: GuestKind::Process,
            memory_mib: 512,
            data: ["A", "A", "B", "B"].map(str::to_owned).to_vec(),
            data_cache_fraction: Some(0.4375),
            arms: vec![Arm::Recommended, Arm::Opposed],
            warm_up_blocks: 1,
            repetitions: 40,
            cache_level: None,
            seed: 1,
            merge_seconds: 60.0,
            own: Self::default(),
        }
    }

    fn data_kib(&self) -> &[u64] {
        self.data_kib.as_slice()
    }

    fn check(spec: &Config) -> Result<(), SpecError> {
        /// Less memory than this does not hold the VMs' files, which an initramfs keeps in half of it.
        const LEAST_MIB: u64 = 384;
        let refuse = |text: &str| Err(SpecError::settings(text));
        let own = &spec.own;
        match spec.guest {
            GuestKind::Qemu if spec.memory_mib < LEAST_MIB => {
                return refuse(&format!(
                    "memory_mib must be {LEAST_MIB} or more: half of it holds the VM's files"
                ));
            }
            GuestKind::Xen => {
                return refuse("web servers are processes or VMs of QEMU's, not domains of Xen's");
            }
            GuestKind::Process | GuestKind::Qemu => {}
        }
        if own.requests == 0 || own.reads_per_visit == Some(0) || own.visits == 0 || spec.arms.is_empty() {
            return refuse(
                "--requests, --reads-per-visit, --visits and the number of arms must be more than 0",
            );
        }
        if own.rate_per_s.is_some_and(|rate| !(0.001..=1e6).contains(&rate)) {
            return refuse("--rate must be between 0.001 and 1000000 requests per second");
        }
        for (what, seconds) in
            [("timeout_seconds", own.timeout_seconds), ("most_seconds_per_arm", own.most_seconds_per_arm)]
        {
            if !(0.001..=86_400.0).contains(&seconds) {
                return refuse(&format!("{what} must be between 0.001 and 86400"));
            }
        }
        let names: Vec<String> = (0..spec.guests()).map(|server| spec.guest_name(server)).collect();
        if let Some(writer) = own.writers.iter().find(|writer| !names.contains(writer)) {
            return refuse(&format!("`writers` names {writer}, and there are only {}", names.join(", ")));
        }
        if own.page == Page::Paper && !own.writers.is_empty() {
            return refuse("the page `paper` reads files: with it no server can write to data in memory");
        }
        if !has_twice(&spec.holds()) {
            return refuse("no two servers that only read hold the same data: nothing would be shared");
        }
        Ok(())
    }
}

impl Config {
    /// Whether what servers hold merges where it is the same: always in VMs, whose page cache is memory of
    /// theirs; in processes what stays in their private memory.
    pub fn data_merges(&self) -> bool {
        self.guest == GuestKind::Qemu || self.own.page == Page::Resident
    }

    /// Whether the requests to this server write.
    pub fn writes(&self, server: usize) -> bool {
        self.own.writers.contains(&self.guest_name(server))
    }

    /// Reads of one visit to data of so many bytes.
    pub fn reads(&self, data_bytes: u64) -> u64 {
        let lines = data_bytes / (NODE_WORDS * size_of::<u64>()) as u64;
        self.own.reads_per_visit.unwrap_or(match self.own.page {
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
        let mixed = Config::preset(Preset::Mixed).unwrap();
        assert!(mixed.writes(5) && !mixed.writes(4));
        let holds = mixed.holds();
        assert_eq!((&holds[4][..], holds[0] == holds[1], holds[4] == holds[5]), ("C", true, false));
        let paper = Config::preset(Preset::Paper).unwrap();
        assert_eq!((paper.own.requests * paper.repetitions, paper.memory_mib), (600, 512));
        assert!(paper.data_merges());
        assert!(!Config { guest: GuestKind::Process, ..paper }.data_merges());
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
            let error = Config::parse("spec", text).unwrap().check().unwrap_err();
            assert!(matches!(error, SpecError::Settings(_)), "{text}: {error}");
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        assert!(Config::parse("my.toml", "pages = 1").unwrap_err().to_string().contains("my.toml"));
    }

    #[test]
    fn a_visit_reads_all_of_the_data_or_a_sample_of_the_file() {
        let mut config = Config::default();
        assert_eq!(config.reads(64 * 1000), 1250);
        config.own.page = Page::Paper;
        assert_eq!(config.reads(64 * 1600), 100);
        config.own.reads_per_visit = Some(7);
        assert_eq!(config.reads(64 * 1000), 7);
    }
}
