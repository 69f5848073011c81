//! A domain's console as dom0 sees it: a terminal that xenconsoled has made.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

use nix::libc::O_NOCTTY;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use crate::guest::protocol_guest::Connection;

/// How an answer begins; other lines of a console are output of the kernel or another program.
const ANSWER: &str = "{\"event\":";

/// The output of a domain besides its answers, in a file.
pub(super) struct Console {
    log: PathBuf,
}

impl Console {
    /// Opens the terminal; what is not an answer goes to the file `log`, which is replaced.
    ///
    /// # Errors
    /// Why it cannot, as one sentence.
    pub(super) fn open(terminal: &Path, log: &Path) -> Result<(Self, Connection), String> {
        let cannot = |what: &str, path: &Path, error: std::io::Error| {
            format!("cannot {what} its console {}: {error}", path.display())
        };
        // It must not become the runner's controlling terminal, which would signal it.
        let file = OpenOptions::new().read(true).write(true).custom_flags(O_NOCTTY).open(terminal);
        let file = file.map_err(|error| cannot("open", terminal, error))?;
        // As xenconsoled sets it; somebody else may have changed that.
        let raw = tcgetattr(&file).and_then(|mut settings| {
            cfmakeraw(&mut settings);
            tcsetattr(&file, SetArg::TCSANOW, &settings)
        });
        raw.map_err(|errno| cannot("set up", terminal, errno.into()))?;
        let output = file.try_clone().map_err(|error| cannot("share", terminal, error))?;
        let said = File::create(log).map_err(|error| cannot("keep the output of", log, error))?;
        let (sender, answers) = channel();
        // A thread, because a terminal cannot be read with a time limit; it ends with the terminal.
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || take(BufReader::new(output), said, &sender))
            .map_err(|error| cannot("read", terminal, error))?;
        Ok((Self { log: log.to_owned() }, Connection { input: Box::new(file), answers }))
    }

    /// The output so far, and what messages call it.
    pub(super) fn output(&self) -> (String, String) {
        let text = std::fs::read(&self.log).unwrap_or_default();
        (String::from_utf8_lossy(&text).into_owned(), format!("console ({})", self.log.display()))
    }
}

/// Separates answers from other output, until the console ends or the reader is gone.
fn take(mut console: impl BufRead, mut said: impl Write, answers: &Sender<String>) {
    let mut line = Vec::new();
    // EIO is how a terminal reports that its other side is gone.
    while console.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        // The line before it may not have ended.
        let (other, answer) = text.split_at(text.find(ANSWER).unwrap_or(text.len()));
        if !other.trim().is_empty() {
            // Without the file only messages lack this output.
            let _ = writeln!(said, "{}", other.trim_end());
        }
        if !answer.is_empty() && answers.send(answer.trim_end().to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use nix::pty::openpty;

    use super::*;

    #[test]
    fn answers_are_separated_from_other_output() {
        let console = "Booting\r\n[ 1.0] a driver {odd}\r\n\r\n{\"event\":\"ready\",\"vcpus\":1}\r\nno end: \
                       {\"event\":\"started\"}\n";
        let (sender, answers) = channel();
        let mut said = Vec::new();
        // Its last line is not UTF-8 and has no line end.
        take(&[console.as_bytes(), b"\xff"].concat()[..], &mut said, &sender);
        drop(sender);
        assert_eq!(
            answers.iter().collect::<Vec<_>>(),
            ["{\"event\":\"ready\",\"vcpus\":1}", "{\"event\":\"started\"}"]
        );
        assert!(String::from_utf8(said).unwrap().starts_with("Booting\n[ 1.0] a driver {odd}\nno end:\n"));
    }

    #[test]
    fn commands_are_sent_to_a_terminal_and_its_end_is_noticed() {
        let pty = openpty(None, None).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("console.log");
        let terminal = nix::unistd::ttyname(&pty.slave).unwrap();
        let (console, mut line) = Console::open(&terminal, &log).unwrap();
        drop(pty.slave);
        let mut domain = File::from(pty.master);
        line.input.write_all(b"read\n").unwrap();
        let mut received = String::new();
        BufReader::new(domain.try_clone().unwrap()).read_line(&mut received).unwrap();
        assert_eq!(received, "read\n");
        domain.write_all(b"Kernel panic\n{\"event\":\"started\"}\n").unwrap();
        // It is raw: no echo of the command comes before that.
        assert_eq!(line.answers.recv().unwrap(), "{\"event\":\"started\"}");
        drop(domain);
        assert!(line.answers.recv().is_err());
        assert_eq!(console.output().0, "Kernel panic\n");
        assert!(Console::open(Path::new("/dev/null"), &log).is_err_and(|why| why.contains("/dev/null")));
    }
}
