//! Runs of the web experiment, with servers of either kind.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use huddle_experiments::web::run_directory::BASE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run_support::{self, Run, is_gone, settings};

/// A short run: little data, few requests.
pub(crate) fn command(dir: &Path, options: &[&str]) -> Command {
    let mut command = run_support::command(
        dir,
        "web",
        &["--data-kib", "256", "--requests", "8", "--warm-up-requests", "2"],
    );
    command.args(options);
    command
}

/// The directory of a run's servers, by a file one was started with: `-f FILE`, or what a VM boots.
pub(crate) fn directory_of(run: &Run) -> PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", run.guests[0])).unwrap();
    let is_directory = |path: &Path| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        path.parent() == Some(Path::new(BASE)) && name.starts_with("huddle-web-")
    };
    let directory =
        |word: &str| Path::new(word).ancestors().find(|path| is_directory(path)).map(Path::to_owned);
    line.split('\0').find_map(directory).expect("a server's command line names its files")
}

/// The end of one server ends the run with its name and `words`, and leaves nothing behind.
pub(crate) fn assert_ends_with_server(
    mut run: Run,
    server: usize,
    words: &[&str],
    before: &[Option<String>],
) {
    let directory = directory_of(&run);
    kill(Pid::from_raw(run.guests[server]), Signal::SIGKILL).unwrap();
    let (code, text) = run.end();
    assert_eq!(code, Some(1), "{text}");
    let named = format!("(pid {})", run.guests[server]);
    for word in ["the guest vm", &named, "SIGKILL"].iter().chain(words) {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert_eq!(settings(), before);
    assert!(run.guests.iter().all(|server| is_gone(*server)) && !directory.exists());
}
