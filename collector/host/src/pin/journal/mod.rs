//! The journal of changes to the host: on disk before the change.
//!
//! The file `journal` in the state directory holds JSON lines with checksums, mode 0600: first
//! `{"schema":"huddle/journal/4","boot_id":..}`, then one [`Change`] a line, or `{"forget":..}` for
//! a thread or setting that was put back. It is only appended to, by one process at a time (it keeps
//! the [`StateLock`]), and each batch is synced to disk before [`Journal::record`] returns; a new file
//! is made known by syncing its directory. A change that is in the journal may or may not have been
//! made; a change that is not in it was not made.
//!
//! After a write that failed, nobody knows what the file holds (fsync(2)). It then still holds at least what has to
//! be undone, since nothing is taken out of it but by replacing it, and the next change is recorded in a new file
//! that replaces it whole: a disk that was full is used again as soon as there is room.

mod change;
mod entries;
mod error;
mod format;
mod lines;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use huddle_model::id::XenDomainId;
use huddle_model::text::counted;

use super::state::StateLock;
use crate::files::{self, Access, NotOwn, open_own, replace_file};
use crate::{HostRoot, kernel};
pub use change::{Change, Key, Origin};
pub(in crate::pin) use entries::Entries;
pub use error::JournalError;
pub use format::{Damage, Header, Parsed, parse};
use format::{Line, OLDER_SCHEMAS, SCHEMA, encode};

/// What messages call the file.
const ROLE: &str = "journal";

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

/// The journal of one state directory. Holds the lock as long as it lives.
#[derive(Debug)]
pub struct Journal {
    state: StateLock,
    subject: Subject,
    boot_id: String,
    /// Open for appending; `None` until there is a change to write.
    file: Option<File>,
    len_bytes: u64,
    lines: usize,
    entries: Entries,
    notes: Vec<String>,
    /// Whether the file may hold something else than it should, and so is replaced before it is appended to.
    is_unsure: bool,
    damage: Vec<format::Damage>,
}

/// The changes of this boot in the journal of placements in the directory `state`, which is neither locked nor changed;
/// none where it cannot be read.
pub(in crate::pin) fn changes_in(root: &HostRoot, state: &Path) -> Vec<Change> {
    let Ok(mut file) = open_own(&state.join(Subject::Placement.file()), ROLE, Access::Read) else {
        return Vec::new();
    };
    let mut bytes = Vec::new();
    let Ok(boot_id) = kernel::boot_id(root) else { return Vec::new() };
    if file.read_to_end(&mut bytes).is_err() {
        return Vec::new();
    }
    let parsed = format::parse(&bytes);
    let is_now = parsed.header.is_none_or(|header| header.boot_id == boot_id);
    if is_now { parsed.entries } else { Vec::new() }
}

