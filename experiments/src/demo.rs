//! The demonstration: stand-in VMs in groups that hold the same data and report how fast they read, and `huddle top` on
//! them, where they start in the worst placement; or stand-ins alone, for commands that a user gives.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use huddle_guest::protocol::Pace;
use huddle_host::HostRoot;
use huddle_host::pin::mask;
use huddle_host::topology;
use huddle_model::cpuset::CpuSet;
use huddle_model::topology::Topology;

use crate::guest::child::ChildGuest;
use crate::guest::process::ProcessGuestSpec;
use crate::guest::{Guest, GuestData, GuestError, Reader, TimeLimits};
use crate::interrupt::Interrupt;

/// Names of groups; further ones are numbered.
const GROUPS: [&str; 4] = ["web", "db", "cache", "batch"];
/// VMs of a group.
const GROUP: usize = 2;
/// Memory of a stand-in that no other holds.
const PRIVATE_KIB: u64 = 256;
/// Where no size of a cache is known.
const DATA_KIB: u64 = 1536;
/// Idle time after each burst, longer with more VMs, leaves time for KSM and for the terminal.
const BURST_READS: u64 = 50_000;
const IDLE_US_A_VM: u64 = 150;
const LIMITS: TimeLimits = TimeLimits { ready: Duration::from_secs(60), answer: Duration::from_secs(20) };
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Name of the socket for reports, in a directory of its own.
const SOCKET: &str = "reports";

/// What to show.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The program `huddle`.
    pub huddle: PathBuf,
    /// The program `huddle-standin`.
    pub standin: PathBuf,
    /// How many stand-ins.
    pub vms: usize,
    /// Passed on to `huddle top`.
    pub more: Vec<String>,
}

/// Why the demonstration failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A stand-in failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The host failed.
    #[error("{0}: {1}")]
    Host(&'static str, std::io::Error),
    /// The configuration file cannot be written.
    #[error("cannot write {}: {source}; name a new file in a directory that you may write to", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What of a configuration file of huddle names the stand-ins.
#[derive(serde::Serialize)]
struct Config<'a> {
    report_socket: &'a Path,
    vm: Vec<ConfigVm<'a>>,
}

#[derive(serde::Serialize)]
struct ConfigVm<'a> {
    name: &'a str,
    pid: i32,
}

impl Demo {
    /// Starts the stand-ins, shows them until the terminal is left, and ends them. KSM is started for as
    /// long, and set back, by `huddle top` itself.
    ///
    /// # Errors
    /// A stand-in or the terminal cannot be started.
    pub fn run(&self) -> Result<ExitStatus, DemoError> {
        let root = HostRoot::real();
        // Without a choice of caches there is still sharing to show.
        let topology = topology::read(&root, None).ok();
        let mut guests = self.start(topology.as_ref(), true)?;
        let dir = tempdir()?;
        let socket = dir.join(SOCKET);
        let mut top = Command::new(&self.huddle);
        // The stand-ins have narrow affinities from here, to begin in the worst placement.
        top.args(["top", "--ksm-run", "--override-bindings", "--trial", "reported"]);
        top.arg("--report-socket").arg(&socket);
        for guest in &guests {
            top.arg("--vm").arg(format!("{}={}", guest.name(), guest.pid()));
        }
        let started = top.args(&self.more).spawn();
        let shown = started.and_then(|mut top| {
            let reports = UnixDatagram::unbound()?;
            let mut reported = vec![0; guests.len()];
            loop {
                if let Some(status) = top.try_wait()? {
                    return Ok(status);
                }
                report(&mut guests, &mut reported, &reports, &socket);
                std::thread::sleep(REPORT_INTERVAL);
            }
        });
        // It is empty but for what a killed `huddle top` leaves.
        let _ = std::fs::remove_dir_all(&dir);
        shown.map_err(|error| DemoError::Host("cannot run huddle top", error))
    }

    /// Starts the stand-ins, where the kernel wants them, writes a configuration file of huddle that names them to the new
    /// file `config`, and keeps them until `interrupt`.
    ///
    /// # Errors
    /// A stand-in cannot be started, or the file cannot be written.
    pub fn keep(&self, config: &Path, interrupt: &Interrupt) -> Result<(), DemoError> {
        let topology = topology::read(&HostRoot::real(), None).ok();
        let mut guests = self.start(topology.as_ref(), false)?;
        let dir = tempdir()?;
        let socket = dir.join(SOCKET);
        let kept = write_config(config, &guests, &socket).map(|()| {
            let reports = UnixDatagram::unbound();
            let mut reported = vec![0; guests.len()];
            while interrupt.sleep(REPORT_INTERVAL).is_ok() && !guests.is_empty() {
                if let Ok(reports) = &reports {
                    report(&mut guests, &mut reported, reports, &socket);
                }
            }
            // It names processes that no longer exist.
            let _ = std::fs::remove_file(config);
        });
        let _ = std::fs::remove_dir_all(&dir);
        kept
    }

