//! The commands of docs/tutorial.md, run in order as they are printed there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use huddle_testing::output::say;
use huddle_testing::{ksm, own_state};
use tempfile::TempDir;

/// Programs that the page installs.
const PROGRAMS: [&str; 3] = ["huddle", "huddle-analysis", "huddle-demo"];

/// A block of commands, with the section it is in.
#[derive(Debug, PartialEq)]
pub struct Block {
    pub section: String,
    pub text: String,
}

/// What the commands did.
pub struct Ran {
    /// The directory they ran in.
    pub work: PathBuf,
    /// What they said on stderr.
    pub said: String,
    /// Each block with what it printed.
    outputs: Vec<(Block, String)>,
    _dir: TempDir,
}

impl Ran {
    /// What a block printed, by words of its commands; of several, which one.
    pub fn output(&self, words: &str, which: usize) -> &str {
        let mut matching = self.outputs.iter().filter(|(block, _)| block.text.contains(words));
        let found = matching.nth(which);
        &found.unwrap_or_else(|| panic!("no block {which} with {words:?}")).1
    }
}

/// The blocks of a page that are marked as `sh`.
pub fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut section, mut open) = (Vec::new(), String::new(), None::<(bool, String)>);
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => open = Some((kind == "sh", String::new())),
            (None, None) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    section = heading.to_owned();
                }
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (Some((is_sh, text)), Some(_)) => {
                if *is_sh {
                    blocks.push(Block { section: section.clone(), text: std::mem::take(text) });
                }
                open = None;
            }
        }
    }
    blocks
}

fn programs() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_huddle-demo")).parent().unwrap()
}

/// What is missing to run it here.
pub fn missing() -> Option<String> {
    let absent = PROGRAMS.iter().find(|name| !programs().join(name).exists());
    absent.map(|name| format!("{name} is missing: build the workspace")).or_else(ksm::missing)
}

/// The line of a table that begins with the name of a VM.
pub fn line_of<'a>(output: &'a str, vm: &str) -> &'a str {
    let mut lines = output.lines().filter(|line| line.split_whitespace().next() == Some(vm));
    lines.next().unwrap_or_else(|| panic!("no line of {vm} in:\n{output}"))
}

/// Runs the page without these sections, in one shell, as a reader does. The caller has the lock of KSM, whose settings must be
/// the same afterwards.
pub fn run(left_out: &[&str]) -> Ran {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tutorial.md");
    let all = blocks(&fs::read_to_string(page).unwrap());
    for section in left_out {
        assert!(all.iter().any(|block| block.section == *section), "the page has no section {section:?}");
    }
    let settings = || {
        ["run", "pages_to_scan", "sleep_millisecs"]
            .map(|name| fs::read_to_string(format!("/sys/kernel/mm/ksm/{name}")).unwrap())
    };
    let before = settings();
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("empty");
    fs::create_dir(&work).unwrap();
    let run: Vec<Block> = all.into_iter().filter(|block| !left_out.contains(&&*block.section)).collect();
    let out = |number: usize| dir.path().join(format!("out-{number}"));
    // Job control, as an interactive shell has it.
    let mut script = "set -eum\n".to_owned();
    for (number, block) in run.iter().enumerate() {
        // Not in a subshell, so that jobs stay those of one shell.
        script += &format!("exec >'{}'\n{}", out(number).display(), block.text);
    }
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap());
    let (begun, log) = (Instant::now(), dir.path().join("log"));
    let status = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&work)
        .env("PATH", path)
        .envs(own_state(dir.path()))
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .status()
        .unwrap();
    let said = fs::read_to_string(&log).unwrap();
    say(&format!("tutorial: {} blocks of commands in {:.0} s", run.len(), begun.elapsed().as_secs_f64()));
    assert!(status.success(), "{status}: {said}");
    assert_eq!(settings(), before, "KSM is as it was");
    let read = |(number, block)| (block, fs::read_to_string(out(number)).unwrap());
    let outputs = run.into_iter().enumerate().map(read).collect();
    Ran { work, said, outputs, _dir: dir }
}
