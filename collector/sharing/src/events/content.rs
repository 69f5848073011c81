//! Which frames are zero-filled, determined once for each new frame.

use std::fs::File;

use crate::pagemap::{self, read_entry};
use crate::processes::Process;
use crate::stable_tree;
use crate::zero::FLAG_KSM;
use huddle_host::HostRoot;

/// Bytes checked before a whole page is read.
const FIRST_BYTES: usize = 64;
/// Number of frames from which on KSM's own data structures are used: opening and walking them costs as much
/// as reading some hundreds of frames.
const BOOKS_FROM: usize = 1000;

/// A frame and one page on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameLookup {
    pub(super) frame: u64,
    /// Position of the process.
    pub(super) process: usize,
    /// Number of the page.
    pub(super) page: u64,
}

/// Determines the content of frames.
#[derive(Debug)]
pub(super) struct Contents {
    kpageflags: Option<File>,
    page: Vec<u8>,
}

impl Contents {
    pub(super) fn new(root: &HostRoot) -> Self {
        Self {
            kpageflags: pagemap::open(&root.proc("kpageflags")).ok(),
            page: vec![0; pagemap::page_bytes() as usize],
        }
    }

    /// The zero-filled merged frames among `asked`.
    pub(super) fn zero(&mut self, root: &HostRoot, processes: &[Process], asked: &[FrameLookup]) -> Vec<u64> {
        if asked.len() >= BOOKS_FROM {
            let samples: Vec<u64> = asked.iter().map(|asked| asked.frame).collect();
            match stable_tree::zero_filled(root, &samples) {
                Ok(zero) => return samples.into_iter().filter(|frame| zero.contains(frame)).collect(),
                Err(reason) => tracing::debug!("each merged frame is read: {reason}"),
            }
        }
        let mut zero = Vec::new();
        for asked in asked {
            if self.is_zero(root, &processes[asked.process], *asked) {
                zero.push(asked.frame);
            }
        }
        zero
    }

    fn is_zero(&mut self, root: &HostRoot, process: &Process, asked: FrameLookup) -> bool {
        let page = asked.page;
        let address = page * self.page.len() as u64;
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if !process.read_memory(root, address, &mut self.page[..FIRST_BYTES])
            || !zero(&self.page[..FIRST_BYTES])
            || !process.read_memory(root, address, &mut self.page)
            || !zero(&self.page)
        {
            return false;
        }
        // Zero, but not merged (for example two forked processes): the scan does not count those as zero.
        let flags = self.kpageflags.as_ref().and_then(|flags| read_entry(flags, asked.frame).ok().flatten());
        if flags.is_some_and(|flags| flags.0 & FLAG_KSM == 0) {
            return false;
        }
        // It may have been written to, and thus moved to another frame, before it was read.
        let entry = read_entry(&process.pagemap, page).ok().flatten();
        entry.is_some_and(|entry| entry.is_present() && entry.frame() == asked.frame)
    }
}
