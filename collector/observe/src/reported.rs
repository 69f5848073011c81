//! What workloads say of themselves: a Unix datagram socket that anybody who may open it writes lines to.
//!
//! # Protocol
//! A datagram holds one or more lines, each `NAME OPERATIONS [LATENCY_US]`: the VM by its name, by `OWNER:NAME` or by
//! its UUID, the operations done since the last report, and their mean latency in microseconds. Fields are parted by
//! tabs, or by spaces where there is no tab in the line (a name with a space in it needs tabs). Reports
//! count for the window in which they arrive, so several in a window make it sharper.
//!
//! What anybody can send has limits: datagrams of 64 KiB, names of 256 bytes, latencies of eleven days, and as many
//! names in a window as [`Limits`] has. What is beyond them is not taken in part, but refused and counted.
//!
//! The socket belongs to its user alone (mode 0600), and its file goes away with it. A file that a run
//! left behind that was killed is replaced; a socket that somebody listens on is not.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use huddle_host::limits::{Limits, count};
use huddle_host::stages::WorkloadReports;
use huddle_model::observation::ReportObservation;
use huddle_model::vm::Vm;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, recv, socket};
use nix::sys::stat::{Mode, fchmod};

use huddle_host::socket::{NoRoom, SocketKind, remove_stale};

/// How long the end may have to wait for the reader.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Longest datagram, in bytes.
const MAX_BYTES: usize = 1 << 16;

/// Longest name in a report, in bytes: `OWNER:NAME` of the longest name that a VM is given here.
const MAX_NAME_BYTES: usize = 512;

/// Highest latency, in microseconds: eleven days. It keeps every sum finite.
const MAX_LATENCY_US: f64 = 1e12;

/// Why nobody can report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Another program listens there.
    #[error("another program listens on {0}; choose another --report-socket, or end that program")]
    Taken(PathBuf),
    /// Something that is no socket is there.
    #[error("{0} exists already and is not a socket; choose another --report-socket")]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the socket {path} for reports: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What VMs report, window by window, where there is a socket for it.
#[derive(Debug, Default)]
pub struct Reports {
    socket: Option<ReportSocket>,
    /// Whether a report that is of no VM was told of.
    has_warned: bool,
}

impl Reports {
    /// From this socket; from nowhere without one.
    pub fn new(socket: Option<ReportSocket>) -> Self {
        Self { socket, has_warned: false }
    }
}

impl WorkloadReports for Reports {
    fn take(&mut self, vms: &[Vm]) -> Vec<ReportObservation> {
        let Some(socket) = &self.socket else { return Vec::new() };
        let (reports, refused) = socket.take(vms);
        if refused > Refused::default() && !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "{} lines and {} whole datagrams on {} are no reports of a VM here; expected NAME OPERATIONS \
                 [LATENCY_US], with the names of `huddle vms`, in datagrams of {MAX_BYTES} bytes at most",
                refused.lines,
                refused.datagrams,
                socket.path().display()
            );
        }
        reports
    }
}

/// What one VM reported since the last window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    operations: u64,
    /// Operations that came with a latency, and the sum of their latencies.
    timed: u64,
    latency_us: f64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.operations = self.operations.saturating_add(other.operations);
        self.timed = self.timed.saturating_add(other.timed);
        self.latency_us += other.latency_us;
    }
}

/// What was sent and does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Lines that are no reports, name no VM here or more than one, or are beyond a limit.
    pub lines: u64,
    /// Datagrams that are too long; nothing of them is taken.
    pub datagrams: u64,
}

#[derive(Debug, Default)]
struct Totals {
    vms: BTreeMap<String, Sum>,
    refused: Refused,
}

