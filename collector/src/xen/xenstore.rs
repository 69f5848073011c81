//! Names of domains from xenstore, over its socket, within a time limit: Xen's own library waits for ever when
//! the daemon hangs. Protocol: docs/misc/xenstore.txt and xen/include/public/io/xs_wire.h (Xen 4.17).

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::toolstack::XenError;
use crate::host::HostRoot;

/// Numbers of `enum xsd_sockmsg_type`.
const READ: u32 = 2;
const ERROR: u32 = 16;

/// Longest payload of a message (`XENSTORE_PAYLOAD_MAX`).
const PAYLOAD_MAX: usize = 4096;

/// Type, request, transaction, length.
const HEADER_BYTES: usize = 16;

/// Longest wait for an answer, from the question to its end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A daemon that did not answer is left alone for as long, so that each list of domains does not wait anew for
/// each of them.
const REST: Duration = Duration::from_secs(30);

/// A client of the daemon.
pub struct Xenstore {
    sockets: Vec<PathBuf>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    stream: Option<UnixStream>,
    requests: u32,
    silent_since: Option<Instant>,
}

impl Xenstore {
    /// Connects with the first question.
    pub fn new(root: &HostRoot) -> Self {
        // The root of a tree of fixtures is the directory above its `proc`.
        let base = root.proc("").parent().map(PathBuf::from).unwrap_or_default();
        let sockets = ["run/xenstored/socket", "var/run/xenstored/socket"].map(|path| base.join(path));
        Self { sockets: sockets.into(), state: RefCell::default() }
    }

    /// The name of a domain; `None` where it has none. Characters that could upset a terminal become `?`.
    ///
    /// # Errors
    /// The daemon is not there, refuses, or does not answer in time.
    pub fn domain_name(&self, id: u16) -> Result<Option<String>, XenError> {
        let state = &mut *self.state.borrow_mut();
        if state.silent_since.is_some_and(|since| since.elapsed() < REST) {
            return Err(timed_out());
        }
        let answer = match self.ask(state, id) {
            // A daemon that was started anew knows nothing of the old connection.
            Err(XenError::Xenstore(_)) if state.stream.take().is_some() => self.ask(state, id),
            answer => answer,
        };
        state.silent_since = matches!(answer, Err(XenError::TimedOut { .. })).then(Instant::now);
        if answer.is_err() {
            // What is still to come would be taken for the answer to another question.
            state.stream = None;
        }
        let name = answer?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let name = name.map(|name| name.chars().map(|c| if c.is_control() { '?' } else { c }).collect());
        Ok(name.filter(|name: &String| !name.trim().is_empty()))
    }

    fn ask(&self, state: &mut State, id: u16) -> Result<Option<Vec<u8>>, XenError> {
        if state.stream.is_none() {
            state.stream = Some(self.connect()?);
        }
        state.requests = state.requests.wrapping_add(1);
        let Some(stream) = &mut state.stream else { return Err(timed_out()) };
        read(stream, state.requests, &format!("/local/domain/{id}/name"))
    }

    fn connect(&self) -> Result<UnixStream, XenError> {
        let mut last = None;
        for socket in &self.sockets {
            match UnixStream::connect(socket) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(format!("{}: {error}", socket.display())),
            }
        }
        Err(XenError::Xenstore(last.unwrap_or_else(|| "no socket".into())))
    }
}

fn timed_out() -> XenError {
    XenError::TimedOut { what: "xenstore".into(), after: PATIENCE }
}

/// The value at a path; `None` where there is none.
fn read(stream: &mut UnixStream, request: u32, path: &str) -> Result<Option<Vec<u8>>, XenError> {
    let until = Instant::now() + PATIENCE;
    let payload = [path.as_bytes(), b"\0"].concat();
    let mut question = Vec::with_capacity(HEADER_BYTES + payload.len());
    for number in [READ, request, 0, payload.len() as u32] {
        question.extend(number.to_le_bytes());
    }
    question.extend(&payload);
    stream.set_write_timeout(Some(PATIENCE)).and_then(|()| stream.write_all(&question)).map_err(failed)?;
    loop {
        let mut header = [0; HEADER_BYTES];
        fill(stream, &mut header, until)?;
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (kind, of, length) = (number(0), number(4), number(12) as usize);
        if length > PAYLOAD_MAX {
            return Err(XenError::Answer {
                what: "xenstore's answer".into(),
                text: format!("{length} bytes"),
            });
        }
        let mut payload = vec![0; length];
        fill(stream, &mut payload, until)?;
        // Events of watches come between answers; there are none here, but they are no answer either.
        if of != request {
            continue;
        }
        return match kind {
            READ => Ok(Some(payload)),
            ERROR => match payload.strip_suffix(b"\0").unwrap_or(&payload) {
                b"ENOENT" => Ok(None),
                error => Err(XenError::Xenstore(format!("{path}: {}", String::from_utf8_lossy(error)))),
            },
            other => {
                Err(XenError::Answer { what: "xenstore's answer".into(), text: format!("type {other}") })
            }
        };
    }
}

