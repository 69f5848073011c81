//! `cargo xtask pictures`: makes the pictures of the documentation from a real run on this machine.
//!
//! Stand-in VMs share data in pairs. The real `huddle` merges their memory, tries and keeps a placement, and records it.
//! The terminal replays the recording in tmux and saves its screens, `huddle-analysis` draws its figures, and Perfetto shows
//! its trace in Chromium. So the pictures differ from run to run as measurements do, and show what the programs show today.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::{shell, tools};

/// Options of the task.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Makes nothing: checks that the documents refer to pictures that this task makes, and that each is there
    #[arg(long)]
    check: bool,
}

/// Where the pictures are.
const DIR: &str = "docs/images";
/// Stand-in VMs.
const VMS: &str = "8";
/// How long the loop may take to keep or revert a placement, and how long it goes on then.
const DECISION: Duration = Duration::from_secs(150);
const AFTER: Duration = Duration::from_secs(6);
/// Time for a screen, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// Columns and rows of the terminal.
const COLUMNS: &str = "110";
const ROWS: &str = "32";

/// A screen of the terminal: its name, and the keys that lead to it from the end of the recording.
const SCREENS: [(&str, &[&str]); 2] = [("overview", &["1"]), ("sharing", &["2"])];
/// A figure of the report: its name here, and the name of its file there.
const FIGURES: [(&str, &str); 2] =
    [("report-sharing", "run0-sharing-last"), ("report-trial", "blocks-throughput")];
/// The trace of the run in Perfetto's own user interface, in Chromium.
const TRACE: &str = "perfetto.png";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if !arguments.check {
        make()?;
    }
    check()
}

/// Checks that each picture which a document names is made here and exists, and that no other is there.
///
/// # Errors
/// The pictures that are wrong, a line each.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = shell::root();
    let made: BTreeSet<String> = names().collect();
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    for document in documents(&root)? {
        let text = fs::read_to_string(&document)?;
        let shown = document.strip_prefix(&root).unwrap_or(&document).display().to_string();
        for target in pictures(&text) {
            let path = document.parent().unwrap_or(&root).join(target);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !made.contains(&name) {
                wrong.push(format!("{shown} shows {target}, which `cargo xtask pictures` does not make"));
            } else if !path.is_file() {
                wrong.push(format!(
                    "{shown} shows {target}, which does not exist: run `cargo xtask pictures`"
                ));
            }
            named.insert(name);
        }
    }
    for entry in fs::read_dir(root.join(DIR))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !made.contains(&name) {
            wrong.push(format!("{DIR}/{name} is not made by `cargo xtask pictures`"));
        }
    }
    wrong.extend(made.difference(&named).map(|name| format!("no document shows {DIR}/{name}")));
    ensure!(wrong.is_empty(), "pictures:\n{}", wrong.join("\n"));
    Ok(())
}

/// File names of what is made.
fn names() -> impl Iterator<Item = String> {
    let screens = SCREENS.iter().map(|(name, _)| name);
    let drawn = screens.chain(FIGURES.iter().map(|(name, _)| name)).map(|name| format!("{name}.svg"));
    drawn.chain([TRACE.to_owned()])
}

/// Targets of the pictures of a Markdown text that are files of this repository.
fn pictures(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("![") {
        rest = after;
        let Some((_, target)) = after.split_once("](") else { continue };
        let Some((target, _)) = target.split_once(')') else { continue };
        if !target.contains("://") {
            found.push(target);
        }
    }
    found
}

