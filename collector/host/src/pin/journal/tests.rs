use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::super::state::StateDir;
use huddle_model::id::TaskId;

use super::super::affinity::VcpuRef;
use super::*;

/// A locked state directory and a host whose boot has an id.
struct Place {
    dir: TempDir,
    root: HostRoot,
    state: StateLock,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let state = StateDir::open(Some(&dir.path().join("state"))).unwrap().lock(&root).unwrap();
        let place = Self { dir, root, state };
        place.boot("first-boot");
        place
    }

    fn boot(&self, id: &str) {
        let path = self.root.proc("sys/kernel/random");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("boot_id"), format!("{id}\n")).unwrap();
    }

    fn open(&self) -> Journal {
        Journal::open(&self.root, &self.state).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("state/journal")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }
}

fn affinity(tid: i32, before: &str, after: &str) -> Change {
    Change::Affinity {
        vm: "a".to_owned(),
        vcpu: 0,
        of: VcpuRef::Thread {
            process: TaskId { id: 10, start_ticks: 5 },
            thread: TaskId { id: tid, start_ticks: 6 },
        },
        before: before.parse().unwrap(),
        after: after.parse().unwrap(),
        origin: Origin::default(),
    }
}

fn setting(file: &str, before: &str, after: &str) -> Change {
    Change::KsmSetting { file: file.to_owned(), before: before.to_owned(), after: after.to_owned() }
}

