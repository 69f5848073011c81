use huddle_model::cpuset::CpuSet;
use huddle_model::id::{TaskId, Uuid, XenDomainId};
use proptest::prelude::*;

use super::super::super::affinity::{AffinityKind, VcpuRef};
use super::super::{Key, Origin};
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
    let groups = proptest::collection::vec("/.{0,9}", 0..3);
    let origin = (any::<bool>(), any::<Option<u64>>(), groups)
        .prop_map(|(is_whole, since_ticks, cgroups)| Origin { is_whole, since_ticks, cgroups });
    let affinity =
        (".{0,12}", 0u32..9, of, cpus(), cpus(), origin).prop_map(|(vm, vcpu, of, before, after, origin)| {
            Change::Affinity { vm, vcpu, of, before, after, origin }
        });
    let setting = ("[a-z_]{1,12}", ".{0,6}", ".{0,6}").prop_map(|(file, before, after)| Change::KsmSetting {
        file,
        before,
        after,
    });
    let sharing = (".{0,12}", domain()).prop_map(|(vm, domain)| Change::MemorySharing { vm, domain });
    prop_oneof![affinity, setting, sharing]
}

fn file(changes: &[Change]) -> Vec<u8> {
    let mut bytes = encode(&Header { schema: SCHEMA.to_owned(), boot_id: "some-boot".to_owned() }).unwrap();
    for change in changes {
        bytes.extend(encode(&line(change)).unwrap());
    }
    bytes
}

fn line(change: &Change) -> Line {
    Line::Change { first: false, change: change.clone() }
}

