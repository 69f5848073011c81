//! QEMU's machine protocol, for one question: which thread runs which vCPU
//! (QEMU docs/interop/qmp-spec and the QMP reference, `query-cpus-fast`).
//!
//! A QMP socket serves one client at a time. So the connection is made, asked and closed at once; a
//! socket that somebody else holds accepts the connection and sends no greeting, or accepts none:
//! both end within the time limit. Nothing is sent before QEMU has greeted, since the path comes from
//! a command line that anybody can write.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::socket::{self, Timed};

/// Why QMP did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("cannot connect to its QMP socket {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error(
        "its QMP socket {} does not answer within {} ms; it serves one client at a time, so another one holds it",
        path.display(), limit.as_millis()
    )]
    Busy { path: PathBuf, limit: Duration },
    #[error("its QMP socket {} sent something that is not QMP: {what}", path.display())]
    Protocol { path: PathBuf, what: String },
}

/// Why a conversation did not end with an answer.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side sent something that is not QMP, or refused: the first 120 characters of it, without those
    /// that could upset a terminal.
    #[error("{0}")]
    NotQmp(String),
}

/// Asks the QEMU at `path` (as this program sees it) and gives vCPU numbers with thread ids, the
/// latter as QEMU's own pid namespace counts them. Takes at most about `limit`.
pub(crate) fn query_cpus(path: &Path, limit: Duration) -> Result<Vec<(u32, i32)>, QmpError> {
    let deadline = Instant::now() + limit;
    let stream = open(path, limit)?;
    let path = path.to_owned();
    vcpu_threads(Timed::new(&stream, deadline)).map_err(|error| match error {
        ConversationError::NotQmp(what) => QmpError::Protocol { path, what },
        ConversationError::Io(source) if socket::is_timeout(&source) => QmpError::Busy { path, limit },
        ConversationError::Io(source) => QmpError::Connect { path, source },
    })
}

/// Has the conversation over a stream that was just connected: waits for the greeting, asks, and gives vCPU
/// numbers with thread ids. Memory is bounded whatever the other side sends; time is not, unless reading is.
///
/// # Errors
/// When reading or writing fails, or when the other side does not speak QMP or refuses.
pub fn vcpu_threads(stream: impl Read + Write) -> Result<Vec<(u32, i32)>, ConversationError> {
    let mut client = Client { stream, received: Vec::new() };
    let greeting = client.message()?;
    if greeting.get("QMP").is_none() {
        return Err(not_qmp(&greeting));
    }
    client.execute("qmp_capabilities")?;
    let answer = client.execute("query-cpus-fast")?;
    let threads = answer.as_array().and_then(|cpus| cpus.iter().map(thread_of).collect::<Option<Vec<_>>>());
    threads.ok_or_else(|| not_qmp(&answer))
}

fn thread_of(cpu: &Value) -> Option<(u32, i32)> {
    let index = u32::try_from(cpu.get("cpu-index")?.as_u64()?).ok()?;
    Some((index, i32::try_from(cpu.get("thread-id")?.as_i64()?).ok()?))
}

fn not_qmp(what: &impl ToString) -> ConversationError {
    let what = what.to_string();
    ConversationError::NotQmp(what.chars().filter(|c| !c.is_control()).take(120).collect())
}

/// Longest answer read, in bytes: that of a VM with thousands of vCPUs.
const MAX_ANSWER_BYTES: usize = 4 << 20;

struct Client<S> {
    stream: S,
    received: Vec<u8>,
}