/// The socket, with the thread that empties it (the kernel keeps few datagrams, and then makes senders
/// wait).
#[derive(Debug)]
pub struct ReportSocket {
    path: PathBuf,
    totals: Arc<Mutex<Totals>>,
    ending: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl ReportSocket {
    /// Makes the socket and listens.
    ///
    /// # Errors
    /// When somebody listens there, something else is there, or it cannot be made.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, ReportError> {
        let failed = |source: io::Error| ReportError::Io { path: path.to_owned(), source };
        remove_stale(path, SocketKind::Datagram).map_err(|why| match why {
            NoRoom::Taken => ReportError::Taken(path.to_owned()),
            NoRoom::NotASocket => ReportError::NotASocket(path.to_owned()),
            NoRoom::Io(source) => failed(source),
        })?;
        let socket = bound(path).map_err(|errno| failed(errno.into()))?;
        socket.set_read_timeout(Some(LOOK_INTERVAL)).map_err(failed)?;
        let totals = Arc::new(Mutex::new(Totals::default()));
        let ending = Arc::new(AtomicBool::new(false));
        let (to_book, ended) = (Arc::clone(&totals), Arc::clone(&ending));
        let most_names = count(limits.report_names);
        let reader = std::thread::Builder::new()
            .name("reports".into())
            .spawn(move || read_all(&socket, &to_book, &ended, most_names))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), totals, ending, reader: Some(reader) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was reported since the last call of `vms`, in their order, and what was refused.
    pub fn take(&self, vms: &[Vm]) -> (Vec<ReportObservation>, Refused) {
        let Totals { vms: named, mut refused } = std::mem::take(&mut *lock(&self.totals));
        let mut sums: Vec<Option<Sum>> = vec![None; vms.len()];
        for (name, sum) in named {
            match meant(&name, vms) {
                Some(at) => sums[at].get_or_insert_default().add(sum),
                None => refused.lines += 1,
            }
        }
        let reports = vms.iter().zip(sums).filter_map(|(vm, sum)| {
            let sum = sum?;
            let latency_us = (sum.timed > 0).then(|| sum.latency_us / sum.timed as f64);
            Some(ReportObservation { vm: vm.name.clone(), operations: sum.operations, latency_us })
        });
        (reports.collect(), refused)
    }
}

/// The VM that a report names: what is called exactly so, else the only one that could be meant.
fn meant(name: &str, vms: &[Vm]) -> Option<usize> {
    let mut may_be = (0..vms.len()).filter(|at| vms[*at].identity().is_meant_by(name));
    let only = || may_be.next().filter(|_| may_be.next().is_none());
    vms.iter().position(|vm| vm.name == name).or_else(only)
}

impl Drop for ReportSocket {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has nothing left to stop.
            let _ = reader.join();
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("the socket {} could not be removed: {error}", self.path.display());
        }
    }
}

/// A socket whose file has mode 0600 from its first moment: on Linux it takes the mode of the socket it
/// is made for.
fn bound(path: &Path) -> nix::Result<UnixDatagram> {
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixDatagram::from(socket))
}

fn read_all(socket: &UnixDatagram, totals: &Mutex<Totals>, ended: &AtomicBool, most_names: usize) {
    let mut buffer = vec![0; MAX_BYTES];
    while !ended.load(Ordering::Relaxed) {
        // With MSG_TRUNC the length of a datagram that does not fit is told too (recv(2)).
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(length) => match buffer.get(..length) {
                Some(datagram) => {
                    let text = String::from_utf8_lossy(datagram);
                    let mut totals = lock(totals);
                    let lines = text.lines().filter(|line| !line.trim().is_empty());
                    lines.for_each(|line| totals.add(line, most_names));
                }
                None => lock(totals).refused.datagrams += 1,
            },
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!("reports of workloads are no longer read: {error}");
                return;
            }
        }
    }
}

fn lock(totals: &Mutex<Totals>) -> MutexGuard<'_, Totals> {
    // Sums of a reader that panicked are sums of whole lines all the same.
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Totals {
    fn add(&mut self, line: &str, most_names: usize) {
        let Some((name, operations, latency_us)) = parse(line) else {
            self.refused.lines += 1;
            return;
        };
        if self.vms.len() >= most_names && !self.vms.contains_key(name) {
            self.refused.lines += 1;
            return;
        }
        let timed = latency_us.map(|latency_us| (operations, latency_us * operations as f64));
        let (timed, latency_us) = timed.unwrap_or_default();
        self.vms.entry(name.to_owned()).or_default().add(Sum { operations, timed, latency_us });
    }
}

