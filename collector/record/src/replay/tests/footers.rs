//! Footers of segments, whatever their bytes are.

use std::sync::LazyLock;

use bytes::Bytes;

use super::*;

/// The first segment of each table that a short run has.
static GOOD: LazyLock<Vec<(Table, Vec<u8>)>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(&run, &published(2, 2), 1000);
    let read = |table: Table| Some((table, std::fs::read(segment(&run, table, 1)).ok()?));
    Table::ALL.iter().copied().filter_map(read).collect()
});

#[test]
fn a_footer_has_its_keys_and_its_table() {
    assert!(GOOD.len() > 5);
    for (table, good) in GOOD.iter() {
        let good = Bytes::copy_from_slice(good);
        let keys = row_group_keys(&good, *table).unwrap();
        assert!(!keys.is_empty() && keys.iter().all(|(least, most)| least <= most), "{table}: {keys:?}");
        let other = if *table == Table::Vms { Table::Sharing } else { Table::Vms };
        assert!(row_group_keys(&good, other).unwrap_err().contains("not a segment of the table"));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), says_parquet: bool) {
        let mut bytes = bytes;
        if says_parquet {
            // A footer that ends as one does: its length and the magic.
            let length = bytes.len() as u32;
            bytes.splice(..0, *b"PAR1");
            bytes.extend(length.to_le_bytes().into_iter().chain(*b"PAR1"));
        }
        for table in Table::ALL.iter().copied() {
            prop_assert!(row_group_keys(&Bytes::copy_from_slice(&bytes), table).is_err());
        }
    }

    #[test]
    fn changed_bytes_of_a_footer_are_survived(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (table, good) = which.get(&GOOD[..]);
        let mut bytes = good.clone();
        let length = u32::from_le_bytes(*bytes.last_chunk::<8>().unwrap().first_chunk().unwrap()) as usize;
        let footer = bytes.len() - 8 - length;
        for (at, byte) in changes {
            bytes[footer + at.index(length + 8)] = byte;
        }
        let size = bytes.len();
        if let Ok(keys) = row_group_keys(&Bytes::from(bytes), *table) {
            prop_assert!(keys.len() <= size);
        }
    }
}
