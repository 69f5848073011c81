//! Pages with equal hashes, sorted: which of them need a comparison.

use super::records::Record;
use super::throttle::Throttle;

/// Records that are processed in far less than one time slice.
const RECORDS_BETWEEN_RESTS: usize = 8192;

/// The pages of one hash that begin at a position.
pub(super) fn group_at(records: &[Record], start: u32) -> &[Record] {
    let rest = &records[start as usize..];
    &rest[..rest.iter().take_while(|record| record.hash() == rest[0].hash()).count()]
}

/// Removes the pages of unwanted hashes from the sorted pages; returns where the remaining groups begin, in
/// the order of their first pages: equal memory of two VMs mostly has the same order, so that consecutive
/// reads are adjacent in both.
pub(super) fn keep_groups(
    records: &mut Vec<Record>,
    throttle: &mut Throttle,
    mut keeps: impl FnMut(&[Record]) -> bool,
) -> Vec<u32> {
    let mut groups = Vec::new();
    let (mut kept, mut at, mut rested_at) = (0, 0, 0);
    while at < records.len() {
        if at - rested_at > RECORDS_BETWEEN_RESTS {
            throttle.rest();
            rested_at = at;
        }
        let group = group_at(records, at as u32);
        let alike = group.len();
        if keeps(group) {
            groups.push(kept as u32);
            records.copy_within(at..at + alike, kept);
            kept += alike;
        }
        at += alike;
    }
    records.truncate(kept);
    groups.sort_unstable_by_key(|start| records[*start as usize].page());
    groups
}
