//! Archives (cpio, "newc") as the kernel unpacks them (Documentation/driver-api/early-userspace).

use std::fs::File;
use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use cpio::newc::Builder;

/// Kinds of files, as in the mode of stat(2).
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// What an archive holds, in its order.
#[derive(Default)]
pub(crate) struct Entries(Vec<(Builder, Cursor<Vec<u8>>)>);

impl Entries {
    /// With the directories and the console that the kernel opens for the standard streams of /init.
    pub(crate) fn of_root(directories: &[&str]) -> Self {
        let mut entries = Self::default();
        for name in directories {
            entries.directory(name);
        }
        let console = Builder::new("dev/console").mode(DEVICE | 0o600).rdev_major(5).rdev_minor(1);
        entries.0.push((console, Cursor::default()));
        entries
    }

    pub(crate) fn directory(&mut self, name: &str) {
        self.0.push((Builder::new(name).mode(DIRECTORY | 0o755), Cursor::default()));
    }

    pub(crate) fn file(&mut self, name: &str, content: Vec<u8>) {
        self.0.push((Builder::new(name).mode(FILE | 0o644), Cursor::new(content)));
    }

    pub(crate) fn program(&mut self, name: &str, content: Vec<u8>) {
        self.0.push((Builder::new(name).mode(FILE | 0o755), Cursor::new(content)));
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) {
        self.0.push((Builder::new(name).mode(LINK | 0o777), Cursor::new(target.as_bytes().to_vec())));
    }

    /// One as another archive has it.
    pub(crate) fn other(&mut self, entry: Builder, content: Vec<u8>) {
        self.0.push((entry, Cursor::new(content)));
    }

    /// All of another, after these.
    pub(crate) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Writes the archive; an archive may be appended to another that ends at a multiple of four bytes.
    pub(crate) fn write_to(self, out: impl Write) -> std::io::Result<()> {
        let numbered =
            self.0.into_iter().zip(1..).map(|((entry, content), inode)| (entry.ino(inode), content));
        cpio::write_cpio(numbered, out)?.flush()
    }

    /// The same to a new file.
    pub(crate) fn write(self, path: &Path) -> std::io::Result<()> {
        self.write_to(BufWriter::new(File::create(path)?))
    }
}

/// Fills up to a multiple of four bytes, where an archive that is appended must begin (init/initramfs.c,
/// Linux 6.1).
pub(crate) fn pad(path: &Path) -> std::io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    let over = file.metadata()?.len() as usize % 4;
    file.write_all(&[0; 4][..(4 - over) % 4])
}
