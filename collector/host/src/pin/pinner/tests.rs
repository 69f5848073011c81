//! The pinner and undoing on a made-up kernel and a tree of fixtures; real threads are in
//! `tests/pin_host.rs`.

mod restored;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use huddle_model::id::TaskId;
use tempfile::TempDir;

use super::super::affinity::{Affinities, ThreadAffinities};
use super::super::state::{StateDir, StateLock};
use super::*;

/// A kernel with one cpuset, whose threads have a stat file in the fixture tree.
#[derive(Default)]
struct FakeKernel {
    /// Where its threads are looked for.
    root: Option<HostRoot>,
    affinity: BTreeMap<i32, CpuSet>,
    asked: BTreeMap<i32, CpuSet>,
    cpuset: CpuSet,
    /// Does this to the tree right after the next call of `set`.
    after_set: Option<Box<dyn FnOnce() + Send>>,
    not_permitted: Vec<i32>,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<FakeKernel>>);

impl Affinities for Shared {
    fn presence(&self, vcpu: VcpuRef) -> Result<Presence, PinError> {
        let root = self.0.lock().unwrap().root.clone();
        ThreadAffinities(root.unwrap()).presence(vcpu)
    }

    fn get(&self, of: VcpuRef) -> Result<CpuSet, Errno> {
        let tid = tid(of);
        self.0.lock().unwrap().affinity.get(&tid).cloned().ok_or(Errno::ESRCH)
    }

    fn set(&self, of: VcpuRef, cpus: &CpuSet) -> Result<(), Errno> {
        let tid = tid(of);
        let mut kernel = self.0.lock().unwrap();
        if kernel.not_permitted.contains(&tid) {
            return Err(Errno::EPERM);
        }
        let narrowed = cpus.intersection(&kernel.cpuset);
        if narrowed.is_empty() {
            return Err(Errno::EINVAL);
        }
        kernel.asked.insert(tid, cpus.clone());
        kernel.affinity.insert(tid, narrowed);
        if let Some(after) = kernel.after_set.take() {
            after();
        }
        Ok(())
    }
}

fn tid(of: VcpuRef) -> i32 {
    let VcpuRef::Thread { thread, .. } = of else { panic!("{of:?} is no thread") };
    thread.id
}

struct World {
    dir: TempDir,
    root: HostRoot,
    state: StateLock,
    kernel: Shared,
}

const PROCESS: TaskId = TaskId { id: 100, start_ticks: 7 };

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn thread(number: i32) -> TaskId {
    TaskId { id: 100 + number, start_ticks: 7 }
}

fn vcpu(number: i32) -> VcpuRef {
    VcpuRef::Thread { process: PROCESS, thread: thread(number) }
}

fn pin(number: i32, list: &str) -> ThreadPin {
    ThreadPin {
        vm: "a".to_owned(),
        vcpu: u32::try_from(number).unwrap(),
        id: thread(number).into(),
        process: Some(PROCESS),
        cpus: cpus(list),
        within: None,
    }
}

fn write_stat(root: &HostRoot, path: &str, task: TaskId) {
    let path = root.proc(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let line = format!(
        "{} (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {}{}\n",
        task.id,
        task.start_ticks,
        " 0".repeat(30)
    );
    std::fs::write(path, line).unwrap();
}

impl World {
    /// One process with three threads that may run on 0-7.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("sys/kernel/random")).unwrap();
        std::fs::write(root.proc("sys/kernel/random/boot_id"), "boot\n").unwrap();
        write_stat(&root, "100/stat", PROCESS);
        let mut kernel =
            FakeKernel { root: Some(root.clone()), cpuset: cpus("0-7"), ..FakeKernel::default() };
        for number in 0..3 {
            let id = thread(number);
            write_stat(&root, &format!("100/task/{id}/stat"), id);
            kernel.affinity.insert(id.id, cpus("0-7"));
        }
        let state = StateDir::open(Some(&dir.path().join("state"))).unwrap().lock(&root).unwrap();
        Self { dir, root, state, kernel: Shared(Arc::new(Mutex::new(kernel))) }
    }

    fn pinner(&self) -> HostPinner {
        let journal = Journal::open(&self.root, &self.state).unwrap();
        let undoers = Undoers::of_host(self.root.clone()).with_threads(Box::new(self.kernel.clone()));
        HostPinner::with(self.root.clone(), journal, undoers, Scheduler::Host)
    }

    fn affinity(&self, number: i32) -> String {
        self.kernel.get(vcpu(number)).unwrap().to_string()
    }

    /// Somebody else sets an affinity.
    fn taskset(&self, number: i32, list: &str) {
        self.kernel.set(vcpu(number), &cpus(list)).unwrap();
    }

    /// The cpuset changes: the kernel narrows what each thread asked for, as since Linux 6.2.
    fn confine(&self, list: &str) {
        let mut kernel = self.kernel.0.lock().unwrap();
        kernel.cpuset = cpus(list);
        let asked = std::mem::take(&mut kernel.asked);
        for (tid, wish) in &asked {
            kernel.affinity.insert(*tid, wish.intersection(&cpus(list)));
        }
        kernel.asked = asked;
    }

    fn ksm(&self, settings: &[(&str, &str)]) {
        let dir = self.root.sys("kernel/mm/ksm");
        std::fs::create_dir_all(&dir).unwrap();
        for (file, value) in settings {
            std::fs::write(dir.join(file), format!("{value}\n")).unwrap();
        }
    }

    fn setting(&self, file: &str) -> String {
        std::fs::read_to_string(self.root.sys("kernel/mm/ksm").join(file)).unwrap()
    }
}

