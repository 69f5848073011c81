//! Where what lies in the file, in words of eight bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 0 to 4095 | the header: magic, version and vCPUs, records of a ring, bytes of the file, recording wanted, recording applied |
//! | 128 for each vCPU | its counters: those that its writer writes, and 64 bytes on the place of its reader |
//! | from the next page | the rings, 16 bytes a record |

use std::sync::atomic::AtomicU64;

use super::StreamError;

/// Bytes of a line of a cache.
pub const LINE_BYTES: u64 = 64;

/// Lines of a page of 4 KiB.
pub const LINES_OF_PAGE: u8 = 64;

/// The most vCPUs of a stream.
pub const MAX_VCPUS: usize = 64;

/// The most records of a ring: 16 MiB.
pub const MAX_RING_RECORDS: usize = 1 << 20;

/// The first word of every stream: "huddleac" in ASCII.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"huddleac");

/// Of this layout.
const VERSION: u64 = 1;

const PAGE_BYTES: usize = 4096;
const WORD_BYTES: usize = size_of::<u64>();

/// Words of a record.
pub(super) const RECORD_WORDS: usize = 2;

pub(super) const MAGIC_WORD: usize = 0;
pub(super) const VERSION_WORD: usize = 1;
const VCPUS_WORD: usize = 2;
const RECORDS_WORD: usize = 3;
const BYTES_WORD: usize = 4;
/// Written by the runner.
pub(super) const WANTED_WORD: usize = 8;
/// Written by the plugin.
pub(super) const APPLIED_WORD: usize = 16;

/// Words of the counters of a vCPU, from their first.
const COUNTERS_WORDS: usize = 16;
/// Instructions since recording began.
pub(super) const INSTRUCTIONS: usize = 0;
/// Records written since the stream was made.
pub(super) const WRITTEN: usize = 1;
/// Records lost since recording began.
pub(super) const LOST: usize = 2;
/// Records that had been written when recording began.
pub(super) const FIRST: usize = 3;
/// Records read since the stream was made; in a cache line of its own, since it is the reader's.
pub(super) const READ: usize = 8;

/// A line of each page of 4 KiB, from 0 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptLine(u8);

impl KeptLine {
    /// The first line of each page.
    pub const FIRST: Self = Self(0);

    /// `None` from 64 on.
    pub fn new(line: u8) -> Option<Self> {
        (line < LINES_OF_PAGE).then_some(Self(line))
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Where it begins in its page, in bytes.
    pub fn offset_bytes(self) -> u64 {
        u64::from(self.0) * LINE_BYTES
    }
}

/// One time of recording, from its start to its stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Counts starts, from 1.
    pub number: u64,
    /// The line that is recorded.
    pub line: KeptLine,
}

impl Recording {
    /// As a word, which is 0 for none.
    pub(super) fn to_word(recording: Option<Self>) -> u64 {
        recording.map_or(0, |recording| recording.number << 8 | u64::from(recording.line.0))
    }

    /// `None` for none, and for words that are no recording.
    pub(super) fn from_word(word: u64) -> Option<Self> {
        let line = KeptLine::new((word & 0xff) as u8)?;
        (word >> 8 != 0).then_some(Self { number: word >> 8, line })
    }
}

/// How many records a ring holds: a power of two up to [`MAX_RING_RECORDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingRecords(usize);

impl RingRecords {
    /// Two MiB a vCPU: for 43 ms at 3 million records a second, which a kernel's work was seen to make
    /// (docs/decisions/accesses-of-emulated-vms.md); a runner may wait for a processor as long.
    pub const DEFAULT: Self = Self(1 << 17);

    /// `None` for a number that is no power of two, or too large.
    pub fn new(records: usize) -> Option<Self> {
        (records.is_power_of_two() && records <= MAX_RING_RECORDS).then_some(Self(records))
    }

    /// The number.
    pub fn get(self) -> usize {
        self.0
    }
}

/// Where what lies in a stream of so many vCPUs with rings of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) vcpus: usize,
    pub(super) records: RingRecords,
}

impl Layout {
    /// # Errors
    /// No vCPU, or too many.
    pub(super) fn new(vcpus: usize, records: RingRecords) -> Result<Self, StreamError> {
        if (1..=MAX_VCPUS).contains(&vcpus) {
            return Ok(Self { vcpus, records });
        }
        Err(StreamError::Unusable(format!("it has {vcpus} vCPUs, not 1 to {MAX_VCPUS}")))
    }

    /// What the words of a file say, if the file is as long as that.
    ///
    /// # Errors
    /// They are no header of this version.
    pub(super) fn of(words: &[AtomicU64]) -> Result<Self, StreamError> {
        use std::sync::atomic::Ordering::Relaxed;
        let word = |at: usize| words.get(at).map_or(0, |word| word.load(Relaxed));
        if word(MAGIC_WORD) != MAGIC {
            return Err(StreamError::Unusable("its first word is another one".into()));
        }
        if word(VERSION_WORD) != VERSION {
            return Err(StreamError::Unusable(format!(
                "it is of version {}, not {VERSION}",
                word(VERSION_WORD)
            )));
        }
        let number = |at: usize| usize::try_from(word(at)).unwrap_or(usize::MAX);
        let records = RingRecords::new(number(RECORDS_WORD)).ok_or_else(|| {
            StreamError::Unusable(format!("its rings have {} records", number(RECORDS_WORD)))
        })?;
        let layout = Self::new(number(VCPUS_WORD), records)?;
        let bytes = size_of_val(words);
        if number(BYTES_WORD) != bytes || layout.bytes() != bytes {
            return Err(StreamError::Unusable(format!(
                "it has {bytes} bytes and says that it has {}, of the {} that it needs",
                number(BYTES_WORD),
                layout.bytes()
            )));
        }
        Ok(layout)
    }

    /// Writes the header of an empty stream into a file of zeros.
    pub(super) fn write(self, words: &[AtomicU64]) {
        use std::sync::atomic::Ordering::{Relaxed, Release};
        let header = [
            (VERSION_WORD, VERSION),
            (VCPUS_WORD, self.vcpus as u64),
            (RECORDS_WORD, self.records.get() as u64),
            (BYTES_WORD, self.bytes() as u64),
        ];
        for (at, value) in header {
            words[at].store(value, Relaxed);
        }
        words[MAGIC_WORD].store(MAGIC, Release);
    }

    fn first_ring_word(self) -> usize {
        (PAGE_BYTES / WORD_BYTES + self.vcpus * COUNTERS_WORDS).next_multiple_of(PAGE_BYTES / WORD_BYTES)
    }

    fn ring_words(self) -> usize {
        self.records.get() * RECORD_WORDS
    }

    /// Bytes of the file, whole pages.
    pub(super) fn bytes(self) -> usize {
        let words = self.first_ring_word() + self.vcpus * self.ring_words();
        (words * WORD_BYTES).next_multiple_of(PAGE_BYTES)
    }

    /// The counters and the ring of a vCPU below `self.vcpus`.
    pub(super) fn of_vcpu(self, words: &[AtomicU64], vcpu: usize) -> (&[AtomicU64], &[AtomicU64]) {
        let counters = PAGE_BYTES / WORD_BYTES + vcpu * COUNTERS_WORDS;
        let ring = self.first_ring_word() + vcpu * self.ring_words();
        (&words[counters..counters + COUNTERS_WORDS], &words[ring..ring + self.ring_words()])
    }
}
