//! What emulated VMs read, write and fetch, as one stream for a simulated cache.
//!
//! Each VM's QEMU has the plugin `huddle-cache-plugin`, which writes accesses to one line of each page into a file in
//! shared memory: [`huddle_cache_plugin::stream`]. [`AccessStreams`] drains these files, finds the frame of each
//! access, and puts those of all vCPUs in one order ([`order`]). It is [`Access`]es that come out: what a
//! [`Simulator`](huddle_model::cache::Simulator) takes.
//!
//! ```no_run
//! # use std::{collections::BTreeMap, path::Path};
//! # use huddle_experiments::access_stream::{AccessStreams, RingRecords, StreamFile, Streamed, KeptLine};
//! # fn example(vms: &[huddle_model::vm::Vm], streams: &[StreamFile]) -> Result<(), Box<dyn std::error::Error>> {
//! # let root = huddle_host::HostRoot::real();
//! let streamed = vms.iter().zip(streams).map(|(vm, stream)| Streamed { vm, stream, memory_mib: 128 });
//! let mut streams = AccessStreams::open(&root, streamed)?;
//! streams.start(KeptLine::new(17).ok_or("no such line")?)?;
//! let mut accesses = Vec::new();
//! streams.next(&mut accesses)?;
//! # Ok(()) }
//! ```

mod frames;
pub mod order;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use huddle_cache_plugin::stream::{self, AddressSpace, Record, StreamError, StreamReader};
pub use huddle_cache_plugin::stream::{KeptLine, RingRecords, StreamFile};
use huddle_host::HostRoot;
use huddle_model::cache::{Access, AccessKind, MAX_VCPU};
use huddle_model::vm::Vm;
use huddle_sharing::{SharingError, frames_visible};

use self::frames::{FrameMap, Place};
use self::order::{Limits, Order};
use crate::data_pages::CannotRead;
use crate::guest::qemu::Plugin;

/// The plugin's file name.
const LIBRARY: &str = "libhuddle_cache_plugin.so";

/// The accesses of VMs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AccessStreamError {
    /// A VM's stream cannot be used any more.
    #[error("the VM {vm}: {source}")]
    Stream {
        /// The VM.
        vm: String,
        /// Why.
        source: StreamError,
    },
    /// Its memory is not as it was asked for.
    #[error(
        "the {memory_mib} MiB of RAM of {vm} are not one piece of its process's memory; give QEMU's machine `pc` at \
         most 3 GiB by -m, and no other memory"
    )]
    NoRam {
        /// The VM.
        vm: String,
        /// Its RAM in MiB.
        memory_mib: u64,
    },
    /// Frames are hidden.
    #[error(transparent)]
    Hidden(#[from] SharingError),
    /// Frames cannot be read.
    #[error(transparent)]
    Frames(CannotRead),
    /// An access holds a smaller number of a vCPU.
    #[error("there are {0} vCPUs; a stream of accesses holds at most {max}", max = MAX_VCPU as usize + 1)]
    TooManyVcpus(usize),
}

/// The plugin that was built with this program, a dependency of it: cargo leaves it in `deps` beside the program, where
/// programs of tests are themselves.
///
/// # Errors
/// It is not there: one sentence with the remedy.
pub fn plugin_library(program: &Path) -> Result<PathBuf, String> {
    let beside = program.with_file_name(LIBRARY);
    let library = [program.with_file_name("deps").join(LIBRARY), beside.clone()];
    library
        .into_iter()
        .find(|library| library.is_file())
        .ok_or_else(|| format!("{} is missing; build it with `cargo build --workspace`", beside.display()))
}

/// What records the accesses of VMs, before they are started: a stream for each, and the plugin.
#[derive(Debug)]
pub struct Recorders {
    library: PathBuf,
    streams: Vec<StreamFile>,
}

impl Recorders {
    /// For so many VMs with so many vCPUs each, by the plugin beside `program`.
    ///
    /// # Errors
    /// The plugin is missing, or there is no memory for streams: one sentence.
    pub fn create(program: &Path, vms: usize, vcpus: usize) -> Result<Self, String> {
        let library = plugin_library(program)?;
        let stream = |_| StreamFile::create(vcpus, RingRecords::DEFAULT).map_err(|error| error.to_string());
        Ok(Self { library, streams: (0..vms).map(stream).collect::<Result<_, _>>()? })
    }

