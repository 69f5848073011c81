//! Pages of equal hash, side by side: which of them are worth a second look.

use super::records::Record;
use super::throttle::Throttle;

/// Records that are gone through in far less than a rest is due after.
const RECORDS_BETWEEN_RESTS: usize = 8192;

/// The pages of one hash that begin at a place.
pub(super) fn group_at(records: &[Record], start: u32) -> &[Record] {
    let rest = &records[start as usize..];
    &rest[..rest.iter().take_while(|record| record.hash() == rest[0].hash()).count()]
}

/// Removes the pages of each hash that is not to be kept from those that are sorted; returns where the groups
/// of the others begin, in the order of their first pages: equal memory of two VMs mostly lies in equal order,
/// so that what is read next lies side by side in both.
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
