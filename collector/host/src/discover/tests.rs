mod bindings;
mod strangers;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use huddle_model::vm::{MemoryKind, VmmKind};

use super::fixture::{Host, MERGEABLE, Process};
use super::*;

const KVM: &[&str] =
    &["/dev/null", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0", "anon_inode:kvm-vcpu:1", "/dev/kvm"];

fn found(host: &Host) -> Discovery {
    discover(&host.root, &DiscoverOptions::default()).unwrap()
}

fn with(host: &Host, options: impl FnOnce(&mut DiscoverOptions)) -> Result<Discovery, DiscoverError> {
    let mut all = DiscoverOptions { scan_host: false, ..DiscoverOptions::default() };
    options(&mut all);
    discover(&host.root, &all)
}

fn named(name: &str, pid: i32) -> NamedProcess {
    NamedProcess { name: name.into(), pid }
}

fn vcpus(vm: &Vm) -> Vec<(u32, i32)> {
    vm.vcpus.iter().map(|vcpu| (vcpu.index, vcpu.id.thread().unwrap().id)).collect()
}

#[test]
fn every_vmm_is_known_with_its_name_and_vcpus() {
    /// Program, arguments, threads, descriptors; and what is to be found: kind and name.
    type Vmm = (
        &'static str,
        &'static [&'static str],
        &'static [(i32, &'static str)],
        &'static [&'static str],
        VmmKind,
        &'static str,
    );
    let host = Host::new();
    let vmms: [Vmm; 10] = [
        (
            "/usr/bin/qemu-system-x86_64",
            &["qemu", "-name", "guest=web,debug-threads=on"],
            &[(100, "qemu-system-x86"), (101, "CPU 0/KVM"), (102, "CPU 1/KVM")],
            KVM,
            VmmKind::QemuKvm,
            "web",
        ),
        (
            "/usr/bin/qemu-system-x86_64 (deleted)",
            &["qemu", "-name", "tcg"],
            &[(200, "qemu-system-x86"), (201, "CPU 0/TCG"), (202, "CPU 1/TCG")],
            &["/dev/null"],
            VmmKind::QemuTcg,
            "tcg",
        ),
        (
            "/firecracker",
            &["firecracker", "--id", "fire"],
            &[(300, "firecracker"), (301, "fc_vcpu 0"), (302, "fc_vcpu 1")],
            KVM,
            VmmKind::Firecracker,
            "fire",
        ),
        (
            "/usr/bin/cloud-hypervisor",
            &["cloud-hypervisor", "--api-socket", "/run/cloud.sock"],
            &[(400, "cloud-hyperviso"), (401, "vcpu0"), (402, "vcpu1")],
            KVM,
            VmmKind::CloudHypervisor,
            "cloud",
        ),
        (
            "/usr/bin/crosvm",
            &["crosvm", "run", "--name", "cros"],
            &[(500, "crosvm"), (501, "crosvm_vcpu0"), (502, "crosvm_vcpu1")],
            KVM,
            VmmKind::Crosvm,
            "cros",
        ),
        (
            "/opt/own-vmm",
            &["own-vmm"],
            &[(600, "own-vmm"), (601, "vcpu0"), (602, "vcpu1")],
            KVM,
            VmmKind::OtherKvm,
            "own-vmm-600",
        ),
        (
            "/nix/store/0123-qemu-10.1.2/bin/.qemu-system-x86_64-wrapped",
            &["/nix/store/0123-qemu-10.1.2/bin/qemu-system-x86_64", "-name", "nix"],
            &[(610, ".qemu-system-x8"), (611, "CPU 0/TCG"), (612, "CPU 1/TCG")],
            &[],
            VmmKind::QemuTcg,
            "nix",
        ),
        (
            "/opt/kata/bin/qemu-lite-system-x86_64",
            &["qemu-lite-system-x86_64", "-name", "sandbox-1"],
            &[(620, "qemu-lite-syste"), (621, "CPU 0/KVM"), (622, "CPU 1/KVM")],
            KVM,
            VmmKind::QemuKvm,
            "sandbox-1",
        ),
        (
            "/usr/bin/lkvm",
            &["lkvm", "run"],
            &[(630, "lkvm"), (631, "kvm-vcpu-0"), (632, "kvm-vcpu-1")],
            KVM,
            VmmKind::OtherKvm,
            "lkvm-630",
        ),
        (
            "/usr/bin/alioth",
            &["alioth", "boot"],
            &[(640, "alioth"), (641, "vcpu_0"), (642, "vcpu_1")],
            KVM,
            VmmKind::OtherKvm,
            "alioth-640",
        ),
    ];
    for (program, args, threads, fds, _, _) in vmms {
        host.add(&Process { pid: threads[0].0, program, args, threads, fds, ..Process::default() });
    }
    host.add(&Process { pid: 700, ..Process::default() });
    let Discovery { vms, notes, .. } = found(&host);
    assert_eq!(vms.len(), vmms.len(), "{vms:?}");
    for (vm, (.., kind, name)) in vms.iter().zip(vmms) {
        assert_eq!((vm.vmm, vm.name.as_str()), (kind, name));
        let process = vm.process().unwrap();
        let pid = process.id;
        assert_eq!(process.start_ticks, pid as u64 * 10);
        assert_eq!(vcpus(vm), [(0, pid + 1), (1, pid + 2)]);
        assert_eq!(vm.vcpus[1].affinity.to_string(), "0-1");
        assert_eq!(vm.memory_bytes(MemoryKind::Mergeable), 64 << 20);
        assert_eq!(vm.allowed_cpus.to_string(), "0-1");
        assert!(vm.cannot_merge.is_empty(), "{vm:?}");
    }
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn one_name_for_two_vms_is_made_unique_and_said() {
    let host = Host::new();
    for pid in [100, 200] {
        let threads = [(pid, "qemu"), (pid + 1, "CPU 0/TCG")];
        let args = &["qemu", "-name", "web"];
        let program = "/usr/bin/qemu-system-x86_64";
        host.add(&Process { pid, program, args, threads: &threads, ..Process::default() });
    }
    let Discovery { vms, notes, .. } = found(&host);
    assert_eq!((vms[0].name.as_str(), vms[1].name.as_str()), ("web-100", "web-200"));
    assert!(notes.iter().all(|note| note.contains("several VMs are called web")), "{notes:?}");
    assert_eq!(notes.len(), 2);
}