#[test]
fn the_undo_of_many_changes_returns_to_the_first_value() {
    let world = World::new();
    world.taskset(1, "2-5");
    let mut pinner = world.pinner();
    for list in ["0-3", "4-7", "0-3"] {
        pinner.set_affinities(&[pin(0, list), pin(1, list)]).unwrap();
    }
    assert_eq!((world.affinity(0), world.affinity(1)), ("0-3".into(), "0-3".into()));
    let report = pinner.undo();
    assert_eq!(report, UndoReport { restored: 2, ..UndoReport::default() });
    assert_eq!((world.affinity(0), world.affinity(1)), ("0-7".into(), "2-5".into()));
    assert!(!world.dir.path().join("state/journal").exists());
}

#[test]
fn dropping_undoes_and_keeping_does_not_and_a_second_pin_keeps_the_first_originals() {
    let world = World::new();
    let mut pinner = world.pinner();
    pinner.set_affinities(&[pin(0, "1")]).unwrap();
    drop(pinner);
    assert_eq!(world.affinity(0), "0-7");

    for list in ["1", "2"] {
        let mut pinner = world.pinner();
        pinner.set_affinities(&[pin(0, list)]).unwrap();
        pinner.keep();
        assert_eq!(world.affinity(0), list);
    }
    assert_eq!(world.pinner().undo().restored, 1);
    assert_eq!(world.affinity(0), "0-7");
}

#[test]
fn the_journal_is_on_disk_before_the_thread_is_touched() {
    let world = World::new();
    let path = world.dir.path().join("state/journal");
    let seen = Arc::new(Mutex::new(String::new()));
    let at_set = Arc::clone(&seen);
    world.kernel.0.lock().unwrap().after_set =
        Some(Box::new(move || *at_set.lock().unwrap() = std::fs::read_to_string(path).unwrap()));
    let mut pinner = world.pinner();
    pinner.set_affinities(&[pin(0, "1"), pin(1, "2")]).unwrap();
    assert_eq!(seen.lock().unwrap().lines().count(), 3, "both entries of the batch, before the first call");
}

#[test]
fn a_change_that_was_journaled_and_never_made_is_harmless_to_undo() {
    let world = World::new();
    let mut pinner = world.pinner();
    pinner.journal.record(&[pin(0, "1").change(vcpu(0), &cpus("0-7"), &cpus("1"))]).unwrap();
    let report = pinner.undo();
    assert_eq!((report.restored, report.failures.len()), (0, 0));
    assert!(report.notes[0].contains("was not changed"), "{:?}", report.notes);
    assert!(pinner.journal().entries().is_empty());
}

#[test]
fn what_somebody_else_set_is_left_even_where_it_is_a_part_of_ours() {
    let world = World::new();
    for theirs in ["6", "2"] {
        let mut pinner = world.pinner();
        pinner.set_affinities(&[pin(0, "0-3")]).unwrap();
        world.taskset(0, theirs);
        let report = pinner.undo();
        assert_eq!((report.restored, world.affinity(0)), (0, theirs.to_owned()));
        assert!(report.notes[0].contains("somebody else") && report.notes[0].contains("0-7"));
        assert!(pinner.journal().entries().is_empty());
        world.taskset(0, "0-7");
    }
}

#[test]
fn what_the_kernel_narrowed_is_put_back() {
    let world = World::new();
    let mut pinner = world.pinner();
    pinner.set_affinities(&[pin(0, "0-3")]).unwrap();
    world.confine("2-7");
    assert_eq!(world.affinity(0), "2-3");
    let report = pinner.undo();
    assert_eq!((report.restored, world.affinity(0)), (1, "2-7".to_owned()));
    assert!(report.notes[0].contains("allow 2-7 now"), "{:?}", report.notes);
}

