//! resctrl as a tree of fixtures, whose groups get the files that the kernel would create.

use std::fs;
use std::sync::{Arc, Mutex};

use huddle_model::cpuset::CpuSet;
use huddle_model::topology::CacheDomain;
use huddle_model::vm::{Vcpu, VmmKind};

use super::*;

const FILES: [&str; 3] = ["llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"];

/// Makes groups with files, up to a limit.
#[derive(Clone, Debug, Default)]
struct Fixture {
    full: Arc<Mutex<bool>>,
    /// Counters that are left for groups; `None` where none are assigned.
    counters: Arc<Mutex<Option<u32>>>,
    /// Ids of the caches.
    caches: Vec<u32>,
}

impl GroupDirectories for Fixture {
    fn make(&self, path: &Path) -> io::Result<()> {
        if *self.full.lock().unwrap() {
            return Err(nix::errno::Errno::ENOSPC.into());
        }
        fs::create_dir(path)?;
        fs::write(path.join("tasks"), "")?;
        if self.counters.lock().unwrap().is_some() {
            let states: Vec<String> = self.caches.iter().map(|cache| format!("{cache}=_")).collect();
            let states = states.join(";");
            let text = format!("mbm_total_bytes:{states}\nmbm_local_bytes:{states}\n");
            fs::write(path.join("mbm_L3_assignments"), text)?;
        }
        for cache in &self.caches {
            let data = path.join(format!("mon_data/mon_L3_{cache:02}"));
            fs::create_dir_all(&data)?;
            for file in FILES {
                fs::write(data.join(file), "1000\n")?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // Its counters are free again.
        if let (Some(left), Ok(text)) =
            (&mut *self.counters.lock().unwrap(), fs::read_to_string(path.join("mbm_L3_assignments")))
        {
            *left += text.matches("=e").count() as u32;
        }
        fs::remove_dir_all(path)
    }

    /// As the kernel does it: one counter for an event and cache, or ENOSPC.
    fn assign(&self, path: &Path, line: &str) -> io::Result<()> {
        let mut counters = self.counters.lock().unwrap();
        let left = counters.as_mut().filter(|left| **left > 0).ok_or(nix::errno::Errno::ENOSPC)?;
        let (event, state) = line.trim().split_once(':').unwrap();
        let (cache, "e") = state.split_once('=').unwrap() else { panic!("{line}") };
        let text = fs::read_to_string(path)?;
        let lines = text.lines().map(|line| match line.starts_with(event) {
            true => line.replace(&format!("{cache}=_"), &format!("{cache}=e")),
            false => line.to_owned(),
        });
        let text: Vec<String> = lines.collect();
        *left -= 1;
        fs::write(path, text.join("\n") + "\n")
    }
}

struct Tree {
    dir: tempfile::TempDir,
    root: HostRoot,
    groups: Fixture,
}

impl Tree {
    /// Two L3 caches of two CPUs each, with all three values.
    fn new() -> Self {
        Self::with_caches(&[0, 1])
    }

    /// Caches of these ids, each of two CPUs, with all three values.
    fn with_caches(ids: &[u32]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let groups = Fixture { caches: ids.to_vec(), ..Fixture::default() };
        let tree = Self { root: HostRoot::at(dir.path()), dir, groups };
        let mount = tree.mount();
        tree.write("proc/self/mounts", &format!("resctrl {} resctrl rw 0 0\n", mount.display()));
        tree.stat(std::process::id().cast_signed(), 5);
        tree.write("resctrl/info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n");
        tree.write("resctrl/info/L3_MON/num_rmids", "32\n");
        fs::create_dir_all(mount.join("mon_groups")).unwrap();
        for id in ids {
            fs::create_dir_all(mount.join(format!("mon_data/mon_L3_{id:02}"))).unwrap();
        }
        for (cpu, id) in ids.iter().flat_map(|id| [id, id]).enumerate() {
            let cache = format!("sys/devices/system/cpu/cpu{cpu}/cache/index3");
            tree.write(&format!("{cache}/level"), "3\n");
            tree.write(&format!("{cache}/id"), &format!("{id}\n"));
        }
        tree
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("resctrl")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn stat(&self, pid: i32, start: u64) {
        let tail = "0 ".repeat(30);
        self.write(
            &format!("proc/{pid}/stat"),
            &format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} {tail}\n"),
        );
    }

    fn open(&self) -> Resctrl {
        Resctrl::with(&self.root, Box::new(self.groups.clone())).unwrap()
    }

    /// The groups below a control group (`""`: the root's).
    fn groups(&self, control: &str) -> Vec<String> {
        let entries = fs::read_dir(self.mount().join(control).join("mon_groups")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn group_of(&self, vm: &str) -> String {
        let groups = self.groups("");
        format!("resctrl/mon_groups/{}", groups.iter().find(|name| name.ends_with(vm)).unwrap())
    }
}

fn vm(name: &str, pid: i32, threads: &[i32]) -> Vm {
    let task = |id| TaskId { id, start_ticks: 1 };
    let vcpu = |(index, tid): (u32, &i32)| Vcpu {
        index,
        id: task(*tid).into(),
        process: Some(task(pid)),
        thread_name: Some("CPU 0/KVM".into()),
        affinity: CpuSet::new(),
        last_cpu: None,
        limits: Default::default(),
    };
    Vm {
        name: name.into(),
        id: task(pid).into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::QemuKvm,
        vcpus: (0..).zip(threads).map(vcpu).collect(),
        memory: Vec::new(),
        allowed_cpus: CpuSet::new(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

fn topology(level: u8) -> Topology {
    let domain = |(id, cpus): (u32, &str)| CacheDomain {
        id: DomainId(id),
        cpus: cpus.parse().unwrap(),
        size_bytes: None,
        nodes: Default::default(),
    };
    // In the opposite order of the caches, so that a confusion of id and number would show.
    Topology::new(Some(level), [(0, "2-3"), (1, "0-1")].map(domain).into()).unwrap()
}

#[test]
fn each_vm_has_a_group_with_its_threads_as_long_as_it_exists() {
    let tree = Tree::new();
    let mut resctrl = tree.open();
    let expected = Features {
        llc_occupancy: true,
        total_bytes: true,
        local_bytes: true,
        groups: Some(32),
        assignment: Assignment::None,
    };
    assert_eq!(resctrl.features(), expected);
    resctrl.sync(&[vm("web", 10, &[11, 12]), vm("db", 20, &[21])]);
    let tasks = |vm: &str| fs::read_to_string(tree.dir.path().join(tree.group_of(vm)).join("tasks")).unwrap();
    assert_eq!((tree.groups("").len(), tasks("web"), tasks("db")), (2, "11\n12\n".into(), "21\n".into()));
    resctrl.sync(&[vm("web", 10, &[11, 13])]);
    assert_eq!((tree.groups("").len(), tasks("web")), (1, "11\n12\n13\n".into()));
    drop(resctrl);
    assert_eq!(tree.groups(""), Vec::<String>::new());
}

#[test]
fn occupancy_is_current_and_traffic_of_the_window() {
    let tree = Tree::new();
    let mut resctrl = tree.open();
    resctrl.set_domains(&topology(3));
    resctrl.sync(&[vm("web", 10, &[11])]);
    let data = format!("{}/mon_data/mon_L3_01", tree.group_of("web"));
    tree.write(&format!("{data}/llc_occupancy"), "4096\n");
    tree.write(&format!("{data}/mbm_total_bytes"), "1500\n");
    tree.write(&format!("{data}/mbm_local_bytes"), "Unavailable\n");
    let rows = resctrl.read();
    let shown: Vec<_> = rows.iter().map(|row| (row.vm.as_str(), row.cache, row.domain)).collect();
    assert_eq!(shown, [("web", 0, Some(DomainId(1))), ("web", 1, Some(DomainId(0)))]);
    assert_eq!((rows[0].llc_bytes.value(), rows[0].total_bytes.value()), (Some(&1000), Some(&0)));
    assert_eq!((rows[1].llc_bytes.value(), rows[1].total_bytes.value()), (Some(&4096), Some(&500)));
    assert!(rows[1].local_bytes.reason().unwrap().contains("says \"Unavailable\""), "{rows:?}");

    tree.write(&format!("{data}/llc_occupancy"), "Error\n");
    tree.write(&format!("{data}/mbm_total_bytes"), "100\n");
    tree.write(&format!("{data}/mbm_local_bytes"), "7\n");
    let row = &resctrl.read()[1];
    assert!(row.llc_bytes.reason().unwrap().contains("Error"));
    assert!(row.total_bytes.reason().unwrap().contains("reset"), "{row:?}");
    assert!(row.local_bytes.reason().unwrap().contains("the earlier reading"), "{row:?}");
    tree.write(&format!("{data}/llc_occupancy"), "many\n");
    tree.write(&format!("{data}/mbm_total_bytes"), "Unassigned\n");
    let row = &resctrl.read()[1];
    assert!(row.llc_bytes.reason().unwrap().contains("\"many\""), "{row:?}");
    assert!(row.total_bytes.reason().unwrap().contains("Unassigned"));
    assert_eq!(row.local_bytes, Availability::Available(0));

    resctrl.set_domains(&topology(2));
    assert!(resctrl.read().iter().all(|row| row.domain.is_none()));
}

#[test]
fn values_that_the_processor_lacks_have_a_reason() {
    let tree = Tree::new();
    tree.write("resctrl/info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes_config\n");
    let mut resctrl = tree.open();
    resctrl.sync(&[vm("web", 10, &[11])]);
    let row = &resctrl.read()[0];
    assert_eq!(row.llc_bytes, Availability::Available(1000));
    assert!(row.total_bytes.reason().unwrap().contains("does not measure mbm_total_bytes"), "{row:?}");

    fs::remove_dir_all(tree.mount().join("info")).unwrap();
    let error = Resctrl::open(&tree.root).unwrap_err().to_string();
    assert!(error.contains("monitors nothing"), "{error}");
    tree.write("proc/self/mounts", "sysfs /sys sysfs rw 0 0\n");
    let error = Resctrl::open(&tree.root).unwrap_err().to_string();
    assert!(error.contains("mount -t resctrl"), "{error}");
}

#[test]
fn stale_groups_are_removed_and_those_of_others_stay() {
    let tree = Tree::new();
    tree.stat(70, 5);
    tree.stat(71, 5);
    fs::create_dir_all(tree.mount().join("gold/mon_groups")).unwrap();
    for group in ["huddle-70-5.1-a", "huddle-71-4.1-b", "gold/huddle-99-1.1-c", "libvirt", "huddle-x"] {
        let (control, name) = group.split_once('/').unwrap_or(("", group));
        tree.groups.make(&tree.mount().join(control).join("mon_groups").join(name)).unwrap();
    }
    let left = groups::remove_left(&tree.root, &tree.mount(), &tree.groups);
    assert_eq!((left.removed, left.notes.len(), left.failures.len()), (2, 2, 0), "{left:?}");
    assert_eq!(tree.groups(""), ["huddle-70-5.1-a", "huddle-x", "libvirt"]);
    assert_eq!(tree.groups("gold"), Vec::<String>::new());
    // The real one cannot remove a directory that holds files: that is reported, and nothing else happens.
    tree.stat(70, 6);
    let left = remove_leftovers(&tree.root);
    assert_eq!((left.removed, left.failures.len()), (0, 1));
    assert!(left.failures[0].contains("huddle-70-5.1-a, left by an earlier huddle"), "{left:?}");
    drop(tree.open());
    assert_eq!(tree.groups(""), ["huddle-x", "libvirt"]);
}

#[test]
fn a_vm_in_a_control_group_is_monitored_there_and_foreign_monitoring_stays() {
    let tree = Tree::new();
    fs::create_dir_all(tree.mount().join("gold/mon_groups")).unwrap();
    tree.write("proc/10/task/11/cpu_resctrl_groups", "res:/gold\nmon:\n");
    tree.write("proc/20/task/21/cpu_resctrl_groups", "res:/\nmon:libvirt-db\n");
    tree.write("proc/30/task/31/cpu_resctrl_groups", "res:/\nmon:\n");
    let mut resctrl = tree.open();
    resctrl.sync(&[vm("web", 10, &[11]), vm("db", 20, &[21]), vm("mail", 30, &[31])]);
    assert_eq!((tree.groups("gold").len(), tree.groups("").len()), (1, 1));
    let rows = resctrl.read();
    assert_eq!(rows.len(), 6);
    assert!(rows[2].llc_bytes.reason().unwrap().contains("libvirt-db"), "{rows:?}");
    assert_eq!(resctrl.notes().len(), 1);
    drop(resctrl);
    assert_eq!((tree.groups("gold").len(), tree.groups("").len()), (0, 0));
}

#[test]
fn a_vm_without_a_group_or_a_thread_has_a_reason_and_is_tried_again() {
    let tree = Tree::new();
    *tree.groups.full.lock().unwrap() = true;
    let mut resctrl = tree.open();
    resctrl.sync(&[vm("web", 10, &[11])]);
    assert!(resctrl.read()[0].llc_bytes.reason().unwrap().contains("no RMID left"));
    *tree.groups.full.lock().unwrap() = false;
    resctrl.sync(&[vm("web", 10, &[11])]);
    assert_eq!(resctrl.read()[0].llc_bytes, Availability::Available(1000));

    resctrl.sync(&[vm("web", 10, &[])]);
    assert!(resctrl.read()[0].llc_bytes.reason().unwrap().contains("no vCPU thread"));
    // A `tasks` that is not writable.
    let tasks = tree.dir.path().join(tree.group_of("web")).join("tasks");
    fs::remove_file(&tasks).unwrap();
    fs::create_dir(&tasks).unwrap();
    resctrl.sync(&[vm("web", 10, &[11])]);
    let row = &resctrl.read()[0];
    assert!(row.llc_bytes.reason().unwrap().contains("thread 11 cannot be put into"), "{row:?}");
    assert_eq!(resctrl.notes().len(), 1);
}

/// Sub-NUMA clusters (Documentation/filesystems/resctrl.rst, Linux 6.11): the files of a cache hold the sum of its
/// nodes.
#[test]
fn values_of_nodes_within_a_cache_are_not_counted_again() {
    let tree = Tree::new();
    let mut resctrl = tree.open();
    resctrl.set_domains(&topology(3));
    resctrl.sync(&[vm("web", 10, &[11])]);
    let data = format!("{}/mon_data/mon_L3_00", tree.group_of("web"));
    for (node, bytes) in [("00", 300), ("01", 500)] {
        for file in FILES {
            tree.write(&format!("{data}/mon_sub_L3_{node}/{file}"), &format!("{}\n", 1000 + bytes));
        }
    }
    for file in FILES {
        tree.write(&format!("{data}/{file}"), "1800\n");
    }
    let rows = resctrl.read();
    let seen: Vec<_> = rows.iter().map(|row| (row.cache, row.llc_bytes.value().copied())).collect();
    assert_eq!(seen, [(0, Some(1800)), (1, Some(1000))], "one row for each cache");
    assert_eq!(rows[0].total_bytes, Availability::Available(800));
}

/// AMD has a third-level cache for each complex of cores, and the kernel's ids have gaps where complexes are not there.
#[test]
fn ids_of_caches_are_no_numbers_of_domains() {
    let tree = Tree::with_caches(&[4, 5, 12, 128]);
    let mut resctrl = tree.open();
    let domain = |(id, cpus): (u32, &str)| CacheDomain {
        id: DomainId(id),
        cpus: cpus.parse().unwrap(),
        size_bytes: None,
        nodes: Default::default(),
    };
    let domains = [(0, "0-1"), (1, "2-3"), (2, "4-5"), (3, "6-7")].map(domain);
    resctrl.set_domains(&Topology::new(Some(3), domains.into()).unwrap());
    resctrl.sync(&[vm("web", 10, &[11])]);
    tree.write(&format!("{}/mon_data/mon_L3_128/llc_occupancy", tree.group_of("web")), "64\n");
    let rows = resctrl.read();
    let seen: Vec<_> =
        rows.iter().map(|row| (row.cache, row.domain.unwrap().0, *row.llc_bytes.value().unwrap())).collect();
    assert_eq!(seen, [(4, 0, 1000), (5, 1, 1000), (12, 2, 1000), (128, 3, 64)]);
}

/// AMD's assignable counters (`mbm_event`, Linux 6.18), with fewer counters than groups need.
#[test]
fn counters_are_assigned_to_our_groups_as_long_as_there_are_some() {
    let tree = Tree::new();
    tree.write("resctrl/info/L3_MON/mbm_assign_mode", "[mbm_event]\ndefault\n");
    tree.write("resctrl/info/L3_MON/num_mbm_cntrs", "0=3;1=3\n");
    tree.write("resctrl/info/L3_MON/available_mbm_cntrs", "0=1;1=1\n");
    tree.write(
        "resctrl/info/last_cmd_status",
        "Failed to allocate counter for mbm_total_bytes in domain 0\n",
    );
    let others = "mbm_total_bytes:0=_;1=_\n";
    tree.write("resctrl/mbm_L3_assignments", others);
    *tree.groups.counters.lock().unwrap() = Some(6);
    let mut resctrl = tree.open();
    assert_eq!(resctrl.features().assignment, Assignment::ByEvent);
    resctrl.sync(&[vm("web", 10, &[11]), vm("db", 20, &[21])]);
    let of = |vm: &str| {
        fs::read_to_string(tree.dir.path().join(tree.group_of(vm)).join("mbm_L3_assignments")).unwrap()
    };
    assert_eq!(of("web"), "mbm_total_bytes:0=e;1=e\nmbm_local_bytes:0=e;1=e\n");
    assert_eq!(of("db"), "mbm_total_bytes:0=e;1=e\nmbm_local_bytes:0=_;1=_\n", "total comes first");
    // What the kernel then shows for it.
    for cache in ["00", "01"] {
        let data = format!("{}/mon_data/mon_L3_{cache}", tree.group_of("db"));
        tree.write(&format!("{data}/mbm_local_bytes"), "Unassigned\n");
    }
    let row = &resctrl.read()[2];
    assert_eq!((row.vm.as_str(), row.total_bytes.value()), ("db", Some(&0)));
    let why = row.local_bytes.reason().unwrap();
    for part in ["Unassigned", "no counter for mbm_local_bytes on cache 0", "Failed to allocate", "0=1;1=1"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(resctrl.notes()[0].contains("VM db: memory traffic is not measured everywhere"));

    // The other group is gone, and with it four counters.
    resctrl.sync(&[vm("db", 20, &[21])]);
    assert_eq!(resctrl.notes().len(), 1, "it was removed after the others were looked at");
    resctrl.sync(&[vm("db", 20, &[21])]);
    assert_eq!(of("db"), "mbm_total_bytes:0=e;1=e\nmbm_local_bytes:0=e;1=e\n");
    assert_eq!(resctrl.notes(), Vec::<String>::new());
    drop(resctrl);
    assert_eq!(*tree.groups.counters.lock().unwrap(), Some(6), "all are given back");
    assert_eq!(fs::read_to_string(tree.mount().join("mbm_L3_assignments")).unwrap(), others, "not ours");
}

#[test]
fn words_of_the_kernel_are_reasons() {
    let tree = Tree::new();
    let mut resctrl = tree.open();
    resctrl.sync(&[vm("web", 10, &[11])]);
    let data = format!("{}/mon_data/mon_L3_00", tree.group_of("web"));
    for (word, why) in [
        ("Unavailable", "does not track this group"),
        ("Error", "cannot count it"),
        ("Unassigned", "no counter is assigned"),
    ] {
        for file in FILES {
            tree.write(&format!("{data}/{file}"), &format!("{word}\n"));
        }
        let row = &resctrl.read()[0];
        for value in [&row.llc_bytes, &row.total_bytes, &row.local_bytes] {
            let reason = value.reason().unwrap();
            assert!(reason.contains(&format!("says {word:?}")) && reason.contains(why), "{reason}");
        }
    }
}
