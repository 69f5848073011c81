//! A host with Xen in QEMU, as `cargo xtask xen-host` makes it, and a way to run commands in its dom0.
//!
//! Two serial lines: the first is the console of Xen and dom0 and goes to a file, the second is for
//! commands, so that nothing that a kernel prints comes in between (`answer.sh` of the image).

use std::io::{BufRead, BufReader, Cursor, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cpio::newc::Builder;
use nix::sys::prctl;
use nix::sys::signal::Signal;

/// The emulator.
const QEMU: &str = "qemu-system-x86_64";

/// What both lines say when Xen's tools work.
const READY: &str = "huddle-xen-host: ready";

/// How long a boot may take: 20 to 50 s were measured on two loaded cores.
const BOOT: Duration = Duration::from_secs(180);

/// How much longer than its command an answer may take: the line carries some 5 KB a second.
const ON_THE_LINE: Duration = Duration::from_secs(60);

/// What is between a command's output and its errors, on the line.
const ERRORS: &[u8] = b"\0errors\0";

/// Lines of the console that are shown when something fails.
const CONSOLE_LINES: usize = 25;

/// A file that is added to dom0's root.
pub struct File {
    /// Its path, without the slash at the beginning.
    pub path: &'static str,
    /// Its permissions.
    pub mode: u32,
    /// What it holds.
    pub content: Vec<u8>,
}

/// What a command has done.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it printed on its standard error.
    pub stderr: String,
}

impl Output {
    /// What it printed, if it ended well.
    ///
    /// # Panics
    /// With all that it said, if it did not.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A running host. Dropping it ends QEMU and waits for its end.
pub struct Dom0 {
    qemu: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Has the console's file, and dom0's root.
    directory: tempfile::TempDir,
    commands: u64,
}

/// Where the image is, beside a program that cargo has built.
///
/// # Errors
/// Why it cannot be booted, with the remedy.
pub fn image(program: &Path) -> Result<PathBuf, String> {
    let target = program.ancestors().nth(2).unwrap();
    let image = target.join("guests/xen");
    for file in ["xen", "vmlinux", "dom0.cpio", "command"] {
        if !image.join(file).is_file() {
            let path = image.join(file);
            return Err(format!(
                "{} is missing; make it with `cargo xtask xen-host --make-only`",
                path.display()
            ));
        }
    }
    match Command::new(QEMU).arg("--version").output() {
        Ok(_) => Ok(image),
        Err(_) => Err(format!("{QEMU} is missing; install it with `cargo xtask setup`")),
    }
}

impl Dom0 {
    /// Boots `image` with `files` added, and waits until Xen's tools work. A boot that fails is tried once
    /// more: under QEMU's translator it does so now and then.
    ///
    /// # Panics
    /// With the end of the console, if the second one fails too.
    pub fn boot(image: &Path, files: &[File]) -> Self {
        Self::boot_once(image, files).unwrap_or_else(|error| {
            eprintln!("Xen did not boot, once more: {error}");
            Self::boot_once(image, files).unwrap_or_else(|error| panic!("Xen did not boot twice: {error}"))
        })
    }

    fn boot_once(image: &Path, files: &[File]) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("dom0.cpio");
        let mut archive = std::fs::read(image.join("dom0.cpio")).unwrap();
        archive.extend(archive_of(files));
        std::fs::write(&root, archive).unwrap();
        let command = std::fs::read_to_string(image.join("command")).unwrap();
        let mut qemu = Command::new(QEMU);
        qemu.args(arguments(&command, image, directory.path()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: Ctrl-C is for the test, with which it dies.
            .process_group(0);
        let parent = nix::unistd::getpid();
        // SAFETY: only system calls between fork and exec: no allocation, no lock.
        unsafe {
            qemu.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The test may have died before the signal was asked for.
                if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
            });
        }
        let mut qemu = qemu.spawn().unwrap();
        let (input, output) = (qemu.stdin.take().unwrap(), qemu.stdout.take().unwrap());
        let (sender, lines) = channel();
        // A thread, because a pipe cannot be read with a time limit; it ends with the pipe.
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let mut dom0 = Self { qemu, input, lines, directory, commands: 0 };
        dom0.wait_for(READY, Instant::now() + BOOT)?;
        // It is in the host's memory now, and large.
        std::fs::remove_file(&root).unwrap();
        Ok(dom0)
    }

