//! The loop of a guest that obeys.

use std::io::{BufRead, Write};
use std::sync::Arc;

use crate::chase;
use crate::memory::{MemoryError, MergeableMemory};
use crate::protocol::{ColdData, Command, Reply};
use crate::work::{WorkError, Workers};

/// What differs between a stand-in and a VM.
#[derive(Clone, Copy)]
pub struct ServeOptions {
    /// vCPUs that read.
    pub vcpus: usize,
    /// How their threads are called, by number.
    pub thread_name: fn(usize) -> String,
    /// What each thread does first.
    pub at_start: fn(usize) -> Result<(), String>,
    /// Bytes of memory that no other guest holds, filled once and then left alone; a whole number of
    /// pages, or 0.
    pub private_bytes: usize,
    /// Seed of that memory.
    pub private_seed: u64,
    /// Whether its memory is its own to mark as mergeable (a stand-in), or its VMM's.
    pub marks_mergeable: bool,
}

/// What stops a guest, or what it cannot do.
#[derive(Debug, thiserror::Error)]
pub enum GuestFailure {
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// An order at the wrong time.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// No thread, no connection to the runner, or no access to the addresses of pages.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

struct Guest {
    options: ServeOptions,
    workers: Workers,
    data: Option<Arc<MergeableMemory>>,
    own: Option<Arc<MergeableMemory>>,
    /// Held, never read.
    cold: Option<MergeableMemory>,
    /// Held, never read again.
    _private: Option<MergeableMemory>,
}

/// Serves one runner until its input ends.
///
/// # Errors
/// Memory or threads are not available at the start, or the connection to the runner failed. Commands that fail
/// later are answered with an error.
pub fn serve(options: ServeOptions, input: impl BufRead, mut output: impl Write) -> Result<(), GuestFailure> {
    let workers = Workers::start(options.vcpus, options.thread_name, options.at_start)
        .map_err(|error| GuestFailure::Io("cannot start a vCPU thread", error))?;
    let private = match options.private_bytes {
        0 => None,
        bytes => {
            let mut private = memory(options, bytes)?;
            chase::fill_noise(private.words_mut(), options.private_seed);
            Some(private)
        }
    };
    let mut guest = Guest { options, workers, data: None, own: None, cold: None, _private: private };
    answer(&mut output, &Reply::Ready { vcpus: options.vcpus as u32 })?;
    for line in input.lines() {
        let line = line.map_err(|error| GuestFailure::Io("cannot read what to do", error))?;
        let reply = match Command::parse(&line) {
            Some(command) => {
                guest.obey(command).unwrap_or_else(|failure| Reply::Error { message: failure.to_string() })
            }
            None => Reply::Error { message: format!("no such command: {line:?}") },
        };
        answer(&mut output, &reply)?;
    }
    Ok(())
}

fn answer(output: &mut impl Write, reply: &Reply) -> Result<(), GuestFailure> {
    let io = |error| GuestFailure::Io("cannot answer", error);
    // One write a line: other threads of the guest may print in between.
    let line = serde_json::to_string(reply).map_err(|error| io(error.into()))? + "\n";
    output.write_all(line.as_bytes()).and_then(|()| output.flush()).map_err(io)
}

fn memory(options: ServeOptions, bytes: usize) -> Result<MergeableMemory, GuestFailure> {
    let memory = MergeableMemory::map(bytes)?;
    if options.marks_mergeable {
        memory.allow_merging(true)?;
    }
    Ok(memory)
}

/// The data of `seed`.
fn filled(options: ServeOptions, seed: u64, kib: u64) -> Result<MergeableMemory, GuestFailure> {
    let bytes = usize::try_from(kib).ok().and_then(|kib| kib.checked_mul(1024)).unwrap_or(usize::MAX);
    let mut data = memory(options, bytes)?;
    chase::fill(data.words_mut(), seed);
    Ok(data)
}

impl Guest {
    fn obey(&mut self, command: Command) -> Result<Reply, GuestFailure> {
        match command {
            Command::Load { seed, own_seed, kib, cold } => self.load(seed, own_seed, kib, cold),
            Command::Start { pace, own } => {
                let data = if own { &self.own } else { &self.data };
                let data = data.clone().ok_or_else(|| GuestFailure::Other("holds no data yet".into()))?;
                self.workers.read(data, pace)?;
                Ok(Reply::Started)
            }
            Command::Read => Ok(Reply::Reading { vcpus: self.workers.readings()? }),
            Command::Stop => Ok(Reply::Stopped { vcpus: self.workers.stop()? }),
        }
    }

    fn load(
        &mut self,
        seed: u64,
        own_seed: u64,
        kib: u64,
        cold: Option<ColdData>,
    ) -> Result<Reply, GuestFailure> {
        if self.workers.is_reading() {
            return Err(WorkError::ReadsAlready.into());
        }
        // The old data first: a guest need not have room for both.
        (self.data, self.own, self.cold) = (None, None, None);
        let data = filled(self.options, seed, kib)?;
        let bytes = size_of_val(data.words());
        let mut own = memory(self.options, bytes)?;
        own.words_mut().copy_from_slice(data.words());
        chase::set_apart(own.words_mut(), own_seed);
        let cold = cold.map(|cold| filled(self.options, cold.seed, cold.kib)).transpose()?;
        (self.data, self.own, self.cold) = (Some(Arc::new(data)), Some(Arc::new(own)), cold);
        Ok(Reply::Loaded { data_bytes: bytes as u64 })
    }
}
