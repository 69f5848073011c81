//! What VMs share, by two methods: `merged`, here, by the physical frames of guest memory; and [`content`], by
//! the content of pages.
//!
//! # Method `merged`
//! Definitions are those of [`huddle_model::matrix`]. It reads page tables, once, and changes nothing, unless it is to
//! find out what VMs read ([`reads`]). The scan has
//! two phases, each on all threads:
//! 1. [`page_tables`] copies page tables where the kernel allows it; otherwise [`gather`] reads `/proc/PID/pagemap`.
//!    A page that is alone on its frame (it can be written in a private mapping; bit 56 of a pagemap) is only counted:
//!    one page, one frame. So is a page on the kernel's zero page. Every other page is added, as 4 bytes, to the
//!    bucket of its frame ([`sort`], [`buckets`]), and a huge page that may be shared as one unit ([`huge_units`]).
//!    What may be a huge page in a pagemap, where bit 56 can be wrong, is remembered with 16 bytes ([`huge`]). Then
//!    the zero-filled merged frames are determined ([`zero`]).
//! 2. [`count`] processes the buckets one by one: which VMs map each frame, and from that the frames of each
//!    VM and of each pair ([`pairs`]).
//!
//! Memory grows with the pages that share their frame (4 to 8 bytes each, not with guest memory), plus
//! about 1 MiB per thread for every 64 VMs.
//!
//! VMs run while they are measured. Each page table entry is read at one moment, entries of two VMs at
//! different ones, so a frame that was merged, split or reused in between may be counted for one VM but not
//! for the other, or as shared although it was passed from one to the other. Nothing else is inexact: an
//! unchanging host is measured exactly.

mod bpf;
mod buckets;
pub mod content;
mod contents;
mod count;
mod frame_set;
mod gather;
mod huge;
mod huge_units;
mod kernel_access;
mod kernel_memory;
mod kernel_types;
mod mapping_flags;
mod page_tables;
mod pagemap;
mod pairs;
mod processes;
mod reads;
mod sort;
mod stable_tree;
#[cfg(test)]
mod tests;
mod zero;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use huddle_model::matrix::{FrameReading, MatrixVm, MemoryUse, Method, ReadBy, SharedGroups, SharingMatrix};
use huddle_model::vm::Vm;

use self::buckets::{Buckets, MAX_PROCESSES};
use self::content::Sampled;
use self::contents::Contents;
use self::count::{Counted, Counting};
use self::gather::Units;
use self::huge::{HugeParts, huge_pages};
use self::huge_units::{HugeUnit, HugeUnits};
pub use self::kernel_access::KernelAccess;
pub use self::mapping_flags::KernelMappings;
use self::page_tables::{KeptTables, Trouble};
pub use self::processes::UnmeasuredVm;
use self::processes::{Process, Processes, Reads};
pub use self::reads::ReadSettings;
use self::reads::{Cleared, Pauses, ReadFrames, not_in_pagemap};
use self::sort::{Gathered, Sorter};
use self::zero::ZeroFrames;
use huddle_host::stages::StageError;
pub use huddle_host::stages::{Measurement, Unmeasured, ZeroPages};
use huddle_host::{HostError, HostRoot, page};

