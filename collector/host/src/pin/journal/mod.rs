//! The journal of changes to the host: on disk before the change.
//!
//! The file `journal` in the state directory holds JSON lines, mode 0600: first
//! `{"schema":"huddle/journal/3","boot_id":..}`, then one [`Change`] a line, or `{"forget":..}` for
//! a thread or setting that was put back. It is only appended to, by one process at a time (it keeps
//! the [`StateLock`]), and each batch is synced to disk before [`Journal::record`] returns; a new file
//! is made known by syncing its directory. A change that is in the journal may or may not have been
//! made; a change that is not in it was not made.

mod change;
mod format;
mod lines;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use huddle_model::id::XenDomainId;
use nix::fcntl::OFlag;

use super::state::StateLock;
use crate::files::{self, replace_file};
use crate::{HostError, HostRoot, kernel};
pub use change::{Change, Key};
pub use format::{Damage, Header, Parsed, parse};
use format::{Line, OLDER_SCHEMAS, SCHEMA, encode};

/// A journal that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk said no.
    #[error("cannot {what} the journal {}: {source}; huddle changes nothing that is not in it", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A write failed before, so nobody knows what the file holds.
    #[error(
        "an earlier write to the journal {} failed, so no more changes are made; undo with `huddle restore`",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// A complete line that is no entry.
    #[error(
        "line {line} of the journal {} is damaged: {text:?}; run `huddle restore`, which undoes all that \
         can be read and keeps the file aside",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Its first 120 characters.
        text: String,
    },
    /// Written by another version.
    #[error(
        "the journal {} has the schema {found:?}, and this huddle knows {SCHEMA:?} only; restore with the \
         version that wrote it",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The boot cannot be told.
    #[error("cannot tell this boot from an earlier one: {0}")]
    Boot(#[from] HostError),
}

/// What a journal is of. Each has one writer, and a file of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// Affinities and settings of KSM: the pinner's.
    #[default]
    Placement,
    /// Xen's sharing of memory: the file `journal-sharing`.
    MemorySharing,
}

impl Subject {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Placement, Self::MemorySharing];

    fn file(self) -> &'static str {
        match self {
            Self::Placement => "journal",
            Self::MemorySharing => "journal-sharing",
        }
    }
}

/// The journal of one state directory, open for appending. Holds the lock as long as it lives.
#[derive(Debug)]
pub struct Journal {
    state: StateLock,
    subject: Subject,
    boot_id: String,
    /// `None` until there is a change to write.
    file: Option<File>,
    len_bytes: u64,
    lines: usize,
    entries: Vec<Change>,
    notes: Vec<String>,
    broken: bool,
    damage: Vec<format::Damage>,
    /// Whether the file is of an earlier version.
    is_older: bool,
}

impl Journal {
    /// Opens the journal of a locked state directory; the file is created with the first change.
    ///
    /// Changes of an earlier boot ended with it: such a journal is removed, with a word in
    /// [`Journal::notes`]. A last line that was cut short was never acted on, and is dropped.
    ///
    /// # Errors
    /// When it cannot be read, is damaged before its end, or is of another version.
    pub fn open(root: &HostRoot, state: &StateLock) -> Result<Self, JournalError> {
        Self::open_of(Subject::Placement, root, state)
    }