/// Every Markdown file at the root and below `docs`.
fn documents(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![root.join("docs")]);
    let is_markdown = |path: &Path| path.extension().is_some_and(|ending| ending == "md");
    found.extend(entries(root)?.into_iter().filter(|path| is_markdown(path)));
    while let Some(directory) = left.pop() {
        for path in entries(&directory)? {
            match path.is_dir() {
                true => left.push(path),
                false if is_markdown(&path) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", directory.display());
    let entries = fs::read_dir(directory).with_context(cannot)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn make() -> anyhow::Result<()> {
    ensure!(shell::works(Command::new("tmux").arg("-V")), "tmux is missing (Debian: apt-get install tmux)");
    shell::run(shell::cargo().args(["build", "--workspace", "--bins"]))?;
    let programs = std::env::current_exe().context("cannot find cargo's target directory")?;
    let program = |name: &str| programs.with_file_name(name);
    let scratch = std::env::temp_dir().join(format!("huddle-pictures-{}", std::process::id()));
    fs::create_dir(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let made = record(&program, &scratch).and_then(|run| draw(&program, &run, &scratch));
    // Only what this task made.
    let _ = fs::remove_dir_all(&scratch);
    made?;
    for name in names() {
        eprintln!("wrote {DIR}/{name}");
    }
    Ok(())
}

fn draw(program: &impl Fn(&str) -> PathBuf, run: &Path, scratch: &Path) -> anyhow::Result<()> {
    figures(program, run, scratch)?;
    screens(program, run, scratch)?;
    trace(program, run, scratch)
}

/// A child that is ended with SIGTERM, so that it undoes what it did.
struct Ending(Child);

impl Ending {
    fn end(&mut self) -> anyhow::Result<()> {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.end();
        }
    }
}

/// Records stand-ins before, during and after a trial.
fn record(program: &impl Fn(&str) -> PathBuf, scratch: &Path) -> anyhow::Result<PathBuf> {
    let (config, run, log) = (scratch.join("huddle.toml"), scratch.join("run"), scratch.join("log"));
    eprintln!("Starting {VMS} stand-in VMs, and a loop with a trial (about a minute).");
    let mut demo = Command::new(program("huddle-demo"));
    demo.args(["--vms", VMS, "--stand-ins"]).arg(&config);
    let mut demo = Ending(demo.spawn().context("cannot start huddle-demo")?);
    until(PATIENCE, "the stand-ins", || config.exists())?;
    // The order of blocks is seeded; the load of this machine must not end the trial.
    let text = fs::read_to_string(&config)?;
    fs::write(&config, format!("{text}\n[trial]\nload_limit = 1000.0\nworse_limit = 0.9\n"))?;
    let mut huddle = Command::new(program("huddle"));
    huddle.args(["run", "--ksm-run", "--trial", "reported", "--window", "0.4", "--min-interval", "2"]);
    huddle
        .arg("--config")
        .arg(&config)
        .arg("--record")
        .arg(&run)
        .arg("--state-dir")
        .arg(scratch.join("state"));
    let mut huddle = Ending(huddle.stderr(fs::File::create(&log)?).spawn().context("cannot start huddle")?);
    let decided = until(DECISION, "a decision", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        ["kept: ", "reverted: "].iter().any(|outcome| text.contains(outcome))
            || matches!(huddle.0.try_wait(), Ok(Some(_)))
    });
    std::thread::sleep(AFTER);
    let is_running = matches!(huddle.0.try_wait(), Ok(None));
    huddle.end()?;
    demo.end()?;
    let text = fs::read_to_string(&log).unwrap_or_default();
    ensure!(is_running, "huddle ended early:\n{text}");
    decided.with_context(|| format!("huddle said:\n{text}"))?;
    Ok(run)
}

/// The figures of the report.
fn figures(program: &impl Fn(&str) -> PathBuf, run: &Path, scratch: &Path) -> anyhow::Result<()> {
    let figures = scratch.join("figures");
    let mut report = Command::new(program("huddle-analysis"));
    report.arg("report").arg(run).arg("-o").arg(scratch.join("report.html")).arg("--figures").arg(&figures);
    shell::run(&mut report)?;
    for (name, figure) in FIGURES {
        let file = figures.join(format!("{figure}.svg"));
        fs::copy(&file, shell::root().join(DIR).join(format!("{name}.svg")))
            .with_context(|| format!("the report has no figure {figure}; it has {:?}", entries(&figures)))?;
    }
    Ok(())
}

/// The trace in Perfetto, which `look_at_trace.py` also compares with the recording.
fn trace(program: &impl Fn(&str) -> PathBuf, run: &Path, scratch: &Path) -> anyhow::Result<()> {
    let traces = scratch.join("trace");
    let mut export = Command::new(program("huddle-analysis"));
    shell::run(export.arg("export").arg(run).args(["--format", "perfetto", "-o"]).arg(&traces))?;
    let Some(trace) = entries(&traces)?.pop() else { bail!("no trace was exported") };
    let root = shell::root();
    // That of analysis/python/run.
    let venv = root.join("target/analysis-venv");
    let python = tools::python(&venv, &[], "analysis/python/requirements-trace.txt")?;
    let mut look = Command::new(python);
    look.arg(root.join("analysis/python/look_at_trace.py"))
        .arg(run)
        .arg(&trace)
        .arg(root.join(DIR).join(TRACE));
    shell::run(&mut look)
}

/// A server of tmux for this task, which ends with it.
struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    fn command(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(args).output()?;
        ensure!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut end = Command::new("tmux");
        end.arg("-S").arg(&self.socket).arg("kill-server").stderr(Stdio::null());
        let _ = end.status();
    }
}

/// The screens of a replay, each saved by its key `W`.
fn screens(program: &impl Fn(&str) -> PathBuf, run: &Path, scratch: &Path) -> anyhow::Result<()> {
    let (tmux, saved) = (Tmux { socket: scratch.join("tmux") }, scratch.join("saved"));
    fs::create_dir(&saved)?;
    let script = scratch.join("script");
    let quoted = |path: &Path| format!("'{}'", path.display());
    fs::write(
        &script,
        format!(
            "cd {} && LC_ALL=C.UTF-8 COLORTERM=truecolor {} top --replay {}; sleep 60\n",
            quoted(&saved),
            quoted(&program("huddle")),
            quoted(run)
        ),
    )?;
    let command = format!("sh {}", script.display());
    tmux.command(&["-f", "/dev/null", "new-session", "-d", "-x", COLUMNS, "-y", ROWS, &command])?;
    let shows = |words: &str| {
        until(PATIENCE, words, || {
            tmux.command(&["capture-pane", "-p"]).is_ok_and(|text| text.contains(words))
        })
    };
    shows("replay")?;
    // To the end.
    tmux.command(&["send-keys", ">"])?;
    for (number, (name, keys)) in (1..).zip(SCREENS) {
        tmux.command(&[&["send-keys"], keys].concat())?;
        std::thread::sleep(Duration::from_millis(500));
        tmux.command(&["send-keys", "W"])?;
        // A name has the time in it.
        until(PATIENCE, "a saved screen", || entries(&saved).is_ok_and(|files| files.len() == number))?;
        std::thread::sleep(Duration::from_millis(1500));
        let mut files = entries(&saved)?;
        files.sort();
        let Some(last) = files.last() else { bail!("no screen was saved") };
        // Not a copy: the screen is readable by its owner only.
        fs::write(shell::root().join(DIR).join(format!("{name}.svg")), fs::read(last)?)?;
    }
    tmux.command(&["send-keys", "q"])?;
    Ok(())
}

fn until(patience: Duration, what: &str, done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let (deadline, mut done) = (Instant::now() + patience, done);
    while !done() {
        ensure!(Instant::now() < deadline, "waited {} s for {what}", patience.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_a_document_are_its_own_files() {
        let text = "a ![x](images/a.svg) [no](b.svg) ![y](https://host/c.svg)\n![z](../d.svg)";
        assert_eq!(pictures(text), ["images/a.svg", "../d.svg"]);
    }

    #[test]
    fn documents_show_what_the_task_makes() {
        check().unwrap();
    }
}
