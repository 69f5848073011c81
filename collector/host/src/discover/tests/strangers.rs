//! Processes of users whom nobody trusts: who is taken for a VM, under which name, and how much is read of one.

use huddle_model::selection::VmPattern;

use super::*;
use crate::limits::Limits;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const LIBVIRT: &str = "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/emulator\n";
const SESSION: &str = "1:name=systemd:/user.slice/user-1000.slice/session-1.scope\n0::/\n";

/// A QEMU without KVM that calls itself `name`.
fn add(host: &Host, pid: i32, uid: u32, name: &str) {
    let name = format!("guest={name}");
    let threads = [(pid, "qemu"), (pid + 1, "CPU 0/TCG")];
    let args = ["qemu", "-name", &name];
    host.add(&Process { pid, uid, program: QEMU, args: &args, threads: &threads, ..Process::default() });
}

fn names(found: &Discovery) -> Vec<&str> {
    found.vms.iter().map(|vm| vm.name.as_str()).collect()
}

fn left_out(found: &Discovery) -> Vec<(&str, &str)> {
    found.left_out.iter().map(|left| (left.name.as_str(), left.reason.as_str())).collect()
}

fn discoverer(host: &Host, options: impl FnOnce(&mut DiscoverOptions)) -> Discoverer {
    let mut all = DiscoverOptions::default();
    options(&mut all);
    Discoverer::new(host.root.clone(), all)
}

fn patterns(texts: &[&str]) -> Vec<VmPattern> {
    texts.iter().map(|text| VmPattern::of_text(text).unwrap()).collect()
}

#[test]
fn a_strangers_process_is_listed_and_not_taken() {
    let host = Host::new();
    host.write("etc/passwd", "root:x:0:0:\nalice:x:1000:1000:\n");
    add(&host, 100, 0, "own");
    add(&host, 200, 1000, "own");
    let options = DiscoverOptions::default();
    let mut discoverer = Discoverer::new(host.root.clone(), options);
    let found = discoverer.discover().unwrap();
    // Neither the VM nor its name is the stranger's.
    assert_eq!(names(&found), ["own"]);
    assert_eq!(found.vms[0].owner, Some(Owner { uid: 0, name: Some("root".into()) }));
    let [left] = found.left_out.as_slice() else { panic!("{found:?}") };
    assert_eq!((left.name.as_str(), left.id.number(), left.vmm), ("own", 200, VmmKind::QemuTcg));
    assert_eq!(left.owner.as_ref().unwrap().to_string(), "alice");
    assert!(left.reason.contains("user alice") && left.reason.contains("[discover] owners"), "{left:?}");
    assert_eq!(found.notes.len(), 1, "{found:?}");

    // Others that come and go change nothing, and nothing more is said.
    add(&host, 300, 1001, "other");
    host.remove("proc/200");
    let again = discoverer.discover().unwrap();
    assert_eq!((&again.vms, again.notes.len()), (&found.vms, 0));
    assert_eq!(left_out(&again).len(), 1);
}

