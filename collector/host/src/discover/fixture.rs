//! A tree of fixtures with processes in it, for tests.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::HostRoot;

pub(super) struct Host {
    pub(super) dir: tempfile::TempDir,
    pub(super) root: HostRoot,
}

/// A process to put there.
pub(super) struct Process<'a> {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) program: &'a str,
    pub(super) args: &'a [&'a str],
    pub(super) fds: &'a [&'a str],
    /// Thread ids and names; the first is the process itself.
    pub(super) threads: &'a [(i32, &'a str)],
    pub(super) smaps: &'a str,
    pub(super) uid: u32,
    pub(super) cgroup: &'a str,
}

pub(super) const MERGEABLE: &str = "7f0000000000-7f0004000000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mg\n";

impl Default for Process<'_> {
    fn default() -> Self {
        Self {
            pid: 100,
            parent: 1,
            program: "/usr/bin/sleep",
            args: &[],
            fds: &[],
            threads: &[],
            smaps: MERGEABLE,
            uid: 0,
            cgroup: "0::/\n",
        }
    }
}

impl Host {
    /// Two online CPUs, KSM on.
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Self { root: HostRoot::at(dir.path()), dir };
        host.write("sys/devices/system/cpu/online", "0-1\n");
        host.write("proc/self/status", "CapEff:\tffffffffff\nCpus_allowed_list:\t0-1\n");
        for name in [
            "run",
            "full_scans",
            "pages_shared",
            "pages_sharing",
            "pages_unshared",
            "pages_volatile",
            "pages_to_scan",
            "sleep_millisecs",
        ] {
            host.write(&format!("sys/kernel/mm/ksm/{name}"), "1\n");
        }
        host
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn add(&self, process: &Process<'_>) {
        let pid = process.pid;
        let own = [(pid, process.program.rsplit('/').next().unwrap())];
        let threads = if process.threads.is_empty() { &own[..] } else { process.threads };
        let stat = |id: i32, name: &str| {
            let name: String = name.chars().take(15).collect();
            format!(
                "{id} ({name}) S {} 1 1 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 4 0 {} 0 0 \
                 0 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
                process.parent,
                id * 10
            )
        };
        let at = format!("proc/{pid}");
        self.write(&format!("{at}/stat"), &stat(pid, threads[0].1));
        self.write(&format!("{at}/comm"), &format!("{}\n", threads[0].1));
        self.write(&format!("{at}/cgroup"), process.cgroup);
        let uid = process.uid;
        self.write(&format!("{at}/status"), &format!("Tgid:\t{pid}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"));
        self.write(&format!("{at}/smaps"), process.smaps);
        let maps: String =
            process.smaps.lines().filter(|line| !line.starts_with("Vm")).map(|l| format!("{l}\n")).collect();
        self.write(&format!("{at}/maps"), &maps);
        let args: String = process.args.iter().map(|arg| format!("{arg}\0")).collect();
        self.write(&format!("{at}/cmdline"), &args);
        for (tid, name) in threads {
            self.write(&format!("{at}/task/{tid}/stat"), &stat(*tid, name));
            let status = format!("NSpid:\t{tid}\nCapEff:\t0\nCpus_allowed_list:\t0-1\n");
            self.write(&format!("{at}/task/{tid}/status"), &status);
            self.write(&format!("{at}/task/{tid}/cgroup"), process.cgroup);
        }
        let directory = self.dir.path().join(&at);
        symlink(process.program, directory.join("exe")).unwrap();
        symlink(self.dir.path(), directory.join("root")).unwrap();
        symlink(self.dir.path(), directory.join("cwd")).unwrap();
        std::fs::create_dir(directory.join("fd")).unwrap();
        for (number, target) in process.fds.iter().enumerate() {
            symlink(target, directory.join("fd").join(number.to_string())).unwrap();
        }
    }

    pub(super) fn remove(&self, path: impl AsRef<Path>) {
        std::fs::remove_dir_all(self.dir.path().join(path)).unwrap();
    }
}
