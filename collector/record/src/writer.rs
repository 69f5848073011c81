//! All segments of a run, its limits and its manifest; no thread and no clock of its own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Instant;

use huddle_model::schema::{MANIFEST_FILE, Manifest, Row, Rows, Table, TableVisitor};

use super::segment::{ClosedSegment, OpenSegment, make_private_dir, reserve_space};
use super::{RecordError, RecorderLimits};
use huddle_host::files;

/// Space kept so that a full disk can still be told in the last manifest.
const RESERVE_FILE: &str = ".reserve";
const RESERVE_BYTES: i64 = 64 << 10;

/// Writes one run. After its first error it is [`RunWriter::failure`] and only counts what is lost.
pub(crate) struct RunWriter {
    dir: PathBuf,
    manifest: Manifest,
    limits: RecorderLimits,
    /// By position in [`Table::ALL`].
    open: Vec<Option<OpenSegment>>,
    /// Oldest first.
    closed: VecDeque<(Table, ClosedSegment, Instant)>,
    closed_bytes: u64,
    failure: Option<RecordError>,
    /// Whether the manifest on disk lacks a close or a removal.
    manifest_is_old: bool,
}

impl RunWriter {
    /// Makes the directory, which must be new or empty, and writes the first manifest.
    pub(crate) fn create(
        dir: &Path,
        mut manifest: Manifest,
        limits: RecorderLimits,
    ) -> Result<Self, RecordError> {
        let limits = limits.checked()?;
        make_private_dir(dir)?;
        let mut entries = std::fs::read_dir(dir).map_err(RecordError::file("list", dir))?;
        if entries.next().is_some() {
            return Err(RecordError::NotEmpty(dir.to_owned()));
        }
        manifest.tables = Table::ALL.iter().map(|table| (*table, Default::default())).collect();
        let mut writer = Self {
            dir: dir.to_owned(),
            manifest,
            limits,
            open: Table::ALL.iter().map(|_| None).collect(),
            closed: VecDeque::new(),
            closed_bytes: 0,
            failure: None,
            manifest_is_old: true,
        };
        writer.write_manifest()?;
        reserve_space(&dir.join(RESERVE_FILE), RESERVE_BYTES)?;
        Ok(writer)
    }

    /// Why nothing is written any more.
    pub(super) fn failure(&self) -> Option<&RecordError> {
        self.failure.as_ref()
    }

    /// The manifest as it is now.
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes rows, closes the segments that are full or old, and removes what is beyond the limits.
    pub(crate) fn write(&mut self, rows: &Rows, now: Instant) {
        let Ok(()) = rows.visit(&mut Appender { writer: self, now });
        self.tick(now);
    }

    /// Counts rows that never came here as lost.
    pub(super) fn count_lost(&mut self, table: Table, rows: u64) {
        self.manifest.tables.entry(table).or_default().rows_lost += rows;
    }

    /// Applies the limits of age and size.
    pub(crate) fn tick(&mut self, now: Instant) {
        for table in self.due(now) {
            self.close(table, now);
        }
        self.remove_what_is_beyond(now);
        self.after_change(now);
    }

