//! What workloads say of themselves: a Unix datagram socket that anybody who may open it writes lines to.
//!
//! # Protocol
//! A datagram holds one or more lines, each `NAME OPERATIONS [LATENCY_US]`: the name of the VM, the
//! operations done since the last report, and their mean latency in microseconds. Fields are parted by
//! tabs, or by spaces where there is no tab in the line (a name with a space in it needs tabs). Reports
//! count for the window in which they arrive, so several in a window make it sharper.
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

use huddle_host::stages::WorkloadReports;
use huddle_model::observation::ReportObservation;
use huddle_model::vm::Vm;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use nix::sys::stat::{Mode, fchmod};

use huddle_host::socket::{NoRoom, SocketKind, remove_stale};

/// How long the end may have to wait for the reader.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Names that are kept between two windows: nobody has more VMs, and a chatterbox fills no memory.
const MOST_NAMES: usize = 65_536;

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
        let (reports, others) = socket.take(vms.iter().map(|vm| vm.name.as_str()));
        if others > 0 && !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "{others} lines on {} are not reports of a VM here; expected NAME OPERATIONS [LATENCY_US], \
                 with the names of `huddle vms`",
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

#[derive(Debug, Default)]
struct Book {
    vms: BTreeMap<String, Sum>,
    bad_lines: u64,
}

/// The socket, with the thread that empties it (the kernel keeps few datagrams, and then makes senders
/// wait).
#[derive(Debug)]
pub struct ReportSocket {
    path: PathBuf,
    book: Arc<Mutex<Book>>,
    ending: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl ReportSocket {
    /// Makes the socket and listens.
    ///
    /// # Errors
    /// When somebody listens there, something else is there, or it cannot be made.
    pub fn open(path: &Path) -> Result<Self, ReportError> {
        let failed = |source: io::Error| ReportError::Io { path: path.to_owned(), source };
        remove_stale(path, SocketKind::Datagram).map_err(|why| match why {
            NoRoom::Taken => ReportError::Taken(path.to_owned()),
            NoRoom::NotASocket => ReportError::NotASocket(path.to_owned()),
            NoRoom::Io(source) => failed(source),
        })?;
        let socket = bound(path).map_err(|errno| failed(errno.into()))?;
        socket.set_read_timeout(Some(LOOK_INTERVAL)).map_err(failed)?;
        let book = Arc::new(Mutex::new(Book::default()));
        let ending = Arc::new(AtomicBool::new(false));
        let (to_book, ended) = (Arc::clone(&book), Arc::clone(&ending));
        let reader = std::thread::Builder::new()
            .name("reports".into())
            .spawn(move || read_all(&socket, &to_book, &ended))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), book, ending, reader: Some(reader) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was reported since the last call of the VMs `names`, in their order, and how many lines were
    /// not reports or named somebody else.
    pub fn take<'a>(&self, names: impl Iterator<Item = &'a str>) -> (Vec<ReportObservation>, u64) {
        let mut book = std::mem::take(&mut *lock(&self.book));
        let reports = names.filter_map(|name| {
            let sum = book.vms.remove(name)?;
            let latency_us = (sum.timed > 0).then(|| sum.latency_us / sum.timed as f64);
            Some(ReportObservation { vm: name.to_owned(), operations: sum.operations, latency_us })
        });
        let reports = reports.collect();
        (reports, book.bad_lines + book.vms.len() as u64)
    }
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

fn read_all(socket: &UnixDatagram, book: &Mutex<Book>, ended: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !ended.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let mut book = lock(book);
                text.lines().filter(|line| !line.trim().is_empty()).for_each(|line| book.add(line));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                tracing::warn!("reports of workloads are no longer read: {error}");
                return;
            }
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // Sums of a reader that panicked are sums of whole lines all the same.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn add(&mut self, line: &str) {
        let Some((name, operations, latency_us)) = parse(line) else {
            self.bad_lines += 1;
            return;
        };
        if self.vms.len() >= MOST_NAMES && !self.vms.contains_key(name) {
            self.bad_lines += 1;
            return;
        }
        let sum = self.vms.entry(name.to_owned()).or_default();
        sum.operations = sum.operations.saturating_add(operations);
        if let Some(latency_us) = latency_us {
            sum.timed = sum.timed.saturating_add(operations);
            sum.latency_us += latency_us * operations as f64;
        }
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
        3 => Some(fields.pop()?.parse::<f64>().ok().filter(|us| us.is_finite() && *us >= 0.0)?),
        _ => return None,
    };
    let [name, operations] = fields[..] else { return None };
    (!name.is_empty()).then_some(())?;
    Some((name, operations.parse().ok()?, latency))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    #[test]
    fn lines_are_read_and_others_refused() {
        assert_eq!(parse("web 10"), Some(("web", 10, None)));
        assert_eq!(parse("web 10 2.5"), Some(("web", 10, Some(2.5))));
        assert_eq!(parse("my vm\t10\t2.5"), Some(("my vm", 10, Some(2.5))));
        for line in ["web", "web x", "web -1", "web 1 -2", "web 1 nan", "a b c d", "\t1", "my vm 10 2.5"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn reports_are_summed_over_a_window() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports");
        let socket = ReportSocket::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let sender = UnixDatagram::unbound().unwrap();
        // Far more than the kernel keeps of them unread.
        for _ in 0..1000 {
            sender.send_to(b"a 2 10\nb 1\n", &path).unwrap();
        }
        sender.send_to(b"a 2000 40\nelse 1\nnonsense\nlast 0\n", &path).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !lock(&socket.book).vms.contains_key("last") {
            assert!(Instant::now() < deadline, "the reports were not read");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (reports, others) = socket.take(["b", "a", "c", "last"].into_iter());
        let told: Vec<_> = reports.iter().map(|vm| (vm.vm.as_str(), vm.operations, vm.latency_us)).collect();
        assert_eq!(told, [("b", 1000, None), ("a", 4000, Some(25.0)), ("last", 0, None)]);
        assert_eq!(others, 2);
        assert_eq!(socket.take(["a"].into_iter()), (Vec::new(), 0), "each report counts once");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports");
        drop(UnixDatagram::bind(&path).unwrap());
        let first = ReportSocket::open(&path).unwrap();
        assert!(matches!(ReportSocket::open(&path), Err(ReportError::Taken(_))));
        drop(first);
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(ReportSocket::open(&path), Err(ReportError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
