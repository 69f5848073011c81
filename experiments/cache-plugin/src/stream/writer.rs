//! The plugin's side of a stream.

use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use super::file::{self, Mapping};
use super::header::{
    APPLIED_WORD, FIRST, INSTRUCTIONS, LOST, Layout, READ, RECORD_WORDS, Recording, WANTED_WORD, WRITTEN,
};
use super::{Record, StreamError};

/// A stream that is written to, for as long as the process runs.
#[derive(Debug)]
pub struct StreamWriter {
    words: &'static [AtomicU64],
    rings: Vec<RingWriter>,
}

impl StreamWriter {
    /// The stream at `path`, which must be for `vcpus` vCPUs. A vCPU waits for room in its ring for at most
    /// `most_waited`.
    ///
    /// # Errors
    /// It cannot be opened, is no stream, or is one for another VM.
    pub fn open(path: &Path, vcpus: usize, most_waited: Duration) -> Result<Self, StreamError> {
        let (layout, mapping) = file::open(path)?;
        if layout.vcpus != vcpus {
            return Err(StreamError::Unusable(format!("it is for {} vCPUs, not {vcpus}", layout.vcpus)));
        }
        Ok(Self::of(layout, mapping, most_waited))
    }

    fn of(layout: Layout, mapping: Mapping, most_waited: Duration) -> Self {
        // Generated code refers to its words until the process ends.
        let mapping: &'static Mapping = Box::leak(Box::new(mapping));
        let words = mapping.words();
        let ring = |vcpu| {
            let (counters, records) = layout.of_vcpu(words, vcpu);
            RingWriter {
                wanted: &words[WANTED_WORD],
                counters,
                records,
                written: AtomicU64::new(0),
                read: AtomicU64::new(0),
                waits: AtomicBool::new(true),
                most_waited,
            }
        };
        Self { words, rings: (0..layout.vcpus).map(ring).collect() }
    }

    /// How many vCPUs it has.
    pub fn vcpus(&self) -> usize {
        self.rings.len()
    }

    /// What the runner wants to be recorded.
    #[inline]
    pub fn wanted(&self) -> Option<Recording> {
        Recording::from_word(self.words[WANTED_WORD].load(Acquire))
    }

    /// Begins a recording, or ends the last one. No vCPU may run meanwhile: counters begin at 0.
    pub fn apply(&self, recording: Option<Recording>) {
        if recording.is_some() {
            self.rings.iter().for_each(RingWriter::begin);
        }
        self.words[APPLIED_WORD].store(Recording::to_word(recording), Release);
    }

    /// The ring of a vCPU; `None` for one that the stream is not for.
    #[inline]
    pub fn ring(&self, vcpu: usize) -> Option<&RingWriter> {
        self.rings.get(vcpu)
    }
}

/// The ring of a vCPU, to which one thread at a time writes.
#[derive(Debug)]
#[repr(align(64))]
pub struct RingWriter {
    /// What the runner wants, of the whole stream.
    wanted: &'static AtomicU64,
    counters: &'static [AtomicU64],
    records: &'static [AtomicU64],
    /// Records written; the copy that is shared is never read.
    written: AtomicU64,
    /// The place of the reader as it was last seen.
    read: AtomicU64,
    /// Whether a full ring is waited for: not after it has been in vain, until there is room again.
    waits: AtomicBool,
    /// For how long at most.
    most_waited: Duration,
}

/// How often a vCPU that waits for room looks for it.
const LOOK_EVERY: Duration = Duration::from_micros(100);

impl RingWriter {
    fn begin(&self) {
        self.waits.store(true, Relaxed);
        self.counters[INSTRUCTIONS].store(0, Relaxed);
        self.counters[LOST].store(0, Relaxed);
        self.counters[FIRST].store(self.written.load(Relaxed), Relaxed);
    }

    /// The word in which the instructions of the vCPU are counted since recording began.
    pub fn instructions(&self) -> &'static AtomicU64 {
        &self.counters[INSTRUCTIONS]
    }

    /// Adds an access. Where the ring is full the vCPU waits for the runner: emulated time is nobody's measure, and a
    /// stream with gaps is that of another guest. One that waits in vain goes on, and what it does is counted as lost
    /// until there is room.
    #[inline]
    pub fn push(&self, record: Record) {
        let written = self.written.load(Relaxed);
        let capacity = (self.records.len() / RECORD_WORDS) as u64;
        if written.wrapping_sub(self.read.load(Relaxed)) >= capacity {
            // A place that cannot be is a full ring.
            let Some(read) = self.room(written, capacity) else {
                let lost = &self.counters[LOST];
                lost.store(lost.load(Relaxed).saturating_add(1), Relaxed);
                return;
            };
            self.read.store(read, Relaxed);
        }
        let at = (written & (capacity - 1)) as usize * RECORD_WORDS;
        for (word, value) in self.records[at..at + RECORD_WORDS].iter().zip(record.to_words()) {
            word.store(value, Relaxed);
        }
        self.written.store(written.wrapping_add(1), Relaxed);
        self.counters[WRITTEN].store(written.wrapping_add(1), Release);
    }

    /// The place of the reader once there is room; `None` if there is none for too long.
    #[cold]
    fn room(&self, written: u64, capacity: u64) -> Option<u64> {
        let begun = Instant::now();
        loop {
            let read = self.counters[READ].load(Acquire);
            if written.wrapping_sub(read) < capacity {
                self.waits.store(true, Relaxed);
                return Some(read);
            }
            let is_wanted = Recording::from_word(self.wanted.load(Acquire)).is_some();
            if !self.waits.load(Relaxed) || !is_wanted || begun.elapsed() >= self.most_waited {
                self.waits.store(false, Relaxed);
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
