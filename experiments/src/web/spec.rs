//! The specification of the web experiment: keys of its own, presets, and their checks.

use std::time::Duration;

use huddle_guest::chase::NODE_WORDS;
use huddle_model::summary::Arm;
use serde::{Deserialize, Serialize};

use super::load::Schedule;
use crate::frame::spec::{GuestKind, Settings, Spec, SpecError, has_twice, require};
use crate::guest::TimeLimits;

/// What a request asks its server for; the programs are in `experiments/web`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Page {
    /// Data that stays in the server's private memory: all of it merges where two servers hold the same
    Resident,
    /// A file that is read on every request, as by the paper's program
    // Nothing of it merges between processes: the string lives no longer than its request, and the file's pages are
    // in the host's page cache, which is not memory of any tenant. In a VM that cache is guest memory, and merges.
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

/// A specification of the web experiment. Its guests are Apaches on this host (`process`), or VMs of QEMU
/// with a Debian and an Apache each (`qemu`).
pub type WebSpec = Spec<WebSettings>;

/// Keys of the web experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct WebSettings {
    /// What requests ask for
    #[arg(long, value_enum)]
    pub page: Page,
    /// Names of the servers (`vm1`, `vm2`, ...) whose requests write to all of the data they visit.
    #[arg(skip)]
    pub writers: Vec<String>,
    /// KiB of each data set, whole pages [default: seven sixteenths of the cache]
    // Two data sets with what two servers use besides are more than a cache holds, and one leaves room for others.
    #[arg(long)]
    pub data_kib: Option<u64>,
    /// Visits of a request to its data on the page `resident`, with a short wait between them
    // Between two visits it waits, as pages do for a database, and another server runs; with more visits what a
    // request costs beside reading weighs less.
    #[arg(long)]
    pub visits: u64,
    /// Dependent reads of a visit [default: a quarter more than the data has lines; on the page `paper` a sixteenth
    /// of them]
    // So that a visit uses all of the data; on the page `paper` reading the file is what a request does.
    #[arg(long)]
    pub reads_per_visit: Option<u64>,
    /// Requests to each server that are measured in each arm of each block
    #[arg(long)]
    pub requests: usize,
    /// Requests before them in each new placement
    #[arg(long)]
    pub warm_up_requests: usize,
    /// Open loop: requests per second to each server [default: closed loop]
    // Sent at constant intervals whether or not the one before has been answered; a response time counts from when
    // the request was to be sent. In a closed loop the next request follows the response.
    #[arg(long = "rate", value_name = "PER_SECOND")]
    pub rate_per_s: Option<f64>,
    /// Seconds after which a request has timed out
    #[arg(long)]
    pub timeout_seconds: f64,
    /// How many seconds an arm may take in a block before the block is given up.
    #[arg(skip)]
    pub most_seconds_per_arm: f64,
}

impl Default for WebSettings {
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

impl Settings for WebSettings {
    const MEMORY_MIB: u64 = 512;
    const DATA_CACHE_FRACTION: Option<f64> = Some(0.4375);
    const REPETITIONS: usize = 40;

    fn data_kib(&self) -> &[u64] {
        self.data_kib.as_slice()
    }

    fn check(spec: &WebSpec) -> Result<(), SpecError> {
        /// Less memory than this does not hold the VMs' files, which an initramfs keeps in half of it.
        const MIN_MIB: u64 = 384;
        let settings = &spec.settings;
        require(
            spec.simulate.is_none() || spec.guest == GuestKind::Qemu,
            "--simulate needs VMs of QEMU (--guest qemu): what servers that are processes read is not known",
        )?;
        let has_memory = spec.guest != GuestKind::Qemu || spec.memory_mib >= MIN_MIB;
        require(
            has_memory,
            &format!("memory_mib must be {MIN_MIB} or more: half of it holds the VM's files"),
        )?;
        require(
            spec.guest != GuestKind::Xen,
            "web servers are processes or VMs of QEMU (--guest process, --guest qemu), not domains of Xen",
        )?;
        require(
            !spec.arms.contains(&Arm::ByReads),
            "the arm by_reads is of the microbenchmark: web servers read all the data that they hold",
        )?;
        let Self { requests, visits, reads_per_visit, .. } = settings;
        let counts = [*requests as u64, *visits, reads_per_visit.unwrap_or(1), spec.arms.len() as u64];
        require(
            !counts.contains(&0),
            "--requests, --reads-per-visit, --visits and the number of arms must be more than 0",
        )?;
        let rate = settings.rate_per_s.is_none_or(|rate| (0.001..=1e6).contains(&rate));
        require(rate, "--rate must be between 0.001 and 1000000 requests per second")?;
        for (key, seconds) in [
            ("timeout_seconds", settings.timeout_seconds),
            ("most_seconds_per_arm", settings.most_seconds_per_arm),
        ] {
            let is_valid = (0.001..=86_400.0).contains(&seconds);
            require(is_valid, &format!("{key} must be between 0.001 and 86400"))?;
        }
        let names: Vec<String> = (0..spec.guests()).map(|server| spec.guest_name(server)).collect();
        if let Some(writer) = settings.writers.iter().find(|writer| !names.contains(writer)) {
            let text = format!("`writers` names {writer}, and there are only {}", names.join(", "));
            return Err(SpecError::Settings(text));
        }
        require(
            settings.page != Page::Paper || settings.writers.is_empty(),
            "the page `paper` reads files: with it no server can write to data in memory",
        )?;
        require(
            has_twice(&spec.data_names()),
            "no two servers that only read hold the same data: nothing would be shared",
        )
    }
}

impl WebSettings {
    /// After how long a request has failed.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_seconds)
    }
}

