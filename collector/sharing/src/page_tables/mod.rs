//! The first half of a scan by page tables, which a BPF program copies as they are: 8 bytes a page, where
//! `/proc/PID/pagemap` computes for each page how often it is mapped.
//!
//! [`kernel`] finds the tables and runs the [`program`] that walks them. [`mod@spans`]
//! says what an entry means, which depends on what is mapped there, and [`gather`] counts and sorts pages as the scan
//! by pagemap does. [`check`] compares a sample with pagemap in each scan.
//!
//! It needs x86-64, a kernel with BTF and programs of type SYSCALL (Linux 5.14), CAP_BPF and CAP_PERFMON, and no
//! lockdown for confidentiality.

mod check;
#[cfg(test)]
mod churn;
mod entry;
mod gather;
mod kernel;
#[cfg(test)]
mod of_pagemaps;
mod program;
mod spans;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use self::entry::AddressMask;
pub(crate) use self::gather::Trouble;
use self::gather::{KernelWalk, Units, Walk};
use self::kernel::PageTables;
use self::spans::{Span, spans};
use crate::in_threads;
use crate::kernel_access::KernelAccess;
use crate::pagemap::read_entry;
use crate::processes::Process;
use crate::sort::{Gathered, Sorter};
use huddle_host::HostRoot;

/// Access to page tables, which is found out at the first scan and kept for those that follow, or why there is none.
#[derive(Debug, Default)]
pub(crate) struct KeptTables {
    access: KernelAccess,
    kept: Mutex<Option<Kept>>,
    /// Tables are made of what the pagemaps of a test say.
    #[cfg(test)]
    of_test: bool,
}

#[derive(Debug)]
struct Kept {
    threads: usize,
    tables: Result<PageTables, String>,
}

/// Tries out whether page tables can be read here.
///
/// # Errors
/// Why not, as one clause.
pub(crate) fn try_out(root: &HostRoot) -> Result<(), String> {
    PageTables::open(root, &KernelAccess::default(), 1).map(drop)
}

impl KeptTables {
    /// Tables that are found by this access, which others may use, too.
    pub(crate) fn by(access: KernelAccess) -> Self {
        Self { access, ..Self::default() }
    }

    /// Tables that are made of what the pagemaps of a test say.
    #[cfg(test)]
    pub(crate) fn of_test() -> Self {
        Self { of_test: true, ..Self::default() }
    }

    /// Finds out whether page tables can be read, if that is not known.
    ///
    /// # Errors
    /// Why they cannot, as one clause.
    pub(crate) fn open(&self, root: &HostRoot, threads: NonZeroUsize) -> Result<(), String> {
        #[cfg(test)]
        if self.of_test {
            return Ok(());
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened(&mut kept, root, threads.get()).tables.as_ref().map(drop).map_err(String::clone)
    }

    fn opened<'k>(&self, kept: &'k mut Option<Kept>, root: &HostRoot, threads: usize) -> &'k mut Kept {
        let of_before = kept.take().filter(|kept| kept.threads >= threads || kept.tables.is_err());
        let open = || Kept { threads, tables: PageTables::open(root, &self.access, threads) };
        kept.insert(of_before.unwrap_or_else(open))
    }

    /// Reads the pages of all processes.
    ///
    /// # Errors
    /// Why page tables cannot be read here, or differ from pagemap; or an error of any scan.
    pub(crate) fn gather(
        &self,
        root: &HostRoot,
        processes: &[Process],
        sorter: Sorter,
        threads: NonZeroUsize,
    ) -> Result<Vec<Gathered>, Trouble> {
        let threads = threads.get();
        #[cfg(test)]
        if self.of_test {
            return of_pagemaps::gather(processes, sorter, threads);
        }
        // Held through the scan: the threads of two scans would write to the same output.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.opened(&mut kept, root, threads);
        let gathered = match &kept.tables {
            Ok(tables) => gather_with(tables, root, processes, sorter, threads),
            Err(reason) => Err(Trouble::Unavailable(reason.clone())),
        };
        if let Err(Trouble::Failed(reason)) = &gathered {
            // What was wrong once is not trusted again.
            kept.tables = Err(reason.clone());
        }
        gathered
    }
}

fn gather_with(
    tables: &PageTables,
    root: &HostRoot,
    processes: &[Process],
    sorter: Sorter,
    threads: usize,
) -> Result<Vec<Gathered>, Trouble> {
    let spans = spans(root, processes)?;
    let mut tops = Vec::with_capacity(processes.len());
    for process in processes {
        let top = tables.top_of(&process.pagemap);
        if top.is_none() && !is_over(process) {
            return Err(Trouble::Failed(format!("those of process {} were not found", process.id)));
        }
        tops.push(top);
    }
    let walk = |thread| KernelWalk::new(tables, thread, &tops);
    gather_by(walk, processes, &spans, sorter, tables.mask, threads)
}

/// Walks in as many threads, each with what `walk` gives for its number, and checks a sample.
fn gather_by<W: Walk>(
    walk: impl Fn(usize) -> W + Sync,
    processes: &[Process],
    spans: &[Vec<Span>],
    sorter: Sorter,
    mask: AddressMask,
    threads: usize,
) -> Result<Vec<Gathered>, Trouble> {
    let units = Units::new(processes, spans, sorter, mask);
    let numbers = AtomicUsize::new(0);
    let gathered = in_threads(threads.min(units.len()), || {
        units.work(&mut walk(numbers.fetch_add(1, Ordering::Relaxed)))
    });
    let gathered = gathered.into_iter().collect::<Result<Vec<Gathered>, Trouble>>()?;
    // What is left of a process that has ended reads as memory that is not there.
    processes.iter().filter(|process| is_over(process)).for_each(Process::set_gone);
    check::check(&mut walk(0), processes, spans, mask).map_err(Trouble::Failed)?;
    Ok(gathered)
}

/// Whether the memory of a process is gone: nothing can be read of its pagemap any more.
fn is_over(process: &Process) -> bool {
    let page = process.regions.first().map_or(0, |region| region.first_page);
    matches!(read_entry(&process.pagemap, page), Ok(None))
}