#[test]
fn a_child_with_its_parents_descriptors_is_no_vm() {
    let host = Host::new();
    let threads = [(100, "own-vmm"), (101, "vcpu0")];
    host.add(&Process { program: "/own-vmm", fds: KVM, threads: &threads, ..Process::default() });
    host.add(&Process { pid: 110, parent: 100, program: "/own-vmm", fds: KVM, ..Process::default() });
    let Discovery { vms, notes, .. } = found(&host);
    assert_eq!(vms.len(), 1);
    assert!(notes[0].contains("process 110") && notes[0].contains("inherited"), "{notes:?}");
}

#[test]
fn unknown_threads_leave_a_vm_without_vcpus_and_say_so() {
    let host = Host::new();
    let threads = [(100, "own-vmm"), (101, "worker")];
    host.add(&Process { program: "/own-vmm", fds: KVM, threads: &threads, ..Process::default() });
    let Discovery { vms, notes, .. } = found(&host);
    assert_eq!(vms[0].vcpus, []);
    assert!(notes[0].contains("2 vCPUs") && notes[0].contains("not pinned"), "{notes:?}");
}

#[test]
fn qmp_tells_threads_without_names_and_a_held_socket_is_noted_once() {
    let host = Host::new();
    let listener = UnixListener::bind(host.dir.path().join("q.sock")).unwrap();
    // The kernel says who listens: this test itself.
    let (pid, uid) = (std::process::id().cast_signed(), nix::unistd::getuid().as_raw());
    host.add(&Process {
        pid,
        uid,
        program: "/usr/bin/qemu-system-x86_64",
        args: &["qemu", "-name", "web", "-qmp", "unix:/q.sock,server=on,wait=off"],
        fds: KVM,
        threads: &[(pid, "qemu"), (200_000_101, "qemu"), (200_000_102, "qemu")],
        ..Process::default()
    });
    let limits = Limits { monitor_ms: 200, ..Limits::default() };
    let options = DiscoverOptions { limits, ..DiscoverOptions::default() };
    // Nobody accepts: the socket is held.
    let mut discoverer = Discoverer::new(host.root.clone(), options.clone());
    let Discovery { vms, notes, .. } = discoverer.discover().unwrap();
    assert_eq!(vms[0].vcpus, []);
    assert!(notes.iter().any(|note| note.contains("one client at a time")), "{notes:?}");
    let begin = std::time::Instant::now();
    let again = discoverer.discover().unwrap();
    assert!(again.notes.is_empty() && again.vms == vms, "{again:?}");
    assert!(begin.elapsed() < options.limits.monitor_time(), "a held socket is left alone for a while");

    drop(listener);
    std::fs::remove_file(host.dir.path().join("q.sock")).unwrap();
    let listener = UnixListener::bind(host.dir.path().join("q.sock")).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for answer in
            ["{}", r#"[{"cpu-index": 0, "thread-id": 200000102}, {"cpu-index": 1, "thread-id": 200000101}]"#]
        {
            lines.next().unwrap().unwrap();
            stream.write_all(format!("{{\"return\": {answer}}}\r\n").as_bytes()).unwrap();
        }
        assert!(lines.next().is_none(), "the connection is closed at once");
    });
    let mut discoverer = Discoverer::new(host.root.clone(), options);
    let first = discoverer.discover().unwrap();
    assert_eq!(vcpus(&first.vms[0]), [(0, 200_000_102), (1, 200_000_101)]);
    server.join().unwrap();
    // The server is gone; the answer is kept.
    assert_eq!(discoverer.discover().unwrap().vms, first.vms);
}

