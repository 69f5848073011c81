//! KSM's settings, changed for one test and restored after it, by one test of the machine at a time.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

const LOCK: &str = "/run/lock/huddle-ksm-test.lock";
const DIR: &str = "/sys/kernel/mm/ksm";
/// `run` is last, so that a host on which KSM was running continues with its own settings.
const SAVED: [&str; 6] =
    ["advisor_mode", "use_zero_pages", "smart_scan", "sleep_millisecs", "pages_to_scan", "run"];

/// Exclusive use of KSM; dropping it restores the host's settings.
pub struct Ksm {
    saved: Vec<(&'static str, String)>,
    _lock: Flock<File>,
}

/// Why KSM cannot be used here, if it cannot.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    (!Path::new(DIR).join("run").exists()).then(|| format!("this kernel has no KSM ({DIR}/run is missing)"))
}

/// The sole right to change KSM among the tests of this machine, once other users have ended.
pub fn lock() -> Flock<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(LOCK).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap()
}

impl Ksm {
    /// Waits for other users, then sets KSM to merge everything mergeable as fast as it can.
    pub fn start() -> Self {
        let lock = lock();
        let saved = SAVED
            .into_iter()
            .filter_map(|name| Some((name, chosen(&fs::read_to_string(Path::new(DIR).join(name)).ok()?))))
            .collect();
        let ksm = Self { saved, _lock: lock };
        if ksm.saved.iter().any(|(name, _)| *name == "advisor_mode") {
            ksm.set("advisor_mode", "none");
        }
        ksm.set("pages_to_scan", "20000");
        ksm.set("sleep_millisecs", "10");
        if ksm.saved.iter().any(|(name, _)| *name == "smart_scan") {
            ksm.set("smart_scan", "0");
        }
        ksm.set("run", "1");
        ksm
    }

    /// Changes one setting until this is dropped.
    pub fn set(&self, name: &str, value: &str) {
        fs::write(Path::new(DIR).join(name), value).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
    }

    /// One number of KSM's.
    pub fn number(&self, name: &str) -> u64 {
        fs::read_to_string(Path::new(DIR).join(name)).unwrap().trim().parse().unwrap()
    }

    /// Lets ksmd scan some pages, and stops it again.
    pub fn go_on(&self) {
        let before = self.number("pages_scanned");
        self.set("run", "1");
        while self.number("pages_scanned") == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.set("run", "0");
    }

    /// Waits until KSM has nothing left to do: at least three passes, and unchanged counts of all `pids` and
    /// of the host over two further ones. Then stops it, which keeps merged pages merged.
    pub fn merge(&self, pids: &[i32]) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let first = self.number("full_scans");
        let (mut before, mut since) = (Vec::new(), 0);
        loop {
            let passes = self.number("full_scans");
            let mut now: Vec<u64> = pids.iter().flat_map(|pid| merged(*pid)).collect();
            now.extend(["pages_shared", "pages_sharing"].map(|name| self.number(name)));
            if now != before {
                (before, since) = (now, passes);
            } else if passes >= first + 4 && passes >= since + 3 {
                break;
            }
            assert!(Instant::now() < deadline, "KSM did not come to rest in 120 s: {before:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.set("run", "0");
    }
}

impl Drop for Ksm {
    fn drop(&mut self) {
        for (name, value) in &self.saved {
            if let Err(error) = fs::write(Path::new(DIR).join(name), value) {
                eprintln!("{DIR}/{name} could not be set back to {value}: {error}");
            }
        }
    }
}

/// The value of a setting; if the kernel lists all values, the one in brackets.
fn chosen(text: &str) -> String {
    let text = text.trim();
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(text, |(value, _)| value)
        .to_owned()
}

/// Merged pages according to `/proc/PID/ksm_stat`.
fn merged(pid: i32) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/ksm_stat")).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("ksm_merging_pages") || line.starts_with("ksm_zero_pages"))
        .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse().ok())
        .collect()
}
