//! All segments of a run, its limits, its interruptions and its manifest; it has no thread of its own, and reads only
//! the wall clock, for the times of gaps.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use huddle_host::clock::unix_us;
use huddle_model::schema::{
    MANIFEST_FILE, Manifest, RecordingGap, Row, Rows, SEGMENT_CHECKSUM, Table, TableVisitor,
};

use super::retry::{Backoff, deadline_after};
use super::run_dir::RunDir;
use super::segment::{ClosedSegment, OpenSegment, make_private_dir, time_of};
use super::{RecordError, RecorderLimits, RecorderNotice};
use huddle_host::files;

/// Writes one run. After an error it is interrupted: further rows are counted as lost, and writing is retried from time
/// to time; when that works it goes on with new segments, and the manifest has the gap.
pub(crate) struct RunWriter {
    run_dir: RunDir,
    manifest: Manifest,
    limits: RecorderLimits,
    /// By position in [`Table::ALL`].
    open: Vec<Option<OpenSegment>>,
    /// Rows that are being written and are in no segment yet, likewise.
    pending_rows: Vec<u64>,
    /// Oldest first.
    closed: VecDeque<(Table, ClosedSegment, Instant)>,
    closed_bytes: u64,
    state: State,
    backoff: Backoff,
    /// Whether the manifest on disk is out of date.
    manifest_is_old: bool,
    /// Notices that were not taken yet.
    notices: Vec<RecorderNotice>,
    #[cfg(test)]
    pub(super) panic_at_next_write: bool,
}

