//! The lines of a journal file, and what can be made of a damaged one.

use serde::{Deserialize, Serialize};

use super::Change;
use super::lines::KeyLine;

/// The schema that this program writes.
pub(super) const SCHEMA: &str = "huddle/journal/3";

/// Those that it reads, too: 1 without domains of Xen, 2 with their numbers as those of tasks.
pub(super) const OLDER_SCHEMAS: [&str; 2] = ["huddle/journal/1", "huddle/journal/2"];

/// The first line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name and version of the format, such as `huddle/journal/3`.
    pub schema: String,
    /// `/proc/sys/kernel/random/boot_id` of the boot in which the changes were made.
    pub boot_id: String,
}

/// Every later line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Change(Change),
    /// The changes so far to this thread or setting are undone or void.
    Forget {
        forget: KeyLine,
    },
}

/// A complete line that is not an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its number, from 1.
    pub line: usize,
    /// Its first 120 characters.
    pub text: String,
}

/// What a journal file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// `None` when there is no readable first line.
    pub header: Option<Header>,
    /// Changes that nothing has taken back yet, in the order they were made.
    pub entries: Vec<Change>,
    /// Complete lines.
    pub lines: usize,
    /// Bytes up to the end of the last readable line; what follows is a write that was cut short.
    pub keep_bytes: usize,
    /// Whether the last readable line lacks its end.
    pub unterminated: bool,
    /// Complete lines that cannot be read.
    pub damage: Vec<Damage>,
}

/// One line of a file, with its end.
pub(super) fn encode(line: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads the bytes of a journal, whatever they are. A last line without an end that cannot be read was never synced, so its change was
/// never made: it is left out and is no damage.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let mut at = 0;
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        at += line.len();
        let complete = line.ends_with(b"\n");
        let read = if index == 0 {
            serde_json::from_slice(line).map(|header| parsed.header = Some(header))
        } else {
            serde_json::from_slice(line).map(|line| take(&mut parsed.entries, line))
        };
        if read.is_ok() || complete {
            parsed.lines += 1;
            parsed.keep_bytes = at;
            parsed.unterminated = !complete;
        }
        if read.is_err() && complete {
            let text = String::from_utf8_lossy(line).trim_end().chars().take(120).collect();
            parsed.damage.push(Damage { line: index + 1, text });
        }
    }
    parsed
}