/// Why what VMs share could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum SharingError {
    /// The kernel shows no frame numbers to this process.
    #[error(
        "{} shows no frame numbers, so sharing cannot be measured: run as root or with CAP_SYS_ADMIN",
        path.display()
    )]
    FramesHidden {
        /// The pagemap of this process that was read.
        path: PathBuf,
    },
    /// A kernel file could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The hypervisor's memory interface failed.
    #[error(transparent)]
    Hypervisor(StageError),
    /// Two VMs claim the same memory, or one VM claims it twice.
    #[error(
        "VMs {first:?} and {second:?} both claim the memory of process {pid} at {start:#x}: \
         name each process once"
    )]
    SameMemory {
        /// One VM.
        first: String,
        /// The other; the same name if one VM has it twice.
        second: String,
        /// The process.
        pid: i32,
        /// First address claimed twice.
        start: u64,
    },
    /// More than the scan can number.
    #[error("VM {vm:?} is too large to be measured: {what}")]
    TooLarge {
        /// The VM.
        vm: String,
        /// What exceeds the limit.
        what: String,
    },
    /// The memory of a VM cannot be read by this process.
    #[error(
        "{} cannot be read, so what {vm:?} shares cannot be measured: run as root or with \
         CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
        path.display()
    )]
    MemoryHidden {
        /// The VM.
        vm: String,
        /// The file.
        path: PathBuf,
    },
    /// More pages with one content than the scan may record.
    #[error(
        "more than {pages} pages hold one content, more than fit in {memory_mib} MiB: give the scan \
         more memory"
    )]
    TooManyAlike {
        /// Capacity in pages.
        pages: usize,
        /// Memory limit.
        memory_mib: u32,
    },
    /// A frame number that no processor can have.
    #[error(
        "/proc/{pid}/pagemap names frame {frame:#x}, beyond the 52 bits of any physical address: \
         the kernel's format is not the one that is documented, nothing was computed with it"
    )]
    BadFrame {
        /// The process.
        pid: i32,
        /// The frame.
        frame: u64,
    },
}

/// Why pagemap is read where that was asked for, as one clause.
const CONFIGURED: &str = "it was configured";

/// Measures what VMs share by the frames they map.
///
/// No state is kept between scans.
#[derive(Clone, Debug)]
pub struct MergedScan {
    root: HostRoot,
    threads: NonZeroUsize,
    zero_pages: ZeroPages,
    read_by: ReadBy,
    tables: Arc<KeptTables>,
    /// `None` where it is not measured what VMs read.
    reads: Option<ReadSettings>,
    pauses: Pauses,
}

