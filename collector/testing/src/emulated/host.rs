//! A host in QEMU's emulator, as `cargo xtask host` makes it, and a way to run commands in it (with Xen: in its dom0).
//!
//! Two serial lines: the first is the console of hypervisor and kernel and goes to a file, the second is for
//! commands, so that nothing that a kernel prints comes in between (`answer.sh` of the image).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cpio::newc::Builder;
use nix::sys::prctl;
use nix::sys::signal::Signal;

/// The line on both serial lines once the host's services work.
const READY: &str = "huddle-host: ready";

/// The file with the root that the kernel unpacks.
const ROOT: &str = "root.cpio";

/// Time limit of a boot: 20 to 50 s were measured on two loaded cores.
const BOOT: Duration = Duration::from_secs(180);

/// Extra time for an answer beyond that of its command: the line carries some 5 KB a second.
const ON_THE_LINE: Duration = Duration::from_secs(60);

/// Separator between a command's output and its errors on the line.
const ERRORS: &[u8] = b"\0errors\0";

/// Number of console lines shown after a failure.
const CONSOLE_LINES: usize = 25;

/// A file that is added to the host's root.
pub struct File {
    /// Its path, without the slash at the beginning.
    pub path: &'static str,
    /// Its permissions.
    pub mode: u32,
    /// Its content.
    pub content: Vec<u8>,
}

/// Result of a command.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded.
    ///
    /// # Panics
    /// With all of its output, if it failed.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A running host. Dropping it kills QEMU and waits for it.
pub struct EmulatedHost {
    qemu: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Contains the console's file, and the host's root.
    directory: tempfile::TempDir,
    commands: u64,
}

/// The directory of the image of a kind of host (`cargo xtask host KIND`), beside a program built by cargo.
///
/// # Errors
/// Why it cannot be booted, with the remedy.
pub fn image(kind: &str, program: &Path) -> Result<PathBuf, String> {
    let image = target(program).join("guests").join(kind);
    for file in [ROOT, "command", "answers"] {
        if !image.join(file).is_file() {
            let path = image.join(file);
            return Err(format!(
                "{} is missing; make it with `cargo xtask host {kind} --make-only`",
                path.display()
            ));
        }
    }
    let (qemu, _) = arguments(&image, Path::new(""));
    match Command::new(&qemu).arg("--version").output() {
        Ok(_) => Ok(image),
        Err(_) => Err(format!("{qemu} is missing; install it with `cargo xtask setup`")),
    }
}

/// Cargo's target directory, of a program that it has built.
pub(super) fn target(program: &Path) -> &Path {
    program.ancestors().nth(2).unwrap()
}

impl EmulatedHost {
    /// Boots `image` with `files` added, and waits until its services work. A failed boot is tried once more:
    /// with QEMU's emulation it fails occasionally.
    ///
    /// # Panics
    /// With the last lines of the console, if the second boot fails, too.
    pub fn boot(image: &Path, files: &[File]) -> Self {
        Self::boot_once(image, files).unwrap_or_else(|error| {
            eprintln!("the host did not boot, trying again: {error}");
            Self::boot_once(image, files)
                .unwrap_or_else(|error| panic!("the host did not boot twice: {error}"))
        })
    }

