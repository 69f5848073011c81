//! The first half of a content scan: all pages are read and hashed, and a record of each is stored, or of those whose
//! content is drawn.

use rapidhash::v3::rapidhash_v3;

use super::super::SharingError;
use super::draw::Draw;
use super::memory::{GuestMemory, Slot};
use super::records::{Record, Records};
use super::settings::ContentSettings;
use super::tally::Tally;
use super::throttle::Throttle;
use super::verify::Spaces;

/// Parameters of the first half.
pub(super) struct Reading<'a, M> {
    pub(super) memory: &'a mut M,
    pub(super) spaces: &'a Spaces,
    pub(super) draw: Draw,
    pub(super) throttle: &'a mut Throttle,
}

/// Why the first half stopped.
pub(super) enum Stopped {
    Full,
    Failed(SharingError),
}

impl Stopped {
    pub(super) fn error(self, records: &Records, settings: &ContentSettings) -> SharingError {
        match self {
            Self::Full => {
                SharingError::TooManyAlike { pages: records.room(), memory_mib: settings.memory_mib }
            }
            Self::Failed(error) => error,
        }
    }
}

/// Reads and hashes all pages, and stores those of the current slice whose content is drawn. Pages are counted only in
/// the first reading.
pub(super) fn hash_slice<M: GuestMemory>(
    reading: &mut Reading<'_, M>,
    records: &mut Records,
    tally: &mut Tally,
    is_first: bool,
) -> Result<(), Stopped> {
    let batch_pages = reading.memory.batch_pages();
    let mut slots: Vec<Slot> = Vec::new();
    for (space, (vm, count)) in reading.memory.spaces().into_iter().enumerate() {
        let first_page = reading.spaces.first(space);
        let (mut done, mut present, mut read, mut zero) = (0, 0, 0, 0);
        while done < count {
            slots.clear();
            let looked_at = reading.memory.present(space, done, &mut slots).map_err(Stopped::Failed)?;
            if looked_at == 0 {
                break;
            }
            done += looked_at;
            present += slots.len() as u64;
            for batch in slots.chunks(batch_pages) {
                let mut full = false;
                reading.memory.read(space, batch, &mut |position, bytes| {
                    let slot = batch[position];
                    read += 1;
                    if is_zero(bytes) {
                        zero += 1;
                    } else {
                        let hash = rapidhash_v3(bytes);
                        if reading.draw.takes(hash) {
                            let record = Record::new(hash, slot.frame, first_page + slot.number);
                            full |= records.push(record).is_err();
                        }
                    }
                });
                if full {
                    return Err(Stopped::Full);
                }
                reading.throttle.rest();
            }
            reading.throttle.rest();
        }
        if is_first {
            let reported = reading.memory.reported_pages(space);
            let unread = present - read;
            let vm = tally.vm(vm);
            vm.resident += reported.unwrap_or(present);
            vm.read += read;
            vm.zero += zero;
            // Slots may have been holes then, so pages are missing if they were reported and not found.
            vm.lost += reported.map_or(unread, |reported| unread.min(reported.saturating_sub(read)));
        }
    }
    Ok(())
}

/// Whether all bytes are 0; most others differ in their first cache line.
#[inline]
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (lines, rest) = bytes.as_chunks::<64>();
    let line_is_zero = |line: &[u8; 64]| {
        let (words, _) = line.as_chunks::<8>();
        words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
    };
    lines.iter().all(line_is_zero) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_makes_a_page_nonzero() {
        for length in [64, 4096, 100, 7] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length - 1] {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {length}");
                bytes[at] = 0;
            }
        }
    }
}
