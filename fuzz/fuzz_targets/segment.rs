//! Footers of recorded segments, as a replay reads them. The first byte says of which table.
//!
//! A panic of the Parquet reader is not ours: the replay catches it (`collector/record/files/src/guarded.rs`), and
//! so does this target, which takes away the hook with which libFuzzer would abort before.
#![no_main]

use bytes::Bytes;
use huddle_model::schema::Table;
use huddle_record::replay::row_group_keys;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: drop(std::panic::take_hook()),
    |bytes: &[u8]| {
        let Some((first, segment)) = bytes.split_first() else { return };
        let table = Table::ALL[usize::from(*first) % Table::ALL.len()];
        if let Ok(keys) = row_group_keys(&Bytes::copy_from_slice(segment), table) {
            assert!(keys.len() <= segment.len(), "each row group takes some bytes");
        }
    }
);