#[test]
fn a_named_process_has_its_vcpu_threads_or_all_its_threads() {
    let host = Host::new();
    host.add(&Process { threads: &[(100, "tenant"), (101, "CPU 0/KVM")], ..Process::default() });
    host.add(&Process { pid: 200, threads: &[(200, "db"), (201, "worker")], ..Process::default() });
    let Discovery { vms, notes, .. } =
        with(&host, |options| options.processes = vec![named("b", 200), named("a", 100)]).unwrap();
    assert_eq!((vms[0].name.as_str(), vms[1].name.as_str()), ("b", "a"));
    assert_eq!(vcpus(&vms[0]), [(0, 200), (1, 201)]);
    assert_eq!(vcpus(&vms[1]), [(0, 101)]);
    assert_eq!((vms[0].vmm, notes), (VmmKind::Process, Vec::new()));
}

#[test]
fn what_cannot_be_a_vm_is_refused_in_a_sentence() {
    let host = Host::new();
    host.add(&Process::default());
    host.add(&Process { pid: 2, ..Process::default() });
    let stat = std::fs::read_to_string(host.root.proc("2/stat")).unwrap();
    host.write("proc/2/stat", &stat.replace("4194560", "2129984"));
    host.add(&Process { pid: 3, ..Process::default() });
    let stat = std::fs::read_to_string(host.root.proc("3/stat")).unwrap();
    host.write("proc/3/stat", &stat.replace(") S ", ") Z "));
    for (processes, words) in [
        (vec![named("a", 77)], ["no process 77", "VM a"]),
        (vec![named("a", 2)], ["kernel thread", "VM a"]),
        (vec![named("a", 3)], ["has ended", "VM a"]),
        (vec![named("a", 100), named("a", 1)], ["two VMs", "\"a\""]),
        (vec![named("a", 100), named("b", 100)], ["process 100", "VM a and as VM b"]),
    ] {
        let error = with(&host, |options| options.processes = processes).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn a_vm_that_ends_between_rounds_is_a_note_and_a_reused_pid_is_another() {
    let host = Host::new();
    host.add(&Process::default());
    let options = DiscoverOptions { processes: vec![named("a", 100)], ..DiscoverOptions::default() };
    let mut discoverer = Discoverer::new(host.root.clone(), options);
    assert_eq!(discoverer.discover().unwrap().vms.len(), 1);
    let stat = std::fs::read_to_string(host.root.proc("100/stat")).unwrap();
    host.write("proc/100/stat", &stat.replace(" 1000 ", " 1001 "));
    let reused = discoverer.discover().unwrap();
    assert_eq!((reused.vms.len(), reused.notes.as_slice()), (0, &["VM a (100) has ended".to_owned()][..]));
    host.remove("proc/100");
    let gone = discoverer.discover().unwrap();
    assert_eq!((gone.vms.len(), gone.notes.len()), (0, 0), "said once");
}

#[test]
fn a_process_that_is_ending_is_a_note() {
    let host = Host::new();
    let threads = [(100, "qemu"), (101, "CPU 0/TCG")];
    let program = "/usr/bin/qemu-system-x86_64";
    host.add(&Process { program, smaps: "", threads: &threads, ..Process::default() });
    let Discovery { vms, notes, .. } = found(&host);
    assert_eq!(vms, []);
    assert_eq!(notes, ["VM qemu-100 (100) ended during the scan"]);
}

#[test]
fn a_cgroup_is_all_threads_of_all_its_processes() {
    let host = Host::new();
    host.add(&Process { threads: &[(100, "a"), (101, "b")], ..Process::default() });
    host.add(&Process { pid: 200, ..Process::default() });
    host.add(&Process { pid: 300, ..Process::default() });
    host.write("sys/fs/cgroup/web/cgroup.procs", "100\n999\n");
    host.write("sys/fs/cgroup/web/inner/cgroup.procs", "200\n300\n");
    let group = |path: &str| vec![NamedCgroup { name: "web".into(), path: PathBuf::from(path) }];
    let Discovery { vms, notes, .. } = with(&host, |options| {
        options.cgroups = group("web");
        options.processes = vec![named("own", 300)];
    })
    .unwrap();
    assert_eq!((vms[0].name.as_str(), vms[1].name.as_str()), ("own", "web"));
    let web = &vms[1];
    assert_eq!(vcpus(web), [(0, 100), (1, 101), (2, 200)]);
    assert_eq!(web.vcpus[2].process.unwrap().id, 200);
    assert_eq!((web.vmm, web.process().unwrap().id, web.memory.len()), (VmmKind::Cgroup, 100, 2));
    assert!(notes[0].contains("300"), "{notes:?}");
    let error = with(&host, |options| options.cgroups = group("wbe")).unwrap_err().to_string();
    assert!(error.contains("web") && error.contains("wbe"), "{error}");
}

#[test]
fn processes_are_named_by_comm() {
    let host = Host::new();
    for pid in [100, 200] {
        host.add(&Process { pid, program: "/usr/bin/postgres", ..Process::default() });
    }
    host.add(&Process { pid: 300, program: "/usr/bin/a-name-that-is-cut", ..Process::default() });
    let comm = |name: &str, comm: &str| NamedComm { name: name.into(), comm: comm.into(), uid: None };
    let Discovery { vms, notes, .. } = with(&host, |options| {
        options.comms = vec![comm("db", "postgres"), comm("cut", "a-name-that-is-cut"), comm("no", "nobody")];
    })
    .unwrap();
    let names: Vec<&str> = vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["db-100", "db-200", "cut"]);
    assert!(notes.iter().any(|note| note.contains("nobody")), "{notes:?}");
}

#[test]
fn reasons_and_limits_come_with_the_vm() {
    let host = Host::new();
    host.add(&Process { smaps: &MERGEABLE.replace(" mg", ""), ..Process::default() });
    host.write("sys/fs/cgroup/cpuset.cpus.effective", "1,5\n");
    let look = || with(&host, |options| options.processes = vec![named("a", 100)]).unwrap().vms.remove(0);
    let vm = look();
    assert!(vm.cannot_merge[0].contains("64 MiB"), "{vm:?}");
    assert_eq!(vm.allowed_cpus.to_string(), "1", "CPU 5 is not online");
    host.remove("sys/kernel/mm/ksm");
    assert!(look().cannot_merge[1].contains("no KSM"));
}

#[test]
fn one_damaged_process_does_not_hide_the_others() {
    let host = Host::new();
    let threads = |pid| [(pid, "own-vmm"), (pid + 1, "vcpu0")];
    for pid in [100, 200, 300] {
        let threads = threads(pid);
        host.add(&Process { pid, program: "/own-vmm", fds: KVM, threads: &threads, ..Process::default() });
    }
    host.write("proc/100/stat", "100 (own-vmm)\n");
    host.write("proc/200/smaps", "damage\n");
    let Discovery { vms, notes, .. } = found(&host);
    assert_eq!(vms.iter().map(|vm| vm.process().unwrap().id).collect::<Vec<_>>(), [300]);
    assert!(notes.iter().any(|note| note.contains("100/stat")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("200/smaps")), "{notes:?}");
}

#[test]
fn memory_pinned_for_devices_is_named_and_memory_that_is_only_locked_is_not() {
    let host = Host::new();
    let with_vfio: Vec<&str> = [KVM, &["/dev/vfio/vfio", "/dev/vfio/17"]].concat();
    let threads = [(100, "qemu-system-x86"), (101, "CPU 0/KVM"), (102, "CPU 1/KVM")];
    for (pid, fds, kept) in [
        (100, &with_vfio[..], "VmLck:\t   65536 kB\nVmPin:\t       0 kB\n"),
        (200, KVM, "VmLck:\t   65536 kB\nVmPin:\t       0 kB\n"),
        (300, KVM, "VmLck:\t       0 kB\nVmPin:\t    1024 kB\n"),
    ] {
        let threads: Vec<_> = threads.iter().map(|(tid, name)| (tid - 100 + pid, *name)).collect();
        let program = "/usr/bin/qemu-system-x86_64";
        host.add(&Process { pid, program, args: &["qemu"], fds, threads: &threads, ..Process::default() });
        let status = format!("Tgid:\t{pid}\nUid:\t0\t0\t0\t0\n{kept}");
        host.write(&format!("proc/{pid}/status"), &status);
    }
    let found = found(&host);
    let reasons: Vec<&[String]> = found.vms.iter().map(|vm| &vm.cannot_merge[..]).collect();
    let [vfio, locked, pinned] = &reasons[..] else { panic!("{found:?}") };
    assert!(vfio[0].starts_with("64 MiB of the memory of its process is pinned"), "{vfio:?}");
    assert!(locked.is_empty(), "{locked:?}");
    assert!(pinned[0].starts_with("1 MiB") || pinned[0].starts_with("1024 KiB"), "{pinned:?}");
}

#[test]
fn a_qmp_socket_of_a_configuration_file_is_asked_and_a_file_that_is_none_is_noted() {
    let host = Host::new();
    let listener = UnixListener::bind(host.dir.path().join("q.sock")).unwrap();
    let (pid, uid) = (std::process::id().cast_signed(), nix::unistd::getuid().as_raw());
    host.add(&Process {
        pid,
        uid,
        program: "/usr/bin/qemu-system-x86_64",
        args: &["qemu", "-name", "web", "-readconfig", "/vm.cfg", "-mon", "chardev=q,mode=control"],
        fds: KVM,
        threads: &[(pid, "qemu"), (200_000_101, "qemu")],
        ..Process::default()
    });
    nix::unistd::mkfifo(&host.dir.path().join("vm.cfg"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let Discovery { vms, notes, .. } = found(&host);
    assert_eq!(vms[0].vcpus, []);
    assert!(
        notes.iter().any(|note| note.contains("/vm.cfg (-readconfig) is not read: it is not a plain file"))
    );

    std::fs::remove_file(host.dir.path().join("vm.cfg")).unwrap();
    host.write(
        "vm.cfg",
        "[chardev \"q\"]\n  backend = \"socket\"\n  path = \"/q.sock\"\n  server = \"on\"\n",
    );
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for answer in ["{}", r#"[{"cpu-index": 0, "thread-id": 200000101}]"#] {
            lines.next().unwrap().unwrap();
            stream.write_all(format!("{{\"return\": {answer}}}\r\n").as_bytes()).unwrap();
        }
    });
    assert_eq!(vcpus(&found(&host).vms[0]), [(0, 200_000_101)]);
    server.join().unwrap();
}
