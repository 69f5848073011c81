use std::io::Write as _;

use proptest::prelude::*;

use super::*;

/// A file with this before and after the label, sealed.
fn sealed(before: &[u8], after: &[u8], run: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(before).unwrap();
    file.write_all(unsealed(run, "vms", 7).as_bytes()).unwrap();
    file.write_all(after).unwrap();
    seal(&file).unwrap();
    file
}

fn length(file: &File) -> u64 {
    file.metadata().unwrap().len()
}

/// As a reader does it.
fn verdict(file: &File) -> Result<Label, LabelFault> {
    let bytes = length(file);
    let label = find(file, bytes)?.ok_or(LabelFault::Missing)?;
    check(file, bytes, &label).map(|()| label)
}

/// The digits are those of the standard: `printf 123456789 | gzip` and every table of CRC-32 say cbf43926.
#[test]
fn the_checksum_is_the_standard_crc_32() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"123456789").unwrap();
    assert_eq!(sum(&file, 9, 100).unwrap(), 0xcbf4_3926);
    // Whatever is in the place of the digits.
    file.write_all_at(b"00000000", 9).unwrap();
    let zeros = sum(&file, 17, 9).unwrap();
    file.write_all_at(b"deadbeef", 9).unwrap();
    assert_eq!(sum(&file, 17, 9).unwrap(), zeros);
    assert_eq!(zeros, crc32fast::hash(b"12345678900000000"));
}

#[test]
fn a_label_identifies_the_segment() {
    let file = sealed(b"PAR1 rows", b"PAR1", "2026\n x");
    let label = verdict(&file).unwrap();
    assert_eq!((label.number, label.table.as_str(), label.run.as_str()), (7, "vms", "2026\\n x"));
    assert_eq!(label.bytes, length(&file));
    assert!(matches!(find(&tempfile::tempfile().unwrap(), 0), Ok(None)));
}

/// A name in the rows may look like a label; the real one comes after all rows and statistics.
#[test]
fn rows_cannot_pass_for_a_label() {
    let other = unsealed("another", "sharing", 9);
    let file = sealed(other.as_bytes(), b"the end", "run");
    assert_eq!(verdict(&file).unwrap().table, "vms");
    assert!(verdict(&sealed(b"", &vec![0; TAIL_BYTES as usize - 200], "run")).is_ok());
}

#[test]
fn the_digits_may_be_on_the_border_of_two_pieces() {
    for offset in 0..SUM_DIGITS + MARK.len() + 2 {
        let before = vec![1; PIECE_BYTES - MARK.len() - offset];
        verdict(&sealed(&before, b"the end", "run")).unwrap();
    }
}

/// Flips every single bit, and truncates to every length.
#[test]
fn no_flipped_bit_and_no_cut_passes() {
    let rows: Vec<u8> = (0..400_u32).flat_map(|number| (number * number).to_le_bytes()).collect();
    let file = sealed(&rows, b"the end", "run");
    let bytes = length(&file);
    for at in 0..bytes {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        for bit in 0..8 {
            file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
            assert!(verdict(&file).is_err(), "bit {bit} of byte {at}");
        }
        file.write_all_at(&byte, at).unwrap();
    }
    verdict(&file).unwrap();
    for length in (0..bytes).rev() {
        file.set_len(length).unwrap();
        assert!(verdict(&file).is_err(), "cut to {length}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index) {
        let mut bytes = bytes;
        let label = unsealed("run", "vms", u64::MAX);
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, label.bytes());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let found = find(&file, bytes.len() as u64).unwrap().unwrap();
        prop_assert_eq!((found.number, found.sum_at), (u64::MAX, (at + MARK.len()) as u64));
        prop_assert!(verdict(&file).is_err(), "it was not sealed");
        seal(&file).unwrap();
        prop_assert!(verdict(&file).is_ok());
    }

    #[test]
    fn a_damaged_label_is_none_or_another(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let file = sealed(b"rows", b"the end", "run");
        let bytes = length(&file) as usize;
        let mut content = vec![0; bytes];
        file.read_exact_at(&mut content, 0).unwrap();
        let original = content.clone();
        for (at, byte) in changes {
            content[at.index(bytes)] = byte;
        }
        file.write_all_at(&content, 0).unwrap();
        prop_assert_eq!(verdict(&file).is_ok(), content == original);
    }
}
