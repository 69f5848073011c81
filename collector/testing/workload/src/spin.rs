//! Processes that look like VMs: threads with the names of vCPUs that run the known loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use crate::data::{Data, page_bytes};
use crate::known_loop;

/// What one such process does.
#[derive(Clone, Debug, clap::Args)]
pub struct Spin {
    /// Threads, each with the name of a vCPU
    #[arg(long, default_value_t = 1)]
    pub threads: u32,
    /// Turns of the loop (two instructions) in one slice
    #[arg(long, default_value_t = 500_000)]
    pub turns: u64,
    /// Slices of each thread; without it they end with the process
    #[arg(long)]
    pub slices: Option<u64>,
    /// Microseconds that a thread sleeps after each slice
    #[arg(long, default_value_t = 0)]
    pub sleep_us: u64,
    /// Pages of data that KSM may merge
    #[arg(long, default_value_t = 0)]
    pub pages: usize,
    /// Processes of one seed have the same data
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Page faults of each slice, as a stand-in for misses
    #[arg(long, default_value_t = 0)]
    pub faults: usize,
    /// The same while the thread runs in another cache domain than its partner
    #[arg(long, requires = "beside")]
    pub faults_apart: Option<usize>,
    /// CPUs of a cache domain, which have numbers in a row
    #[arg(long, default_value_t = 2)]
    pub cpus_per_domain: u32,
    /// A file in which partners tell each other where they run, and the place of this one in it: FILE,0 or FILE,1
    #[arg(long, value_parser = place)]
    pub beside: Option<(PathBuf, usize)>,
}

fn place(text: &str) -> Result<(PathBuf, usize), String> {
    let (path, place) = text.rsplit_once(',').ok_or("expected FILE,0 or FILE,1")?;
    let place = place.parse().ok().filter(|place| *place < 2).ok_or("the place is 0 or 1")?;
    Ok((path.into(), place))
}

/// Where two partners run: a word of each, in a file.
struct Partners {
    words: &'static [AtomicU32],
    own: usize,
    cpus_per_domain: u32,
}

impl Partners {
    fn open(path: &Path, own: usize, cpus_per_domain: u32) -> anyhow::Result<Self> {
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        file.set_len(8)?;
        let length = page_bytes()?.try_into().context("a page has no bytes")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }
            .with_context(|| format!("cannot map {}", path.display()))?;
        // SAFETY: two aligned words of a mapping that is never taken back; other processes use them as atomics, too.
        let words = unsafe { std::slice::from_raw_parts(start.as_ptr().cast::<AtomicU32>(), 2) };
        Ok(Self { words, own, cpus_per_domain: cpus_per_domain.max(1) })
    }

    /// Tells where this thread runs; whether its partner runs elsewhere.
    fn are_apart(&self) -> anyhow::Result<bool> {
        let domain = u32::try_from(nix::sched::sched_getcpu()?)? / self.cpus_per_domain;
        self.words[self.own].store(domain, Ordering::Relaxed);
        Ok(self.words[1 - self.own].load(Ordering::Relaxed) != domain)
    }
}

impl Spin {
    /// Runs until all threads have done their slices.
    ///
    /// # Errors
    /// There is no memory, no KSM, or a thread cannot be started.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(self.threads > 0, "no thread: --threads is 0");
        let _data = match self.pages {
            0 => None,
            pages => Some(Data::new(pages, self.seed)?),
        };
        println!("ready {}", std::process::id());
        std::thread::scope(|scope| {
            let start = |number: u32| {
                let thread = std::thread::Builder::new().name(format!("CPU {number}/TCG"));
                thread.spawn_scoped(scope, || self.thread()).context("cannot start a thread")
            };
            let threads = (0..self.threads).map(start).collect::<Result<Vec<_>, _>>()?;
            for thread in threads {
                thread.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
            }
            Ok(())
        })
    }

    fn thread(&self) -> anyhow::Result<()> {
        let open = |(path, own): &(PathBuf, usize)| Partners::open(path, *own, self.cpus_per_domain);
        let partners = self.beside.as_ref().map(open).transpose()?;
        let most = self.faults.max(self.faults_apart.unwrap_or(0));
        let mut data = if most > 0 { Some(Data::private(most)?) } else { None };
        let mut left = self.slices;
        while left != Some(0) {
            known_loop::run(self.turns);
            let faults = match (&partners, self.faults_apart) {
                (Some(partners), Some(apart)) if partners.are_apart()? => apart,
                _ => self.faults,
            };
            if let Some(data) = &mut data {
                data.fault(faults)?;
            }
            if self.sleep_us > 0 {
                std::thread::sleep(Duration::from_micros(self.sleep_us));
            }
            left = left.map(|left| left - 1);
        }
        Ok(())
    }
}
