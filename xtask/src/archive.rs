//! Archives (cpio, "newc") as the kernel unpacks them (Documentation/driver-api/early-userspace).

use std::fs::File;
use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use cpio::newc::Builder;

/// Kinds of files, as in the mode of stat(2).
pub(crate) const DIRECTORY: u32 = 0o040_000;
pub(crate) const FILE: u32 = 0o100_000;
pub(crate) const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// A file and its content.
pub(crate) type Entry = (Builder, Cursor<Vec<u8>>);

/// Files in the order in which they are unpacked.
pub(crate) type Entries = Vec<Entry>;

/// The device that the kernel opens for the standard streams of /init.
pub(crate) fn console() -> Entry {
    let console = Builder::new("dev/console").mode(CHARACTER_DEVICE | 0o600).rdev_major(5).rdev_minor(1);
    (console, Cursor::default())
}

/// A directory, a file, or a link, whose content is its target.
pub(crate) fn entry(name: &str, mode: u32, content: impl Into<Vec<u8>>) -> Entry {
    (Builder::new(name).mode(mode), Cursor::new(content.into()))
}

/// An archive in memory.
pub(crate) fn bytes(entries: Entries) -> std::io::Result<Vec<u8>> {
    cpio::write_cpio(numbered(entries), Vec::new())
}

/// An archive in a file.
pub(crate) fn write(path: &Path, entries: Entries) -> std::io::Result<()> {
    cpio::write_cpio(numbered(entries), BufWriter::new(File::create(path)?))?.flush()
}

fn numbered(entries: Entries) -> impl Iterator<Item = Entry> {
    entries.into_iter().zip(1..).map(|((entry, content), inode)| (entry.ino(inode), content))
}

/// Pads to a multiple of four bytes, where an appended archive must begin (init/initramfs.c, Linux 6.1).
pub(crate) fn pad(path: &Path) -> std::io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    let over = file.metadata()?.len() as usize % 4;
    file.write_all(&[0; 4][..(4 - over) % 4])
}
