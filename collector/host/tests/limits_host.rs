//! Limits of vCPUs on the real kernel: cpusets of threads, what owners bound, and what is left after an undo.
//!
//! The VM is this test itself, whose threads stand for vCPUs, or a process in a control group of its own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first surprise and says what it skips; clippy.toml allows it in #[test] only"
)]

mod pin_support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use huddle_host::discover::{DiscoverOptions, Discovery, NamedCgroup, NamedProcess, discover};
use huddle_host::pin::{Change, Journal, Origin, Undoers, VcpuRef, restore};
use huddle_host::{HostRoot, task};
use huddle_model::binding::BindingKind;
use huddle_model::cpuset::CpuSet;
use huddle_model::plan::{Plan, PlanVm, Policy, VcpuPlacement};
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use huddle_model::vm::{TaskId, Vm};
use nix::sched::{CpuSet as Mask, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, Uid, gettid};

use pin_support::{lock, pinner};

/// The threads of this test that stand for vCPUs are those of one VM, so one test at a time has some.
static ONE_VM: Mutex<()> = Mutex::new(());

/// A thread of this test that is called like a vCPU, and does what it is asked to.
struct VcpuThread {
    tid: i32,
    work: Option<Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThread {
    fn start(name: &str) -> Self {
        let (work, inbox): (Sender<Box<dyn FnOnce() + Send>>, Receiver<_>) = channel();
        let (tell, told) = channel();
        let body = move || {
            tell.send(gettid().as_raw()).unwrap();
            inbox.into_iter().for_each(|work| work());
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body).unwrap();
        Self { tid: told.recv().unwrap(), work: Some(work), thread: Some(thread) }
    }

    /// A thread that this one starts.
    fn starts(&self, name: &'static str) -> Self {
        let (tell, told) = channel();
        let work = self.work.as_ref().unwrap();
        work.send(Box::new(move || tell.send(Self::start(name)).unwrap())).unwrap();
        told.recv().unwrap()
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        drop(self.work.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A control group, removed when it is dropped; all that was put there has to have left or ended.
struct Group(PathBuf);

impl Group {
    fn new(at: PathBuf) -> Self {
        std::fs::create_dir(&at).unwrap();
        Self(at)
    }

    fn write(&self, file: &str, text: impl ToString) {
        std::fs::write(self.0.join(file), text.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            match std::fs::remove_dir(&self.0) {
                Ok(()) => return,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
    }
}

/// The first two CPUs; `None`, said, where a test cannot be done.
fn scene() -> Option<(MutexGuard<'static, ()>, [u32; 2])> {
    if !Uid::effective().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        println!("skipped: needs root");
        return None;
    }
    let all = affinity(0);
    let mut cpus = all.iter();
    let (Some(first), Some(second)) = (cpus.next(), cpus.next()) else {
        println!("skipped: needs two usable CPUs");
        return None;
    };
    Some((ONE_VM.lock().unwrap_or_else(PoisonError::into_inner), [first, second]))
}

/// A group of the cpuset controller with these CPUs, for single threads; `None`, said, where there is none.
fn cpuset(name: &str, cpu: u32) -> Option<Group> {
    let top = Path::new("/sys/fs/cgroup/cpuset");
    if !top.join("cpuset.cpus").exists() {
        println!("skipped: needs the cpuset controller of cgroup version 1");
        return None;
    }
    let group = Group::new(top.join(format!("huddle-test-{}-{name}", std::process::id())));
    group.write("cpuset.mems", std::fs::read_to_string(top.join("cpuset.mems")).unwrap().trim());
    group.write("cpuset.cpus", cpu);
    Some(group)
}

fn set(cpus: &[u32]) -> CpuSet {
    cpus.iter().copied().collect()
}

fn affinity(tid: i32) -> CpuSet {
    let mask = sched_getaffinity(Pid::from_raw(tid)).unwrap();
    (0..1024).filter(|cpu| mask.is_set(*cpu as usize).unwrap()).collect()
}

fn bind(tid: i32, cpu: u32) {
    let mut mask = Mask::new();
    mask.set(cpu as usize).unwrap();
    sched_setaffinity(Pid::from_raw(tid), &mask).unwrap();
}

/// This test as a VM, whose vCPUs are its threads of such names.
fn own_vm(dir: &Path, override_bindings: bool) -> Vm {
    let processes = vec![NamedProcess { name: "own".into(), pid: std::process::id().cast_signed() }];
    let state_dir = Some(dir.to_owned());
    let options =
        DiscoverOptions { processes, scan_host: false, override_bindings, state_dir, ..Default::default() };
    only(discover(&HostRoot::real(), &options).unwrap())
}

fn only(found: Discovery) -> Vm {
    let [vm] = <[Vm; 1]>::try_from(found.vms).unwrap();
    vm
}

fn group_vm(dir: &Path, group: &Group) -> Vm {
    let cgroups = vec![NamedCgroup { name: "group".into(), path: group.0.clone() }];
    let state_dir = Some(dir.to_owned());
    let options = DiscoverOptions { cgroups, scan_host: false, state_dir, ..Default::default() };
    only(discover(&HostRoot::real(), &options).unwrap())
}

fn domains(cpus: [u32; 2]) -> Topology {
    let domain = |(id, cpu)| CacheDomain {
        id: DomainId(id),
        cpus: set(&[cpu]),
        size_bytes: None,
        nodes: Default::default(),
    };
    Topology::new(None, (0..).zip(cpus).map(domain).collect()).unwrap()
}

/// All vCPUs of a VM on one domain.
fn all_on(vm: &Vm, topology: &Topology, domain: u32) -> Plan {
    let place = |vcpu: &huddle_model::vm::Vcpu| VcpuPlacement {
        vm: vm.name.clone(),
        vcpu: vcpu.index,
        domain: DomainId(domain),
    };
    Plan {
        policy: Policy::Paper,
        domains: topology.domains().to_vec(),
        placement: vm.vcpus.iter().map(place).collect(),
        shared_within: None,
        shared_total: None,
        expected: None,
        waiting: None,
        reasons: Vec::new(),
    }
}

fn thread(tid: i32) -> TaskId {
    task::thread(&HostRoot::real(), std::process::id().cast_signed(), tid).unwrap().id
}

#[test]
fn each_vcpu_is_pinned_within_the_cpuset_of_its_own_thread() {
    let Some((_one, cpus)) = scene() else { return };
    let dir = tempfile::tempdir().unwrap();
    let groups = ["vcpu0", "vcpu1"].map(|name| cpuset(name, cpus[(name == "vcpu0") as usize]));
    let [Some(first), Some(second)] = groups else { return };
    let vcpus = [VcpuThread::start("vcpu0"), VcpuThread::start("vcpu1")];
    first.write("tasks", vcpus[0].tid);
    second.write("tasks", vcpus[1].tid);
    let vm = own_vm(dir.path(), false);
    // vCPU 0 on the second CPU, vCPU 1 on the first; the main thread may use both.
    let allowed: Vec<_> = vm.vcpus.iter().map(|vcpu| vm.allowed_cpus_of(vcpu).clone()).collect();
    assert_eq!(allowed, [set(&[cpus[1]]), set(&[cpus[0]])]);
    assert!(vm.vcpus.iter().all(|vcpu| vcpu.limits.binding.is_none()), "{:?}", vm.vcpus);
    let topology = domains(cpus);
    assert_eq!(PlanVm::of(&vm, &topology).rules.allowed.len(), 2);

    let mut pinner = pinner(dir.path());
    let report = pinner.apply(std::slice::from_ref(&vm), &all_on(&vm, &topology, 0)).unwrap();
    assert_eq!((report.outcome.unchanged, report.outcome.skipped), (1, 1), "{report:?}");
    let words = format!("the vCPU may use only {}", cpus[1]);
    assert!(report.notes[0].contains("vCPU 0") && report.notes[0].contains(&words), "{report:?}");
    drop(pinner);
    drop(vcpus);
}

#[test]
fn what_owners_bound_is_left_unless_it_is_to_be_overridden() {
    let Some((_one, cpus)) = scene() else { return };
    let dir = tempfile::tempdir().unwrap();
    let vcpus = ["vcpu0", "vcpu1", "vcpu2"].map(VcpuThread::start);
    bind(vcpus[0].tid, cpus[1]);
    let param = nix::libc::sched_param { sched_priority: 1 };
    // SAFETY: `param` lives through the call, which only reads it.
    let is_fifo = unsafe { nix::libc::sched_setscheduler(vcpus[2].tid, nix::libc::SCHED_FIFO, &param) } == 0;
    let topology = domains(cpus);
    let all = affinity(0);
    let now = || vcpus.each_ref().map(|vcpu| affinity(vcpu.tid));

    let vm = own_vm(dir.path(), false);
    let kinds = |vm: &Vm| -> Vec<Option<BindingKind>> {
        vm.vcpus.iter().map(|vcpu| vcpu.limits.binding.as_ref().map(|binding| binding.kind)).collect()
    };
    assert_eq!(kinds(&vm)[..2], [Some(BindingKind::Affinity), None]);
    assert_eq!(matches!(kinds(&vm)[2], Some(BindingKind::RealTime(_))), is_fifo);
    let mut pinner = pinner(dir.path());
    let report = pinner.apply(std::slice::from_ref(&vm), &all_on(&vm, &topology, 0)).unwrap();
    assert_eq!(report.outcome.skipped, 0, "{report:?}");
    let third = if is_fifo { all.clone() } else { set(&[cpus[0]]) };
    assert_eq!(now(), [set(&[cpus[1]]), set(&[cpus[0]]), third]);
    // What huddle pinned is no binding in the next round.
    assert_eq!(kinds(&own_vm(dir.path(), false))[1], None);

    let vm = own_vm(dir.path(), true);
    assert_eq!(kinds(&vm), [None, None, None]);
    pinner.apply(std::slice::from_ref(&vm), &all_on(&vm, &topology, 0)).unwrap();
    assert_eq!(now(), [(); 3].map(|()| set(&[cpus[0]])));
    assert!(pinner.undo().failures.is_empty());
    assert_eq!(now(), [set(&[cpus[1]]), all.clone(), all]);
}

#[test]
fn threads_that_a_pinned_thread_started_are_undone_too() {
    let Some((_one, cpus)) = scene() else { return };
    let dir = tempfile::tempdir().unwrap();
    let vcpu = VcpuThread::start("vcpu0");
    let (vm, topology, all) = (own_vm(dir.path(), false), domains(cpus), affinity(0));
    let mut pinner = pinner(dir.path());
    pinner.apply(std::slice::from_ref(&vm), &all_on(&vm, &topology, 1)).unwrap();
    let (worker, bound) = (vcpu.starts("worker"), vcpu.starts("bound"));
    bind(bound.tid, cpus[0]);
    assert_eq!(affinity(worker.tid), set(&[cpus[1]]));
    let report = pinner.undo();
    assert_eq!((report.restored, report.failures.len()), (2, 0), "{report:?}");
    assert_eq!([vcpu.tid, worker.tid].map(affinity), [all.clone(), all]);
    assert_eq!(affinity(bound.tid), set(&[cpus[0]]), "somebody else's");
}

/// A server that starts a worker for each line, and says its number.
struct Prefork(Child);

impl Prefork {
    fn start(group: &Group) -> Self {
        // It waits until it is in the group.
        let script = "read go; while read line; do sleep 600 >/dev/null & echo $!; done";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = Self(shell.spawn().unwrap());
        group.write("cgroup.procs", server.0.id());
        server.line();
        server
    }

    fn line(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn fork(&mut self) -> i32 {
        self.line();
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends processes that are no children of this test.
struct Workers(Vec<i32>);

impl Drop for Workers {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = nix::sys::signal::kill(Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Where version 2 is mounted.
fn version_2() -> Option<PathBuf> {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let found = places.into_iter().find(|at| at.join("cgroup.controllers").exists());
    if found.is_none() {
        println!("skipped: needs cgroup version 2");
    }
    found
}

#[test]
fn a_prefork_server_in_a_control_group_leaves_nothing_behind() {
    let Some((_one, cpus)) = scene() else { return };
    let Some(top) = version_2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new(top.join(format!("huddle-test-{}-prefork", std::process::id())));
    let mut workers = Workers(Vec::new());
    let mut server = Prefork::start(&group);
    let (topology, all) = (domains(cpus), affinity(0));
    let mut pinner = pinner(dir.path());
    let vm = group_vm(dir.path(), &group);
    pinner.apply(std::slice::from_ref(&vm), &all_on(&vm, &topology, 1)).unwrap();
    workers.0.push(server.fork());
    assert_eq!(affinity(workers.0[0]), set(&[cpus[1]]));

    // The next round finds the worker, which is bound by huddle and not by its owner, and pins it elsewhere.
    let vm = group_vm(dir.path(), &group);
    assert_eq!(vm.vcpus.len(), 2);
    assert!(vm.vcpus.iter().all(|vcpu| vcpu.limits.binding.is_none()), "{:?}", vm.vcpus);
    pinner.apply(std::slice::from_ref(&vm), &all_on(&vm, &topology, 0)).unwrap();
    // A worker that no round finds, and whose parent ends.
    workers.0.push(server.fork());
    assert_eq!(affinity(workers.0[1]), set(&[cpus[0]]));
    server.end();
    let report = pinner.undo();
    assert!(report.failures.is_empty(), "{report:?}");
    assert_eq!(
        workers.0.iter().map(|pid| affinity(*pid)).collect::<Vec<_>>(),
        [all.clone(), all],
        "{report:?}"
    );
    drop(workers);
}

#[test]
fn a_control_group_with_threaded_groups_below_it_is_a_vm() {
    let Some((_one, _)) = scene() else { return };
    let Some(top) = version_2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new(top.join(format!("huddle-test-{}-threaded", std::process::id())));
    let below = Group::new(group.0.join("vcpu0"));
    below.write("cgroup.type", "threaded");
    let mut tenant = Command::new("sleep").arg("600").spawn().unwrap();
    group.write("cgroup.procs", tenant.id());
    below.write("cgroup.threads", tenant.id());
    let refused = std::fs::read_to_string(below.0.join("cgroup.procs")).unwrap_err();
    let found = [&group, &below].map(|group| {
        let vm = group_vm(dir.path(), group);
        (vm.vcpus.len(), vm.process().unwrap().id)
    });
    let pid = tenant.id().cast_signed();
    tenant.kill().unwrap();
    tenant.wait().unwrap();
    drop((below, group));
    assert_eq!(refused.raw_os_error(), Some(nix::errno::Errno::EOPNOTSUPP as i32));
    assert_eq!(found, [(1, pid), (1, pid)]);
}

#[test]
fn a_restore_asks_for_all_cpus_where_all_that_were_allowed_were_there_before() {
    let Some((_one, cpus)) = scene() else { return };
    let dir = tempfile::tempdir().unwrap();
    let vcpus = [VcpuThread::start("vcpu0"), VcpuThread::start("vcpu1")];
    let root = HostRoot::real();
    let process = task::process(&root, std::process::id().cast_signed()).unwrap().id;
    let mut journal = Journal::open(&root, &lock(dir.path())).unwrap();
    // As if the second CPU was offline, or not in the cpuset, when they were pinned.
    for (vcpu, is_whole) in vcpus.iter().zip([true, false]) {
        bind(vcpu.tid, cpus[1]);
        let change = Change::Affinity {
            vm: "own".into(),
            vcpu: 0,
            of: VcpuRef::Thread { process, thread: thread(vcpu.tid) },
            before: set(&[cpus[0]]),
            after: set(&[cpus[1]]),
            origin: Origin { is_whole, ..Origin::default() },
        };
        journal.record(&[change]).unwrap();
    }
    drop(journal);
    let report = restore(&Undoers::of_host(root), &lock(dir.path())).unwrap();
    assert_eq!((report.restored, report.failures.len()), (2, 0), "{report:?}");
    assert_eq!(vcpus.each_ref().map(|vcpu| affinity(vcpu.tid)), [affinity(0), set(&[cpus[0]])]);
}