    /// What QEMU is told for the VM of a number.
    pub fn plugin(&self, vm: usize) -> Option<Plugin> {
        let stream = self.streams.get(vm)?;
        Some(Plugin { library: self.library.clone(), stream: stream.path() })
    }

    /// The streams, in the order of VMs.
    pub fn streams(&self) -> &[StreamFile] {
        &self.streams
    }
}

/// A VM with its stream, which its QEMU was started with.
#[derive(Clone, Copy, Debug)]
pub struct Streamed<'a> {
    /// The VM as the collector found it.
    pub vm: &'a Vm,
    /// Its RAM in MiB (`-m`).
    pub memory_mib: u64,
    /// Its stream.
    pub stream: &'a StreamFile,
}

/// What [`AccessStreams::next`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Accesses that were added.
    pub accesses: usize,
    /// VMs whose recording has begun, of those that were asked to.
    pub recording: usize,
    /// Accesses that wait for other vCPUs.
    pub waiting: usize,
    /// Instructions by which vCPUs were set forward: see [`order`].
    pub set_forward: u64,
}

/// What is not in the stream, since recording began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Accesses for which a ring had no room: the runner was too slow.
    pub lost: u64,
    /// To pages of RAM that had no frame when frames were last read.
    pub without_frame: u64,
    /// To other memory: firmware, video memory.
    pub elsewhere: u64,
}

impl Losses {
    /// Both. Counts stay at their largest: what is lost is as a QEMU says.
    fn and(self, other: Self) -> Self {
        Self {
            lost: self.lost.saturating_add(other.lost),
            without_frame: self.without_frame.saturating_add(other.without_frame),
            elsewhere: self.elsewhere.saturating_add(other.elsewhere),
        }
    }
}

/// The streams of several VMs. Their vCPUs are numbered in the order of VMs: see [`AccessStreams::vcpus`].
#[derive(Debug)]
pub struct AccessStreams {
    vms: Vec<Stream>,
    limits: Limits,
    order: Order,
    opened: Instant,
}

#[derive(Debug)]
struct Stream {
    name: String,
    reader: StreamReader,
    frames: FrameMap,
    /// The number of its first vCPU.
    first: usize,
    /// Whether its stream was damaged since recording began.
    is_damaged: bool,
    /// Lost by each vCPU.
    lost: Vec<u64>,
    without_frame: u64,
    elsewhere: u64,
}

