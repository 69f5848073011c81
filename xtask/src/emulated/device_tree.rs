//! The device tree of an ARM64 host: QEMU's own, with what it does not say of the caches. Processors 0 and 1 share one
//! last-level cache, 2 and 3 another, and so on; sizes are those of a small Neoverse N1.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::shell;

/// Processors that share a last-level cache.
pub(super) const PER_DOMAIN: u32 = 2;

/// What a cache holds, and in how many ways.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) bytes: u32,
    pub(super) ways: u32,
}

impl Size {
    pub(super) fn sets(self) -> u32 {
        self.bytes / LINE_BYTES / self.ways
    }
}

/// Of data, and as much of instructions.
pub(super) const L1: Size = Size { bytes: 64 << 10, ways: 4 };
pub(super) const L2: Size = Size { bytes: 1 << 20, ways: 16 };
pub(super) const L3: Size = Size { bytes: 8 << 20, ways: 16 };

/// Changes a device tree; of Debian's package `device-tree-compiler`.
pub(crate) const EDITOR: &str = "fdtput";

/// What it is made by, for the image's recipe.
pub(super) const SOURCE: &str = include_str!("device_tree.rs");

/// A cache, as Devicetree Specification 0.4, section 3.8, describes it.
struct Cache {
    name: String,
    level: u32,
    size: Size,
    /// What others refer to it by.
    handle: u32,
    /// The handle of the one behind it.
    next: Option<u32>,
}

pub(super) const LINE_BYTES: u32 = 64;

/// Writes it to `path`; `command` boots the host, one argument per line.
pub(super) fn write(path: &Path, command: &str) -> anyhow::Result<()> {
    let mut lines = command.lines();
    let program = lines.next().context("no program boots the host")?;
    let mut arguments: Vec<String> = Vec::new();
    // Only what decides on the hardware.
    while let Some(option) = lines.next() {
        let Some(value) = lines.next() else { break };
        match option {
            "-M" => arguments.extend([option.into(), format!("{value},dumpdtb={}", path.display())]),
            "-cpu" | "-smp" | "-m" => arguments.extend([option.into(), value.to_owned()]),
            _ => {}
        }
    }
    let processors = processors_of(command)?;
    shell::run(Command::new(program).args(arguments))?;
    let editor = Editor { path };
    for domain in 0..processors / PER_DOMAIN {
        let name = format!("l3-cache{domain}");
        editor.cache(&Cache { name, level: 3, size: L3, handle: last_level(domain), next: None })?;
    }
    for cpu in 0..processors {
        let (handle, next) = (0x9200 + cpu, Some(last_level(cpu / PER_DOMAIN)));
        let name = format!("l2-cache{cpu}");
        editor.cache(&Cache { name, level: 2, size: L2, handle, next })?;
        let node = format!("/cpus/cpu@{cpu}");
        for kind in ["i", "d"] {
            editor.number(&node, &format!("{kind}-cache-size"), L1.bytes)?;
            editor.number(&node, &format!("{kind}-cache-line-size"), LINE_BYTES)?;
            editor.number(&node, &format!("{kind}-cache-sets"), L1.sets())?;
        }
        editor.number(&node, "next-level-cache", handle)?;
    }
    Ok(())
}

/// How many processors a host has, by what boots it.
pub(super) fn processors_of(command: &str) -> anyhow::Result<u32> {
    let smp = command.lines().skip_while(|line| *line != "-smp").nth(1);
    processors(smp.context("the host's command has no -smp")?)
}

/// The number in QEMU's `-smp`: alone or at the beginning.
fn processors(smp: &str) -> anyhow::Result<u32> {
    let number = smp.split(',').next().unwrap_or_default();
    let number: u32 = number.parse().with_context(|| format!("-smp {smp} does not begin with a number"))?;
    ensure!(
        number > 0 && number.is_multiple_of(PER_DOMAIN),
        "{number} processors do not share caches by {PER_DOMAIN}"
    );
    Ok(number)
}

/// QEMU's own handles begin at 0x8000.
fn last_level(domain: u32) -> u32 {
    0x9100 + domain
}

struct Editor<'a> {
    path: &'a Path,
}

impl Editor<'_> {
    fn cache(&self, cache: &Cache) -> anyhow::Result<()> {
        let node = format!("/cpus/{}", cache.name);
        self.put(&["-c"], &[&node])?;
        self.put(&["-t", "s"], &[&node, "compatible", "cache"])?;
        self.put(&[], &[&node, "cache-unified"])?;
        self.number(&node, "cache-level", cache.level)?;
        self.number(&node, "cache-size", cache.size.bytes)?;
        self.number(&node, "cache-line-size", LINE_BYTES)?;
        self.number(&node, "cache-sets", cache.size.sets())?;
        self.number(&node, "phandle", cache.handle)?;
        cache.next.map_or(Ok(()), |next| self.number(&node, "next-level-cache", next))
    }

    fn number(&self, node: &str, property: &str, value: u32) -> anyhow::Result<()> {
        self.put(&["-t", "u"], &[node, property, &value.to_string()])
    }

    fn put(&self, options: &[&str], words: &[&str]) -> anyhow::Result<()> {
        let status = Command::new(EDITOR).args(options).arg(self.path).args(words).status();
        let status = status.context("fdtput is of Debian's package device-tree-compiler")?;
        anyhow::ensure!(status.success(), "fdtput {} did not work", words.join(" "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_those_of_the_command() {
        assert_eq!(processors("4").unwrap(), 4);
        assert_eq!(processors("8,sockets=2").unwrap(), 8);
        for wrong in ["3", "0", "cpus=4", ""] {
            assert!(processors(wrong).is_err(), "{wrong}");
        }
    }
}
