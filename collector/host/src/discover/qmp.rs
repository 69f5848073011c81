//! QEMU's machine protocol, for one question: which thread runs which vCPU
//! (QEMU docs/interop/qmp-spec and the QMP reference, `query-cpus-fast`).
//!
//! A QMP socket serves one client at a time. So the connection is made, asked and closed at once; a
//! socket that somebody else holds accepts the connection and sends no greeting, or accepts none:
//! both end within the time limit. Nothing is sent before QEMU has greeted, since the path comes from
//! a command line that anybody can write.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::socket;

/// Why QMP did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("cannot connect to its QMP socket {}: {source}", path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    #[error(
        "its QMP socket {} does not answer within {} ms; it serves one client at a time, so another one holds it",
        path.display(), limit.as_millis()
    )]
    Busy { path: PathBuf, limit: Duration },
    #[error("its QMP socket {} sent something that is not QMP: {what}", path.display())]
    Protocol { path: PathBuf, what: String },
}

/// Asks the QEMU at `path` (as this program sees it) and gives vCPU numbers with thread ids, the
/// latter as QEMU's own pid namespace counts them. Takes at most about `limit`.
pub(crate) fn query_cpus(path: &Path, limit: Duration) -> Result<Vec<(u32, i32)>, QmpError> {
    let deadline = Instant::now() + limit;
    let stream = open(path, limit)?;
    let mut client = Client { path, stream, received: Vec::new(), deadline, limit };
    let greeting = client.message()?;
    if greeting.get("QMP").is_none() {
        return Err(client.protocol(&greeting));
    }
    client.execute("qmp_capabilities")?;
    let answer = client.execute("query-cpus-fast")?;
    let threads = answer.as_array().and_then(|cpus| cpus.iter().map(thread_of).collect::<Option<Vec<_>>>());
    threads.ok_or_else(|| client.protocol(&answer))
}

fn thread_of(cpu: &Value) -> Option<(u32, i32)> {
    let index = u32::try_from(cpu.get("cpu-index")?.as_u64()?).ok()?;
    Some((index, i32::try_from(cpu.get("thread-id")?.as_i64()?).ok()?))
}

/// Longest answer read, in bytes: that of a VM with thousands of vCPUs.
const MAX_ANSWER_BYTES: usize = 4 << 20;

struct Client<'a> {
    path: &'a Path,
    stream: UnixStream,
    received: Vec<u8>,
    deadline: Instant,
    limit: Duration,
}

impl Client<'_> {
    /// Sends a command and waits for what it returns; events in between are skipped.
    fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        let line = format!("{{\"execute\":\"{command}\"}}\n");
        self.stream.set_write_timeout(Some(self.left()?)).map_err(|source| self.io(source))?;
        self.stream.write_all(line.as_bytes()).map_err(|source| self.io(source))?;
        loop {
            let mut message = self.message()?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if message.get("error").is_some() {
                return Err(self.protocol(&message));
            }
        }
    }

    /// The next line, as JSON.
    fn message(&mut self) -> Result<Value, QmpError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|_| self.protocol(&String::from_utf8_lossy(&line)));
            }
            if self.received.len() > MAX_ANSWER_BYTES {
                return Err(self.protocol(&"an endless line"));
            }
            self.stream.set_read_timeout(Some(self.left()?)).map_err(|source| self.io(source))?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.protocol(&"the end of the connection")),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(error)),
            }
        }
    }

    fn left(&self) -> Result<Duration, QmpError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(QmpError::Busy { path: self.path.to_owned(), limit: self.limit });
        }
        Ok(left)
    }

    fn io(&self, source: std::io::Error) -> QmpError {
        let path = self.path.to_owned();
        match source.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                QmpError::Busy { path, limit: self.limit }
            }
            _ => QmpError::Connect { path, source },
        }
    }

    fn protocol(&self, what: &impl ToString) -> QmpError {
        let what = what.to_string().chars().filter(|c| !c.is_control()).take(120).collect();
        QmpError::Protocol { path: self.path.to_owned(), what }
    }
}

/// Connects without ever waiting: see [`socket::connect`].
fn open(path: &Path, limit: Duration) -> Result<UnixStream, QmpError> {
    socket::connect(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => QmpError::Busy { path: path.to_owned(), limit },
        _ => QmpError::Connect { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

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
}