#[test]
fn what_is_recorded_is_there_for_the_next_run() {
    let place = Place::new();
    let changes = [affinity(11, "0-1", "0"), setting("run", "0", "1")];
    let mut journal = place.open();
    assert!(!place.file().exists());
    journal.record(&changes).unwrap();
    assert_eq!(std::fs::metadata(place.file()).unwrap().mode() & 0o777, 0o600);
    drop(journal);

    let mut journal = place.open();
    assert_eq!(journal.entries(), changes);
    assert_eq!(journal.notes(), &[] as &[String]);
    let text = place.text();
    let (checksum, first) = text.lines().next().unwrap().split_once(' ').unwrap();
    assert_eq!(first, r#"{"schema":"huddle/journal/4","boot_id":"first-boot"}"#);
    // As other programs compute it: `printf %s '...' | gzip -c | tail -c8 | od -An -tx4 -N4`.
    assert_eq!(checksum, "27cdbeaa");
    journal.clear().unwrap();
    assert!(!place.file().exists());
}

#[test]
fn the_first_value_is_the_original_and_repeats_are_not_written() {
    let place = Place::new();
    let mut journal = place.open();
    for round in 0..50 {
        let (before, after) = if round % 2 == 0 { ("0-1", "0") } else { ("0", "1") };
        journal.record(&[affinity(11, before, after)]).unwrap();
    }
    let expected = [affinity(11, "0-1", "0"), affinity(11, "0-1", "1")];
    assert_eq!(journal.entries(), expected);
    assert_eq!(place.text().lines().count(), 3);
    assert_eq!(place.open().entries(), expected);

    // Also within one batch.
    journal.record(&[setting("run", "0", "1"), setting("run", "1", "0")]).unwrap();
    assert_eq!(journal.entries()[2..], [setting("run", "0", "1"), setting("run", "0", "0")]);
}

#[test]
fn a_forgotten_key_begins_anew() {
    let place = Place::new();
    let mut journal = place.open();
    journal.record(&[affinity(11, "0-1", "0"), affinity(12, "0-1", "1")]).unwrap();
    let key = affinity(11, "0", "0").key();
    journal.forget(&[key.clone(), key.clone()]).unwrap();
    assert_eq!(place.open().entries(), [affinity(12, "0-1", "1")]);
    journal.record(&[affinity(11, "1", "0")]).unwrap();
    assert_eq!(place.open().entries(), [affinity(12, "0-1", "1"), affinity(11, "1", "0")]);
    journal.forget(&[key, affinity(12, "0", "0").key()]).unwrap();
    assert!(!place.file().exists());
}

#[test]
fn history_does_not_pile_up() {
    let place = Place::new();
    let mut journal = place.open();
    journal.record(&[affinity(99, "0-1", "0")]).unwrap();
    for _ in 0..400 {
        journal.record(&[affinity(11, "0-1", "0")]).unwrap();
        journal.forget(&[affinity(11, "0", "0").key()]).unwrap();
    }
    assert!(place.text().lines().count() < 300, "{}", place.text().lines().count());
    assert_eq!(place.open().entries(), [affinity(99, "0-1", "0")]);
    journal.record(&[affinity(12, "0-1", "0")]).unwrap();
    assert_eq!(place.open().entries(), [affinity(99, "0-1", "0"), affinity(12, "0-1", "0")]);
}

#[test]
fn a_line_cut_short_is_dropped_and_writing_goes_on_behind_it() {
    let place = Place::new();
    place.open().record(&[affinity(11, "0-1", "0"), affinity(12, "0-1", "0")]).unwrap();
    let whole = place.text();
    std::fs::write(place.file(), &whole[..whole.len() - 20]).unwrap();
    let mut journal = place.open();
    assert_eq!(journal.entries(), [affinity(11, "0-1", "0")]);
    assert!(journal.notes()[0].contains("cut short"), "{:?}", journal.notes());
    journal.record(&[affinity(13, "0-1", "0")]).unwrap();
    assert_eq!(place.open().entries(), [affinity(11, "0-1", "0"), affinity(13, "0-1", "0")]);

    // Only the line's end is missing: it is read, and the next line is still one of its own.
    std::fs::write(place.file(), whole.trim_end()).unwrap();
    place.open().record(&[affinity(13, "0-1", "0")]).unwrap();
    assert_eq!(place.open().entries().len(), 3);
}

#[test]
fn an_empty_file_and_a_cut_first_line_hold_nothing() {
    let place = Place::new();
    for text in ["", "{\"schema\":\"hudd"] {
        std::fs::write(place.file(), text).unwrap();
        let mut journal = place.open();
        assert_eq!(journal.entries(), []);
        journal.record(&[affinity(11, "0-1", "0")]).unwrap();
        assert_eq!(place.open().entries().len(), 1);
    }
}

#[test]
fn a_journal_of_another_boot_is_removed_with_a_word() {
    let place = Place::new();
    place.open().record(&[affinity(11, "0-1", "0")]).unwrap();
    place.boot("second-boot");
    let journal = place.open();
    assert_eq!(journal.entries(), []);
    assert!(journal.notes()[0].contains("earlier boot; what it changed (1 change)"), "{:?}", journal.notes());
    assert!(!place.file().exists());
}

#[test]
fn damage_and_other_versions_are_refused_and_left_alone() {
    let place = Place::new();
    place.open().record(&[affinity(11, "0-1", "0"), affinity(12, "0-1", "0")]).unwrap();
    let damaged = place.text().replacen("\"thread\":{\"id\":11", "\"thread\":{\"id\":oops", 1);
    std::fs::write(place.file(), &damaged).unwrap();
    let error = Journal::open(&place.root, &place.state).unwrap_err().to_string();
    assert!(error.starts_with("line 2 of the journal") && error.contains("oops"), "{error}");
    assert_eq!(place.text(), damaged);

    let other = "{\"schema\":\"huddle/journal/9\",\"boot_id\":\"first-boot\"}\n";
    std::fs::write(place.file(), other).unwrap();
    let error = Journal::open(&place.root, &place.state).unwrap_err().to_string();
    assert!(error.contains("huddle/journal/9") && error.contains("version that wrote it"), "{error}");
    assert_eq!(place.text(), other);
}

#[test]
fn what_is_kept_of_a_damaged_journal_replaces_it_and_the_file_stays_aside() {
    let place = Place::new();
    for number in 1..=2 {
        let damaged =
            format!("not json {number}\n{}\n", serde_json::to_string(&affinity(11, "1", "0")).unwrap());
        std::fs::write(place.file(), &damaged).unwrap();
        let mut journal = Journal::open_salvaging(Subject::Placement, &place.root, &place.state).unwrap();
        assert_eq!(journal.entries(), [affinity(11, "1", "0")]);
        assert!(journal.damage()[0].contains("line 1"), "{:?}", journal.damage());
        journal.keep_only([affinity(11, "1", "0")].into_iter().collect()).unwrap();
        let aside = place.dir.path().join(format!("state/journal.damaged-{number}"));
        assert_eq!(std::fs::read_to_string(aside).unwrap(), damaged);
        assert_eq!(place.open().entries(), [affinity(11, "1", "0")]);
    }
}

#[test]
fn a_full_disk_is_an_error_before_the_change_and_the_old_entries_stay() {
    let place = Place::new();
    let mut journal = place.open();
    journal.record(&[affinity(11, "0-1", "0")]).unwrap();
    let full = || Some(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    journal.file = full();
    let error = journal.record(&[affinity(12, "0-1", "0")]).unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    assert_eq!(journal.entries(), [affinity(11, "0-1", "0")]);
    assert_eq!(place.open().entries(), [affinity(11, "0-1", "0")]);

    // As soon as there is room it goes on, in a file that is whole.
    journal.record(&[affinity(12, "0-1", "0")]).unwrap();
    assert_eq!(place.open().entries(), [affinity(11, "0-1", "0"), affinity(12, "0-1", "0")]);
    journal.file = full();
    let key = affinity(11, "0", "0").key();
    assert!(journal.forget(std::slice::from_ref(&key)).is_err());
    assert_eq!(place.open().entries().len(), 2, "what cannot be taken out stays");
    journal.forget(&[key]).unwrap();
    assert_eq!(place.open().entries(), [affinity(12, "0-1", "0")]);
    journal.clear().unwrap();
    journal.record(&[affinity(12, "0-1", "0")]).unwrap();
}

#[test]
fn a_directory_in_which_nothing_can_be_written_is_read_and_stays_as_it_is() {
    let place = Place::new();
    place.open().record(&[affinity(11, "0-1", "0")]).unwrap();
    let text = place.text();
    // Neither replaced nor removed: a directory stands where the new file would, and is not empty.
    let salvaged = || Journal::open_salvaging(Subject::Placement, &place.root, &place.state).unwrap();
    std::fs::create_dir_all(place.dir.path().join("state/.journal.tmp/x")).unwrap();
    let mut journal = salvaged();
    assert_eq!(journal.entries(), [affinity(11, "0-1", "0")]);
    let left = [affinity(11, "0-1", "0")].into_iter().collect();
    assert!(journal.keep_only(left).unwrap_err().to_string().contains("cannot rewrite the journal"));
    assert_eq!(place.text(), text);
    assert_eq!(salvaged().entries(), [affinity(11, "0-1", "0")]);
}

#[test]
fn what_is_no_file_of_ones_own_is_refused_by_name() {
    let place = Place::new();
    nix::unistd::mkfifo(&place.file(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = Journal::open(&place.root, &place.state).unwrap_err().to_string();
    assert!(error.contains("state/journal is a named pipe"), "{error}");
    let error = Journal::open_salvaging(Subject::Placement, &place.root, &place.state).unwrap_err();
    assert!(error.to_string().contains("state/journal is a named pipe"), "{error}");
}

#[test]
fn a_journal_of_an_older_version_is_read_and_goes_on_in_this_one() {
    let place = Place::new();
    let (half, uuid) = (0x6a8c_3a1e_6e1c_4c0e_u64, "6a8c3a1e-6e1c-4c0e-9c3c-1f0e5a6b7c8d".parse().unwrap());
    let lines = [
        r#"{"schema":"huddle/journal/2","boot_id":"first-boot"}"#.to_owned(),
        r#"{"change":"affinity","vm":"a","vcpu":0,"process":{"id":10,"start_ticks":5},"thread":{"id":11,"start_ticks":6},"before":[0,1],"after":[0]}"#.to_owned(),
        format!(
            r#"{{"change":"affinity","vm":"x","vcpu":1,"scheduler":{{"xen":"hard"}},"process":{{"id":5,"start_ticks":{half}}},"thread":{{"id":1,"start_ticks":{half}}},"before":[0,1],"after":[0]}}"#
        ),
    ];
    std::fs::write(place.file(), lines.join("\n") + "\n").unwrap();
    let mut journal = place.open();
    assert_eq!(journal.entries()[0], affinity(11, "0-1", "0"));
    assert!(place.text()[9..].starts_with("{\"schema\":\"huddle/journal/4\""), "{}", place.text());
    assert_eq!(place.open().entries(), journal.entries());

    // The domain is known by half of its UUID, until it is seen.
    assert!(journal.has_partly_known_domains());
    let whole = XenDomainId { domid: 5, uuid };
    let others = [XenDomainId { domid: 6, uuid }, XenDomainId { domid: 5, uuid: Default::default() }];
    journal.complete_domains(&others).unwrap();
    assert!(journal.has_partly_known_domains());
    journal.complete_domains(&[others[0], whole]).unwrap();
    assert!(!journal.has_partly_known_domains());
    let kind = super::super::affinity::AffinityKind::Hard;
    let key = Key::XenVcpu { domain: whole, vcpu: 1, affinity: kind };
    assert_eq!(place.open().entries()[1].key(), key);
    journal.forget(&[key]).unwrap();
    assert_eq!(place.open().entries(), [affinity(11, "0-1", "0")]);
}
