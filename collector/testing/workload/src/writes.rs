//! Commands for a guest to write to its memory.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, bail};
use nix::sys::stat::Mode;

/// A write to the first word of some pages of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The first page, from 1: page 0 is the code's.
    pub from: u32,
    /// How many pages.
    pub count: u32,
    /// What is written.
    pub value: u32,
}

impl FromStr for Write {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["write", from, count, value] = words[..] else { bail!("expected write FROM COUNT VALUE") };
        let number = |text: &str| text.parse().with_context(|| format!("{text:?} is no number of 32 bits"));
        Ok(Self { from: number(from)?, count: number(count)?, value: number(value)? })
    }
}

/// Makes a named pipe and reads commands from it, as long as this process is there.
///
/// # Errors
/// The pipe cannot be made: what has that name may be another VM's.
pub(crate) fn listen(path: &Path) -> anyhow::Result<Receiver<Write>> {
    nix::unistd::mkfifo(path, Mode::S_IRWXU).with_context(|| format!("cannot make {}", path.display()))?;
    // Open for writing, too, so that it does not end with each of those who write to it.
    let pipe = File::options().read(true).write(true).open(path);
    let pipe = pipe.with_context(|| format!("cannot open {}", path.display()))?;
    let (sender, commands) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            match line.parse() {
                Ok(write) if sender.send(write).is_ok() => {}
                // The VM has ended.
                Ok(_) => break,
                Err(error) => println!("refused {line:?}: {error}"),
            }
        }
    });
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_or_refused() {
        assert_eq!("write 1 20 300".parse::<Write>().unwrap(), Write { from: 1, count: 20, value: 300 });
        for wrong in ["", "write 1 2", "read 1 2 3", "write 1 2 3 4", "write -1 2 3", "write 1 2 4294967296"]
        {
            assert!(wrong.parse::<Write>().is_err(), "{wrong}");
        }
    }
}
