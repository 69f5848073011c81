//! A program on a pseudo-terminal, whose keys are pressed at known times, and what it wrote until then.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::libc;

/// A program on a terminal.
#[derive(Clone, Debug, clap::Args)]
pub struct Terminal {
    /// Width of the terminal
    #[arg(long, default_value_t = 100)]
    pub columns: u16,
    /// Height of the terminal
    #[arg(long, default_value_t = 30)]
    pub rows: u16,
    /// Keys that are pressed, one after the other; the program ends with the last one
    #[arg(long)]
    pub keys: String,
    /// Seconds before the first key
    #[arg(long, default_value_t = 5.0)]
    pub first: f64,
    /// Seconds after each key
    #[arg(long, default_value_t = 2.0)]
    pub each: f64,
    /// After each key but the last, all that was written until then goes to the file of this name and the key
    #[arg(long)]
    pub out: PathBuf,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    pub command: Vec<String>,
}

impl Terminal {
    /// Runs it to its end.
    ///
    /// # Errors
    /// There is no terminal, or the program fails.
    pub fn run(&self) -> anyhow::Result<()> {
        let (master, slave) = self.open()?;
        let (program, arguments) = self.command.split_first().context("no program")?;
        let stdio = || anyhow::Ok(Stdio::from(slave.try_clone()?));
        // The leader of a session of its own, whose terminal is that on its standard input.
        let mut child = Command::new("setsid")
            .arg("-c")
            .arg(program)
            .args(arguments)
            .stdin(stdio()?)
            .stdout(stdio()?)
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        drop(slave);
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut output, all) = (master.try_clone()?, Arc::clone(&written));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with an error once nobody has the terminal open.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                all.lock().unwrap_or_else(PoisonError::into_inner).extend(&buffer[..count]);
            }
        });
        let mut keyboard = master;
        std::thread::sleep(Duration::from_secs_f64(self.first));
        let keys: Vec<char> = self.keys.chars().collect();
        for (at, key) in keys.iter().enumerate() {
            keyboard.write_all(key.to_string().as_bytes()).context("the program has ended")?;
            if at + 1 < keys.len() {
                std::thread::sleep(Duration::from_secs_f64(self.each));
                let mut path = self.out.clone().into_os_string();
                path.push(key.to_string());
                let written = written.lock().unwrap_or_else(PoisonError::into_inner).clone();
                std::fs::write(&path, written).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        let status = child.wait()?;
        ensure!(status.success(), "{program}: {status}");
        Ok(())
    }

    /// Both ends of a terminal of this size.
    fn open(&self) -> anyhow::Result<(File, OwnedFd)> {
        let size = libc::winsize { ws_row: self.rows, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: both numbers and the size are there for the call; name and settings are not asked for.
        let opened =
            unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
        nix::errno::Errno::result(opened).context("no terminal can be opened")?;
        // SAFETY: both were just opened, and nothing else has them.
        Ok(unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) })
    }
}