    /// The same of another subject.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_of(subject: Subject, root: &HostRoot, state: &StateLock) -> Result<Self, JournalError> {
        let mut journal = Self::open_salvaging(subject, root, state)?;
        let path = journal.path();
        match journal.damage.pop() {
            Some(damage) => Err(JournalError::Damaged { path, line: damage.line, text: damage.text }),
            None => {
                if journal.is_older {
                    // What is appended is of this version, so all of it has to be.
                    journal.keep_only(journal.entries.clone())?;
                }
                Ok(journal)
            }
        }
    }

    /// Opens a journal of which only a part may be readable. What it holds can be undone; finishing
    /// with [`Journal::keep_only`] then sets the damaged file aside.
    pub(crate) fn open_salvaging(
        subject: Subject,
        root: &HostRoot,
        state: &StateLock,
    ) -> Result<Self, JournalError> {
        let boot_id = kernel::boot_id(root)?;
        let mut journal = Self {
            state: state.clone(),
            subject,
            boot_id,
            file: None,
            len_bytes: 0,
            lines: 0,
            entries: Vec::new(),
            notes: Vec::new(),
            broken: false,
            damage: Vec::new(),
            is_older: false,
        };
        journal.load()?;
        Ok(journal)
    }

    fn load(&mut self) -> Result<(), JournalError> {
        let path = self.path();
        let mut file = match open_file(&path, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(self.failed("open")(source)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(self.failed("read"))?;
        let parsed = format::parse(&bytes);
        if let Some(header) = &parsed.header {
            self.is_older = OLDER_SCHEMAS.contains(&header.schema.as_str());
            if header.schema != SCHEMA && !self.is_older {
                return Err(JournalError::Schema { path, found: header.schema.clone() });
            }
            if header.boot_id != self.boot_id {
                let lines = parsed.lines - 1;
                self.notes.push(format!(
                    "the journal {} is of an earlier boot; its {lines} changes ended with it, so there is \
                     nothing to undo",
                    path.display()
                ));
                return self.clear();
            }
        }
        if parsed.damage.is_empty() {
            if parsed.lines == 0 {
                // Cut short within its first line: no change was ever recorded.
                return self.clear();
            }
            if parsed.keep_bytes < bytes.len() {
                self.notes.push(format!(
                    "the last line of the journal {} was cut short; its change was never made",
                    path.display()
                ));
                file.set_len(parsed.keep_bytes as u64).map_err(self.failed("write"))?;
            }
            if parsed.unterminated {
                file.write_all(b"\n").map_err(self.failed("write"))?;
            }
            file.sync_all().map_err(self.failed("sync"))?;
        }
        self.len_bytes = parsed.keep_bytes as u64 + u64::from(parsed.unterminated);
        self.lines = parsed.lines;
        self.entries = parsed.entries;
        self.damage = parsed.damage;
        self.file = Some(file);
        Ok(())
    }

    /// The locked directory it is in.
    pub fn state(&self) -> &StateLock {
        &self.state
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.state.dir().join(self.subject.file())
    }

    /// The changes that may have to be undone, in the order they were made.
    pub fn entries(&self) -> &[Change] {
        &self.entries
    }

    /// What opening it had to say, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The damaged lines, each as a sentence.
    pub(crate) fn damage(&self) -> Vec<String> {
        let say = |damage: &format::Damage| {
            format!("line {} cannot be read and is not undone: {:?}", damage.line, damage.text)
        };
        self.damage.iter().map(say).collect()
    }

    /// The first change of a key: its `before` is the original.
    pub fn first(&self, key: &Key) -> Option<&Change> {
        self.entries.iter().find(|change| change.key() == *key)
    }

    /// Writes and syncs `changes`; only then may they be made. A change of a thread or setting that is
    /// in the journal already keeps the original `before`, and one that is there word by word is not
    /// written again, so a placement that goes to and fro does not grow the file.
    ///
    /// # Errors
    /// When the disk says no; then the changes must not be made, and later ones are refused too.
    pub fn record(&mut self, changes: &[Change]) -> Result<(), JournalError> {
        let mut new: Vec<Change> = Vec::new();
        for change in changes {
            let key = change.key();
            let first = self.first(&key).or_else(|| new.iter().find(|new| new.key() == key));
            let change = match first {
                Some(first) => change.clone().with_before_of(first),
                None => change.clone(),
            };
            if !self.entries.contains(&change) && !new.contains(&change) {
                new.push(change);
            }
        }
        let lines: Vec<Line> = new.iter().cloned().map(Line::Change).collect();
        self.append(&lines)?;
        self.entries.extend(new);
        Ok(())
    }

    /// Takes keys out that are back at their original, or whose change was never made.
    ///
    /// # Errors
    /// When the disk says no; then the keys stay in the journal.
    pub fn forget(&mut self, keys: &[Key]) -> Result<(), JournalError> {
        let known: Vec<&Key> = keys.iter().filter(|key| self.first(key).is_some()).collect();
        if known.is_empty() {
            return Ok(());
        }
        let left: Vec<Change> =
            self.entries.iter().filter(|change| !known.contains(&&change.key())).cloned().collect();
        // A loop that pins and releases for weeks must not fill the disk.
        let mostly_history = self.lines > 256 && self.lines > 4 * (left.len() + known.len());
        if left.is_empty() || mostly_history {
            return self.keep_only(left);
        }
        let lines: Vec<Line> =
            known.into_iter().cloned().map(|forget| Line::Forget { forget: forget.into() }).collect();
        self.append(&lines)?;
        self.entries = left;
        Ok(())
    }

    /// Removes everything, and the file.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn clear(&mut self) -> Result<(), JournalError> {
        self.keep_only(Vec::new())
    }

    /// Replaces the content by `entries` in one step that is either done or not, whatever happens. A
    /// damaged file is kept as `journal.damaged-N`.
    pub(crate) fn keep_only(&mut self, entries: Vec<Change>) -> Result<(), JournalError> {
        let path = self.path();
        if !self.damage.is_empty() {
            let aside = self.set_aside(&path).map_err(self.failed("set aside"))?;
            self.notes.push(format!("the damaged journal is kept as {}", aside.display()));
            self.damage.clear();
        }
        if entries.is_empty() {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("remove")(error));
                }
                _ => self.sync_dir()?,
            }
            (self.file, self.len_bytes, self.lines) = (None, 0, 0);
        } else {
            let lines: Vec<Line> = entries.iter().cloned().map(Line::Change).collect();
            let bytes = self.encode(&lines, true)?;
            self.file = Some(replace_file(&path, &bytes, files::FOR_OWNER).map_err(self.failed("rewrite"))?);
            (self.len_bytes, self.lines) = (bytes.len() as u64, lines.len() + 1);
        }
        self.entries = entries;
        (self.broken, self.is_older) = (false, false);
        Ok(())
    }

    /// Whether a change is of a domain of Xen that a journal of an earlier version named in part.
    pub(in crate::pin) fn has_partly_known_domains(&self) -> bool {
        self.entries
            .iter()
            .cloned()
            .any(|mut change| change.xen_domain().is_some_and(|of| of.is_partly_known()))
    }

    /// Names those domains whole that are among `domains`, so that later changes of them have the same key.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub(in crate::pin) fn complete_domains(&mut self, domains: &[XenDomainId]) -> Result<(), JournalError> {
        let mut entries = self.entries.clone();
        for known in entries.iter_mut().filter_map(Change::xen_domain).filter(|known| known.is_partly_known())
        {
            if let Some(whole) = domains.iter().find(|domain| domain.matches(known)) {
                *known = *whole;
            }
        }
        if entries == self.entries { Ok(()) } else { self.keep_only(entries) }
    }

    fn append(&mut self, lines: &[Line]) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken { path: self.path() });
        }
        if lines.is_empty() {
            return Ok(());
        }
        let is_new = self.file.is_none();
        let bytes = self.encode(lines, is_new)?;
        if is_new {
            self.file = Some(open_file(&self.path(), true).map_err(self.failed("create"))?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Err(source) = file.write_all(&bytes).and_then(|()| file.sync_all()) {
            // After a failed fsync nobody can tell what is on disk (fsync(2)): write no more. The cut
            // makes the file readable again where it can be made; undoing needs what is before it only.
            let _ = file.set_len(self.len_bytes).and_then(|()| file.sync_all());
            self.broken = true;
            return Err(self.failed("write")(source));
        }
        if is_new {
            self.sync_dir().inspect_err(|_| self.broken = true)?;
        }
        self.len_bytes += bytes.len() as u64;
        self.lines += lines.len() + usize::from(is_new);
        Ok(())
    }

    fn encode(&self, lines: &[Line], with_header: bool) -> Result<Vec<u8>, JournalError> {
        let header = Header { schema: SCHEMA.to_owned(), boot_id: self.boot_id.clone() };
        let mut parts = Vec::with_capacity(lines.len() + 1);
        if with_header {
            parts.push(encode(&header));
        }
        parts.extend(lines.iter().map(encode));
        let parts: Vec<Vec<u8>> = parts
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| self.failed("write")(error.into()))?;
        Ok(parts.concat())
    }

    fn set_aside(&self, path: &Path) -> io::Result<PathBuf> {
        let mut number = 1u32;
        loop {
            let aside = self.state.dir().join(format!("{}.damaged-{number}", self.subject.file()));
            // A second name, not a new one: the journal is at its place until it is replaced.
            match std::fs::hard_link(path, &aside) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                result => return result.map(|()| aside),
            }
        }
    }

    fn sync_dir(&self) -> Result<(), JournalError> {
        files::sync_parent(&self.path()).map_err(self.failed("sync"))
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> JournalError + use<> {
        let path = self.path();
        move |source| JournalError::Io { what, path: path.clone(), source }
    }
}

fn open_file(path: &Path, create_new: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(create_new)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

#[cfg(test)]
mod tests;
