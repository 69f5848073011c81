//! Running `xl`: directly, without a shell, with a time limit and bounded output.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use huddle_host::threads::without_signals;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::plain;
use crate::toolstack::XenError;

/// Limit of its standard output, enough for some ten thousand domains.
const MAX_STDOUT: usize = 16 << 20;
/// Limit of its messages; the rest is skipped.
const MAX_STDERR: usize = 16 << 10;

/// Interval of polling for the end of a program that has closed its outputs.
const REAP: Duration = Duration::from_millis(2);

/// The answer of `xl`.
#[derive(Debug)]
pub(super) struct Answer {
    /// The command line, for errors.
    pub(super) command: String,
    pub(super) status: ExitStatus,
    /// Bytes that are not UTF-8 (names may hold any) are replaced.
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Answer {
    /// Its output, if it succeeded.
    pub(super) fn text(self) -> Result<String, XenError> {
        if self.status.success() { Ok(self.stdout) } else { Err(self.failed()) }
    }

    /// The error of a failed run, with its messages and a remedy.
    pub(super) fn failed(&self) -> XenError {
        let how = match self.status.code() {
            Some(code) => format!("exited with {code}"),
            None => self.status.to_string(),
        };
        let lines: Vec<String> =
            self.stderr.lines().filter(|line| !line.trim().is_empty()).take(6).map(plain).collect();
        let messages: String = lines.join("; ").chars().take(600).collect();
        let why = if messages.is_empty() { how } else { format!("{how}: {messages}") };
        XenError::Xl { command: self.command.clone(), why: format!("{why}{}", advice(&messages)) }
    }
}

/// The remedy for a message of `xl`, if known.
fn advice(messages: &str) -> &'static str {
    let has = |parts: &[&str]| parts.iter().any(|part| messages.contains(part));
    if has(&["ermission denied", "peration not permitted"]) {
        " (run as root in dom0)"
    } else if has(&["privcmd", "libxencall", "xencall"]) {
        " (is this dom0, and is xen-privcmd loaded?)"
    } else if has(&["xenstore", "xs_open", "libxenstore"]) {
        " (is xenstored running?)"
    } else if has(&["unknown command", "not implemented", "not supported", "unrecognized"]) {
        " (this xl is of a version that huddle does not know; it knows 4.17)"
    } else {
        ""
    }
}

/// Runs `program` and waits for its end; after `limit` it is killed.
pub(super) fn run(program: &Path, args: &[&str], limit: Duration) -> Result<Answer, XenError> {
    let command = std::iter::once("xl").chain(args.iter().copied()).collect::<Vec<_>>().join(" ");
    let deadline = Instant::now() + limit;
    let failed = |why: String| XenError::Xl { command: command.clone(), why };
    let late = || XenError::TimedOut { what: format!("`{command}`"), after: limit };
    let mut child = Running(Some(
        Command::new(program)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C must end huddle, which then restores affinities, but not the `xl` that does it.
            .process_group(0)
            .spawn()
            .map_err(|error| failed(format!("cannot be run ({}): {error}", program.display())))?,
    ));
    let (stdout, stderr) = child.outputs().ok_or_else(|| failed("has no outputs".to_owned()))?;
    let mut streams = [Stream::new(stdout, MAX_STDOUT), Stream::new(stderr, MAX_STDERR)];
    while streams.iter().any(|stream| stream.file.is_some()) {
        let left = left(deadline).ok_or_else(late)?;
        read_ready(&mut streams, left).map_err(|error| failed(format!("cannot be read: {error}")))?;
        if streams[0].is_over {
            return Err(failed(format!("prints more than {MAX_STDOUT} bytes")));
        }
    }
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => std::thread::sleep(left(deadline).ok_or_else(late)?.min(REAP)),
            Err(error) => return Err(failed(format!("cannot be waited for: {error}"))),
        }
    };
    let [stdout, stderr] = streams.map(|stream| String::from_utf8_lossy(&stream.bytes).into_owned());
    Ok(Answer { command, status, stdout, stderr })
}

fn left(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

/// One of its outputs; `None` once it has ended.
struct Stream {
    file: Option<File>,
    bytes: Vec<u8>,
    limit: usize,
    is_over: bool,
}

impl Stream {
    fn new(file: OwnedFd, limit: usize) -> Self {
        Self { file: Some(file.into()), bytes: Vec::new(), limit, is_over: false }
    }
}

/// Waits until an output has data, and reads it.
fn read_ready(streams: &mut [Stream], left: Duration) -> io::Result<()> {
    let wait = left.as_millis().saturating_add(1);
    let wait = PollTimeout::from(u16::try_from(wait).unwrap_or(u16::MAX));
    let (indices, mut watched): (Vec<usize>, Vec<PollFd>) = streams
        .iter()
        .enumerate()
        .filter_map(|(index, stream)| {
            Some((index, PollFd::new(stream.file.as_ref()?.as_fd(), PollFlags::POLLIN)))
        })
        .unzip();
    match poll(&mut watched, wait) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let is_ready = |fd: &PollFd| fd.any().unwrap_or(false);
    let ready: Vec<usize> =
        indices.into_iter().zip(&watched).filter(|(_, fd)| is_ready(fd)).map(|(index, _)| index).collect();
    for index in ready {
        let stream = &mut streams[index];
        let Some(file) = &mut stream.file else { continue };
        let mut buffer = [0; 16 << 10];
        let count = match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if count == 0 {
            stream.file = None;
        }
        let room = stream.limit - stream.bytes.len();
        stream.bytes.extend_from_slice(&buffer[..count.min(room)]);
        stream.is_over |= count > room;
    }
    Ok(())
}

/// A child that is killed and reaped on drop.
struct Running(Option<Child>);

impl Running {
    fn outputs(&mut self) -> Option<(OwnedFd, OwnedFd)> {
        let child = self.0.as_mut()?;
        Some((child.stdout.take()?.into(), child.stderr.take()?.into()))
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = match &mut self.0 {
            Some(child) => child.try_wait()?,
            None => None,
        };
        if status.is_some() {
            self.0 = None;
        }
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // Not reaped yet, so the process id is still its own.
        let _ = child.kill();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(200) {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(REAP);
        }
        // It hangs in a system call; huddle's loop must not wait for it.
        let thread = std::thread::Builder::new().name("xl-reap".to_owned());
        let _ = without_signals(|| thread.spawn(move || child.wait()));
    }
}
