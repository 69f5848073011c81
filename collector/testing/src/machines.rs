//! Trees of `/sys` and `/proc` as they are on real machines, made when a test needs one: the CPUs, caches, nodes and
//! classes of cores, and what this process may run on.

use std::fs;
use std::path::Path;

use huddle_model::cpuset::CpuSet;

/// What a machine says of its processors.
#[derive(Clone, Debug)]
pub struct Machine {
    online: CpuSet,
    allowed: String,
    caches: Vec<Cache>,
    nodes: Vec<(u32, String)>,
    cores: Vec<CpuSet>,
    files: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
struct Cache {
    level: u8,
    kib: Option<u64>,
    cpus: CpuSet,
}

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

/// Lists of one CPU each.
fn each(list: &str) -> Vec<String> {
    cpus(list).iter().map(|cpu| cpu.to_string()).collect()
}

impl Machine {
    /// One with these CPUs, all of which this process may use, on node 0, and no caches.
    pub fn new(online: &str) -> Self {
        Self {
            online: cpus(online),
            allowed: online.to_owned(),
            caches: Vec::new(),
            nodes: vec![(0, online.to_owned())],
            cores: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Adds caches of a level that hold data, each with its CPUs.
    #[must_use]
    pub fn caches<S: AsRef<str>>(mut self, level: u8, kib: impl Into<Option<u64>>, of: &[S]) -> Self {
        let kib = kib.into();
        self.caches.extend(of.iter().map(|list| Cache { level, kib, cpus: cpus(list.as_ref()) }));
        self
    }

    /// Other NUMA nodes; one without CPUs has the list "".
    #[must_use]
    pub fn nodes(mut self, nodes: &[(u32, &str)]) -> Self {
        self.nodes = nodes.iter().map(|(node, list)| (*node, (*list).to_owned())).collect();
        self
    }

    /// Adds cores of several threads.
    #[must_use]
    pub fn cores<S: AsRef<str>>(mut self, cores: &[S]) -> Self {
        self.cores.extend(cores.iter().map(|list| cpus(list.as_ref())));
        self
    }

    /// Sets the cluster of each of these CPUs.
    #[must_use]
    pub fn clusters(mut self, clusters: &[&str]) -> Self {
        for (cpu, list) in clusters
            .iter()
            .flat_map(|list| cpus(list).iter().map(move |cpu| (cpu, *list)).collect::<Vec<_>>())
        {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/cluster_cpus_list");
            self.files.retain(|(other, _)| *other != path);
            self.files.push((path, list.to_owned()));
        }
        self
    }

    /// What this process may run on.
    #[must_use]
    pub fn allowed(mut self, list: &str) -> Self {
        self.allowed = list.to_owned();
        self
    }

    /// Adds a file below the root.
    #[must_use]
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// Writes the tree into the directory `root`.
    pub fn write(&self, root: &Path) {
        let write = |path: String, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        };
        let directory = "sys/devices/system/cpu";
        write("proc/self/status".into(), &format!("CapEff:\t0\nCpus_allowed_list:\t{}", self.allowed));
        write(format!("{directory}/online"), &self.online.to_string());
        write(format!("{directory}/isolated"), "");
        for cpu in self.online.iter() {
            let of_cpu = self.caches.iter().filter(|cache| cache.cpus.contains(cpu));
            for (index, cache) in of_cpu.enumerate() {
                let at = format!("{directory}/cpu{cpu}/cache/index{index}");
                write(format!("{at}/level"), &cache.level.to_string());
                // Without a type a cache holds data too.
                if cache.level == 1 {
                    write(format!("{at}/type"), "Data");
                }
                write(format!("{at}/shared_cpu_list"), &cache.cpus.to_string());
                if let Some(kib) = cache.kib {
                    write(format!("{at}/size"), &format!("{kib}K"));
                }
            }
            if let Some(core) = self.cores.iter().find(|core| core.contains(cpu)) {
                write(format!("{directory}/cpu{cpu}/topology/core_cpus_list"), &core.to_string());
            }
        }
        let online: CpuSet = self.nodes.iter().map(|(node, _)| *node).collect();
        write("sys/devices/system/node/online".into(), &online.to_string());
        for (node, list) in &self.nodes {
            write(format!("sys/devices/system/node/node{node}/cpulist"), list);
        }
        for (path, text) in &self.files {
            write(path.clone(), text);
        }
    }
}

/// Two sockets of AMD EPYC 7763: 16 third-level caches of 8 cores with two threads each, whose numbers are 128 apart.
pub fn epyc_7763() -> Machine {
    let cores: Vec<String> = (0..128).map(|core| format!("{core},{}", core + 128)).collect();
    let ccx = |first: u32| format!("{first}-{},{}-{}", first + 7, first + 128, first + 135);
    let l3: Vec<String> = (0..16).map(|at| ccx(8 * at)).collect();
    Machine::new("0-255")
        .caches(2, 512, &cores)
        .caches(3, 32_768, &l3)
        .cores(&cores)
        .nodes(&[(0, "0-63,128-191"), (1, "64-127,192-255")])
}

/// Intel Core Ultra (Meteor Lake-H): performance cores with two threads, efficient cores in clusters of four, and two
/// low-power ones that share a second-level cache and have no third-level one.
pub fn meteor_lake() -> Machine {
    let cores = ["0-1", "2-3", "4-5", "6-7"];
    Machine::new("0-17")
        .caches(1, 48, &cores)
        .caches(1, 32, &each("8-17"))
        .caches(2, 2048, &cores)
        .caches(2, 2048, &["8-11", "12-15", "16-17"])
        .caches(3, 18_432, &["0-15"])
        .cores(&cores)
        .file("sys/devices/cpu_core/cpus", "0-7")
        .file("sys/devices/cpu_atom/cpus", "8-17")
}

/// CIX Sky1 (ARM): the firmware's table has a third-level cache of the eight large cores only, and says of the
/// others that all twelve share first-level caches.
pub fn sky1() -> Machine {
    let capacity = |cpu: u32| if (2..=5).contains(&cpu) { "279" } else { "1024" };
    let machine = Machine::new("0-11").caches(1, None, &["0-11"]).caches(2, None, &["0-11"]);
    let machine = machine.caches(3, 12_288, &["0-1,6-11"]);
    (0..12).fold(machine, |machine, cpu| {
        machine.file(&format!("sys/devices/system/cpu/cpu{cpu}/cpu_capacity"), capacity(cpu))
    })
}

/// What names a CPU as ARM's in `/proc/cpuinfo`.
const NEOVERSE_N1: &str =
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0c\n";

/// QEMU's machine `virt` with the device tree that it makes itself, under Linux 6.1: no cache is described, so the
/// kernel has a second-level one of all CPUs, and no sizes.
pub fn qemu_virt() -> Machine {
    Machine::new("0-3")
        .caches(1, None, &each("0-3"))
        .caches(2, None, &["0-3"])
        .file("proc/cpuinfo", NEOVERSE_N1)
        .clusters(&["0-3"])
}

/// The same with two clusters (`-smp 4,clusters=2`).
pub fn qemu_virt_clusters() -> Machine {
    qemu_virt().clusters(&["0-1", "2-3"])
}

/// The same with a device tree that has two third-level caches with sizes.
pub fn qemu_virt_two_l3() -> Machine {
    Machine::new("0-3")
        .caches(1, 64, &each("0-3"))
        .caches(2, 1024, &each("0-3"))
        .caches(3, 8192, &["0-1", "2-3"])
        .file("proc/cpuinfo", NEOVERSE_N1)
        .clusters(&["0-3"])
}

/// An ARM server whose table (ACPI's PPTT) has third-level caches of four cores each without sizes or ids.
pub fn pptt_without_sizes() -> Machine {
    Machine::new("0-7")
        .caches(1, None, &each("0-7"))
        .caches(2, None, &each("0-7"))
        .caches(3, None, &["0-3", "4-7"])
        .file("proc/cpuinfo", NEOVERSE_N1)
}

/// Two sockets of Ampere Altra: private caches only, since the firmware does not describe the system's cache.
pub fn altra() -> Machine {
    Machine::new("0-159")
        .caches(1, 64, &each("0-159"))
        .caches(2, 1024, &each("0-159"))
        .nodes(&[(0, "0-79"), (1, "80-159")])
}

/// Two sockets of Intel Xeon in sub-NUMA clustering mode: each third-level cache spans two nodes.
pub fn snc() -> Machine {
    Machine::new("0-15").caches(2, 2048, &each("0-15")).caches(3, 107_520, &["0-7", "8-15"]).nodes(&[
        (0, "0-3"),
        (1, "4-7"),
        (2, "8-11"),
        (3, "12-15"),
    ])
}

/// POWER9: numbers of CPUs and nodes have gaps, and a pair of cores shares the caches.
pub fn power9() -> Machine {
    let pairs = ["0-1", "109-111", "112-115", "116-119", "120-123", "124-127"];
    Machine::new("0-1,109-127")
        .caches(1, 32, &each("0-1,109-127"))
        .caches(2, 512, &pairs)
        .caches(3, 10_240, &pairs)
        .nodes(&[(0, "0-1"), (8, "109-127"), (255, "")])
}

/// 1,920 CPUs under 16 third-level caches, one a node; nothing else, since so many files take time.
pub fn cpus_1920() -> Machine {
    let l3: Vec<String> = (0..16).map(|at| format!("{}-{}", at * 120, at * 120 + 119)).collect();
    let nodes: Vec<(u32, &str)> = (0..).zip(l3.iter().map(String::as_str)).collect();
    Machine::new("0-1919").caches(3, None, &l3).nodes(&nodes)
}

/// CPUs with numbers beyond 1,024, and one cache that has both kinds.
pub fn beyond_1024() -> Machine {
    Machine::new("0-1,1024-1151")
        .caches(2, 2048, &each("0-1,1024-1151"))
        .caches(3, 131_072, &["0", "1,1024-1151"])
        .nodes(&[(0, "0"), (1, "1,1024-1151")])
}

/// A container for which lxcfs counts CPUs anew: its only CPU, 1, is shown as 0.
pub fn lxcfs() -> Machine {
    Machine::new("0")
        .caches(2, 2048, &["0"])
        .allowed("1")
        .file("sys/devices/system/cpu/cpu1/cache/index0/level", "2")
        .file("sys/devices/system/cpu/cpu1/cache/index0/shared_cpu_list", "1")
}