#[test]
fn a_silently_narrowed_pin_is_said_and_undone() {
    let world = World::new();
    world.confine("0-5");
    world.taskset(0, "0-5");
    let mut pinner = world.pinner();
    let report = pinner.set_affinities(&[pin(0, "4-7")]).unwrap();
    assert_eq!(report.outcome.changed, 1);
    assert!(report.notes[0].contains("the kernel allows 4-5"), "{:?}", report.notes);
    assert_eq!(pinner.undo().restored, 1);
    assert_eq!(world.affinity(0), "0-5");
}

#[test]
fn an_affinity_that_cannot_come_back_fails_loudly_and_stays_in_the_journal() {
    let world = World::new();
    world.taskset(0, "6-7");
    let mut pinner = world.pinner();
    pinner.set_affinities(&[pin(0, "0"), pin(1, "1")]).unwrap();
    world.kernel.0.lock().unwrap().cpuset = cpus("0-5");
    let report = pinner.undo();
    assert_eq!(report.restored, 1);
    assert!(report.failures[0].contains("6-7 of vCPU 0 of VM a (thread 100)"), "{:?}", report.failures);
    assert_eq!(pinner.journal().entries().len(), 1);
    pinner.keep();

    world.kernel.0.lock().unwrap().cpuset = cpus("0-7");
    assert_eq!(world.pinner().undo().restored, 1);
    assert_eq!(world.affinity(0), "6-7");
}

#[test]
fn a_number_taken_by_another_task_is_skipped_at_every_moment() {
    let world = World::new();
    let other = TaskId { start_ticks: 8, ..thread(1) };
    let root = world.root.clone();
    let reuse = move || write_stat(&root, "100/task/101/stat", other);

    // While it is pinned.
    world.kernel.0.lock().unwrap().after_set = Some(Box::new(reuse));
    let mut pinner = world.pinner();
    let report = pinner.set_affinities(&[pin(1, "1")]).unwrap();
    assert_eq!((report.outcome.changed, report.outcome.skipped), (0, 1));
    assert_eq!(world.affinity(1), "0-7");
    assert!(report.notes[0].contains("taken by another task while"), "{:?}", report.notes);

    // Before it is pinned, and when it is undone.
    let report = pinner.set_affinities(&[pin(1, "1")]).unwrap();
    assert!(report.notes[0].contains("belongs to another task now: skipped"), "{:?}", report.notes);
    let report = pinner.undo();
    assert!(report.notes[0].contains("another task now: nothing to undo"), "{:?}", report.notes);
    assert_eq!(world.affinity(1), "0-7");

    // The same for its process.
    for file in ["100/stat", "100/task/100/stat"] {
        write_stat(&world.root, file, TaskId { start_ticks: 9, ..PROCESS });
    }
    let report = pinner.set_affinities(&[pin(0, "1")]).unwrap();
    assert_eq!((report.outcome.skipped, world.affinity(0)), (1, "0-7".to_owned()));
}

#[test]
fn a_refusal_is_an_error_and_what_was_recorded_is_harmless() {
    let world = World::new();
    world.kernel.0.lock().unwrap().not_permitted = vec![100];
    let mut pinner = world.pinner();
    let error = pinner.set_affinities(&[pin(0, "1")]).unwrap_err().to_string();
    assert!(error.contains("vCPU 0 of VM a (thread 100)") && error.contains("CAP_SYS_NICE"), "{error}");
    let report = pinner.undo();
    assert_eq!((report.restored, report.failures.len()), (0, 0));
}

#[test]
fn one_refusal_among_several_is_a_note_and_the_others_are_pinned() {
    let world = World::new();
    world.kernel.0.lock().unwrap().not_permitted = vec![100];
    let mut pinner = world.pinner();
    let report = pinner.set_affinities(&[pin(0, "1"), pin(1, "1")]).unwrap();
    assert_eq!((report.outcome.changed, report.outcome.skipped), (1, 1));
    assert!(report.notes[0].contains("thread 100") && report.notes[0].contains("CAP_SYS_NICE"), "{report:?}");
    assert_eq!(world.affinity(1), "1");
    let undone = pinner.undo();
    assert_eq!((undone.restored, undone.failures.len()), (1, 0));
}