impl<S: Read + Write> Client<S> {
    /// Sends a command and waits for what it returns; events in between are skipped.
    fn execute(&mut self, command: &str) -> Result<Value, ConversationError> {
        self.stream.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())?;
        loop {
            let mut message = self.message()?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if message.get("error").is_some() {
                return Err(not_qmp(&message));
            }
        }
    }

    /// The next line, as JSON.
    fn message(&mut self) -> Result<Value, ConversationError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| not_qmp(&String::from_utf8_lossy(&line)));
            }
            if self.received.len() > MAX_ANSWER_BYTES {
                return Err(not_qmp(&"an endless line"));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(not_qmp(&"the end of the connection")),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Connects without ever waiting: see [`socket::connect`].
fn open(path: &Path, limit: Duration) -> Result<UnixStream, QmpError> {
    socket::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => QmpError::Busy { path: path.to_owned(), limit },
        _ => QmpError::Connect { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use proptest::prelude::*;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
    const LIMIT: Duration = Duration::from_millis(300);

    /// A server that greets and answers each command with the next of `answers`, then waits for the
    /// client to hang up; gives the commands it heard.
    fn serve(
        path: &Path,
        greeting: &'static str,
        answers: &'static [&'static str],
    ) -> JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(format!("{greeting}\r\n").as_bytes()).unwrap();
            let mut heard = Vec::new();
            let mut answers = answers.iter();
            for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
                heard.push(line);
                if let Some(answer) = answers.next() {
                    stream.write_all(format!("{answer}\r\n").as_bytes()).unwrap();
                }
            }
            heard
        })
    }

    #[test]
    fn threads_are_asked_for_and_the_connection_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-directory-with-a-name-that-is-rather-long-so-that-it-would-not-fit-into-the-address-of-a-socket");
        std::fs::create_dir(&path).unwrap();
        let short = dir.path().join("q");
        let server = serve(
            &short,
            GREETING,
            &[
                "{\"event\": \"RESUME\"}\r\n{\"return\": {}}",
                r#"{"return": [{"cpu-index": 0, "thread-id": 70}, {"cpu-index": 1, "thread-id": 71}]}"#,
            ],
        );
        std::fs::hard_link(&short, path.join("q")).unwrap();
        assert_eq!(query_cpus(&path.join("q"), LIMIT).unwrap(), [(0, 70), (1, 71)]);
        let heard = server.join().unwrap();
        assert_eq!(heard, [r#"{"execute":"qmp_capabilities"}"#, r#"{"execute":"query-cpus-fast"}"#]);
    }

    #[test]
    fn a_held_socket_is_left_after_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let begin = Instant::now();
        let error = query_cpus(&path, LIMIT).unwrap_err();
        assert!(matches!(error, QmpError::Busy { .. }), "{error}");
        assert!(begin.elapsed() >= LIMIT && begin.elapsed() < LIMIT * 10);

        // With the backlog full, connecting itself would wait for ever.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _held: Vec<UnixStream> = (0..8).map_while(|_| open(&path, LIMIT).ok()).collect();
        let begin = Instant::now();
        assert!(matches!(query_cpus(&path, LIMIT), Err(QmpError::Busy { .. })));
        assert!(begin.elapsed() < LIMIT * 10);
    }

    #[test]
    fn what_is_not_qmp_is_sent_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let server = serve(&path, r#"{"hello": 1}"#, &[]);
        assert!(matches!(query_cpus(&path, LIMIT), Err(QmpError::Protocol { .. })));
        assert_eq!(server.join().unwrap(), Vec::<String>::new());

        let path = dir.path().join("refuses");
        let server = serve(&path, GREETING, &[r#"{"error": {"class": "CommandNotFound", "desc": "no"}}"#]);
        let error = query_cpus(&path, LIMIT).unwrap_err().to_string();
        assert!(error.contains("CommandNotFound"), "{error}");
        server.join().unwrap();

        let error = query_cpus(&dir.path().join("nowhere"), LIMIT).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains("No such file"), "{error}");
    }

    /// What another side sent before it ended; what it was sent is kept.
    struct Sent<'a> {
        left: &'a [u8],
        heard: Vec<u8>,
    }

    impl Read for Sent<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.left.read(buffer)
        }
    }

    impl Write for Sent<'_> {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.heard.write(buffer)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Lines that are nearly a conversation.
    fn line() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            GREETING,
            r#"{"return": {}}"#,
            r#"{"return": [{"cpu-index": 1, "thread-id": 71}]}"#,
            r#"{"return": [{"cpu-index": -1, "thread-id": 1e99}]}"#,
            r#"{"event": "RESUME"}"#,
            r#"{"error": "no"}"#,
            "[]",
        ]);
        prop_oneof![3 => known.prop_map(str::to_owned), 1 => ".{0,40}"]
    }

    proptest! {
        #[test]
        fn any_lines_are_survived(lines in proptest::collection::vec(line(), 0..6)) {
            let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            let mut sent = Sent { left: text.as_bytes(), heard: Vec::new() };
            let threads = vcpu_threads(&mut sent);
            prop_assert!(threads.is_err() || lines[0] == GREETING);
            prop_assert!(sent.heard.is_empty() || lines[0].contains("QMP"));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sent = Sent { left: &bytes, heard: Vec::new() };
            prop_assert!(vcpu_threads(&mut sent).is_err());
        }
    }
}
