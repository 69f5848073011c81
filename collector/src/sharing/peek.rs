//! The first bytes of many frames at once, through a BPF program that is run and never attached.
//!
//! It is only there to be fast: where it cannot be loaded, the scan reads every frame's content
//! through `/proc/PID/mem`, at several times the cost a frame and with the same result.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, MapData};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun};
use aya::{Ebpf, EbpfLoader};
use huddle_abi::{FRAME_BATCH, FRAMES_A_RUN, FrameBatch, HEAD_WORDS};

use super::pagemap::{self, read_entry};
use crate::host::HostRoot;

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/content.bpf.o");

/// Where the direct map of physical memory begins on x86-64 when it is not randomised: with 4 and with
/// 5 levels of page tables (Documentation/arch/x86/x86_64/mm.rst, Linux 6.18).
const FIXED_BASES: [u64; 2] = [0xffff_8880_0000_0000, 0xff11_0000_0000_0000];

/// Frames that are read the slow way before the program is loaded for them: loading takes as long as
/// reading about this many (70 ms, nearly all of it the loader's parsing of the kernel's types), so a
/// small scan never pays for it and a large one at most twice what it would have.
const LOAD_PAYS_FRAMES: u64 = 100_000;

/// Loaded programs: one for each thread that needed one at the same time.
#[derive(Debug, Default)]
pub(super) struct Peeks {
    ready: Vec<FramePeek>,
    loads: u64,
    /// Frames that were asked about while no program was ready.
    waited_frames: u64,
    /// Why there is none on this host.
    unavailable: Option<String>,
}

impl Peeks {
    /// A program for `frames` frames, where one is ready or it pays to load one. To be given back.
    pub(super) fn take(peeks: &Mutex<Self>, root: &HostRoot, frames: u64) -> Option<FramePeek> {
        let mut kept = lock(peeks);
        if let Some(peek) = kept.ready.pop() {
            return Some(peek);
        }
        kept.waited_frames += frames;
        if kept.unavailable.is_some() || kept.waited_frames < LOAD_PAYS_FRAMES * (kept.loads + 1) {
            return None;
        }
        kept.loads += 1;
        // Other threads may go on with theirs.
        drop(kept);
        match FramePeek::load(root) {
            Ok(peek) => Some(peek),
            Err(reason) => {
                tracing::debug!("frames are read one by one: {reason}");
                lock(peeks).unavailable = Some(reason);
                None
            }
        }
    }

    /// Takes a program back; one that failed is not kept, and none is loaded again.
    pub(super) fn give_back(peeks: &Mutex<Self>, peek: FramePeek, failed: Option<String>) {
        let mut kept = lock(peeks);
        match failed {
            None => kept.ready.push(peek),
            Some(reason) => kept.unavailable = Some(reason),
        }
    }
}

/// A panic of another thread ends the scan with a panic anyway.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program, loaded, with its one batch.
pub(super) struct FramePeek {
    // The program is looked up by name for each run; it lives as long as this.
    object: Ebpf,
    map: Array<MapData, FrameBatch>,
    batch: Box<FrameBatch>,
}

impl std::fmt::Debug for FramePeek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FramePeek").field("direct_map", &self.batch.direct_map).finish_non_exhaustive()
    }
}

impl FramePeek {
    /// Loads the program and makes sure that it reads what a frame number stands for.
    ///
    /// # Errors
    /// Why this host cannot do it, as one clause.
    pub(super) fn load(root: &HostRoot) -> Result<Self, String> {
        let mut object = EbpfLoader::new().btf(None).load(OBJECT).map_err(|error| error.to_string())?;
        let program = program(&mut object)?;
        program.load().map_err(|error| error.to_string())?;
        let map = object.take_map("BATCH").ok_or("its object has no map BATCH")?;
        let map = Array::try_from(map).map_err(|error| error.to_string())?;
        let batch =
            FrameBatch { direct_map: 0, frames: [0; FRAME_BATCH], heads: [[0; HEAD_WORDS]; FRAME_BATCH] };
        let mut peek = Self { object, map, batch: Box::new(batch) };
        for base in FIXED_BASES {
            if peek.is_direct_map(root, base)? {
                return Ok(peek);
            }
        }
        match peek.randomised_base(root) {
            Some(base) if peek.is_direct_map(root, base)? => Ok(peek),
            _ => Err("the kernel's direct map of physical memory was not found".into()),
        }
    }

    /// Which of `frames` are surely not zero-filled; the others have to be read in full.
    pub(super) fn not_zero(&mut self, frames: &[u64]) -> Result<Vec<bool>, String> {
        let mut not_zero = Vec::with_capacity(frames.len());
        for frames in frames.chunks(FRAME_BATCH) {
            self.batch.frames[..frames.len()].copy_from_slice(frames);
            self.run(frames.len())?;
            not_zero.extend(self.batch.heads[..frames.len()].iter().map(|head| *head != [0; HEAD_WORDS]));
        }
        Ok(not_zero)
    }