/// What the file of a journal needs before it can be appended to.
enum Found {
    /// There is none.
    Nothing,
    /// What it holds is of no use any more: it is removed.
    Useless,
    /// An end that was cut short is cut off, at this byte.
    Whole(u64),
    /// It is written anew.
    Other,
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
        let (mut journal, found) = Self::read(subject, root, state)?;
        let path = journal.path();
        if let Some(damage) = journal.damage.pop() {
            return Err(JournalError::Damaged { path, line: damage.line, text: damage.text });
        }
        match found {
            Found::Nothing => {}
            Found::Useless => journal.clear()?,
            Found::Whole(len_bytes) => {
                let file = open_own(&path, ROLE, Access::Append).map_err(journal.refused("open"))?;
                if file.metadata().map_err(journal.failed("read"))?.len() > len_bytes {
                    file.set_len(len_bytes).map_err(journal.failed("write"))?;
                }
                file.sync_all().map_err(journal.failed("sync"))?;
                (journal.file, journal.len_bytes) = (Some(file), len_bytes);
            }
            Found::Other => journal.rewrite()?,
        }
        Ok(journal)
    }

    /// Opens a journal to undo what it holds, of which only a part may be readable. Nothing is written: its disk may
    /// be full or read-only. Finishing with [`Journal::keep_only`] sets a damaged file aside.
    pub(in crate::pin) fn open_salvaging(
        subject: Subject,
        root: &HostRoot,
        state: &StateLock,
    ) -> Result<Self, JournalError> {
        let (mut journal, found) = Self::read(subject, root, state)?;
        // Whatever is written next is a new file.
        journal.is_unsure = true;
        if matches!(found, Found::Useless)
            && let Err(error) = journal.clear()
        {
            journal.notes.push(format!("what is left of it stays: {error}"));
        }
        Ok(journal)
    }

    fn read(subject: Subject, root: &HostRoot, state: &StateLock) -> Result<(Self, Found), JournalError> {
        let boot_id = kernel::boot_id(root)?;
        let mut journal = Self {
            state: state.clone(),
            subject,
            boot_id,
            file: None,
            len_bytes: 0,
            lines: 0,
            entries: Entries::default(),
            notes: Vec::new(),
            is_unsure: false,
            damage: Vec::new(),
        };
        let path = journal.path();
        let mut file = match open_own(&path, ROLE, Access::Read) {
            Ok(file) => file,
            Err(NotOwn::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((journal, Found::Nothing));
            }
            Err(error) => return Err(journal.refused("open")(error)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(journal.failed("read"))?;
        let parsed = format::parse(&bytes);
        let mut is_older = false;
        if let Some(header) = &parsed.header {
            is_older = OLDER_SCHEMAS.contains(&header.schema.as_str());
            if header.schema != SCHEMA && !is_older {
                return Err(JournalError::Schema { path, found: header.schema.clone() });
            }
            if header.boot_id != journal.boot_id {
                let lines = parsed.lines - 1;
                journal.notes.push(format!(
                    "the journal {} is of an earlier boot; what it changed ({}) ended with it, so there is \
                     nothing to undo",
                    path.display(),
                    counted(lines, "change")
                ));
                return Ok((journal, Found::Useless));
            }
        }
        // Cut short within its first line: no change was ever recorded.
        let is_empty = parsed.damage.is_empty() && parsed.lines == 0;
        if parsed.damage.is_empty() && !is_empty && parsed.keep_bytes < bytes.len() {
            journal.notes.push(format!(
                "the last line of the journal {} was cut short; its change was never made",
                path.display()
            ));
        }
        journal.lines = parsed.lines;
        journal.entries = parsed.entries.into_iter().collect();
        journal.damage = parsed.damage;
        let found = if is_empty {
            Found::Useless
        } else if is_older || parsed.unterminated {
            // What is appended is of this version and begins on a line of its own.
            Found::Other
        } else {
            Found::Whole(parsed.keep_bytes as u64)
        };
        Ok((journal, found))
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
    pub fn entries(&self) -> Vec<Change> {
        self.entries.iter().cloned().collect()
    }

    /// The same, by what they are about.
    pub(in crate::pin) fn by_key(&self) -> &Entries {
        &self.entries
    }

    /// Whether there is nothing to undo.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What opening it had to say, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The damaged lines, each as a sentence.
    pub(in crate::pin) fn damage(&self) -> Vec<String> {
        let say = |damage: &format::Damage| {
            let about = damage.about.as_ref().map_or_else(String::new, |about| format!(" ({about})"));
            format!(
                "line {} cannot be read and is not undone{about}: {:?}, in {}",
                damage.line,
                damage.text,
                self.path().display()
            )
        };
        self.damage.iter().map(say).collect()
    }

    /// The first change of a key: its `before` is the original.
    pub fn first(&self, key: &Key) -> Option<&Change> {
        self.entries.first(key)
    }

    /// Writes and syncs `changes`; only then may they be made. A change of a thread or setting that is
    /// in the journal already keeps the original `before`, and one that is there word by word is not
    /// written again, so a placement that goes to and fro does not grow the file.
    ///
    /// # Errors
    /// When the disk says no; then the changes must not be made.
    pub fn record(&mut self, changes: &[Change]) -> Result<(), JournalError> {
        self.record_anew(&[], changes)
    }

    /// The same, where what the journal has of `void` holds no longer: somebody else has changed it since, and the
    /// `before` of `changes` is theirs.
    pub(in crate::pin) fn record_anew(
        &mut self,
        void: &[Key],
        changes: &[Change],
    ) -> Result<(), JournalError> {
        let void: HashSet<&Key> = void.iter().collect();
        let (mut new, mut lines) = (Entries::default(), Vec::new());
        for change in changes {
            let key = change.key();
            let known = self.entries.first(&key).filter(|_| !void.contains(&key));
            let original = known.or_else(|| new.first(&key));
            let first = original.is_none();
            let change = match original {
                Some(original) => change.clone().with_before_of(original),
                None => change.clone(),
            };
            let is_known = known.is_some() && self.entries.contains(&change);
            if !is_known && !new.contains(&change) {
                lines.push(Line::Change { first, change: change.clone() });
                new.push(change);
            }
        }
        if self.lines > 256 && self.lines > 4 * (self.entries.len() + lines.len()) {
            self.is_unsure = true;
        }
        self.append(&lines)?;
        for key in new.keys() {
            if void.contains(&key) {
                self.entries.remove(&key);
            }
        }
        new.iter().for_each(|change| self.entries.push(change.clone()));
        Ok(())
    }

    /// Takes keys out that are back at their original, or whose change was never made.
    ///
    /// # Errors
    /// When the disk says no; then the keys stay in the journal.
    pub fn forget(&mut self, keys: &[Key]) -> Result<(), JournalError> {
        let mut left = self.entries.clone();
        let known: Vec<&Key> = keys.iter().filter(|key| left.remove(key)).collect();
        if known.is_empty() {
            return Ok(());
        }
        // A loop that pins and releases for weeks must not fill the disk.
        let is_history = self.lines > 256 && self.lines > 4 * (left.len() + known.len());
        if left.is_empty() || is_history {
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
        self.keep_only(Entries::default())
    }

    /// Replaces the content by `entries` in one step that is either done or not, whatever happens. A
    /// damaged file is kept as `journal.damaged-N`.
    ///
    /// # Errors
    /// When the disk says no. Then the file is as it was, and holds more than has to be undone.
    pub(in crate::pin) fn keep_only(&mut self, entries: Entries) -> Result<(), JournalError> {
        self.entries = entries;
        self.is_unsure = true;
        let path = self.path();
        if !self.damage.is_empty() {
            let aside = self.set_aside(&path).map_err(self.failed("set aside"))?;
            self.notes.push(format!("the damaged journal is kept as {}", aside.display()));
            self.damage.clear();
        }
        self.rewrite()
    }

    /// Replaces the file by one that holds the entries, or removes it where there are none.
    fn rewrite(&mut self) -> Result<(), JournalError> {
        self.is_unsure = true;
        let path = self.path();
        if self.entries.is_empty() {
            // Looked for first: a read-only disk refuses to remove what is not there.
            if std::fs::symlink_metadata(&path).is_ok() {
                std::fs::remove_file(&path).map_err(self.failed("remove"))?;
                self.sync_dir()?;
            }
            (self.file, self.len_bytes, self.lines) = (None, 0, 0);
        } else {
            let mut seen = HashSet::new();
            let line =
                |change: &Change| Line::Change { first: seen.insert(change.key()), change: change.clone() };
            let lines: Vec<Line> = self.entries.iter().map(line).collect();
            let bytes = self.encode(&lines, true)?;
            self.file = Some(replace_file(&path, &bytes, files::FOR_OWNER).map_err(self.failed("rewrite"))?);
            (self.len_bytes, self.lines) = (bytes.len() as u64, lines.len() + 1);
        }
        self.is_unsure = false;
        Ok(())
    }

    /// Whether a change is of a domain of Xen that a journal of an earlier version named in part.
    pub(in crate::pin) fn has_partly_known_domains(&self) -> bool {
        self.entries.iter().any(|change| change.xen_domain().is_some_and(|of| of.is_partly_known()))
    }

    /// Names those domains whole that are among `domains`, so that later changes of them have the same key.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub(in crate::pin) fn complete_domains(&mut self, domains: &[XenDomainId]) -> Result<(), JournalError> {
        let mut entries = self.entries();
        let mut is_other = false;
        for known in
            entries.iter_mut().filter_map(Change::xen_domain_mut).filter(|known| known.is_partly_known())
        {
            if let Some(whole) = domains.iter().find(|domain| domain.matches(known)) {
                (*known, is_other) = (*whole, true);
            }
        }
        if is_other { self.keep_only(entries.into_iter().collect()) } else { Ok(()) }
    }

    fn append(&mut self, lines: &[Line]) -> Result<(), JournalError> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.is_unsure {
            self.rewrite()?;
        }
        let is_new = self.file.is_none();
        let bytes = self.encode(lines, is_new)?;
        let written = self.write(&bytes, is_new);
        if written.is_err() {
            // After a failed fsync nobody can tell what is on disk (fsync(2)): the next change goes into a new file.
            // The cut makes this one readable again where it can be made; undoing needs what is before it only.
            if let Some(file) = self.file.take() {
                let _ = file.set_len(self.len_bytes).and_then(|()| file.sync_all());
            }
            self.is_unsure = true;
            return written;
        }
        self.len_bytes += bytes.len() as u64;
        self.lines += lines.len() + usize::from(is_new);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], is_new: bool) -> Result<(), JournalError> {
        if is_new {
            let created = open_own(&self.path(), ROLE, Access::Create);
            self.file = Some(created.map_err(self.refused("create"))?);
        }
        let failed = self.failed("write");
        if let Some(file) = &mut self.file {
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        if is_new { self.sync_dir() } else { Ok(()) }
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

    fn refused(&self, what: &'static str) -> impl Fn(NotOwn) -> JournalError + use<> {
        let failed = self.failed(what);
        move |error| match error {
            NotOwn::Io(source) => failed(source),
            error => JournalError::NotOwn(error),
        }
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> JournalError + use<> {
        let path = self.path();
        move |source| JournalError::Io { what, path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests;