/// Whether rows are written.
enum State {
    Writing {
        since: Instant,
    },
    /// The last gap of the manifest is this one.
    Interrupted {
        /// What failed first; later errors follow from it.
        reason: String,
        retry_at: Instant,
    },
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
        manifest.segment_checksum = Some(SEGMENT_CHECKSUM.to_owned());
        manifest.gaps = Vec::new();
        let mut writer = Self {
            run_dir: RunDir::of(dir, &manifest.run)?,
            manifest,
            limits,
            open: Table::ALL.iter().map(|_| None).collect(),
            pending_rows: vec![0; Table::ALL.len()],
            closed: VecDeque::new(),
            closed_bytes: 0,
            state: State::Writing { since: Instant::now() },
            backoff: Backoff::new(limits.retry),
            manifest_is_old: true,
            notices: Vec::new(),
            #[cfg(test)]
            panic_at_next_write: false,
        };
        writer.write_manifest()?;
        writer.run_dir.reserve()?;
        Ok(writer)
    }

    /// Why writing is interrupted now.
    pub(super) fn interruption(&self) -> Option<&str> {
        match &self.state {
            State::Writing { .. } => None,
            State::Interrupted { reason, .. } => Some(reason),
        }
    }

    /// The notices since the last call.
    pub(super) fn take_notices(&mut self) -> Vec<RecorderNotice> {
        std::mem::take(&mut self.notices)
    }

    /// The manifest as it is now.
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes rows, closes the segments that are full or old, and removes what is beyond the limits. Whether the
    /// rows were accepted, and not counted as lost.
    pub(crate) fn write(&mut self, rows: &Rows, now: Instant) -> bool {
        self.check_state(now);
        self.pending_rows = Table::ALL.iter().map(|table| rows.count(*table)).collect();
        #[cfg(test)]
        assert!(!std::mem::take(&mut self.panic_at_next_write), "a panic that a test asked for");
        let Ok(()) = rows.visit(&mut Appender { writer: self, now });
        let are_accepted = self.interruption().is_none();
        self.apply_limits(now);
        are_accepted
    }

    /// Counts rows as lost that were dropped before they got here.
    pub(super) fn count_lost(&mut self, table: Table, rows: u64) {
        self.manifest.tables.entry(table).or_default().rows_lost += rows;
    }

    /// Counts a step of the loop that came while nothing could be written.
    pub(super) fn count_lost_step(&mut self) {
        if let Some(gap) = self.open_gap() {
            gap.steps_lost += 1;
        }
    }

    /// What is due by time alone.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.check_state(now);
        self.apply_limits(now);
    }

    /// Applies the limits of age and size.
    fn apply_limits(&mut self, now: Instant) {
        for table in self.due(now) {
            self.close(table, now);
        }
        self.remove_beyond_limits(now);
        self.after_change(now);
    }

    /// When [`RunWriter::tick`] has to be called next, rows or not.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if let State::Interrupted { retry_at, .. } = self.state {
            return Some(retry_at);
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
        self.remove_beyond_limits(now);
        self.run_dir.free_reserve();
        self.manifest.stopped = self.interruption().map(str::to_owned);
        self.manifest.end_us = Some(end_us);
        self.manifest_is_old = true;
        self.after_change(now);
        // The last error may have happened just now.
        if self.manifest.stopped.is_none() && self.interruption().is_some() {
            self.manifest.stopped = self.interruption().map(str::to_owned);
            let _ = self.write_manifest();
        }
    }

    /// After a panic, which may have happened anywhere: discards what was being written.
    pub(super) fn discard_open_segments(&mut self, error: RecordError, now: Instant) {
        self.fail(error, now);
        for table in Table::ALL {
            let pending_rows = std::mem::take(&mut self.pending_rows[*table as usize]);
            self.count_lost_in_gap(*table, pending_rows, None);
            if let Some(segment) = self.open[*table as usize].take() {
                self.count_lost_in_gap(*table, segment.rows, segment.first_us);
            }
        }
        self.after_change(now);
    }

    /// Detects that the recording was removed, and retries when it is time to.
    fn check_state(&mut self, now: Instant) {
        match self.state {
            State::Writing { .. } => {
                if self.open.iter().flatten().any(|segment| !segment.is_in_place()) {
                    let error = RecordError::Gone(self.run_dir.path().to_owned());
                    self.fail(error, now);
                    self.after_change(now);
                }
            }
            State::Interrupted { retry_at, .. } if now >= retry_at => self.resume(now),
            State::Interrupted { .. } => {}
        }
    }

    fn resume(&mut self, now: Instant) {
        let end_us = unix_us();
        if let Some(gap) = self.open_gap() {
            gap.end_us = Some(end_us);
        }
        let works = self.run_dir.restore().and_then(|()| self.write_manifest());
        let gap = self.manifest.gaps.last_mut();
        if works.is_err() {
            // The first reason is kept: a later one would hide what happened.
            if let Some(gap) = gap {
                gap.end_us = None;
            }
            let delay = self.backoff.after(Duration::ZERO);
            if let State::Interrupted { retry_at, .. } = &mut self.state {
                *retry_at = deadline_after(now, delay);
            }
            return;
        }
        self.state = State::Writing { since: now };
        self.notices.extend(gap.map(|gap| RecorderNotice::Resumed(gap.clone())));
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
            None => {
                let (dir, run) = (self.run_dir.path(), &self.manifest.run);
                slot.insert(OpenSegment::open(dir, run, R::TABLE, number, now)?)
            }
        };
        segment.append(rows)
    }

    fn close(&mut self, table: Table, now: Instant) {
        let Some(segment) = self.open[table as usize].take() else { return };
        let (rows, first_us) = (segment.rows, segment.first_us);
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
                self.fail(error, now);
                self.count_lost_in_gap(table, rows, first_us);
            }
        }
    }

    fn remove_beyond_limits(&mut self, now: Instant) {
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
                return self.fail(error, now);
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
    fn fail(&mut self, error: RecordError, now: Instant) {
        let State::Writing { since } = self.state else { return };
        let delay = self.backoff.after(now.saturating_duration_since(since));
        let (reason, since_us) = (error.to_string(), unix_us());
        RecordingGap::begin(since_us, reason.clone()).follow(&mut self.manifest.gaps);
        self.manifest_is_old = true;
        self.notices.push(RecorderNotice::Interrupted { since_us, reason: reason.clone() });
        self.state = State::Interrupted { reason, retry_at: deadline_after(now, delay) };
    }

    /// The gap that has no end yet.
    fn open_gap(&mut self) -> Option<&mut RecordingGap> {
        let is_interrupted = self.interruption().is_some();
        self.manifest.gaps.last_mut().filter(|_| is_interrupted)
    }

    /// Counts rows that an interruption costs; `first_us` is the time of the first one, if they had been accepted before.
    fn count_lost_in_gap(&mut self, table: Table, rows: u64, first_us: Option<i64>) {
        self.count_lost(table, rows);
        if let Some(gap) = self.open_gap() {
            gap.rows_lost += rows;
            gap.windows_lost += if table == Table::Windows { rows } else { 0 };
            gap.begin_us = first_us.map_or(gap.begin_us, |first_us| gap.begin_us.min(first_us));
        }
    }

    fn after_change(&mut self, now: Instant) {
        if self.interruption().is_none()
            && self.manifest_is_old
            && let Err(error) = self.write_manifest()
        {
            self.fail(error, now);
        }
        if self.interruption().is_some() && self.manifest_is_old {
            // The other tables' segments may still fit: the failed segment's file is gone by now.
            for table in Table::ALL {
                self.close(*table, now);
            }
            self.run_dir.free_reserve();
            // If this fails, the manifest is that of the last close. It is tried once, since only this interruption is
            // new in it until the next attempt.
            let _ = self.write_manifest();
            self.manifest_is_old = false;
        }
    }

    fn write_manifest(&mut self) -> Result<(), RecordError> {
        self.run_dir.check_in_place()?;
        let path = self.run_dir.path().join(MANIFEST_FILE);
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
        let Some(first) = rows.first() else { return Ok(()) };
        let writer = &mut *self.writer;
        let (mut lost, mut first_us) = (rows.len() as u64, None);
        if writer.interruption().is_none() {
            let appended = writer.append(rows, self.now);
            writer.pending_rows[R::TABLE as usize] = 0;
            let Err(error) = appended else { return Ok(()) };
            writer.fail(error, self.now);
            // The encoder's state is unknown after an error, so its segment is discarded.
            let segment = writer.open[R::TABLE as usize].take();
            first_us = segment.as_ref().and_then(|segment| segment.first_us).or_else(|| time_of(first));
            lost += segment.map_or(0, |segment| segment.rows);
        }
        writer.pending_rows[R::TABLE as usize] = 0;
        writer.count_lost_in_gap(R::TABLE, lost, first_us);
        Ok(())
    }
}
