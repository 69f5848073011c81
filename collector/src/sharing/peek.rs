//! The first bytes of many frames at once, through a BPF program that is run and never attached.
//!
//! It is only there to be fast: where it cannot be loaded, the scan reads every frame's content
//! through `/proc/PID/mem`, at twenty times the cost a frame and with the same result.

use aya::maps::{Array, MapData};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun};
use aya::{Ebpf, EbpfLoader};
use huddle_abi::{FRAME_BATCH, FrameBatch, PEEK_NOT_ZERO};

use super::pagemap::{self, read_entry};
use crate::host::HostRoot;

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/content.bpf.o");

/// Where the direct map of physical memory begins on x86-64 when it is not randomised: with 4 and with
/// 5 levels of page tables (Documentation/arch/x86/x86_64/mm.rst, Linux 6.18).
const FIXED_BASES: [u64; 2] = [0xffff_8880_0000_0000, 0xff11_0000_0000_0000];

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
        let batch = FrameBatch {
            direct_map: 0,
            count: 0,
            frames: [0; FRAME_BATCH],
            first_words: [0; FRAME_BATCH],
            verdicts: [0; FRAME_BATCH],
        };
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
            not_zero
                .extend(self.batch.verdicts[..frames.len()].iter().map(|verdict| *verdict == PEEK_NOT_ZERO));
        }
        Ok(not_zero)
    }

    fn run(&mut self, count: usize) -> Result<(), String> {
        self.batch.count = count as u64;
        self.map.set(0, *self.batch, 0).map_err(|error| error.to_string())?;
        let options = RawTracePointRunOptions::default();
        program(&mut self.object)?.test_run(options).map_err(|error| error.to_string())?;
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
        Some(self.batch.first_words[0])
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
        let found = self.batch.first_words[0] == magic;
        std::hint::black_box(&own);
        Ok(found)
    }
}

fn program(object: &mut Ebpf) -> Result<&mut RawTracePoint, String> {
    let program = object.program_mut("peek_frames").ok_or("its object has no program peek_frames")?;
    program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())
}