impl MergedScan {
    /// A scan on all CPUs that this process may use.
    pub fn new(root: HostRoot) -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            root,
            threads,
            zero_pages: ZeroPages::default(),
            read_by: ReadBy::PageTables,
            tables: Arc::default(),
            reads: None,
            pauses: Pauses::default(),
        }
    }

    /// The same on a fixed number of threads.
    pub fn with_threads(self, threads: NonZeroUsize) -> Self {
        Self { threads, ..self }
    }

    /// The same with another way to find zero-filled frames.
    pub fn with_zero_pages(self, zero_pages: ZeroPages) -> Self {
        Self { zero_pages, ..self }
    }

    /// The same, with access to the kernel's structures that is shared with others.
    pub fn with_kernel_access(self, access: KernelAccess) -> Self {
        Self { tables: Arc::new(KeptTables::by(access)), ..self }
    }

    /// The same with another way to read which frames are mapped: page tables are only read where that is possible.
    pub fn with_read_by(self, read_by: ReadBy) -> Self {
        Self { read_by, ..self }
    }

    /// The same, with what of the shared frames VMs read.
    pub fn with_reads(self, reads: ReadSettings) -> Self {
        Self { reads: Some(reads), ..self }
    }

    /// Measures exactly the regions in [`Vm::memory`].
    ///
    /// A VM that ends during the scan, or whose process this one may not inspect, is in
    /// [`Measurement::unmeasured`]; memory that is unmapped during the
    /// scan reads as not resident.
    ///
    /// # Errors
    /// [`SharingError::FramesHidden`] without CAP_SYS_ADMIN; [`SharingError::MemoryHidden`] without the
    /// privilege to inspect the process of any VM; a kernel file that cannot be read although its process
    /// exists; VMs that claim the same memory.
    pub fn measure(&self, vms: &[Vm]) -> Result<Measurement, SharingError> {
        frames_visible(&self.root)?;
        self.measure_with(vms, pagemap::zero_page_frame(&self.root)?)
    }

    fn measure_with(&self, vms: &[Vm], zero_page_frame: u64) -> Result<Measurement, SharingError> {
        let began = Instant::now();
        let mut processes = Processes::open(&self.root, vms, pagemap::page_bytes(), Reads::PageTables)?;
        if processes.all.len() > MAX_PROCESSES {
            return Err(SharingError::TooLarge {
                vm: vms[processes.all[MAX_PROCESSES].vm].name.clone(),
                what: format!("all VMs together have more than {MAX_PROCESSES} processes"),
            });
        }
        let cleared = self.reads.map(|settings| match self.can_read_tables() {
            Ok(()) => Cleared::of(settings, &self.pauses, &self.root, vms, &processes.all),
            Err(reason) => Cleared::nothing(settings, vms.len(), &not_in_pagemap(&reason)),
        });
        if let Some(cleared) = &cleared {
            std::thread::sleep(cleared.window());
        }
        let huge_pages = huge_pages(pagemap::page_bytes());
        let sorter = Sorter { zero_page_frame, huge_pages };
        let (mut gathered, reading, failed) = self.gather(&processes.all, sorter)?;
        let huge = gathered.iter_mut().flat_map(|gathered| std::mem::take(&mut gathered.huge));
        let huge = HugeParts::new(huge.collect());
        let mut units = |of: fn(&mut Gathered) -> &mut Vec<HugeUnit>| {
            HugeUnits::new(gathered.iter_mut().flat_map(|gathered| std::mem::take(of(gathered))).collect())
        };
        let file_units = units(|gathered| &mut gathered.huge_file_units);
        let read_units = units(|gathered| &mut gathered.read_units);
        let units = units(|gathered| &mut gathered.huge_units);
        let unmeasured = processes.check_again(&self.root, vms)?;

        let mut counts = vec![MemoryUse::default(); vms.len()];
        let mut samples = Vec::new();
        for Gathered { counts: pages, samples: of_thread, .. } in &gathered {
            samples.extend(of_thread);
            for (process, pages) in processes.all.iter().zip(pages) {
                if !process.is_gone() {
                    let vm = &mut counts[process.vm];
                    vm.pages_resident += pages.resident;
                    vm.pages_zero += pages.zero_page;
                    vm.frames_used += pages.exclusive;
                    *vm.pages_file.get_or_insert_default() += pages.file;
                }
            }
        }

        let contents =
            Contents { root: &self.root, processes: &processes.all, zero_page_frame, threads: self.threads };
        let zero = ZeroFrames::find(&contents, &samples, self.zero_pages)?;
        let counting = Counting {
            vm_of: processes
                .all
                .iter()
                .map(|process| (!process.is_gone()).then_some(process.vm as u32))
                .collect(),
            vms: vms.len(),
            zero: &zero,
            huge: &huge,
        };
        let count = |of: fn(&Gathered) -> &Buckets, units: &HugeUnits| {
            counting.of(gathered.iter().map(of), units, self.threads).into_iter().reduce(Counted::and)
        };
        let none = || Counted::none(vms.len());
        let mut counted = count(|gathered| &gathered.buckets, &units).unwrap_or_else(none);
        // Most hosts have no page of a file in their guests, and many VMs have many pairs.
        let has_files = counts.iter().any(|vm| vm.pages_file.is_some_and(|pages| pages > 0));
        let of_files =
            has_files.then(|| count(|gathered| &gathered.file_buckets, &file_units).unwrap_or_else(none));
        if let Some(of_files) = &of_files {
            counted.add(of_files);
        }
        let reads = cleared.map(|cleared| {
            let huge = HugeParts::default();
            let vm_of = counting.vm_of.iter().map(|vm| vm.filter(|vm| cleared.sees(*vm as usize))).collect();
            let of_read = Counting { vm_of, huge: &huge, ..counting };
            let gathered = gathered.iter().map(|gathered| &gathered.read_buckets);
            let read = of_read.of(gathered, &read_units, self.threads).into_iter().reduce(Counted::and);
            cleared.counted(read.unwrap_or_else(none), &counted.frames, &reading, &processes.all)
        });
        let Counted { pages, frames: shared, sets, rest } = counted;
        for (vm, pages) in counts.iter_mut().zip(pages) {
            vm.pages_zero += pages.zero;
            vm.self_shared_pages += pages.self_shared;
            // A frame whose kind changed meanwhile may have been counted twice.
            vm.frames_used = vm.frames_used.saturating_sub(pages.not_alone);
        }
        for (position, vm) in counts.iter_mut().enumerate() {
            vm.frames_used += shared[position][position];
            vm.pages_used = vm.pages_resident - vm.pages_zero;
        }
        let mut notes = self.notes(vms, &processes, &unmeasured, zero.flags_readable());
        notes.extend(failed);
        let zero_pages = zero.method();
        // Every resident page of these VMs was read.
        let found = Found {
            method: Method::Merged,
            coverage: 1.0,
            counts: &counts,
            shared: &shared,
            of_files: of_files.as_ref().map(|of_files| &of_files.frames[..]),
            groups: Some(SharedGroups::of(sets, rest)),
            reads: reads.as_ref(),
        };
        let measured = assemble(vms, &found, None, unmeasured, notes, began);
        let matrix = measured.matrix.of_pages(page::size()).read_by(reading);
        Ok(Measurement { zero_pages, matrix, ..measured })
    }

    /// Whether page tables are read, as far as it is known before.
    ///
    /// # Errors
    /// Why they are not, as one clause.
    fn can_read_tables(&self) -> Result<(), String> {
        match self.read_by {
            ReadBy::PageTables => self.tables.open(&self.root, self.threads),
            ReadBy::Pagemap => Err(CONFIGURED.to_owned()),
        }
    }

    /// Reads the pages of all processes, by page tables where that is possible.
    fn gather(
        &self,
        processes: &[Process],
        sorter: Sorter,
    ) -> Result<(Vec<Gathered>, FrameReading, Option<String>), SharingError> {
        let mut note = None;
        let reason = match self.read_by {
            ReadBy::PageTables => match self.tables.gather(&self.root, processes, sorter, self.threads) {
                Ok(gathered) => {
                    return Ok((gathered, FrameReading { by: ReadBy::PageTables, reason: None }, None));
                }
                Err(Trouble::Scan(error)) => return Err(error),
                Err(Trouble::Unavailable(reason)) => reason,
                Err(Trouble::Failed(reason)) => {
                    note = Some(format!(
                        "page tables are not read any more, and pagemap is, which takes longer: {reason}"
                    ));
                    reason
                }
            },
            ReadBy::Pagemap => CONFIGURED.to_owned(),
        };
        let units = Units::new(processes, sorter);
        let gathered = in_threads(self.threads.get().min(units.len()), || units.work());
        let gathered = gathered.into_iter().collect::<Result<Vec<Gathered>, _>>()?;
        Ok((gathered, FrameReading { by: ReadBy::Pagemap, reason: Some(reason) }, note))
    }

    fn notes(
        &self,
        vms: &[Vm],
        processes: &Processes,
        unmeasured: &[UnmeasuredVm],
        flags_readable: bool,
    ) -> Vec<String> {
        let stayed = |vm: usize| unmeasured.iter().all(|left_out| left_out.vm != vm);
        let mut notes = Vec::new();
        for (vm, process) in processes.missing.iter().filter(|(vm, _)| stayed(*vm)) {
            notes.push(format!(
                "process {process} of {:?} ended while it was measured; its memory is left out",
                vms[*vm].name
            ));
        }
        for process in processes.all.iter().filter(|process| !process.memory_opened() && !process.is_gone()) {
            notes.push(format!(
                "{} cannot be read, so zero-filled merged pages of {:?} that no other VM maps count as used",
                self.root.proc(format!("{}/mem", process.id)).display(),
                vms[process.vm].name
            ));
        }
        if !flags_readable {
            notes.push(format!(
                "{} cannot be read, so pages on the kernel's huge zero page count as used",
                self.root.proc("kpageflags").display()
            ));
        }
        notes
    }
}