    /// Runs a line of shell in dom0, without standard input, for at most `limit`.
    ///
    /// # Panics
    /// If the time is over, or with the end of the console if the host has ended.
    #[track_caller]
    pub fn run(&mut self, command: &str, limit: Duration) -> Output {
        self.try_run(command, limit).unwrap_or_else(|error| panic!("`{command}` in dom0: {error}"))
    }

    /// As [`Self::run`], for a command that may take too long: it is ended, and dom0 goes on.
    ///
    /// # Errors
    /// The time is over, or the host has ended.
    pub fn try_run(&mut self, command: &str, limit: Duration) -> Result<Output, String> {
        self.commands += 1;
        let id = self.commands;
        let deadline = Instant::now() + limit + ON_THE_LINE;
        let line = format!("{id} {}\n", wrapped(command, limit));
        self.input.write_all(line.as_bytes()).and_then(|()| self.input.flush()).map_err(|_| self.ended())?;
        self.wait_for(&format!("begin {id}"), deadline)?;
        let (mut packed, end) = (String::new(), format!("end {id} "));
        let code = loop {
            let line = self.next_line(deadline)?;
            match line.strip_prefix(&end) {
                Some(code) => break code.parse().map_err(|_| format!("no exit code: {line:?}"))?,
                None => packed.push_str(&line),
            }
        };
        let bytes = unpacked(&packed);
        let at =
            bytes.windows(ERRORS.len()).rposition(|bytes| bytes == ERRORS).ok_or("its errors are missing")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // What timeout(1) of busybox makes of SIGKILL.
        if code == 128 + Signal::SIGKILL as i32 {
            let said = text(&bytes);
            return Err(format!(
                "took longer than {limit:?}, or dom0 had no memory for it, and was killed; it said {said:?}"
            ));
        }
        Ok(Output { code, stdout: text(&bytes[..at]), stderr: text(&bytes[at + ERRORS.len()..]) })
    }

    /// The last lines that Xen and dom0's kernel have printed.
    pub fn console(&self) -> String {
        let text = std::fs::read(self.directory.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n  ")
    }

    fn wait_for(&mut self, line: &str, deadline: Instant) -> Result<(), String> {
        while self.next_line(deadline)? != line {}
        Ok(())
    }

    fn next_line(&mut self, deadline: Instant) -> Result<String, String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("no answer in time; its console:\n  {}", self.console()))
            }
        }
    }

    fn ended(&mut self) -> String {
        let _ = self.qemu.kill();
        format!("QEMU ended ({:?}); its console:\n  {}", self.qemu.wait(), self.console())
    }
}

impl Drop for Dom0 {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// QEMU's arguments: the root and the console's file are in `directory`.
fn arguments(command: &str, image: &Path, directory: &Path) -> Vec<String> {
    let (image, own) = (image.display().to_string(), directory.display().to_string());
    let line = |line: &str| match line {
        "stdio" => format!("file:{own}/console"),
        _ => line.replace("@DIR@/dom0.cpio", &format!("{own}/dom0.cpio")).replace("@DIR@", &image),
    };
    command.lines().map(line).collect()
}

/// An archive that the kernel unpacks after dom0's root.
fn archive_of(files: &[File]) -> Vec<u8> {
    let entries = files.iter().zip(1..).map(|(file, inode)| {
        // The kind of a file that is one, as in stat(2).
        let builder = Builder::new(file.path).mode(0o100_000 | file.mode).ino(inode);
        (builder, Cursor::new(file.content.clone()))
    });
    cpio::write_cpio(entries, Vec::new()).unwrap()
}

/// A command for dom0's shell that keeps what is printed and the errors apart, and ends in time.
fn wrapped(command: &str, limit: Duration) -> String {
    assert!(!command.contains('\n'), "one line is one command: {command:?}");
    let quoted = command.replace('\'', r"'\''");
    let seconds = limit.as_secs().max(1);
    let errors = ERRORS.escape_ascii().to_string().replace(r"\x00", r"\0");
    format!(
        "rm -f /tmp/errors; timeout -s KILL {seconds} sh -c '{quoted}' 2>/tmp/errors; c=$?; printf '{errors}'; cat /tmp/errors; exit $c"
    )
}

/// The other way round of `gzip -c | base64`.
fn unpacked(text: &str) -> Vec<u8> {
    let script = "base64 -d | gzip -dc";
    let mut child =
        Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "what dom0 printed was lost on the line");
    output.stdout
}
