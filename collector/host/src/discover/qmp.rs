//! QEMU's machine protocol, for one question: which thread runs which vCPU
//! (QEMU docs/interop/qmp-spec and the QMP reference, `query-cpus-fast`).
//!
//! A QMP socket serves one client at a time. So the connection is made, asked and closed at once; a
//! socket that somebody else holds accepts the connection and sends no greeting, or accepts none:
//! both end within the time limit. Nothing is sent before QEMU has greeted. Which sockets are connected to at all
//! says [`super::monitor_socket`].

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use huddle_model::text::plain_short;
use serde_json::Value;

use super::config_file::ConfigError;
use super::monitor_socket::{self, Listener, SocketError};
use crate::HostRoot;
use crate::limits::Limits;
use crate::socket::{self, Timed};

/// Why QMP did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("its configuration file {} (-readconfig) is not read: {source}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error("its QMP socket {} is not used: {source}", path.display())]
    Socket { path: PathBuf, source: SocketError },
    #[error("its QMP socket {} cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
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
    /// The other side sent something that is not QMP, or refused: the first 120 bytes of it, as plain text.
    #[error("{0}")]
    NotQmp(String),
}

/// Asks the QEMU of a process at the socket `path` in its own view, and gives vCPU numbers with thread ids, the
/// latter as QEMU's own pid namespace counts them. It ends soon after `deadline`, `limit` after it began.
pub(crate) fn query_cpus(
    root: &HostRoot,
    process: Listener,
    path: &Path,
    limits: &Limits,
    deadline: Instant,
) -> Result<Vec<(u32, i32)>, QmpError> {
    let (path_of, limit) = (|| path.to_owned(), limits.monitor_time());
    let stream = monitor_socket::connect(root, process, path).map_err(|source| match source {
        SocketError::Io(source) if source.kind() == io::ErrorKind::WouldBlock => {
            QmpError::Busy { path: path_of(), limit }
        }
        source => QmpError::Socket { path: path_of(), source },
    })?;
    vcpu_threads(Timed::new(&stream, deadline), limits.monitor_bytes()).map_err(|error| match error {
        ConversationError::NotQmp(what) => QmpError::Protocol { path: path_of(), what },
        ConversationError::Io(source) if socket::is_timeout(&source) => {
            QmpError::Busy { path: path_of(), limit }
        }
        ConversationError::Io(source) => QmpError::Io { path: path_of(), source },
    })
}

/// Has the conversation over a stream that was just connected: waits for the greeting, asks, and gives vCPU
/// numbers with thread ids. No more than `most_bytes` are taken, whatever the other side sends; time is not bounded,
/// unless reading is.
///
/// # Errors
/// When reading or writing fails, or when the other side does not speak QMP or refuses.
pub fn vcpu_threads(
    stream: impl Read + Write,
    most_bytes: usize,
) -> Result<Vec<(u32, i32)>, ConversationError> {
    let mut client = Client { stream, received: Vec::new(), left_bytes: most_bytes };
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
    ConversationError::NotQmp(plain_short(&what.to_string(), 120))
}

struct Client<S> {
    stream: S,
    received: Vec<u8>,
    /// What may still be received in the whole conversation.
    left_bytes: usize,
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
        let mut searched = 0;
        loop {
            // Only what is new can hold the end of the line.
            let end = self.received[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| searched + end) {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| not_qmp(&String::from_utf8_lossy(&line)));
            }
            searched = self.received.len();
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(not_qmp(&"the end of the connection")),
                Ok(count) => {
                    self.left_bytes = self
                        .left_bytes
                        .checked_sub(count)
                        .ok_or_else(|| not_qmp(&"more than is read of it"))?;
                    self.received.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread::JoinHandle;

    use proptest::prelude::*;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
    const LIMIT: Duration = Duration::from_millis(300);

    /// Asks this very process, at a path below `dir` as its root.
    fn query_cpus(dir: &Path, path: &str) -> Result<Vec<(u32, i32)>, QmpError> {
        let limits = Limits { monitor_ms: 300, ..Limits::default() };
        let root = HostRoot::at(dir);
        let listener = Listener::this_process();
        std::fs::create_dir_all(root.proc(listener.pid.to_string())).unwrap();
        let link = root.proc(format!("{}/root", listener.pid));
        if !link.exists() {
            std::os::unix::fs::symlink(dir, link).unwrap();
        }
        super::query_cpus(&root, listener, Path::new(path), &limits, Instant::now() + LIMIT)
    }

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
        let long = Path::new("/").join(path.file_name().unwrap()).join("q");
        assert_eq!(query_cpus(dir.path(), long.to_str().unwrap()).unwrap(), [(0, 70), (1, 71)]);
        let heard = server.join().unwrap();
        assert_eq!(heard, [r#"{"execute":"qmp_capabilities"}"#, r#"{"execute":"query-cpus-fast"}"#]);
    }

    #[test]
    fn a_held_socket_is_left_after_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let begin = Instant::now();
        let error = query_cpus(dir.path(), "/q").unwrap_err();
        assert!(matches!(error, QmpError::Busy { .. }), "{error}");
        assert!(begin.elapsed() >= LIMIT && begin.elapsed() < LIMIT * 10);

        // With the backlog full, connecting itself would wait for ever.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _held: Vec<UnixStream> = (0..8).map_while(|_| socket::connect(&path).ok()).collect();
        let begin = Instant::now();
        assert!(matches!(query_cpus(dir.path(), "/q"), Err(QmpError::Busy { .. })));
        assert!(begin.elapsed() < LIMIT * 10);
    }

    #[test]
    fn what_is_not_qmp_is_sent_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let server = serve(&path, r#"{"hello": 1}"#, &[]);
        assert!(matches!(query_cpus(dir.path(), "/q"), Err(QmpError::Protocol { .. })));
        assert_eq!(server.join().unwrap(), Vec::<String>::new());

        let path = dir.path().join("refuses");
        let server = serve(&path, GREETING, &[r#"{"error": {"class": "CommandNotFound", "desc": "no"}}"#]);
        let error = query_cpus(dir.path(), "/refuses").unwrap_err().to_string();
        assert!(error.contains("CommandNotFound"), "{error}");
        server.join().unwrap();

        let error = query_cpus(dir.path(), "/nowhere").unwrap_err().to_string();
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

    /// A side that sends without an end.
    struct Endless;

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }

    impl Write for Endless {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_more_is_taken_than_the_limit_allows() {
        let error = vcpu_threads(Endless, 1 << 16).unwrap_err().to_string();
        assert!(error.contains("more than is read"), "{error}");
        // Events before the answer count too.
        let events = format!("{GREETING}\n{}", "{\"event\": \"RESUME\"}\n".repeat(10_000));
        let mut sent = Sent { left: events.as_bytes(), heard: Vec::new() };
        let error = vcpu_threads(&mut sent, 1 << 16).unwrap_err().to_string();
        assert!(error.contains("more than is read"), "{error}");
    }

    proptest! {
        #[test]
        fn any_lines_are_survived(lines in proptest::collection::vec(line(), 0..6)) {
            let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            let mut sent = Sent { left: text.as_bytes(), heard: Vec::new() };
            let threads = vcpu_threads(&mut sent, 1 << 20);
            prop_assert!(threads.is_err() || lines[0] == GREETING);
            prop_assert!(sent.heard.is_empty() || lines[0].contains("QMP"));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sent = Sent { left: &bytes, heard: Vec::new() };
            prop_assert!(vcpu_threads(&mut sent, 1 << 20).is_err());
        }
    }
}
