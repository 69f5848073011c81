//! Which frames are zero-filled, asked once for each frame that turns up.

use std::fs::File;
use std::sync::Mutex;

use crate::host::HostRoot;
use crate::sharing::pagemap::{self, read_entry};
use crate::sharing::peek::Peeks;
use crate::sharing::processes::Process;

/// Bit 21 of `/proc/kpageflags`: a frame that KSM merged.
const FLAG_KSM: u64 = 1 << 21;
/// Bytes looked at before a whole page is read.
const FIRST_BYTES: usize = 64;

/// A frame and one page that is on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) frame: u64,
    /// Position of the process.
    pub(super) process: usize,
    /// Position of the page among the scanned pages of the process.
    pub(super) index: u64,
}

/// Looks into frames.
#[derive(Debug)]
pub(super) struct Contents {
    peeks: Mutex<Peeks>,
    kpageflags: Option<File>,
    page: Vec<u8>,
}

impl Contents {
    pub(super) fn new(root: &HostRoot) -> Self {
        Self {
            peeks: Mutex::default(),
            kpageflags: pagemap::open(&root.proc("kpageflags")).ok(),
            page: vec![0; pagemap::page_bytes() as usize],
        }
    }

    /// The merged frames among `asked` that are zero-filled.
    pub(super) fn zero(&mut self, root: &HostRoot, processes: &[Process], asked: &[Asked]) -> Vec<u64> {
        let surely_not = self.peek(root, asked);
        let left = asked.iter().enumerate().filter(|(at, _)| !surely_not.get(*at).is_some_and(|not| *not));
        let left: Vec<Asked> = left.map(|(_, asked)| *asked).collect();
        left.iter()
            .filter(|asked| self.is_zero(root, &processes[asked.process], **asked))
            .map(|asked| asked.frame)
            .collect()
    }

    /// Which are surely not zero-filled, where many can be asked about at once; else nothing.
    fn peek(&self, root: &HostRoot, asked: &[Asked]) -> Vec<bool> {
        if asked.is_empty() {
            return Vec::new();
        }
        let Some(mut peek) = Peeks::take(&self.peeks, root, asked.len() as u64) else { return Vec::new() };
        let frames: Vec<u64> = asked.iter().map(|asked| asked.frame).collect();
        let (found, failed) = match peek.not_zero(&frames) {
            Ok(found) => (found, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        Peeks::give_back(&self.peeks, peek, failed);
        found
    }

    fn is_zero(&mut self, root: &HostRoot, process: &Process, asked: Asked) -> bool {
        let page = process.page_at(asked.index);
        let address = page * self.page.len() as u64;
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if !process.read_memory(root, address, &mut self.page[..FIRST_BYTES])
            || !zero(&self.page[..FIRST_BYTES])
            || !process.read_memory(root, address, &mut self.page)
            || !zero(&self.page)
        {
            return false;
        }
        // Zero, but not merged (two processes of one origin, say): the scan does not look for those.
        let flags = self.kpageflags.as_ref().and_then(|flags| read_entry(flags, asked.frame).ok().flatten());
        if flags.is_some_and(|flags| flags.0 & FLAG_KSM == 0) {
            return false;
        }
        // It may have been written to, and so have moved to another frame, before it was read.
        let entry = read_entry(&process.pagemap, page).ok().flatten();
        entry.is_some_and(|entry| entry.is_present() && entry.frame() == asked.frame)
    }
}