impl WebSpec {
    /// Whether equal data of servers merges: always in VMs, whose page cache is guest memory; in processes if it
    /// stays in their private memory.
    pub fn data_merges(&self) -> bool {
        self.guest == GuestKind::Qemu || self.settings.page == Page::Resident
    }

    /// Whether the requests to this server write.
    pub fn writes(&self, server: usize) -> bool {
        self.settings.writers.contains(&self.guest_name(server))
    }

    /// Reads of one visit to data of so many bytes.
    pub fn reads(&self, data_bytes: u64) -> u64 {
        let lines = data_bytes / (NODE_WORDS * size_of::<u64>()) as u64;
        self.settings.reads_per_visit.unwrap_or(match self.settings.page {
            Page::Resident => lines * 5 / 4,
            Page::Paper => lines / 16,
        })
    }

    /// When requests to this server are sent.
    pub fn schedule(&self, server: usize) -> Schedule {
        self.settings.rate_per_s.map_or(Schedule::Closed, |rate| {
            let every = Duration::from_secs_f64(1.0 / rate);
            // Users take turns, so that not all ask at once.
            Schedule::Open { every, first: every.mul_f64(server as f64 / self.guests() as f64) }
        })
    }

    /// How long servers may take to answer anything else than a measured request.
    pub fn limits(&self) -> TimeLimits {
        // A Debian takes a while to be up, and all of them do so at once.
        let ready = Duration::from_secs(if self.guest.has_kernels() { 300 } else { 60 });
        TimeLimits { ready, answer: Duration::from_secs(15) }
    }

    /// For each server, a name of the data that it can share: a writer shares with nobody.
    pub fn data_names(&self) -> Vec<String> {
        let name = |(server, data): (usize, &String)| match self.writes(server) {
            true => format!("{data}, written by vm{}", server + 1),
            false => data.clone(),
        };
        self.data.iter().enumerate().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::{Args, FromArgMatches, ValueEnum};

    use super::*;
    use crate::frame::spec::Changes;

    #[test]
    fn every_preset_can_be_run() {
        for preset in Preset::value_variants() {
            WebSpec::preset(*preset).unwrap().check().unwrap();
        }
        let mixed = WebSpec::preset(Preset::Mixed).unwrap();
        assert!(mixed.writes(5) && !mixed.writes(4));
        let names = mixed.data_names();
        assert_eq!((&names[4][..], names[0] == names[1], names[4] == names[5]), ("C", true, false));
        let paper = WebSpec::preset(Preset::Paper).unwrap();
        assert_eq!((paper.settings.requests * paper.repetitions, paper.memory_mib), (600, 512));
        assert!(paper.data_merges());
        assert!(!WebSpec { guest: GuestKind::Process, ..paper }.data_merges());
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
            ("arms = [\"by_reads\", \"recommended\"]", "by_reads"),
        ] {
            let error = WebSpec::parse("spec", text).unwrap().check().unwrap_err();
            assert!(matches!(error, SpecError::Settings(_)), "{text}: {error}");
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        assert!(WebSpec::parse("my.toml", "pages = 1").unwrap_err().to_string().contains("my.toml"));
    }

    #[test]
    fn a_visit_reads_all_of_the_data_or_a_sample_of_the_file() {
        let mut spec = WebSpec::default();
        assert_eq!(spec.reads(64 * 1000), 1250);
        spec.settings.page = Page::Paper;
        assert_eq!(spec.reads(64 * 1600), 100);
        spec.settings.reads_per_visit = Some(7);
        assert_eq!(spec.reads(64 * 1000), 7);
    }

    #[test]
    fn options_change_the_keys_that_they_name_and_no_others() {
        let command = Changes::<WebSettings>::augment_args(clap::Command::new("web"));
        let options = ["web", "--guest", "qemu", "--requests", "7", "--rate", "2.5", "--cache-level", "3"];
        let changes = Changes::<WebSettings>::from_arg_matches(&command.get_matches_from(options)).unwrap();
        let before = WebSpec::preset(Preset::Mixed).unwrap();
        let mut spec = before.clone();
        changes.apply(&mut spec).unwrap();
        assert_ne!(spec.settings.requests, before.settings.requests);
        let settings = WebSettings { requests: 7, rate_per_s: Some(2.5), ..before.settings.clone() };
        assert_eq!(spec, WebSpec { guest: GuestKind::Qemu, cache_level: Some(3), settings, ..before });
    }
}
