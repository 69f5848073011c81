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
}

impl GroupDirectories for Fixture {
    fn make(&self, path: &Path) -> io::Result<()> {
        if *self.full.lock().unwrap() {
            return Err(nix::errno::Errno::ENOSPC.into());
        }
        fs::create_dir(path)?;
        fs::write(path.join("tasks"), "")?;
        for cache in ["00", "01"] {
            let data = path.join(format!("mon_data/mon_L3_{cache}"));
            fs::create_dir_all(&data)?;
            for file in FILES {
                fs::write(data.join(file), "1000\n")?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
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
        let dir = tempfile::tempdir().unwrap();
        let tree = Self { root: HostRoot::at(dir.path()), dir, groups: Fixture::default() };
        let mount = tree.mount();
        tree.write("proc/self/mounts", &format!("resctrl {} resctrl rw 0 0\n", mount.display()));
        tree.stat(std::process::id().cast_signed(), 5);
        tree.write("resctrl/info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n");
        tree.write("resctrl/info/L3_MON/num_rmids", "32\n");
        fs::create_dir_all(mount.join("mon_groups")).unwrap();
        fs::create_dir_all(mount.join("mon_data/mon_L3_00")).unwrap();
        fs::create_dir_all(mount.join("mon_data/mon_L3_01")).unwrap();
        for cpu in 0..4 {
            let cache = format!("sys/devices/system/cpu/cpu{cpu}/cache/index3");
            tree.write(&format!("{cache}/level"), "3\n");
            tree.write(&format!("{cache}/id"), &format!("{}\n", cpu / 2));
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
    let expected = Features { llc_occupancy: true, total_bytes: true, local_bytes: true, groups: Some(32) };
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
