//! Sketches of what VMs hold: a keyed hash of each page, of which the lowest are kept. Every page is read once and
//! nothing is compared or remembered, so it costs the first half of a content scan and a few kilobytes.
//!
//! Zero-filled pages are left out, and a content counts once however often a VM holds it. The hash is SipHash-2-4
//! (Aumasson and Bernstein, 2012), a pseudorandom function: who does not have the key cannot tell whether a page that
//! they know is in a sketch, nor make pages that are.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hasher as _;

use huddle_host::HostRoot;
use huddle_model::fleet::Scale;
use huddle_model::vm::Vm;
use siphasher::sip::SipHasher24;

use super::super::processes::{Processes, Reads, UnmeasuredVm};
use super::super::{SharingError, pagemap};
use super::hashing::is_zero;
use super::memory::{GuestMemory, ProcessMemory, Slot};
use super::settings::Share;
use super::throttle::Throttle;

/// Name of the hash, for manifests.
pub const SKETCH_HASH: &str = "siphash-2-4";

/// The secret of a fleet.
#[derive(Clone, PartialEq, Eq)]
pub struct SketchKey([u8; 16]);

/// Never printed.
impl fmt::Debug for SketchKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SketchKey(..)")
    }
}

impl SketchKey {
    /// From its 16 bytes.
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// The hash of a content.
    pub fn hash(&self, content: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(content);
        hasher.finish()
    }

    /// The hash of nothing, by which two sketches of the same key are recognised.
    pub fn check(&self) -> String {
        format!("{:016x}", self.hash(&[]))
    }
}

/// How sketches are made.
#[derive(Clone, Debug)]
pub struct SketchSettings {
    /// The secret of the fleet.
    pub key: SketchKey,
    /// Which contents are kept.
    pub scale: Scale,
    /// Limit of CPU time, as a share of one CPU.
    pub cpu_share: Share,
}

/// The sketch of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmSketch {
    /// The kept hashes.
    pub hashes: BTreeSet<u64>,
    /// Pages that were read.
    pub pages_read: u64,
    /// Zero-filled pages among them.
    pub pages_zero: u64,
}

/// Sketches of VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketches {
    /// By position of the VM.
    pub vms: Vec<VmSketch>,
    /// VMs that were not read, or not completely; their sketches are to be ignored.
    pub unmeasured: Vec<UnmeasuredVm>,
    /// Remarks, a sentence each.
    pub notes: Vec<String>,
}

/// Sketches VMs that are processes of this host.
///
/// # Errors
/// [`SharingError::MemoryHidden`] without the privilege to read the memory of any VM; a kernel file that cannot be read
/// although its process exists.
pub fn sketch_processes(
    root: &HostRoot,
    settings: &SketchSettings,
    vms: &[Vm],
) -> Result<Sketches, SharingError> {
    let mut processes = Processes::open(root, vms, pagemap::page_bytes(), Reads::Contents)?;
    let sketches = {
        let mut memory = ProcessMemory::open(root, &processes, |vm| vms[vm].name.clone())?;
        sketch(&mut memory, vms.len(), settings)?
    };
    Ok(Sketches { vms: sketches, unmeasured: processes.check_again(root, vms)?, notes: Vec::new() })
}

