//! Frames and what the kernel knows of them, in its own memory, which a small BPF program reads
//! ([`super::bpf::kernel_read`]).

use std::fs;

use super::bpf::kernel_read::KernelRead;
pub(super) use super::bpf::kernel_read::WORDS;
use super::pagemap::{self, read_entry};
use huddle_host::HostRoot;

/// Where the direct map of physical memory and the array of `struct page` begin on x86-64 when they are
/// not randomised: with 4 and with 5 levels of page tables (Documentation/arch/x86/x86_64/mm.rst,
/// Linux 6.18).
const FIXED_BASES: [Bases; 2] = [
    Bases { direct_map: 0xffff_8880_0000_0000, frame_array: 0xffff_ea00_0000_0000 },
    Bases { direct_map: 0xff11_0000_0000_0000, frame_array: 0xffd4_0000_0000_0000 },
];

/// Why [`FIXED_BASES`] are not those of a kernel for this architecture (as `std::env::consts::ARCH` names it):
/// there these addresses belong to something else, or to nothing.
fn no_bases(architecture: &str) -> Result<(), String> {
    match architecture {
        "x86_64" => Ok(()),
        other => Err(format!(
            "where the kernel's direct map of physical memory is, is known of x86-64 alone, and this is {other}"
        )),
    }
}

/// Bases of the kernel's view of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bases {
    /// Address of frame 0.
    direct_map: u64,
    /// Address of the `struct page` of frame 0.
    frame_array: u64,
}

/// Access to the kernel's memory; closed on drop.
#[derive(Debug)]
pub(super) struct KernelMemory {
    kernel: KernelRead,
    bases: Bases,
    page_bytes: u64,
}

impl KernelMemory {
    /// Loads the program and finds physical memory with it.
    ///
    /// # Errors
    /// Why this host does not allow it, as one clause.
    pub(super) fn open(root: &HostRoot) -> Result<Self, String> {
        no_bases(std::env::consts::ARCH)?;
        let page_bytes = pagemap::page_bytes();
        let mut memory = Self { kernel: KernelRead::open()?, bases: FIXED_BASES[0], page_bytes };
        for bases in FIXED_BASES {
            memory.bases = bases;
            if memory.is_direct_map(root)? {
                return Ok(memory);
            }
        }
        memory.bases = memory
            .randomised_bases(root)
            .ok_or("the kernel does not report where its direct map of physical memory is")?;
        match memory.is_direct_map(root)? {
            true => Ok(memory),
            false => Err("the kernel's direct map of physical memory was not found".into()),
        }
    }

    /// The words at an address; `None` if nothing is mapped.
    pub(super) fn read(&self, address: u64) -> Option<[u64; WORDS]> {
        self.kernel.read(address)
    }

    /// The `struct page` of a frame (64 bytes in the configuration of distributions).
    pub(super) fn frame_record(&self, frame: u64) -> Option<[u64; WORDS]> {
        self.read(self.bases.frame_array.checked_add(frame.checked_mul(64)?)?)
    }

    /// Whether a frame contains only zeros; `None` if it cannot be read.
    pub(super) fn is_zero_filled(&self, frame: u64) -> Option<bool> {
        let first = self.bases.direct_map.checked_add(frame.checked_mul(self.page_bytes)?)?;
        for at in (0..self.page_bytes).step_by(WORDS * 8) {
            if self.read(first + at)? != [0; WORDS] {
                return Some(false);
            }
        }
        Some(true)
    }

    /// The kernel's variables for the bases, if they are variables (CONFIG_RANDOMIZE_MEMORY) with visible
    /// addresses (CONFIG_KALLSYMS_ALL, and kernel.kptr_restrict below 2).
    fn randomised_bases(&self, root: &HostRoot) -> Option<Bases> {
        let symbols = fs::read_to_string(root.proc("kallsyms")).ok()?;
        let variable = |name: &str| {
            let mut words = symbols.lines().map(|line| line.split_ascii_whitespace());
            let mut line = words.find(|line| line.clone().nth(2) == Some(name))?;
            let address = u64::from_str_radix(line.next()?, 16).ok().filter(|address| *address != 0)?;
            Some(self.read(address)?[0])
        };
        Some(Bases { direct_map: variable("page_offset_base")?, frame_array: variable("vmemmap_base")? })
    }

    /// Checks that a page of this process is found at its frame.
    fn is_direct_map(&self, root: &HostRoot) -> Result<bool, String> {
        let mut own = vec![0u64; 2 * self.page_bytes as usize / 8];
        let aligned = own.as_ptr().align_offset(self.page_bytes as usize);
        // A value that is unique in memory: a scrambled address of this process.
        let magic =
            (own.as_ptr() as u64 ^ u64::from(std::process::id())).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        own[aligned] = magic;
        let page = own[aligned..].as_ptr() as u64 / self.page_bytes;
        let frame = pagemap::open(&root.proc("self/pagemap"))
            .and_then(|file| read_entry(&file, page))
            .map_err(|error| error.to_string())?
            .filter(|entry| entry.is_present())
            .ok_or("a page of this process is not in memory")?
            .frame();
        let found = self.read(self.bases.direct_map.wrapping_add(frame.wrapping_mul(self.page_bytes)));
        std::hint::black_box(&own);
        Ok(found.is_some_and(|words| words[0] == magic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_x86_are_not_read_on_arm() {
        assert_eq!(no_bases("x86_64"), Ok(()));
        let reason = no_bases("aarch64").unwrap_err();
        assert!(reason.contains("x86-64 alone") && reason.contains("aarch64"), "{reason}");
        assert_eq!(
            KernelMemory::open(&HostRoot::real()).err().filter(|why| why.contains("alone")).is_some(),
            cfg!(not(target_arch = "x86_64"))
        );
    }

    #[test]
    fn own_pages_are_found_by_their_frames() {
        let root = HostRoot::real();
        let memory = match KernelMemory::open(&root) {
            Ok(memory) => memory,
            Err(reason) if !cfg!(target_arch = "x86_64") => {
                assert!(reason.contains("x86-64 alone"), "{reason}");
                return;
            }
            Err(reason) => {
                // Without the privilege the test is skipped; with it the reason is a failure.
                assert!(!nix::unistd::geteuid().is_root(), "{reason}");
                use std::io::Write;
                // Not eprintln!, which libtest captures: a skip must be visible.
                let message = format!("skipped: needs root: {reason}\n");
                std::io::stderr().write_all(message.as_bytes()).unwrap();
                return;
            }
        };
        let words = pagemap::page_bytes() as usize / 8;
        let mut pages = vec![0u64; 5 * words];
        let aligned = pages.as_ptr().align_offset(words * 8);
        // Written, so that each has a frame: all zero, nonzero at the start, nonzero only at the end.
        for page in 0..3 {
            pages[aligned + page * words] = 1;
        }
        std::hint::black_box(&mut pages);
        pages[aligned] = 0;
        pages[aligned + 2 * words] = 0;
        pages[aligned + 3 * words - 1] = 1;
        let file = pagemap::open(&root.proc("self/pagemap")).unwrap();
        let first = pages[aligned..].as_ptr() as usize / 8 / words;
        let verdicts = [0, 1, 2].map(|page| {
            let entry = read_entry(&file, (first + page) as u64).unwrap().unwrap();
            assert!(entry.is_present());
            memory.is_zero_filled(entry.frame())
        });
        assert_eq!(verdicts, [Some(true), Some(false), Some(false)]);
        std::hint::black_box(&pages);
        assert_eq!(memory.read(8), None, "nothing is mapped there");
        assert!(memory.frame_record(1).is_some());
    }
}