#[test]
fn pinning_anew_what_somebody_else_set_returns_to_theirs() {
    let world = World::new();
    let mut pinner = world.pinner();
    pinner.set_affinities(&[pin(0, "1")]).unwrap();
    world.taskset(0, "5-6");
    let report = pinner.set_affinities(&[pin(0, "2")]).unwrap();
    assert!(report.notes[0].contains("return it to that"), "{:?}", report.notes);
    assert_eq!(pinner.undo().restored, 1);
    assert_eq!(world.affinity(0), "5-6");
}

#[test]
fn what_somebody_else_bound_since_is_left_in_the_same_round() {
    let world = World::new();
    let mut pinner = world.pinner();
    let plain = |number, list| ThreadPin { within: Some(cpus("0-7")), ..pin(number, list) };
    pinner.set_affinities(&[plain(0, "0-3"), plain(1, "0-3")]).unwrap();
    world.taskset(0, "6");
    let report = pinner.set_affinities(&[plain(0, "4-7"), plain(1, "4-7")]).unwrap();
    assert_eq!((world.affinity(0), world.affinity(1)), ("6".into(), "4-7".into()));
    assert_eq!((report.outcome.changed, report.outcome.skipped), (1, 1));
    assert!(report.notes[0].ends_with("to 6: left as it is"), "{:?}", report.notes);
    // Who gives it all CPUs binds it to none.
    world.taskset(1, "0-7");
    assert_eq!(pinner.set_affinities(&[plain(1, "0-3")]).unwrap().outcome.changed, 1);
    // As asked for explicitly.
    assert_eq!(pinner.set_affinities(&[pin(0, "0-3")]).unwrap().outcome.changed, 1);
    pinner.undo();
    assert_eq!((world.affinity(0), world.affinity(1)), ("6".into(), "0-7".into()));
}

#[test]
fn one_thread_of_two_vcpus_is_pinned_once() {
    let world = World::new();
    let mut pinner = world.pinner();
    let report = pinner.set_affinities(&[pin(0, "1"), pin(0, "2")]).unwrap();
    assert_eq!((report.outcome.changed, report.outcome.skipped), (1, 1));
    assert_eq!(world.affinity(0), "1");
}

#[test]
fn settings_are_written_in_order_and_put_back() {
    let world = World::new();
    let before =
        [("run", "0"), ("pages_to_scan", "100"), ("smart_scan", "1"), ("advisor_mode", "[none] scan-time")];
    world.ksm(&before);
    let mut pinner = world.pinner();
    let settings =
        [("smart_scan", "0".to_owned()), ("pages_to_scan", "5000 ".to_owned()), ("run", "1".into())];
    pinner.set_ksm(&settings).unwrap();
    pinner.set_ksm(&[("run", "0".to_owned()), ("smart_scan", "0".to_owned())]).unwrap();
    pinner.set_ksm(&[("run", "1".to_owned())]).unwrap();
    assert_eq!((world.setting("run"), world.setting("pages_to_scan")), ("1\n".into(), "5000\n".into()));
    let report = pinner.undo();
    assert_eq!(report, UndoReport { restored: 3, ..UndoReport::default() });
    for (file, value) in &before[..3] {
        assert_eq!(world.setting(file).trim(), *value);
    }
}

#[test]
fn a_setting_that_somebody_else_changed_is_left() {
    let world = World::new();
    world.ksm(&[("run", "0")]);
    let mut pinner = world.pinner();
    pinner.set_ksm(&[("run", "1".to_owned())]).unwrap();
    world.ksm(&[("run", "2")]);
    let report = pinner.undo();
    assert!(report.notes[0].contains("somebody else set KSM's run to 2"), "{:?}", report.notes);
    assert_eq!(world.setting("run").trim(), "2");
}

#[test]
fn settings_that_were_undone_are_set_again_on_request() {
    let world = World::new();
    world.ksm(&[("run", "0"), ("sleep_millisecs", "20")]);
    let mut pinner = world.pinner();
    for value in ["2", "1"] {
        pinner.set_ksm(&[("run", value.to_owned())]).unwrap();
    }
    pinner.undo();
    assert_eq!(world.setting("run").trim(), "0");
    assert_eq!(Pinner::resume(&mut pinner), [""; 0]);
    assert_eq!(world.setting("run").trim(), "1", "the last value");
    assert_eq!(pinner.undo().restored, 1, "it is in the journal again");
    assert_eq!((world.setting("run").trim(), world.setting("sleep_millisecs").trim()), ("0", "20"));
    std::fs::remove_file(world.root.sys("kernel/mm/ksm/run")).unwrap();
    let failures = Pinner::resume(&mut pinner);
    assert!(failures.len() == 1 && failures[0].contains("run"), "{failures:?}");
}