/// Sketches some memory of so many VMs.
///
/// # Errors
/// The memory cannot be read at all.
pub fn sketch<M: GuestMemory>(
    memory: &mut M,
    vms: usize,
    settings: &SketchSettings,
) -> Result<Vec<VmSketch>, SharingError> {
    let mut sketches = vec![VmSketch::default(); vms];
    let mut throttle = Throttle::new(settings.cpu_share);
    let batch_pages = memory.batch_pages();
    let mut slots: Vec<Slot> = Vec::new();
    for (space, (vm, count)) in memory.spaces().into_iter().enumerate() {
        let sketch = &mut sketches[vm];
        let mut done = 0;
        while done < count {
            slots.clear();
            let looked_at = memory.present(space, done, &mut slots)?;
            if looked_at == 0 {
                break;
            }
            done += looked_at;
            for batch in slots.chunks(batch_pages) {
                memory.read(space, batch, &mut |_, bytes| {
                    sketch.pages_read += 1;
                    if is_zero(bytes) {
                        sketch.pages_zero += 1;
                        return;
                    }
                    let hash = settings.key.hash(bytes);
                    if settings.scale.keeps(hash) {
                        sketch.hashes.insert(hash);
                    }
                });
                throttle.rest();
            }
            throttle.rest();
        }
    }
    Ok(sketches)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    /// Pages of two VMs, each filled with one number.
    struct Numbers(Vec<Vec<u32>>);

    impl GuestMemory for Numbers {
        fn spaces(&self) -> Vec<(usize, u64)> {
            self.0.iter().enumerate().map(|(vm, pages)| (vm, pages.len() as u64)).collect()
        }

        fn page_bytes(&self) -> usize {
            PAGE
        }

        fn batch_pages(&self) -> usize {
            3
        }

        fn present(&mut self, space: usize, first: u64, slots: &mut Vec<Slot>) -> Result<u64, SharingError> {
            let count = self.0[space].len() as u64;
            slots.extend((first..count).map(|number| Slot { number, frame: 0 }));
            Ok(count - first)
        }

        fn read(&mut self, space: usize, slots: &[Slot], each: &mut dyn FnMut(usize, &[u8])) {
            for (position, slot) in slots.iter().enumerate() {
                let number = self.0[space][slot.number as usize].to_le_bytes();
                each(position, &number.repeat(PAGE / 4));
            }
        }
    }

    fn settings(key: u8, one_in: u64) -> SketchSettings {
        let scale = Scale::new(one_in).unwrap();
        SketchSettings { key: SketchKey::new([key; 16]), scale, cpu_share: Share::ALL }
    }

    #[test]
    fn zero_filled_pages_and_repeats_are_left_out() {
        let mut memory = Numbers(vec![vec![0, 1, 2, 2, 0, 3], vec![3, 1, 0]]);
        let found = sketch(&mut memory, 2, &settings(1, 1)).unwrap();
        assert_eq!((found[0].pages_read, found[0].pages_zero, found[0].hashes.len()), (6, 2, 3));
        assert_eq!((found[1].pages_read, found[1].pages_zero), (3, 1));
        assert!(found[1].hashes.is_subset(&found[0].hashes), "the same contents have the same hashes");
    }

    #[test]
    fn about_one_content_in_so_many_is_kept_the_same_in_all_vms() {
        let all: Vec<u32> = (1..=20_000).collect();
        let mut memory = Numbers(vec![all.clone(), all[10_000..].to_vec()]);
        let found = sketch(&mut memory, 2, &settings(1, 16)).unwrap();
        let kept = found[0].hashes.len();
        // 1,250 are expected, with a standard deviation of 34.
        assert!((1100..1400).contains(&kept), "{kept}");
        assert!(found[1].hashes.is_subset(&found[0].hashes));
    }

    /// Who has sketches and knows a page, but not the key, learns nothing: under each of many other keys the page's hash
    /// is kept, or in the sketch, as often as that of a page that no VM has.
    #[test]
    fn without_the_key_a_known_page_cannot_be_found() {
        let held: Vec<u32> = (1..=4000).collect();
        let found = sketch(&mut Numbers(vec![held]), 1, &settings(1, 8)).unwrap();
        let kept = &found[0].hashes;
        let (known, absent) = (7_u32, 1_000_000_u32);
        let page = |number: u32| number.to_le_bytes().repeat(PAGE / 4);
        let true_key = settings(1, 8).key;
        let held_and_kept =
            (1..=4000_u32).filter(|number| kept.contains(&true_key.hash(&page(*number)))).count();
        assert_eq!(held_and_kept, kept.len(), "with the key every content is found");
        let mut kept_by_guess = [0_u32; 2];
        for guess in 2..=255_u8 {
            let wrong = settings(guess, 8);
            for (number, count) in [known, absent].into_iter().zip(&mut kept_by_guess) {
                let hash = wrong.key.hash(&page(number));
                assert!(!kept.contains(&hash), "a hash under another key is in the sketch");
                *count += u32::from(wrong.scale.keeps(hash));
            }
        }
        // 32 of 254 each, with a standard deviation of 5.3.
        assert!(kept_by_guess.iter().all(|count| (10..=54).contains(count)), "{kept_by_guess:?}");
        let (ours, other) = (true_key.check(), settings(2, 8).key.check());
        assert_ne!(ours, other);
        assert!(!format!("{true_key:?}").contains('1'), "a key is not printed");
    }
}