/// The same as an earlier version wrote it.
fn plain_file(schema: &str, changes: &[Change]) -> Vec<u8> {
    let mut text = format!("{{\"schema\":\"{schema}\",\"boot_id\":\"some-boot\"}}\n");
    for change in changes {
        text.push_str(&serde_json::to_string(change).unwrap());
        text.push('\n');
    }
    text.into_bytes()
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

    /// Whatever byte changes to whatever value: that line is named, and every other one is read.
    #[test]
    fn a_changed_byte_is_always_found_and_costs_its_own_line_only(
        vcpus in 1u32..5,
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let changes: Vec<Change> = (0..vcpus).map(of_vcpu).collect();
        let mut bytes = file(&changes);
        let at = at.index(bytes.len());
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count();
        bytes[at] ^= flip;
        let parsed = parse(&bytes);
        prop_assert!(!parsed.damage.is_empty());
        prop_assert_eq!(parsed.damage[0].line, line + 1);
        // The header is line 0; the end of a line may be lost without its content.
        prop_assert!(parsed.entries.iter().all(|change| changes.contains(change)), "{:?}", parsed);
        for (other, change) in (1..).zip(&changes).filter(|(other, _)| *other != line) {
            prop_assert!(parsed.entries.contains(change), "line {} of {:?}", other, parsed);
        }
    }

    #[test]
    fn earlier_versions_are_read(
        changes in proptest::collection::vec(change(), 0..6),
        schema in prop::sample::select(OLDER_SCHEMAS.to_vec()),
    ) {
        let parsed = parse(&plain_file(schema, &changes));
        prop_assert_eq!(&parsed.entries, &changes);
        prop_assert_eq!(parsed.damage, []);
        prop_assert_eq!(parsed.header.unwrap().schema, schema);
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

fn of_vcpu(vcpu: u32) -> Change {
    let task = |id| TaskId { id, start_ticks: 6 };
    let thread = task(700 + i32::try_from(vcpu).unwrap());
    Change::Affinity {
        vm: "web\n1".to_owned(),
        vcpu,
        of: VcpuRef::Thread { process: task(10), thread },
        before: "0-7".parse().unwrap(),
        after: CpuSet::from_iter([vcpu]),
        origin: Origin::default(),
    }
}

/// Each byte of a journal, changed in each of its bits and to nothing: as above, and who is concerned is said.
#[test]
fn every_changed_byte_is_found_and_who_is_concerned_is_named() {
    let changes = [of_vcpu(1), of_vcpu(2)];
    let whole = file(&changes);
    let begins: Vec<usize> =
        whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    for at in 0..whole.len() {
        for flip in (0..8).map(|bit| 1 << bit).chain([whole[at]]) {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let parsed = parse(&bytes);
            let line = begins.iter().filter(|begin| **begin <= at).count();
            assert_eq!(parsed.damage.first().map(|damage| damage.line), Some(line + 1), "{at} {flip:#x}");
            for (other, change) in (1..).zip(&changes).filter(|(other, _)| *other != line) {
                assert!(parsed.entries.contains(change), "{at} {flip:#x}: line {other}: {parsed:?}");
            }
            assert!(parsed.entries.iter().all(|entry| changes.contains(entry)), "{at} {flip:#x}");
            let about = parsed.damage.iter().find_map(|damage| damage.about.clone()).unwrap_or_default();
            assert!(
                line == 0 || about.contains("VM \"web") || about.contains("thread 70"),
                "{at}: {parsed:?}"
            );
        }
    }
}

#[test]
fn a_lost_line_that_took_changes_back_makes_no_older_value_come_back() {
    let [before, after] = [("0-7", "1"), ("5-6", "2")].map(|(before, after)| Change::Affinity {
        vm: "a".to_owned(),
        vcpu: 0,
        of: VcpuRef::Thread {
            process: TaskId { id: 10, start_ticks: 5 },
            thread: TaskId { id: 11, start_ticks: 6 },
        },
        before: before.parse().unwrap(),
        after: after.parse().unwrap(),
        origin: Origin::default(),
    });
    let mut bytes = file(std::slice::from_ref(&before));
    bytes.extend(b"what took it back is lost\n");
    bytes.extend(encode(&Line::Change { first: true, change: after.clone() }).unwrap());
    let parsed = parse(&bytes);
    assert_eq!((parsed.entries, parsed.damage[0].line), (vec![after], 3));
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
    bytes.extend(encode(&line(&setting("run", "2"))).unwrap());
    assert_eq!(parse(&bytes).entries, [setting("smart_scan", "0"), setting("run", "2")]);
}

/// Lines as versions 1 and 2 wrote them.
const OLDER_LINES: [&str; 4] = [
    r#"{"change":"affinity","vm":"a","vcpu":1,"process":{"id":10,"start_ticks":5},"thread":{"id":11,"start_ticks":6},"before":[0,1],"after":[0]}"#,
    r#"{"change":"affinity","vm":"x","vcpu":1,"scheduler":{"xen":"soft"},"process":{"id":5,"start_ticks":7676852397838257166},"thread":{"id":1,"start_ticks":7676852397838257166},"before":[0,1],"after":[0]}"#,
    r#"{"change":"memory_sharing","vm":"x","domain":{"id":5,"start_ticks":7676852397838257166}}"#,
    r#"{"change":"ksm_setting","file":"run","before":"0","after":"1"}"#,
];

#[test]
fn a_line_without_a_checksum_is_damaged_beside_those_with_one() {
    let mut bytes = file(&[of_vcpu(1)]);
    bytes.extend(serde_json::to_vec(&of_vcpu(2)).unwrap());
    bytes.push(b'\n');
    let parsed = parse(&bytes);
    assert_eq!((&parsed.entries[..], parsed.damage[0].line), (&[of_vcpu(1)][..], 3));
    // An upper-case digit is the same number, and not what was written.
    let upper = String::from_utf8(file(&[of_vcpu(1)])).unwrap();
    let letter = upper.find(|letter: char| matches!(letter, 'a'..='f')).unwrap();
    let mut upper = upper.into_bytes();
    upper[letter] = upper[letter].to_ascii_uppercase();
    assert_eq!(parse(&upper).damage.len(), 1);
}

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
    assert_eq!(parse(&older_file(&on_xen)).entries, [parsed.entries[0].clone(), parsed.entries[3].clone()]);
}
