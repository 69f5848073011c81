//! Trees of `/proc` and `/sys` of hosts with other PMUs than this one.

use std::path::Path;

use huddle_host::HostRoot;
use tempfile::TempDir;

pub(in crate::perf) struct Tree {
    dir: TempDir,
    pub(in crate::perf) root: HostRoot,
}

/// `/proc/cpuinfo` of a core of Arm's.
pub(in crate::perf) fn neoverse(part: u32) -> String {
    format!("processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU part\t: {part:#05x}\n")
}

impl Tree {
    pub(in crate::perf) fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Self { root: HostRoot::at(dir.path()), dir };
        files.iter().for_each(|(path, text)| tree.write(path, text));
        tree
    }

    pub(in crate::perf) fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Adds files to a PMU.
    pub(in crate::perf) fn pmu(&self, name: &str, files: &[(&str, &str)]) {
        for (path, text) in files {
            self.write(Path::new("sys/bus/event_source/devices").join(name).join(path), text);
        }
    }

    /// An Intel server, with the fields of its cores' PMU as Linux 6.18 has them.
    pub(in crate::perf) fn intel() -> Self {
        let tree = Self::new(&[("proc/cpuinfo", "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 143\n")]);
        tree.pmu(
            "cpu",
            &[
                ("type", "4\n"),
                ("format/event", "config:0-7\n"),
                ("format/umask", "config:8-15,40-47\n"),
                ("format/edge", "config:18\n"),
                ("format/inv", "config:23\n"),
                ("format/cmask", "config:24-31\n"),
                ("format/offcore_rsp", "config1:0-63\n"),
                ("events/cache-misses", "event=0x2e,umask=0x41\n"),
                ("events/mem-loads", "event=0xcd,umask=0x1,ldlat=3\n"),
            ],
        );
        tree.pmu("uncore_cha_0", &[("type", "20\n"), ("cpumask", "0\n"), ("format/event", "config:0-7\n")]);
        tree.pmu("uncore_cha_1", &[("type", "21\n"), ("cpumask", "0\n"), ("format/event", "config:0-7\n")]);
        tree
    }

    /// An AMD server.
    pub(in crate::perf) fn amd() -> Self {
        let tree = Self::new(&[("proc/cpuinfo", "vendor_id: AuthenticAMD\ncpu family: 25\nmodel: 17\n")]);
        tree.pmu(
            "cpu",
            &[
                ("type", "4\n"),
                ("format/event", "config:0-7,32-35\n"),
                ("format/umask", "config:8-15\n"),
                ("format/edge", "config:18\n"),
                ("format/inv", "config:23\n"),
                ("format/cmask", "config:24-31\n"),
            ],
        );
        tree.pmu("amd_l3", &[("type", "9\n"), ("cpumask", "0,8\n"), ("format/event", "config:0-7\n")]);
        tree
    }

    /// The ARM machine of QEMU with `-cpu neoverse-n1 -icount shift=0`, which has no events of caches.
    pub(in crate::perf) fn arm() -> Self {
        let tree = Self::new(&[("proc/cpuinfo", &neoverse(0xd0c))]);
        tree.pmu(
            "armv8_pmuv3_0",
            &[
                ("type", "8\n"),
                ("cpus", "0-1\n"),
                ("format/event", "config:0-15\n"),
                ("format/long", "config1:0\n"),
                ("format/rdpmc", "config1:1\n"),
                ("events/cpu_cycles", "event=0x0011\n"),
                ("events/inst_retired", "event=0x0008\n"),
                ("events/sw_incr", "event=0x0000\n"),
            ],
        );
        tree
    }
}
