//! The recorder's thread: rows into segments, segments into the manifest.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use huddle_model::schema::{EndState, Manifest, Row, Rows, Table};
use huddle_model::snapshot::Snapshot;

use super::segment::{Closed, Segment, sync_parent};
use super::{RecordError, RecordingLimits, RecordingSummary};
use crate::engine::HostClock;
use crate::engine::stages::Clock;

/// How often the age of open segments is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A closed segment that may be removed later.
struct Kept {
    table: Table,
    closed: Closed,
    closed_at: Instant,
}

pub(super) struct Writer {
    dir: PathBuf,
    manifest: Manifest,
    limits: RecordingLimits,
    open: BTreeMap<Table, Segment>,
    /// Number of the last segment of each table.
    numbers: BTreeMap<Table, u64>,
    /// Closed segments, oldest first.
    kept: VecDeque<Kept>,
    lost: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(
        dir: &Path,
        mut manifest: Manifest,
        limits: RecordingLimits,
        lost: Arc<AtomicU64>,
    ) -> Result<Self, RecordError> {
        for table in Table::ALL {
            let table_dir = dir.join(table.name());
            DirBuilder::new().mode(0o700).create(&table_dir).map_err(RecordError::write(&table_dir))?;
            manifest.tables.insert(table.name().to_owned(), Default::default());
        }
        let writer = Self {
            dir: dir.to_owned(),
            manifest,
            limits,
            open: BTreeMap::new(),
            numbers: BTreeMap::new(),
            kept: VecDeque::new(),
            lost,
        };
        writer.write_manifest()?;
        Ok(writer)
    }

    /// Records until the senders are gone, then closes everything.
    pub(super) fn run(mut self, receiver: &Receiver<Arc<Snapshot>>) -> Result<RecordingSummary, RecordError> {
        let recorded = self.record_all(receiver).and_then(|()| self.close_segments(|_| true));
        self.manifest.end_unix_us = Some(HostClock.now_unix_us());
        self.manifest.ended = match &recorded {
            Ok(()) => EndState::Closed,
            Err(error) => {
                tracing::error!("the recording has ended, the loop goes on: {error}");
                EndState::Failed(error.to_string())
            }
        };
        // A full disk may refuse this, too; the error that came first is the one to tell.
        let written = self.write_manifest();
        recorded.and(written)?;
        let counts = self.manifest.tables.values();
        Ok(RecordingSummary {
            dir: self.dir,
            rows: counts.clone().map(|counts| counts.rows).sum(),
            segments: counts.map(|counts| counts.segments).sum(),
            rounds_lost: self.lost.load(Ordering::Relaxed),
        })
    }

    fn record_all(&mut self, receiver: &Receiver<Arc<Snapshot>>) -> Result<(), RecordError> {
        loop {
            match receiver.recv_timeout(LOOK_INTERVAL) {
                Ok(snapshot) => self.record(&snapshot)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let limits = self.limits;
            self.close_segments(|segment| {
                segment.bytes() >= limits.segment_max_bytes
                    || segment.opened().elapsed() >= limits.segment_max_age
            })?;
            self.remove_old()?;
        }
    }

    fn record(&mut self, snapshot: &Snapshot) -> Result<(), RecordError> {
        let rows = Rows::of(snapshot);
        self.write(&rows.sharing)?;
        self.write(&rows.vms)?;
        self.write(&rows.placements)?;
        self.write(&rows.decisions)?;
        self.write(&rows.ksm)?;
        self.write(&rows.events)
    }

    fn write<R: Row>(&mut self, rows: &[R]) -> Result<(), RecordError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut segment = match self.open.remove(&R::TABLE) {
            Some(segment) => segment,
            None => {
                let number = self.numbers.entry(R::TABLE).or_default();
                *number += 1;
                Segment::open(&self.dir.join(R::TABLE.name()), *number, R::COLUMNS)?
            }
        };
        segment.write(rows)?;
        self.open.insert(R::TABLE, segment);
        Ok(())
    }

    fn close_segments(&mut self, is_due: impl Fn(&Segment) -> bool) -> Result<(), RecordError> {
        let due: Vec<Table> =
            self.open.iter().filter(|(_, segment)| is_due(segment)).map(|(table, _)| *table).collect();
        for table in &due {
            let Some(segment) = self.open.remove(table) else { continue };
            let closed = segment.close()?;
            let counts = self.manifest.tables.entry(table.name().to_owned()).or_default();
            counts.segments += 1;
            counts.rows += closed.rows;
            self.kept.push_back(Kept { table: *table, closed, closed_at: Instant::now() });
        }
        if due.is_empty() { Ok(()) } else { self.write_manifest() }
    }

    /// Removes the oldest segments beyond the limits. The manifest is written first: a reader may find
    /// a segment that the manifest no longer counts, but never miss one that it does.
    fn remove_old(&mut self) -> Result<(), RecordError> {
        let mut bytes: u64 = self.kept.iter().map(|kept| kept.closed.bytes).sum();
        let mut old = Vec::new();
        while let Some(first) = self.kept.front() {
            let too_large = self.limits.total_max_bytes.is_some_and(|max| bytes > max);
            let too_old = self.limits.max_age.is_some_and(|max| first.closed_at.elapsed() > max);
            if !too_large && !too_old {
                break;
            }
            bytes -= first.closed.bytes;
            let counts = self.manifest.tables.entry(first.table.name().to_owned()).or_default();
            counts.segments -= 1;
            counts.rows -= first.closed.rows;
            counts.segments_removed += 1;
            counts.rows_removed += first.closed.rows;
            old.extend(self.kept.pop_front());
        }
        if old.is_empty() {
            return Ok(());
        }
        self.write_manifest()?;
        for kept in old {
            let path = &kept.closed.path;
            fs::remove_file(path).map_err(RecordError::write(path))?;
        }
        Ok(())
    }

    /// Replaces the manifest at once.
    fn write_manifest(&self) -> Result<(), RecordError> {
        let manifest = Manifest { rounds_lost: self.lost.load(Ordering::Relaxed), ..self.manifest.clone() };
        let (path, temporary) = (self.dir.join("manifest.json"), self.dir.join(".manifest.json.tmp"));
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            serde_json::to_writer_pretty(&mut file, &manifest)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(RecordError::write(&path))?;
        sync_parent(&path)
    }
}