    fn run(&mut self, count: usize) -> Result<(), String> {
        self.map.set(0, *self.batch, 0).map_err(|error| error.to_string())?;
        let program = program(&mut self.object)?;
        for first in (0..count).step_by(FRAMES_A_RUN) {
            let mut options = RawTracePointRunOptions::default();
            options.args[0] = first as u64;
            program.test_run(options).map_err(|error| error.to_string())?;
        }
        *self.batch = self.map.get(&0, 0).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// The kernel's `page_offset_base`, where it is a variable (CONFIG_RANDOMIZE_MEMORY).
    fn randomised_base(&mut self, root: &HostRoot) -> Option<u64> {
        let symbols = std::fs::read_to_string(root.proc("kallsyms")).ok()?;
        let line = symbols.lines().find(|line| line.ends_with(" page_offset_base"))?;
        let address =
            u64::from_str_radix(line.split(' ').next()?, 16).ok().filter(|address| *address != 0)?;
        // Frame 0 of a direct map that began at the variable is the variable.
        self.batch.direct_map = address;
        self.batch.frames[0] = 0;
        self.run(1).ok()?;
        Some(self.batch.heads[0][0])
    }

    /// Whether a page of this process is found at `base` plus its frame number.
    fn is_direct_map(&mut self, root: &HostRoot, base: u64) -> Result<bool, String> {
        let page_bytes = pagemap::page_bytes();
        let mut own = vec![0u64; 2 * page_bytes as usize / 8];
        let aligned = own.as_ptr().align_offset(page_bytes as usize);
        // Something that nobody else has in memory: an address of this process, scrambled.
        let magic =
            (own.as_ptr() as u64 ^ u64::from(std::process::id())).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        own[aligned] = magic;
        let page = own[aligned..].as_ptr() as u64 / page_bytes;
        let frame = pagemap::open(&root.proc("self/pagemap"))
            .and_then(|file| read_entry(&file, page))
            .map_err(|error| error.to_string())?
            .filter(|entry| entry.is_present())
            .ok_or("a page of this process is not in memory")?
            .frame();
        self.batch.direct_map = base;
        self.batch.frames[0] = frame;
        self.run(1)?;
        let found = self.batch.heads[0][0] == magic;
        std::hint::black_box(&own);
        Ok(found)
    }
}

fn program(object: &mut Ebpf) -> Result<&mut RawTracePoint, String> {
    let program = object.program_mut("peek_frames").ok_or("its object has no program peek_frames")?;
    program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_this_process_are_judged_by_their_content() {
        let root = HostRoot::real();
        let mut peek = match FramePeek::load(&root) {
            Ok(peek) => peek,
            Err(reason) => {
                // Without the privilege there is nothing to test; with it the reason is a fault.
                assert!(!nix::unistd::geteuid().is_root(), "{reason}");
                use std::io::Write;
                // Not eprintln!, which libtest keeps back: a skip has to be seen.
                let said = format!("skipped: needs root: {reason}\n");
                std::io::stderr().write_all(said.as_bytes()).unwrap();
                return;
            }
        };
        let page_bytes = pagemap::page_bytes() as usize;
        let words = page_bytes / 8;
        let mut pages = vec![0u64; 40 * words];
        let aligned = pages.as_ptr().align_offset(page_bytes);
        for page in 0..32 {
            // Written, so that it has a frame of its own: zero at its begin, or not.
            pages[aligned + page * words] = u64::from(page % 2 == 1);
            pages[aligned + page * words + 100] = 1;
        }
        let file = pagemap::open(&root.proc("self/pagemap")).unwrap();
        let first = pages[aligned..].as_ptr() as u64 / page_bytes as u64;
        let frames: Vec<u64> = (0..32)
            .map(|page| read_entry(&file, first + page).unwrap().unwrap())
            .map(|entry| if entry.is_present() { entry.frame() } else { panic!("not in memory") })
            .collect();
        let expected: Vec<bool> = (0..32).map(|page| page % 2 == 1).collect();
        assert_eq!(peek.not_zero(&frames).unwrap(), expected);
        // More than a batch, in the order given.
        let many: Vec<u64> = frames.iter().copied().cycle().take(3 * FRAME_BATCH + 5).collect();
        let verdicts = peek.not_zero(&many).unwrap();
        assert!(verdicts.iter().enumerate().all(|(i, not_zero)| *not_zero == (i % 2 == 1)));
        std::hint::black_box(&pages);
    }
}