#[test]
fn settings_that_are_not_there_or_not_ksms_are_refused_and_nothing_is_written() {
    let world = World::new();
    world.ksm(&[("run", "0")]);
    let mut pinner = world.pinner();
    let settings = [("run", "1".to_owned()), ("../transparent_hugepage/enabled", "never".to_owned())];
    let error = pinner.set_ksm(&settings).unwrap_err().to_string();
    assert!(error.contains("no setting \"../transparent_hugepage/enabled\""), "{error}");
    let error = pinner.set_ksm(&[("smart_scan", "0".to_owned())]).unwrap_err().to_string();
    assert!(error.contains("smart_scan") && error.contains("this kernel does not have"), "{error}");
    assert!(!world.root.sys("kernel/mm/ksm/smart_scan").exists());
    assert_eq!(world.setting("run").trim(), "0");
    assert!(pinner.journal().entries().is_empty());
}

#[test]
fn a_journal_cannot_make_it_write_elsewhere() {
    let world = World::new();
    world.ksm(&[("run", "0")]);
    std::fs::write(world.root.sys("kernel/mm/other"), "1").unwrap();
    let mut pinner = world.pinner();
    let change =
        Change::KsmSetting { file: "../other".to_owned(), before: "0".to_owned(), after: "1".to_owned() };
    pinner.journal.record(&[change]).unwrap();
    let report = pinner.undo();
    assert!(report.failures[0].contains("not a setting of KSM"), "{:?}", report.failures);
    assert_eq!(std::fs::read_to_string(world.root.sys("kernel/mm/other")).unwrap(), "1");
    pinner.keep();
}

/// Each byte of a journal, changed: `huddle restore` names the line, undoes every other one, and sets nothing else.
#[test]
fn whatever_byte_of_a_journal_changes_the_rest_is_undone_and_nothing_else_is_set() {
    let world = World::new();
    let pins = [pin(0, "1"), pin(1, "2"), pin(2, "3")];
    let mut pinner = world.pinner();
    pinner.set_affinities(&pins).unwrap();
    pinner.keep();
    let (file, state) = (world.dir.path().join("state/journal"), world.state.clone());
    let whole = std::fs::read(&file).unwrap();
    let undoers = || Undoers::of_host(world.root.clone()).with_threads(Box::new(world.kernel.clone()));
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    for at in 0..whole.len() {
        for number in 0..3 {
            world.taskset(number, ["1", "2", "3"][number as usize]);
        }
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&file, &damaged).unwrap();
        let refused = Journal::open(&world.root, &state).unwrap_err().to_string();
        assert!(refused.contains("is damaged") && refused.contains("huddle restore"), "byte {at}: {refused}");
        let report = super::super::undo::restore(&undoers(), &state).unwrap();
        // Lines from 0, the first being the header; the vCPU of line N is N - 1.
        let line = ends.iter().filter(|end| **end < at).count();
        let named =
            report.failures.iter().any(|failure| failure.contains(&format!("line {} cannot", line + 1)));
        assert!(named, "byte {at}: {report:?}");
        for number in 0..3 {
            let now = world.affinity(number);
            let pinned = ["1", "2", "3"][number as usize];
            let is_of_line = line == number as usize + 1;
            assert!(
                now == "0-7" || (is_of_line && now == pinned),
                "byte {at}, vCPU {number}: {now}, {report:?}"
            );
        }
        if line > 0 && world.affinity(line as i32 - 1) != "0-7" {
            let who = [format!("vCPU {}", line - 1), format!("thread {}", 99 + line), "VM \"a\"".to_owned()];
            let said = report.failures.join("; ");
            assert!(who.iter().any(|who| said.contains(who)), "byte {at}: {said}");
        }
        let aside = world.dir.path().join("state/journal.damaged-1");
        assert_eq!(std::fs::read(&aside).unwrap(), damaged);
        std::fs::remove_file(aside).unwrap();
        assert!(!file.exists());
    }
}

#[test]
fn a_stop_ends_pinning_in_the_middle_and_all_of_it_is_undone() {
    let world = World::new();
    let stop = Stop::default();
    let mut pinner = world.pinner().until(stop.clone());
    world.kernel.0.lock().unwrap().after_set = Some(Box::new(move || stop.set()));
    let error = pinner.set_affinities(&[pin(0, "1"), pin(1, "1")]).unwrap_err().to_string();
    assert!(error.contains("the loop is ending"), "{error}");
    assert_eq!((world.affinity(0), world.affinity(1)), ("1".to_owned(), "0-7".to_owned()));
    let report = pinner.undo();
    assert_eq!((report.restored, report.failures.len()), (1, 0), "{report:?}");
    assert_eq!(world.affinity(0), "0-7");
}