    /// When [`RunWriter::tick`] has to be called next, rows or not.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.failure.is_some() {
            return None;
        }
        let age = self.limits.segment.max_age;
        let open = self.open.iter().flatten().filter_map(|segment| segment.opened.checked_add(age));
        let oldest = self.closed.front().zip(self.limits.recording.max_age);
        open.chain(oldest.and_then(|((_, _, closed), age)| closed.checked_add(age))).min()
    }

    /// Closes everything and writes the last manifest.
    pub(crate) fn finish(&mut self, now: Instant, end_us: i64) {
        for table in Table::ALL {
            self.close(*table, now);
        }
        self.remove_what_is_beyond(now);
        self.free_reserve();
        self.manifest.end_us = Some(end_us);
        self.manifest_is_old = true;
        self.after_change(now);
    }

    fn due(&self, now: Instant) -> Vec<Table> {
        let limits = self.limits.segment;
        let is_due = |segment: &OpenSegment| {
            segment.bytes() >= limits.max_bytes
                || now.saturating_duration_since(segment.opened) >= limits.max_age
        };
        let tables = Table::ALL.iter().zip(&self.open);
        tables.filter(|(_, open)| open.as_ref().is_some_and(is_due)).map(|(table, _)| *table).collect()
    }

    fn append<R: Row>(&mut self, rows: &[R], now: Instant) -> Result<(), RecordError> {
        let number = self.manifest.counts(R::TABLE).segments_written + 1;
        let slot = &mut self.open[R::TABLE as usize];
        let segment = match slot {
            Some(segment) => segment,
            None => slot.insert(OpenSegment::open(&self.dir, R::TABLE, number, now)?),
        };
        segment.append(rows)
    }

    fn close(&mut self, table: Table, now: Instant) {
        let Some(segment) = self.open[table as usize].take() else { return };
        let rows = segment.rows;
        match segment.close() {
            Ok(closed) => {
                let counts = self.manifest.tables.entry(table).or_default();
                counts.segments_written += 1;
                counts.rows_written += closed.rows;
                counts.bytes_written += closed.bytes;
                self.closed_bytes += closed.bytes;
                self.closed.push_back((table, closed, now));
                self.manifest_is_old = true;
            }
            Err(error) => {
                self.count_lost(table, rows);
                self.fail(error);
            }
        }
    }

    fn remove_what_is_beyond(&mut self, now: Instant) {
        let limits = self.limits.recording;
        loop {
            let open_bytes: u64 = self.open.iter().flatten().map(OpenSegment::bytes).sum();
            let Some((table, segment, closed)) = self.closed.front() else { return };
            let too_much = limits.max_total_bytes.is_some_and(|max| self.closed_bytes + open_bytes > max);
            let too_old = limits.max_age.is_some_and(|max| now.saturating_duration_since(*closed) >= max);
            if !too_much && !too_old {
                return;
            }
            let gone = match std::fs::remove_file(&segment.path) {
                Ok(()) => Ok(()),
                // Somebody else removed it; it no longer counts either way.
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(source) => Err(RecordError::file("remove", &segment.path)(source)),
            };
            if let Err(error) = gone {
                // A recording that cannot be kept within its limit must not go on.
                return self.fail(error);
            }
            let counts = self.manifest.tables.entry(*table).or_default();
            counts.segments_removed += 1;
            counts.rows_removed += segment.rows;
            self.closed_bytes -= segment.bytes;
            self.manifest_is_old = true;
            self.closed.pop_front();
        }
    }

    /// Keeps the first error; later ones follow from it.
    fn fail(&mut self, error: RecordError) {
        if self.failure.is_none() {
            self.manifest.stopped = Some(error.to_string());
            self.manifest_is_old = true;
            self.failure = Some(error);
        }
    }

    fn after_change(&mut self, now: Instant) {
        if self.failure.is_none()
            && self.manifest_is_old
            && let Err(error) = self.write_manifest()
        {
            self.fail(error);
        }
        if self.failure.is_some() {
            // What the other tables hold may still fit: the failed segment's file is gone by now.
            for table in Table::ALL {
                self.close(*table, now);
            }
            self.free_reserve();
            // The first error is the one to tell; without this the manifest is that of the last close.
            if self.manifest_is_old {
                let _ = self.write_manifest();
            }
        }
    }

    fn free_reserve(&self) {
        // Absent after the first time, and of no consequence but 64 KiB where it cannot be removed.
        let _ = std::fs::remove_file(self.dir.join(RESERVE_FILE));
    }

    fn write_manifest(&mut self) -> Result<(), RecordError> {
        let path = self.dir.join(MANIFEST_FILE);
        files::replace_file(&path, self.manifest.to_json()?.as_bytes(), files::FOR_OWNER)
            .map_err(RecordError::file("replace", &path))?;
        self.manifest_is_old = false;
        Ok(())
    }
}

struct Appender<'a> {
    writer: &'a mut RunWriter,
    now: Instant,
}

impl TableVisitor for Appender<'_> {
    type Error = Infallible;

    fn visit<R: Row>(&mut self, rows: &[R]) -> Result<(), Infallible> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut lost = rows.len() as u64;
        if self.writer.failure.is_none() {
            let Err(error) = self.writer.append(rows, self.now) else { return Ok(()) };
            // The encoder's state is unknown after an error, so its segment is given up.
            lost += self.writer.open[R::TABLE as usize].take().map_or(0, |segment| segment.rows);
            self.writer.fail(error);
        }
        self.writer.count_lost(R::TABLE, lost);
        Ok(())
    }
}