    fn boot_once(image: &Path, files: &[File]) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join(ROOT);
        let mut archive = std::fs::read(image.join(ROOT)).unwrap();
        archive.extend(archive_of(files));
        std::fs::write(&root, archive).unwrap();
        let (program, arguments) = arguments(image, directory.path());
        let mut qemu = Command::new(program);
        qemu.args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Its own process group: Ctrl-C goes to the test, and QEMU dies with it.
            .process_group(0);
        let parent = nix::unistd::getpid();
        // SAFETY: only system calls between fork and exec: no allocation, no lock.
        unsafe {
            qemu.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The test may have died before the signal was requested.
                if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
            });
        }
        let mut qemu = qemu.spawn().unwrap();
        let (input, output) = (qemu.stdin.take().unwrap(), qemu.stdout.take().unwrap());
        let (sender, lines) = channel();
        // A thread, because a pipe cannot be read with a timeout; it ends with the pipe.
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
        let mut host = Self { qemu, input, lines, directory, commands: 0 };
        host.wait_for(READY, Instant::now() + BOOT)?;
        // It is in the host's memory now, and the file is large.
        std::fs::remove_file(&root).unwrap();
        Ok(host)
    }

    /// Runs a shell command in the host, without standard input, for at most `limit`.
    ///
    /// # Panics
    /// On a timeout, or with the last lines of the console if the host has ended.
    #[track_caller]
    pub fn run(&mut self, command: &str, limit: Duration) -> Output {
        self.try_run(command, limit).unwrap_or_else(|error| panic!("`{command}` in the host: {error}"))
    }

    /// Like [`Self::run`], for a command that may take too long: it is killed, and the host goes on.
    ///
    /// # Errors
    /// A timeout, or the host has ended.
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
        // The exit code of busybox's timeout(1) after SIGKILL.
        if code == 128 + Signal::SIGKILL as i32 {
            let output = text(&bytes);
            return Err(format!(
                "took longer than {limit:?}, or the host had no memory for it, and was killed; its output was {output:?}"
            ));
        }
        Ok(Output { code, stdout: text(&bytes[..at]), stderr: text(&bytes[at + ERRORS.len()..]) })
    }

    /// The last lines that hypervisor and kernel have printed.
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

impl Drop for EmulatedHost {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was reaped.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// QEMU's program and arguments: the root and the console's file are in `directory`.
fn arguments(image: &Path, directory: &Path) -> (String, Vec<String>) {
    let text = |file: &str| std::fs::read_to_string(image.join(file)).unwrap();
    let (place, own) = (image.display().to_string(), directory.display().to_string());
    let line = |line: &str| match line {
        "stdio" => format!("file:{own}/console"),
        _ => line.replace(&format!("@DIR@/{ROOT}"), &format!("{own}/{ROOT}")).replace("@DIR@", &place),
    };
    let command = text("command");
    let (program, arguments) = command.split_once('\n').unwrap();
    let answers = text("answers");
    (program.to_owned(), arguments.lines().map(line).chain(answers.lines().map(str::to_owned)).collect())
}

/// An archive that the kernel unpacks after the host's root.
fn archive_of(files: &[File]) -> Vec<u8> {
    // The kernel makes no directory that is not named before its files; one that is there stays as it is.
    let above =
        |file: &File| Path::new(file.path).ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    let directories: BTreeSet<PathBuf> =
        files.iter().flat_map(above).filter(|path| path != Path::new("")).collect();
    // The file types of a directory and of a regular file, as in stat(2).
    let directories = directories.iter().map(|path| (path.to_str().unwrap(), 0o040_755, Vec::new()));
    let files = files.iter().map(|file| (file.path, 0o100_000 | file.mode, file.content.clone()));
    let entries = directories.chain(files).zip(1..).map(|((path, mode, content), inode)| {
        (Builder::new(path).mode(mode).ino(inode), Cursor::new(content))
    });
    cpio::write_cpio(entries, Vec::new()).unwrap()
}

/// A command for the host's shell that separates output and errors, with a time limit.
fn wrapped(command: &str, limit: Duration) -> String {
    assert!(!command.contains('\n'), "one line is one command: {command:?}");
    let quoted = command.replace('\'', r"'\''");
    let seconds = limit.as_secs().max(1);
    let errors = ERRORS.escape_ascii().to_string().replace(r"\x00", r"\0");
    format!(
        "rm -f /tmp/errors; timeout -s KILL {seconds} sh -c '{quoted}' 2>/tmp/errors; c=$?; printf '{errors}'; cat /tmp/errors; exit $c"
    )
}

/// The inverse of `gzip -c | base64`.
fn unpacked(text: &str) -> Vec<u8> {
    let script = "base64 -d | gzip -dc";
    let mut child =
        Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "the host's output was corrupted on the line");
    output.stdout
}