#[test]
fn who_speaks_for_a_process_decides() {
    let host = Host::new();
    let qemu = |pid, name: &str, fds, cgroup| {
        let threads = [(pid, "qemu"), (pid + 1, "CPU 0/KVM")];
        let args = ["qemu", "-name", name];
        host.add(&Process {
            pid,
            uid: 1000,
            program: QEMU,
            args: &args,
            fds,
            threads: &threads,
            cgroup,
            ..Process::default()
        });
    };
    qemu(100, "kernel", KVM, SESSION);
    qemu(200, "manager", &[], LIBVIRT);
    qemu(300, "nobody", &[], SESSION);
    qemu(400, "lab-1", &[], SESSION);
    let taken = |options: fn(&mut DiscoverOptions)| {
        let found = discoverer(&host, options).discover().unwrap();
        names(&found).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(taken(|_| ()), ["kernel", "manager"]);
    assert_eq!(
        taken(|options| _ = options.selection.owners.insert(1000)),
        ["kernel", "manager", "nobody", "lab-1"]
    );
    assert_eq!(
        taken(|options| options.selection.include = patterns(&["lab-*"])),
        ["kernel", "manager", "lab-1"]
    );
    assert_eq!(taken(|options| options.selection.exclude = patterns(&["k*", "lab-*"])), ["manager"]);
    let found =
        discoverer(&host, |options| options.selection.exclude = patterns(&["kernel"])).discover().unwrap();
    assert!(left_out(&found).contains(&("kernel", "it is excluded by name \"kernel\"")), "{found:?}");
    // What the user names is taken whoever it belongs to.
    let named = with(&host, |options| options.processes = vec![named("mine", 300)]).unwrap();
    assert_eq!(names(&named), ["mine"]);
}

#[test]
fn the_bearer_of_a_name_keeps_it_whoever_comes() {
    let host = Host::new();
    add(&host, 200, 0, "web");
    let mut discoverer = discoverer(&host, |_| ());
    assert_eq!(names(&discoverer.discover().unwrap()), ["web"]);
    add(&host, 100, 0, "web");
    let both = discoverer.discover().unwrap();
    assert_eq!(names(&both), ["web-100", "web"]);
    assert_eq!(both.notes, ["several VMs are called web: process 100 is called web-100"]);
    let again = discoverer.discover().unwrap();
    assert_eq!((names(&again), again.notes.len()), (vec!["web-100", "web"], 0));
    host.remove("proc/200");
    assert_eq!(names(&discoverer.discover().unwrap()), ["web-100"]);
}

#[test]
fn processes_that_are_named_by_their_name_keep_theirs_and_may_be_one_users_only() {
    let host = Host::new();
    host.add(&Process { pid: 200, uid: 113, program: "/usr/bin/postgres", ..Process::default() });
    let comm = |uid| vec![NamedComm { name: "db".into(), comm: "postgres".into(), uid }];
    let mut any = discoverer(&host, |options| options.comms = comm(None));
    let mut only = discoverer(&host, |options| options.comms = comm(Some(113)));
    assert_eq!(names(&any.discover().unwrap()), ["db"]);
    host.add(&Process { pid: 100, uid: 1000, program: "/tmp/postgres", ..Process::default() });
    let both = any.discover().unwrap();
    assert_eq!(names(&both), ["db-100", "db"]);
    assert!(both.notes[0].contains("process 100 is called db-100"), "{both:?}");
    let found = only.discover().unwrap();
    assert_eq!((names(&found), found.notes.len()), (vec!["db"], 0));
}

#[test]
fn a_thread_is_no_process_of_its_own() {
    let host = Host::new();
    host.add(&Process { threads: &[(100, "tenant"), (101, "worker")], ..Process::default() });
    // The kernel answers for the number of a thread as for a process, and says there whose it is.
    host.add(&Process { pid: 101, ..Process::default() });
    host.write("proc/101/status", "Tgid:\t100\nUid:\t0\t0\t0\t0\n");
    let both = vec![named("a", 100), named("b", 101)];
    let error = with(&host, |options| options.processes = both).unwrap_err();
    assert!(error.is_usage());
    assert_eq!(error.to_string(), "101, named as VM b, is a thread of process 100; name the process");
}

#[test]
fn a_machine_that_is_none_is_no_vm() {
    let host = Host::new();
    let args = ["qemu", "-machine", "none", "-qmp", "stdio"];
    host.add(&Process { program: QEMU, args: &args, ..Process::default() });
    let found = found(&host);
    assert!(found.vms.is_empty() && found.left_out.is_empty() && found.notes.is_empty(), "{found:?}");
}

#[test]
fn what_is_beyond_a_limit_is_left_out_and_said_once() {
    let host = Host::new();
    host.write("proc/meminfo", &std::fs::read_to_string("/proc/meminfo").unwrap());
    let long = "x".repeat(2 << 10);
    let threads = |pid: i32, many: i32| {
        (pid..pid + many).map(|tid| (tid, if tid == pid { "qemu" } else { "CPU 0/TCG" })).collect::<Vec<_>>()
    };
    let many: String = (0..20u64)
        .map(|at| {
            format!("{:x}-{:x} rw-p 00000000 00:00 0 \nVmFlags: rd wr mg\n", at << 20, (at << 20) + 4096)
        })
        .collect();
    let huge = MERGEABLE.replace("7f0004000000", "ff0000000000");
    for (pid, args, count, smaps) in [
        (100, &["qemu", "-name", &long][..], 2, MERGEABLE),
        (200, &["qemu", "-name", "threads"], 30, MERGEABLE),
        (300, &["qemu", "-name", "mappings"], 2, &many),
        (400, &["qemu", "-name", "memory"], 2, &huge),
        (500, &["qemu", "-name", "good"], 2, MERGEABLE),
    ] {
        let threads = threads(pid, count);
        host.add(&Process { pid, program: QEMU, args, threads: &threads, smaps, ..Process::default() });
    }
    let mut discoverer = discoverer(&host, |options| {
        options.limits = Limits { command_line_kib: 1, threads: 20, mappings: 10, ..Limits::default() };
    });
    let found = discoverer.discover().unwrap();
    assert_eq!(names(&found), ["good"]);
    let reasons = left_out(&found);
    for ((name, reason), (wanted, limit)) in reasons.iter().zip([
        ("qemu-100", "more than 1 KiB of command line ([limits] command_line_kib)"),
        ("threads", "more than 20 threads ([limits] threads)"),
        ("mappings", "more than 10 mappings ([limits] mappings)"),
        ("memory", "MiB of guest memory ([limits] memory_factor)"),
    ]) {
        assert!(*name == wanted && reason.contains(limit), "{reasons:?}");
    }
    assert_eq!((reasons.len(), found.notes.len()), (4, 4), "{found:?}");
    // It is not read again so soon, and not said again.
    host.remove("proc/200/task");
    let again = discoverer.discover().unwrap();
    assert_eq!((left_out(&again), again.notes.len()), (reasons, 0));
}

#[test]
fn names_are_short_and_plain() {
    let host = Host::new();
    add(&host, 100, 0, "a\nINFO forged\u{202e}");
    add(&host, 200, 0, &"n".repeat(120_000));
    let mut discoverer = discoverer(&host, |_| ());
    discoverer.discover().unwrap();
    add(&host, 4_194_300, 0, &"n".repeat(120_000));
    let last = discoverer.discover().unwrap().vms.pop().unwrap();
    assert!(last.name.ends_with("nn..-4194300") && last.name.len() <= 256, "{}", last.name.len());
    host.remove("proc/4194300");
    let comm = [(300, "c\nd"), (301, "CPU 0/KVM")];
    host.add(&Process { pid: 300, program: "/own-vmm", fds: KVM, threads: &comm, ..Process::default() });
    let found = found(&host);
    assert_eq!(found.vms[0].name, "a\\nINFO forged\\u{202e}");
    assert_eq!((found.vms[1].name.len(), &found.vms[1].name[241..]), (245, "nn.."));
    assert_eq!(found.vms[2].name, "c\\nd-300");
}

#[test]
fn no_room_is_a_reason_too() {
    let host = Host::new();
    for pid in [100, 200, 300] {
        let threads: Vec<(i32, &str)> = (pid..pid + 50).map(|tid| (tid, "vcpu1")).collect();
        host.add(&Process { pid, program: "/own-vmm", fds: KVM, threads: &threads, ..Process::default() });
    }
    // Each takes 1 MiB by its mappings, of which there is room for one.
    let many: String = (0..15_000u64)
        .map(|at| {
            format!("{:x}-{:x} rw-p 00000000 00:00 0 \nVmFlags: rd wr mg\n", at << 20, (at << 20) + 4096)
        })
        .collect();
    let maps: String = many.lines().filter(|line| !line.starts_with('V')).map(|l| format!("{l}\n")).collect();
    for pid in [100, 200, 300] {
        host.write(&format!("proc/{pid}/smaps"), &many);
        host.write(&format!("proc/{pid}/maps"), &maps);
    }
    let limits = Limits { round_mib: 1, vm_ms: 60_000, ..Limits::default() };
    let found = discoverer(&host, |options| options.limits = limits).discover().unwrap();
    assert_eq!(found.vms.len(), 1);
    assert!(left_out(&found).iter().all(|(_, why)| why.contains("[limits] round_mib")), "{found:?}");
}