fn take(entries: &mut Vec<Change>, line: Line) {
    match line {
        Line::Change(change) => entries.push(change),
        Line::Forget { forget } => entries.retain(|change| !forget.is_of(change)),
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::cpuset::CpuSet;
    use huddle_model::id::{TaskId, Uuid, XenDomainId};
    use proptest::prelude::*;

    use super::super::super::affinity::{AffinityKind, VcpuRef};
    use super::super::Key;
    use super::*;

    fn cpus() -> impl Strategy<Value = CpuSet> {
        proptest::collection::btree_set(0u32..64, 1..6).prop_map(|cpus| cpus.into_iter().collect())
    }

    fn task() -> impl Strategy<Value = TaskId> {
        (1i32..9, any::<u64>()).prop_map(|(id, start_ticks)| TaskId { id, start_ticks })
    }

    fn domain() -> impl Strategy<Value = XenDomainId> {
        (1u32..9, any::<u128>()).prop_map(|(domid, uuid)| XenDomainId { domid, uuid: Uuid::from_u128(uuid) })
    }

    fn change() -> impl Strategy<Value = Change> {
        let kind = prop_oneof![Just(AffinityKind::Hard), Just(AffinityKind::Soft)];
        let of = prop_oneof![
            (task(), task()).prop_map(|(process, thread)| VcpuRef::Thread { process, thread }),
            (domain(), 0u32..9, kind).prop_map(|(domain, vcpu, affinity)| VcpuRef::Xen {
                domain,
                vcpu,
                affinity
            }),
        ];
        let affinity = (".{0,12}", 0u32..9, of, cpus(), cpus())
            .prop_map(|(vm, vcpu, of, before, after)| Change::Affinity { vm, vcpu, of, before, after });
        let setting = ("[a-z_]{1,12}", ".{0,6}", ".{0,6}")
            .prop_map(|(file, before, after)| Change::KsmSetting { file, before, after });
        let sharing = (".{0,12}", domain()).prop_map(|(vm, domain)| Change::MemorySharing { vm, domain });
        prop_oneof![affinity, setting, sharing]
    }

    fn file(changes: &[Change]) -> Vec<u8> {
        let mut bytes =
            encode(&Header { schema: SCHEMA.to_owned(), boot_id: "some-boot".to_owned() }).unwrap();
        for change in changes {
            bytes.extend(encode(&Line::Change(change.clone())).unwrap());
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(changes in proptest::collection::vec(change(), 0..12)) {
            let bytes = file(&changes);
            let parsed = parse(&bytes);
            prop_assert_eq!(&parsed.entries, &changes);
            prop_assert_eq!(parsed.lines, changes.len() + 1);
            prop_assert_eq!((parsed.keep_bytes, parsed.unterminated), (bytes.len(), false));
            prop_assert_eq!((parsed.header.unwrap().boot_id, parsed.damage), ("some-boot".to_owned(), vec![]));
        }

        #[test]
        fn a_write_cut_anywhere_loses_only_what_was_not_complete(
            changes in proptest::collection::vec(change(), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = file(&changes);
            let cut = &bytes[..cut.index(bytes.len() + 1)];
            let parsed = parse(cut);
            prop_assert_eq!(&parsed.damage, &vec![]);
            let ends = cut.iter().filter(|byte| **byte == b'\n').count();
            prop_assert!(parsed.lines == ends || (parsed.unterminated && parsed.lines == ends + 1));
            prop_assert_eq!(&parsed.entries[..], &changes[..parsed.lines.saturating_sub(1)]);
            prop_assert_eq!(&parse(&cut[..parsed.keep_bytes]).entries, &parsed.entries);
        }

        #[test]
        fn a_damaged_line_is_named_and_the_others_are_read(
            changes in proptest::collection::vec(change(), 1..6),
            which in any::<prop::sample::Index>(),
        ) {
            let which = which.index(changes.len());
            let bytes = file(&changes);
            let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            lines[which + 1] = b"{\"vm\": \xff oops\n";
            let parsed = parse(&lines.concat());
            prop_assert_eq!(parsed.damage.len(), 1);
            prop_assert_eq!(parsed.damage[0].line, which + 2);
            prop_assert!(parsed.damage[0].text.contains("oops"));
            let mut others = changes;
            others.remove(which);
            prop_assert_eq!(parsed.entries, others);
        }

        #[test]
        fn what_is_forgotten_is_its_change_and_no_other(
            changes in proptest::collection::vec(change(), 1..8),
            which in any::<prop::sample::Index>(),
        ) {
            let key = changes[which.index(changes.len())].key();
            let mut bytes = file(&changes);
            bytes.extend(encode(&Line::Forget { forget: key.clone().into() }).unwrap());
            let left: Vec<Change> = changes.into_iter().filter(|change| change.key() != key).collect();
            prop_assert_eq!(parse(&bytes).entries, left);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let parsed = parse(&bytes);
            prop_assert!(parsed.keep_bytes <= bytes.len());
        }

        #[test]
        fn any_flipped_byte_is_survived(
            changes in proptest::collection::vec(change(), 1..4),
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
        ) {
            let mut bytes = file(&changes);
            let at = at.index(bytes.len());
            bytes[at] = value;
            parse(&bytes);
        }
    }

    #[test]
    fn what_is_forgotten_is_not_an_entry() {
        let setting = |file: &str, after: &str| Change::KsmSetting {
            file: file.to_owned(),
            before: "0".to_owned(),
            after: after.to_owned(),
        };
        let mut bytes = file(&[setting("run", "1"), setting("smart_scan", "0"), setting("run", "0")]);
        bytes.extend(encode(&Line::Forget { forget: Key::KsmSetting("run".to_owned()).into() }).unwrap());
        bytes.extend(encode(&Line::Change(setting("run", "2"))).unwrap());
        assert_eq!(parse(&bytes).entries, [setting("smart_scan", "0"), setting("run", "2")]);
    }

    /// Lines as versions 1 and 2 wrote them.
    const OLDER_LINES: [&str; 4] = [
        r#"{"change":"affinity","vm":"a","vcpu":1,"process":{"id":10,"start_ticks":5},"thread":{"id":11,"start_ticks":6},"before":[0,1],"after":[0]}"#,
        r#"{"change":"affinity","vm":"x","vcpu":1,"scheduler":{"xen":"soft"},"process":{"id":5,"start_ticks":7676852397838257166},"thread":{"id":1,"start_ticks":7676852397838257166},"before":[0,1],"after":[0]}"#,
        r#"{"change":"memory_sharing","vm":"x","domain":{"id":5,"start_ticks":7676852397838257166}}"#,
        r#"{"change":"ksm_setting","file":"run","before":"0","after":"1"}"#,
    ];

    fn older_file(more: &[&str]) -> Vec<u8> {
        let header = r#"{"schema":"huddle/journal/2","boot_id":"some-boot"}"#;
        let lines = [header].into_iter().chain(OLDER_LINES).chain(more.iter().copied());
        lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes()
    }

    #[test]
    fn lines_of_older_versions_name_the_same_vcpus_and_domains() {
        let parsed = parse(&older_file(&[]));
        assert_eq!(parsed.damage, []);
        let task = |id, start_ticks| TaskId { id, start_ticks };
        let domain = XenDomainId::partly_known(5, 7_676_852_397_838_257_166);
        let keys: Vec<Key> = parsed.entries.iter().map(Change::key).collect();
        let of_domain = Key::XenVcpu { domain, vcpu: 1, affinity: AffinityKind::Soft };
        let expected =
            [Key::Thread(task(11, 6)), of_domain, Key::MemorySharing(domain), Key::KsmSetting("run".into())];
        assert_eq!(keys, expected);
        // Written anew they say the same.
        assert_eq!(parse(&file(&parsed.entries)).entries, parsed.entries);
        let older = r#"{"forget":{"thread":{"id":11,"start_ticks":6}}}"#;
        let on_xen = [
            r#"{"forget":{"domain_vcpu":[{"id":1,"start_ticks":7676852397838257166},"soft"]}}"#,
            r#"{"forget":{"memory_sharing":{"id":5,"start_ticks":7676852397838257166}}}"#,
        ];
        assert_eq!(parse(&older_file(&[older])).entries, parsed.entries[1..]);
        assert_eq!(
            parse(&older_file(&on_xen)).entries,
            [parsed.entries[0].clone(), parsed.entries[3].clone()]
        );
    }
}