impl AccessStreams {
    /// The streams of VMs that run.
    ///
    /// # Errors
    /// The RAM of a VM is not found, or frames cannot be read.
    pub fn open<'a>(
        root: &HostRoot,
        vms: impl IntoIterator<Item = Streamed<'a>>,
    ) -> Result<Self, AccessStreamError> {
        frames_visible(root)?;
        Self::of(root, vms)
    }

    fn of<'a>(
        root: &HostRoot,
        vms: impl IntoIterator<Item = Streamed<'a>>,
    ) -> Result<Self, AccessStreamError> {
        let (mut streams, mut first) = (Vec::new(), 0);
        for Streamed { vm, memory_mib, stream } in vms {
            let frames = FrameMap::open(root, vm, memory_mib)?;
            let reader = StreamReader::new(stream);
            let (name, lost) = (vm.name.clone(), vec![0; reader.vcpus()]);
            streams.push(Stream {
                name,
                reader,
                frames,
                first,
                is_damaged: false,
                lost,
                without_frame: 0,
                elsewhere: 0,
            });
            first += stream.vcpus();
        }
        if first > usize::from(MAX_VCPU) + 1 {
            return Err(AccessStreamError::TooManyVcpus(first));
        }
        let limits = Limits::default();
        Ok(Self { vms: streams, limits, order: Order::new(first, limits), opened: Instant::now() })
    }

    /// With other limits of waiting; before [`Self::start`].
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The numbers of a VM's vCPUs in accesses; `None` for a VM that there is not.
    pub fn vcpus(&self, vm: usize) -> Option<Range<u16>> {
        let vm = self.vms.get(vm)?;
        let number = |vcpu: usize| u16::try_from(vcpu).unwrap_or(MAX_VCPU);
        Some(number(vm.first)..number(vm.first + vm.reader.vcpus()))
    }

    /// Begins a recording of a line of each page, in place of the last one. Reads all frames.
    ///
    /// A VM records from its next return from an interrupt on, which comes within milliseconds unless it is halted.
    ///
    /// # Errors
    /// Frames cannot be read.
    pub fn start(&mut self, line: KeptLine) -> Result<(), AccessStreamError> {
        self.refresh_frames()?;
        let vcpus = self.vms.iter().map(|vm| vm.reader.vcpus()).sum();
        self.order = Order::new(vcpus, self.limits);
        for vm in &mut self.vms {
            vm.lost.fill(0);
            (vm.is_damaged, vm.without_frame, vm.elsewhere) = (false, 0, 0);
            vm.reader.start(line);
        }
        Ok(())
    }

    /// Reads the frames of all VMs again: after pages were merged, or merged ones written to.
    ///
    /// # Errors
    /// A VM has ended.
    pub fn refresh_frames(&mut self) -> Result<(), AccessStreamError> {
        self.vms.iter_mut().try_for_each(|vm| vm.frames.refresh().map_err(AccessStreamError::Frames))
    }

    /// Drains all rings, and adds what is in order by now to `into`: at most
    /// [`Limits::most_pending`] accesses a vCPU.
    ///
    /// # Errors
    /// A VM's stream is damaged, of which nothing more comes until another recording. This is said once; the next call
    /// gives what others did.
    pub fn next(&mut self, into: &mut Vec<Access>) -> Result<Progress, AccessStreamError> {
        let before = into.len();
        let recording = self.drain()?;
        let set_forward = self.order.take(self.opened.elapsed(), into);
        let waiting = self.order.waiting();
        Ok(Progress { accesses: into.len() - before, recording, waiting, set_forward })
    }

    /// Ends the recording, and adds what is left to `into`.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn stop(&mut self, into: &mut Vec<Access>) -> Result<Progress, AccessStreamError> {
        self.vms.iter_mut().for_each(|vm| vm.reader.stop());
        let before = into.len();
        let recording = self.drain()?;
        self.order.finish(into);
        Ok(Progress { accesses: into.len() - before, recording, ..Progress::default() })
    }

    /// What is missing.
    pub fn losses(&self) -> Losses {
        self.vms.iter().map(Stream::losses).fold(Losses::default(), Losses::and)
    }

    /// Drains all rings. Returns how many VMs record.
    fn drain(&mut self) -> Result<usize, AccessStreamError> {
        let now = self.opened.elapsed();
        let (mut recording, mut outcome) = (0, Ok(()));
        for vm in self.vms.iter_mut().filter(|vm| !vm.is_damaged) {
            match vm.drain(&mut self.order, now) {
                Ok(is_recording) => recording += usize::from(is_recording),
                Err(source) => {
                    vm.is_damaged = true;
                    outcome = outcome.and(Err(AccessStreamError::Stream { vm: vm.name.clone(), source }));
                }
            }
        }
        outcome.map(|()| recording)
    }
}

impl Stream {
    fn losses(&self) -> Losses {
        let Self { without_frame, elsewhere, .. } = *self;
        let lost = self.lost.iter().fold(0, |lost: u64, of_vcpu| lost.saturating_add(*of_vcpu));
        Losses { lost, without_frame, elsewhere }
    }

    fn drain(&mut self, order: &mut Order, now: Duration) -> Result<bool, StreamError> {
        if !self.reader.is_recording()? {
            return Ok(false);
        }
        let Self { reader, frames, first, lost, without_frame, elsewhere, .. } = self;
        for (vcpu, lost) in lost.iter_mut().enumerate() {
            let number = *first + vcpu;
            let drained = reader.drain(vcpu, order.room(number), |record| match place(frames, &record) {
                Place::Host(address) => match access(number, address, record.kind) {
                    Some(access) => order.push(number, record.instructions, access),
                    None => *elsewhere = elsewhere.saturating_add(1),
                },
                Place::NoFrame => *without_frame = without_frame.saturating_add(1),
                Place::Elsewhere => *elsewhere = elsewhere.saturating_add(1),
            })?;
            *lost = drained.lost;
            order.complete(number, drained.instructions, now);
        }
        Ok(true)
    }
}

fn place(frames: &FrameMap, record: &Record) -> Place {
    match record.space {
        AddressSpace::GuestRam => frames.of_guest(record.address),
        AddressSpace::Qemu => frames.of_process(record.address),
    }
}

fn access(vcpu: usize, address: u64, kind: stream::AccessKind) -> Option<Access> {
    let kind = match kind {
        stream::AccessKind::Read => AccessKind::Read,
        stream::AccessKind::Write => AccessKind::Write,
        stream::AccessKind::Fetch => AccessKind::Fetch,
    };
    Access::new(u16::try_from(vcpu).ok()?, address, kind)
}

#[cfg(test)]
mod tests;