fn fill(stream: &mut UnixStream, mut bytes: &mut [u8], until: Instant) -> Result<(), XenError> {
    while !bytes.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out());
        }
        match stream.set_read_timeout(Some(left)).and_then(|()| stream.read(bytes)) {
            Ok(0) => return Err(XenError::Xenstore("the connection was closed".into())),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn failed(error: std::io::Error) -> XenError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => timed_out(),
        _ => XenError::Xenstore(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use super::*;

    fn message(kind: u32, request: u32, payload: &[u8]) -> Vec<u8> {
        let numbers = [kind, request, 0, payload.len() as u32];
        [numbers.map(u32::to_le_bytes).concat(), payload.to_vec()].concat()
    }

    /// A daemon that gives each connection the next of these answers, made from the number of the request.
    fn daemon(
        answers: Vec<Box<dyn Fn(u32) -> Vec<u8> + Send>>,
    ) -> (tempfile::TempDir, Xenstore, JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("run/xenstored")).unwrap();
        let listener = UnixListener::bind(dir.path().join("run/xenstored/socket")).unwrap();
        let store = Xenstore::new(&HostRoot::at(dir.path()));
        let thread = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut header = [0; HEADER_BYTES];
                stream.read_exact(&mut header).unwrap();
                let mut path = vec![0; u32::from_le_bytes(header[12..].try_into().unwrap()) as usize];
                stream.read_exact(&mut path).unwrap();
                assert_eq!(path, b"/local/domain/7/name\0");
                let request = u32::from_le_bytes(header[4..8].try_into().unwrap());
                stream.write_all(&answer(request)).unwrap();
            }
        });
        (dir, store, thread)
    }

    #[test]
    fn a_name_is_read_past_what_is_no_answer_and_without_control_characters() {
        let answer =
            |request| [message(15, 0, b"event\0"), message(READ, request, b"web\x1b[2J\xff")].concat();
        let (_dir, store, thread) = daemon(vec![Box::new(answer)]);
        assert_eq!(store.domain_name(7).unwrap().as_deref(), Some("web?[2J\u{fffd}"));
        thread.join().unwrap();
    }

    #[test]
    fn no_name_is_no_error_and_a_refusal_is_told() {
        let (_dir, store, thread) = daemon(vec![Box::new(|request| message(ERROR, request, b"ENOENT\0"))]);
        assert_eq!(store.domain_name(7).unwrap(), None);
        thread.join().unwrap();
        let refuse = || -> Box<dyn Fn(u32) -> Vec<u8> + Send> {
            Box::new(|request| message(ERROR, request, b"EACCES\0"))
        };
        let (_dir, store, thread) = daemon(vec![refuse(), refuse()]);
        assert!(store.domain_name(7).unwrap_err().to_string().contains("EACCES"));
        thread.join().unwrap();
    }

    #[test]
    fn a_daemon_that_was_started_anew_is_asked_again() {
        let cut = |request| message(READ, request, b"web")[..10].to_vec();
        let whole = |request| message(READ, request, b"web");
        let (_dir, store, thread) = daemon(vec![Box::new(cut), Box::new(whole)]);
        assert_eq!(store.domain_name(7).unwrap().as_deref(), Some("web"));
        thread.join().unwrap();
    }

    #[test]
    fn nonsense_and_no_daemon_are_told_and_silence_ends() {
        let long = |request| {
            let mut bytes = message(READ, request, b"");
            bytes[12..].copy_from_slice(&70_000u32.to_le_bytes());
            bytes
        };
        let (_dir, store, thread) = daemon(vec![Box::new(long)]);
        assert!(store.domain_name(7).unwrap_err().to_string().contains("70000 bytes"));
        thread.join().unwrap();

        let dir = tempfile::tempdir().unwrap();
        let store = Xenstore::new(&HostRoot::at(dir.path()));
        assert!(store.domain_name(7).unwrap_err().to_string().contains("xenstored/socket"));

        std::fs::create_dir_all(dir.path().join("run/xenstored")).unwrap();
        let _silent = UnixListener::bind(dir.path().join("run/xenstored/socket")).unwrap();
        let began = Instant::now();
        for _ in 0..3 {
            assert!(matches!(store.domain_name(7), Err(XenError::TimedOut { .. })));
        }
        assert!(began.elapsed() < PATIENCE * 2, "one silence is waited for once");
    }
}
