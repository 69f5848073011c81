//! The runner's side of a stream.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::header::{
    APPLIED_WORD, FIRST, INSTRUCTIONS, LOST, Layout, READ, RECORD_WORDS, Recording, WANTED_WORD, WRITTEN,
};
use super::{KeptLine, Mapping, Record, StreamError, StreamFile};

/// The most that a counter of a vCPU can hold, instructions as well as lost records. An emulator runs fewer than 2^32
/// instructions a second on a vCPU, since each takes it some cycles of a processor of a few GHz, and a record takes a
/// call besides: to count so far takes 2^16 seconds, 18 hours, where a recording takes minutes. More was written by a
/// QEMU that a guest has taken over, which would set the clocks of all other VMs forward.
const MOST_COUNTED: u64 = 1 << 48;

/// What one vCPU did until a ring was drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// All records that were made before the vCPU began so many instructions have been read, since recording began.
    pub instructions: u64,
    /// Records that its ring had no room for, since recording began.
    pub lost: u64,
}

/// Reads a stream. A recording is read from its first record on; what an earlier one left is skipped.
#[derive(Debug)]
pub struct StreamReader {
    mapping: Arc<Mapping>,
    layout: Layout,
    wanted: Option<Recording>,
    starts: u64,
    is_applied: bool,
    places: Vec<Place>,
}

/// Where the reader of a ring is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    read: u64,
    /// Instructions of the last record.
    instructions: u64,
    is_damaged: bool,
}

impl StreamReader {
    /// Of a stream that nobody else reads.
    pub fn new(stream: &StreamFile) -> Self {
        let (layout, mapping) = (stream.layout(), stream.mapping());
        let places = vec![Place::default(); layout.vcpus];
        Self { mapping, layout, wanted: None, starts: 0, is_applied: false, places }
    }

    /// How many vCPUs it has.
    pub fn vcpus(&self) -> usize {
        self.layout.vcpus
    }

    /// Asks for a recording of a line of each page. It begins when the guest next returns from an interrupt: see
    /// [`Self::is_recording`].
    pub fn start(&mut self, line: KeptLine) {
        // A word has 56 bits for the number.
        self.starts = (self.starts + 1) & ((1 << 56) - 1);
        self.want(Some(Recording { number: self.starts, line }));
    }

    /// Ends the recording. What is in the rings can still be drained; at most what was being recorded is added.
    pub fn stop(&mut self) {
        let word = &self.mapping.words()[WANTED_WORD];
        word.store(Recording::to_word(None), Release);
    }

    fn want(&mut self, recording: Option<Recording>) {
        (self.wanted, self.is_applied) = (recording, false);
        self.mapping.words()[WANTED_WORD].store(Recording::to_word(recording), Release);
    }

    /// Whether the recording that was asked for has begun.
    ///
    /// # Errors
    /// The first records are not in the ring.
    pub fn is_recording(&mut self) -> Result<bool, StreamError> {
        let Some(wanted) = self.wanted else { return Ok(false) };
        if self.is_applied {
            return Ok(true);
        }
        let applied = self.mapping.words()[APPLIED_WORD].load(Acquire);
        if Recording::from_word(applied) != Some(wanted) {
            return Ok(false);
        }
        self.is_applied = true;
        for vcpu in 0..self.places.len() {
            let first = self.layout.of_vcpu(self.mapping.words(), vcpu).0[FIRST].load(Relaxed);
            self.places[vcpu] = Place { read: first, ..Place::default() };
        }
        Ok(true)
    }

    /// Gives the records of a vCPU to `each`, at most `most` of them and at most those of one full ring, which makes
    /// room for others. Nothing before the recording has begun.
    ///
    /// # Errors
    /// [`StreamError::Damaged`], now and from then on: the other side wrote what cannot be.
    ///
    /// # Panics
    /// For a vCPU that the stream is not for.
    pub fn drain(
        &mut self,
        vcpu: usize,
        most: usize,
        mut each: impl FnMut(Record),
    ) -> Result<Drained, StreamError> {
        if !self.is_recording()? {
            return Ok(Drained::default());
        }
        let (counters, records) = self.layout.of_vcpu(self.mapping.words(), vcpu);
        let place = &mut self.places[vcpu];
        let taken = match place.is_damaged {
            true => Err("it was damaged before"),
            false => place.drain(counters, records, most, &mut each),
        };
        taken.map_err(|what| {
            place.is_damaged = true;
            StreamError::Damaged { vcpu, what }
        })
    }
}

impl Place {
    fn drain(
        &mut self,
        counters: &[AtomicU64],
        records: &[AtomicU64],
        most: usize,
        each: &mut impl FnMut(Record),
    ) -> Result<Drained, &'static str> {
        let capacity = (records.len() / RECORD_WORDS) as u64;
        // In this order: see the module's documentation.
        let complete = counters[INSTRUCTIONS].load(Acquire);
        let written = counters[WRITTEN].load(Acquire);
        let latest = counters[INSTRUCTIONS].load(Acquire);
        let lost = counters[LOST].load(Relaxed);
        if complete.max(latest) > MOST_COUNTED {
            return Err("more instructions are counted than a guest runs in a recording");
        }
        if lost > MOST_COUNTED {
            return Err("more lost records are counted than a guest makes in a recording");
        }
        let there = written.wrapping_sub(self.read);
        if there > capacity {
            return Err("more records are said to be in a ring than it has room for");
        }
        let taken = there.min(most as u64);
        for number in 0..taken {
            let at = (self.read.wrapping_add(number) & (capacity - 1)) as usize * RECORD_WORDS;
            let words = [records[at].load(Relaxed), records[at + 1].load(Relaxed)];
            let record = Record::from_words(words).ok_or("a record has bits without a meaning")?;
            if record.instructions < self.instructions || record.instructions > latest {
                return Err("records are not in the order of instructions");
            }
            self.instructions = record.instructions;
            each(record);
        }
        self.read = self.read.wrapping_add(taken);
        counters[READ].store(self.read, Release);
        // With records left, only those before the last one taken are surely all there.
        let instructions = if taken < there { self.instructions } else { complete };
        Ok(Drained { instructions, lost })
    }
}

#[cfg(test)]
mod tests;