/// The parts of a line; `None` when it is not a report.
fn parse(line: &str) -> Option<(&str, u64, Option<f64>)> {
    let mut fields: Vec<&str> = match line.contains('\t') {
        true => line.split('\t').map(str::trim).collect(),
        false => line.split_whitespace().collect(),
    };
    let latency = match fields.len() {
        2 => None,
        3 => Some(fields.pop()?.parse::<f64>().ok().filter(|us| (0.0..=MAX_LATENCY_US).contains(us))?),
        _ => return None,
    };
    let [name, operations] = fields[..] else { return None };
    (!name.is_empty() && name.len() <= MAX_NAME_BYTES).then_some(())?;
    Some((name, operations.parse().ok()?, latency))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use huddle_model::cpuset::CpuSet;
    use huddle_model::vm::{Owner, TaskId, VmmKind};

    use super::*;

    #[test]
    fn lines_are_read_and_others_refused() {
        assert_eq!(parse("web 10"), Some(("web", 10, None)));
        assert_eq!(parse("web 10 2.5"), Some(("web", 10, Some(2.5))));
        assert_eq!(parse("my vm\t10\t2.5"), Some(("my vm", 10, Some(2.5))));
        for line in [
            "web",
            "web x",
            "web -1",
            "web 1 -2",
            "web 1 nan",
            "web 1 inf",
            "web 1 1e13",
            "a b c d",
            "\t1",
            "my vm 10 2.5",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
        let long = format!("{} 1", "n".repeat(MAX_NAME_BYTES + 1));
        assert_eq!((parse(&long), parse(&long[1..]).is_some()), (None, true));
    }

    fn vm(name: &str, pid: i32, owner: &str) -> Vm {
        Vm {
            name: name.into(),
            id: TaskId { id: pid, start_ticks: 1 }.into(),
            uuid: None,
            vmid: None,
            owner: Some(Owner { uid: 1000, name: Some(owner.into()) }),
            vmm: VmmKind::QemuTcg,
            vcpus: Vec::new(),
            memory: Vec::new(),
            allowed_cpus: CpuSet::new(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        }
    }

    fn wait_for(socket: &ReportSocket, is_there: impl Fn(&Totals) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_there(&lock(&socket.totals)) {
            assert!(Instant::now() < deadline, "the reports were not read");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused_whole_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports");
        let limits = Limits { report_names: 3, ..Limits::default() };
        let socket = ReportSocket::open(&path, &limits).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        // Cut at the limit, the last line would be a report of another number.
        let line = "a 10 5\n";
        let long = line.repeat(MAX_BYTES / line.len() + 1);
        sender.send_to(long.as_bytes(), &path).unwrap();
        sender
            .send_to(
                b"a 18446744073709551615 1e12\na 18446744073709551615 1e12\nb 1\nc 1\nd 1\ne 1\na 1 inf\n",
                &path,
            )
            .unwrap();
        wait_for(&socket, |totals| totals.refused.lines == 3);
        let (reports, refused) =
            socket.take(&[vm("a", 1, "x"), vm("b", 2, "x"), vm("c", 3, "x"), vm("d", 4, "x")]);
        assert_eq!(reports.iter().map(|report| report.vm.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((reports[0].operations, refused), (u64::MAX, Refused { lines: 3, datagrams: 1 }));
        let latency = reports[0].latency_us.unwrap();
        assert!(latency.is_finite() && latency > 0.0, "{latency}");
    }

    #[test]
    fn vms_are_named_by_their_owner_too_and_nobody_is_guessed() {
        let vms =
            [vm("web", 1, "qemu"), vm("web-2", 2, "alice"), vm("db-3", 3, "qemu"), vm("db-4", 4, "alice")];
        for (name, at) in [
            ("web", Some(0)),
            ("web-2", Some(1)),
            ("alice:web", Some(1)),
            ("qemu:web", Some(0)),
            ("db", None),
            ("qemu:db", Some(2)),
            ("bob:db", None),
        ] {
            assert_eq!(meant(name, &vms), at, "{name}");
        }
    }

    #[test]
    fn reports_are_summed_over_a_window() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports");
        let socket = ReportSocket::open(&path, &Limits::default()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let sender = UnixDatagram::unbound().unwrap();
        // Far more than the kernel keeps of them unread.
        for _ in 0..1000 {
            sender.send_to(b"a 2 10\nb 1\n", &path).unwrap();
        }
        sender.send_to(b"a 2000 40\nelse 1\nnonsense\nlast 0\n", &path).unwrap();
        wait_for(&socket, |totals| totals.vms.contains_key("last"));
        let vms = ["b", "a", "c", "last"].map(|name| vm(name, 1, "x"));
        let (reports, refused) = socket.take(&vms);
        let told: Vec<_> = reports.iter().map(|vm| (vm.vm.as_str(), vm.operations, vm.latency_us)).collect();
        assert_eq!(told, [("b", 1000, None), ("a", 4000, Some(25.0)), ("last", 0, None)]);
        assert_eq!(refused, Refused { lines: 2, datagrams: 0 });
        assert_eq!(socket.take(&vms), (Vec::new(), Refused::default()), "each report counts once");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports");
        drop(UnixDatagram::bind(&path).unwrap());
        let open = || ReportSocket::open(&path, &Limits::default());
        let first = open().unwrap();
        assert!(matches!(open(), Err(ReportError::Taken(_))));
        drop(first);
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(open(), Err(ReportError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
