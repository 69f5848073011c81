//! What an undo gives back: all CPUs where there was no affinity, and what pinned threads started.

use super::*;

impl World {
    /// Files that say that the cpuset of all threads and the online CPUs are these, of the possible 0-7.
    fn has_cpus(&self, cpuset: &str, online: &str) {
        let write = |path: std::path::PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(self.root.sys("devices/system/cpu/possible"), "0-7\n");
        write(self.root.sys("devices/system/cpu/online"), online);
        write(self.root.sys("fs/cgroup/cpuset.cpus.effective"), cpuset);
        for number in 0..3 {
            write(self.root.proc(format!("100/task/{}/cgroup", 100 + number)), "0::/\n");
        }
        self.confine(&cpus(cpuset).intersection(&cpus(online)).to_string());
    }

    /// It is this many clock ticks after the boot.
    fn at_ticks(&self, ticks: u64) {
        std::fs::write(self.root.proc("uptime"), format!("{}.{:02} 9.00\n", ticks / 100, ticks % 100))
            .unwrap();
    }

    /// A thread that begins then, in a process with this parent, with this affinity.
    fn start(&self, process: i32, parent: i32, id: i32, start_ticks: u64, list: &str) {
        let line = |id: i32| {
            format!(
                "{id} (x) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start_ticks}{}\n",
                " 0".repeat(30)
            )
        };
        let thread = self.root.proc(format!("{process}/task/{id}/stat"));
        std::fs::create_dir_all(thread.parent().unwrap()).unwrap();
        std::fs::write(thread, line(id)).unwrap();
        if process == id {
            std::fs::write(self.root.proc(format!("{process}/stat")), line(id)).unwrap();
        }
        self.kernel.0.lock().unwrap().affinity.insert(id, cpus(list));
    }

    fn affinity_of(&self, id: i32) -> String {
        self.kernel.0.lock().unwrap().affinity[&id].to_string()
    }
}

#[test]
fn where_the_affinity_was_all_that_was_allowed_a_wider_cpuset_is_used_after_the_undo() {
    for (cpuset, online) in [("0-2", "0-7"), ("0-7", "0-2")] {
        let world = World::new();
        world.has_cpus(cpuset, online);
        world.taskset(0, "0-2");
        // Its owner asked for less.
        world.taskset(1, "0-1");
        let mut pinner = world.pinner();
        pinner.set_affinities(&[pin(0, "1"), pin(1, "2")]).unwrap();
        pinner.keep();
        world.confine("0-7");
        let report = world.pinner().undo();
        assert_eq!(report, UndoReport { restored: 2, ..UndoReport::default() });
        assert_eq!((world.affinity(0), world.affinity(1)), ("0-7".into(), "0-1".into()));
        // Not wider than it may be.
        world.confine("0-3");
        assert_eq!(world.affinity(0), "0-3");
    }
}

#[test]
fn what_pinned_threads_started_is_undone_too() {
    let world = World::new();
    world.at_ticks(100);
    world.start(100, 1, 105, 50, "1");
    let mut pinner = world.pinner();
    pinner.set_affinities(&[pin(0, "1"), pin(1, "2")]).unwrap();
    world.start(100, 1, 110, 150, "1");
    world.start(100, 1, 111, 150, "3");
    world.start(200, 100, 200, 160, "2");
    world.start(300, 200, 300, 160, "2");
    world.start(400, 1, 400, 160, "2");
    let report = pinner.undo();
    assert_eq!((report.restored, report.failures.len()), (5, 0), "{report:?}");
    assert!(report.notes.iter().any(|note| note.starts_with("3 threads that pinned threads")), "{report:?}");
    for (id, expected) in [
        (105, "1"),
        (110, "0-7"),
        (111, "3"),
        (200, "0-7"),
        (300, "0-7"),
        (400, "2"),
        (100, "0-7"),
        (101, "0-7"),
    ] {
        assert_eq!(world.affinity_of(id), expected, "thread {id}");
    }
}

#[test]
fn a_thread_that_is_released_leaves_nothing_behind_either() {
    let world = World::new();
    world.at_ticks(100);
    let mut pinner = world.pinner();
    pinner.set_affinities(&[pin(0, "1")]).unwrap();
    world.start(100, 1, 110, 150, "1");
    let plan = Plan {
        policy: huddle_model::plan::Policy::Paper,
        domains: Vec::new(),
        placement: Vec::new(),
        shared_within: None,
        shared_total: None,
        expected: None,
        waiting: None,
        reasons: Vec::new(),
    };
    pinner.apply(&[], &plan).unwrap();
    assert_eq!((world.affinity(0), world.affinity_of(110)), ("0-7".into(), "0-7".into()));
    assert!(pinner.journal().is_empty());
}

#[test]
fn before_a_thread_that_inherited_its_affinity_was_what_its_parent_had() {
    let world = World::new();
    world.at_ticks(100);
    let mut pinner = world.pinner();
    pinner.set_affinities(&[pin(0, "1")]).unwrap();
    world.start(100, 1, 110, 150, "1");
    let worker = TaskId { id: 110, start_ticks: 150 };
    pinner.set_affinities(&[ThreadPin { id: worker.into(), ..pin(0, "2") }]).unwrap();
    assert_eq!(world.affinity_of(110), "2");
    assert_eq!(pinner.undo().restored, 2);
    assert_eq!((world.affinity(0), world.affinity_of(110)), ("0-7".into(), "0-7".into()));
}