/// The figures of all VMs, by position.
struct Found<'a> {
    method: Method,
    coverage: f64,
    counts: &'a [MemoryUse],
    /// `[i][j]` for `i < j`.
    shared: &'a [Vec<u64>],
    /// Those of them that are of the page cache; `None` if not measured.
    of_files: Option<&'a [Vec<u64>]>,
    /// The sets of VMs that map the same frames, by position; `None` if only pairs were counted.
    groups: Option<SharedGroups>,
    /// `None` where it was not measured what VMs read.
    reads: Option<&'a ReadFrames>,
}

/// The result without the VMs that were not measured; `sampled` is what a sample saw, `None` if everything was looked
/// at.
fn assemble(
    vms: &[Vm],
    found: &Found<'_>,
    sampled: Option<&Sampled>,
    unmeasured: Vec<UnmeasuredVm>,
    notes: Vec<String>,
    began: Instant,
) -> Measurement {
    let stayed: Vec<usize> =
        (0..vms.len()).filter(|vm| unmeasured.iter().all(|left_out| left_out.vm != *vm)).collect();
    let memory = |position: usize| {
        let counted = found.counts[position];
        let pages_file = counted.pages_file.or(vms[position].has_no_files().then_some(0));
        MemoryUse { pages_file, ..counted }
    };
    let rows = stayed.iter().map(|at| MatrixVm::of(&vms[*at], Some(memory(*at)))).collect();
    let frames = of_stayed(found.shared, &stayed);
    let duration_ms = began.elapsed().as_secs_f64() * 1e3;
    let mut matrix = SharingMatrix::measured(found.method, rows, &frames, duration_ms, found.coverage);
    if let Some(of_files) = found.of_files {
        matrix = matrix.with_file_frames(&of_stayed(of_files, &stayed));
    }
    if let Some(groups) = &found.groups {
        matrix = matrix.with_groups(groups.part(&stayed));
    }
    if let Some(reads) = found.reads {
        matrix = matrix.with_reads(reads.of_stayed(&stayed));
    }
    if let Some(sampled) = sampled {
        matrix = sampled.estimate(matrix, &stayed);
    }
    Measurement {
        matrix,
        unmeasured: unmeasured.into_iter().map(|left_out| left_out.named(vms)).collect(),
        notes,
        zero_pages: None,
        least_interval: found.reads.map_or(Duration::ZERO, |reads| reads.least_interval),
    }
}

fn of_stayed<T: Copy>(rows: &[Vec<T>], stayed: &[usize]) -> Vec<Vec<T>> {
    stayed.iter().map(|i| stayed.iter().map(|j| rows[*i][*j]).collect()).collect()
}

/// Checks that the kernel shows frame numbers to this process, which takes CAP_SYS_ADMIN.
///
/// # Errors
/// [`SharingError::FramesHidden`] if it does not; [`SharingError::Host`] if there is no pagemap.
pub fn frames_visible(root: &HostRoot) -> Result<(), SharingError> {
    pagemap::frames_visible(root)
}

/// Tries out whether page tables can be read here; otherwise scans read `/proc/PID/pagemap`.
///
/// # Errors
/// Why they cannot, as one clause.
pub fn page_tables_readable(root: &HostRoot) -> Result<(), String> {
    page_tables::try_out(root)
}

/// Runs `work` on `threads` threads, one of them this one, and returns all results.
fn in_threads<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&work)).collect();
        let mut results = vec![work()];
        for other in others {
            match other.join() {
                Ok(result) => results.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
}
