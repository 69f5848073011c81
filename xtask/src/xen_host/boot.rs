//! Booting the Xen host with a terminal as its console.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{libraries, make, place, read};
use crate::archive::Entries;
use crate::{host, setup, shell};

/// `cargo xtask xen-host`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only make what it boots
    #[arg(long)]
    make_only: bool,
    /// Start no domains
    #[arg(long)]
    no_guests: bool,
}

/// Domains of known data: name, seed of the data they have in common, seed of what is their own, KiB of both.
const DOMAINS: [(&str, u32, u32, u32); 3] = [("a1", 1, 11, 8192), ("a2", 1, 12, 8192), ("b1", 2, 13, 8192)];

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    setup::qemu()?;
    setup::busybox()?;
    make()?;
    if arguments.make_only {
        return Ok(());
    }
    shell::run(shell::cargo().args(["build", "--package", "huddle-collector", "--bin", "huddle"]))?;
    let own = std::env::current_exe().context("cannot tell where cargo puts its programs")?;
    let place = place()?;
    let more = place.join("more.cpio");
    files(&own.with_file_name("huddle"), !arguments.no_guests, &place)?
        .write(&more)
        .with_context(|| format!("cannot write {}", more.display()))?;
    // QEMU takes an initial file system as one file; the kernel takes archives one after the other.
    let initrd = place.join("dom0-more.cpio");
    let bytes = [read(&place.join("dom0.cpio"))?, read(&more)?].concat();
    fs::write(&initrd, bytes).with_context(|| format!("cannot write {}", initrd.display()))?;
    let command = String::from_utf8(read(&place.join("command"))?).context("a damaged command")?;
    let directory = place.display().to_string();
    let lines = command.lines().map(|line| line.replace("dom0.cpio@MORE@", "dom0-more.cpio"));
    let args: Vec<String> = lines.map(|line| line.replace("@DIR@", &directory)).collect();
    eprintln!("dom0's console follows; `poweroff -f` there ends it, and so does Ctrl-a x.");
    shell::become_command(Command::new(host::QEMU).args(args).args(["-serial", "mon:stdio"]))
}

/// The program under test, and the domains.
fn files(huddle: &Path, guests: bool, place: &Path) -> anyhow::Result<Entries> {
    let mut entries = Entries::default();
    let stripped = place.join("huddle");
    shell::run(Command::new("strip").arg("-o").arg(&stripped).arg(huddle))?;
    entries.program("usr/bin/huddle", read(&stripped)?);
    let needed: Vec<PathBuf> = vec![huddle.to_owned()];
    for (name, path) in libraries::needed(&needed, &place.join("lib"))? {
        entries.program(&name, read(&path)?);
    }
    if guests {
        let mut script = String::from("#!/bin/sh\n");
        for (name, seed, own, kib) in DOMAINS {
            script += &format!("echo starting domain {name}\nguest {name} {seed} {own} {kib}\n");
        }
        entries.directory("etc/huddle");
        entries.program("etc/huddle/start", (script + "huddle vms\n").into_bytes());
    }
    Ok(entries)
}