    fn start(&self, topology: Option<&Topology>, are_apart: bool) -> Result<Vec<ChildGuest>, DemoError> {
        let kib = topology
            .and_then(|topology| topology.domains().iter().filter_map(|domain| domain.size_bytes).min())
            .map_or(DATA_KIB, |bytes| (bytes / 1024 * 3 / 4) & !3);
        let groups = self.vms.div_ceil(GROUP);
        let mut guests = Vec::new();
        for i in 0..self.vms {
            // VMs of a group are on different domains as far as there are enough.
            let (group, member) = (i % groups, i / groups);
            let name = match GROUPS.get(group) {
                Some(name) => format!("{name}-{}", member + 1),
                None => format!("group{group}-{}", member + 1),
            };
            let domains = topology.map_or(&[][..], Topology::domains);
            let spec = ProcessGuestSpec {
                name: &name,
                program: &self.standin,
                vcpus: 1,
                private_kib: PRIVATE_KIB,
                private_seed: i as u64 + 1,
                limits: LIMITS,
                interrupt: Interrupt::default(),
            };
            guests.push(match domains.get(member % domains.len().max(1)).filter(|_| are_apart) {
                Some(domain) => placed(&domain.cpus, || spec.start())?,
                None => spec.start()?,
            });
        }
        let pace = Pace { burst_reads: BURST_READS, idle_us: IDLE_US_A_VM * self.vms as u64 };
        for (i, guest) in guests.iter_mut().enumerate() {
            guest.wait_ready()?;
            let (seed, own_seed) = (1 + (i % groups) as u64, 1000 + i as u64);
            guest.load(GuestData { seed, own_seed, kib, cold: None })?;
            guest.start(pace, false)?;
        }
        Ok(guests)
    }
}

/// Writes the file at once, when all of it is there: who waits for it can use it.
fn write_config(path: &Path, guests: &[ChildGuest], socket: &Path) -> Result<(), DemoError> {
    let vm = guests.iter().map(|guest| ConfigVm { name: guest.name(), pid: guest.pid() }).collect();
    let cannot = |source| DemoError::Config { path: path.to_owned(), source };
    let text = toml::to_string(&Config { report_socket: socket, vm });
    let text = text.map_err(|error| cannot(std::io::Error::other(error)))?;
    let text = format!("# Stand-ins of huddle-demo, for as long as it runs.\n{text}");
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let file = tempfile::NamedTempFile::new_in(dir).map_err(cannot)?;
    std::fs::write(file.path(), text).map_err(cannot)?;
    file.persist_noclobber(path).map(drop).map_err(|error| cannot(error.error))
}

/// Calls `start` on these CPUs: a child inherits the affinity of the thread that starts it.
fn placed(
    cpus: &CpuSet,
    start: impl FnOnce() -> Result<ChildGuest, GuestError>,
) -> Result<ChildGuest, DemoError> {
    const OWN: i32 = 0;
    let failed = |error: nix::Error| DemoError::Host("cannot set an affinity", error.into());
    let before = mask::get(OWN).map_err(failed)?;
    mask::set(OWN, cpus).map_err(failed)?;
    let started = start();
    mask::set(OWN, &before).map_err(failed)?;
    Ok(started?)
}

/// Reports for each stand-in how much it read since the last report, except those that have ended.
fn report(guests: &mut Vec<ChildGuest>, reported: &mut Vec<u64>, to: &UnixDatagram, socket: &Path) {
    let mut at = 0;
    while at < guests.len() {
        let Ok(readings) = guests[at].read() else {
            guests.remove(at);
            reported.remove(at);
            continue;
        };
        let reads: u64 = readings.iter().map(|reading| reading.reads).sum();
        let line = format!("{}\t{}", guests[at].name(), reads.saturating_sub(reported[at]));
        // Before the loop runs there is no reader of the socket; reads until then do not count.
        let _ = to.send_to(line.as_bytes(), socket);
        reported[at] = reads;
        at += 1;
    }
}

fn tempdir() -> Result<PathBuf, DemoError> {
    let failed = |error| DemoError::Host("cannot make a directory for a socket", error);
    let template = std::env::temp_dir().join("huddle-demo-XXXXXX");
    nix::unistd::mkdtemp(&template).map_err(|error| failed(error.into()))
}
