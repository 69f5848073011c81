//! Pinning on the real kernel: affinities of real threads, settings of the real KSM.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first surprise and says what it skips; clippy.toml allows it in #[test] only"
)]

mod pin_support;

use std::fs::OpenOptions;
use std::process::{Child, Command};
use std::time::Duration;

use huddle_host::pin::{Change, Journal, Key, Undoers, VcpuRef, restore};
use huddle_host::{HostRoot, task};
use huddle_model::cpuset::CpuSet;
use huddle_model::pinning::PinOutcome;
use huddle_model::plan::{Plan, Policy, VcpuPlacement};
use huddle_model::topology::{CacheDomain, DomainId};
use huddle_model::vm::{TaskId, Vcpu, Vm, VmmKind};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::sched_getaffinity;
use nix::unistd::{Pid, Uid};

use pin_support::{lock, pinner};

/// A process with one thread, ended when dropped.
struct Tenant(Child);

impl Tenant {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn id(&self) -> TaskId {
        task::process(&HostRoot::real(), self.0.id() as i32).unwrap().id
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn affinity(tid: i32) -> CpuSet {
    let set = sched_getaffinity(Pid::from_raw(tid)).unwrap();
    (0..1024).filter(|cpu| set.is_set(*cpu as usize).unwrap()).collect()
}

/// Two CPUs of this machine, each a domain of its own; `None`, said aloud, where there is one only.
fn two_domains() -> Option<[CacheDomain; 2]> {
    let usable: Vec<u32> = affinity(0).iter().take(2).collect();
    let [first, second] = usable[..] else {
        println!("skipped: needs two usable CPUs, and this machine has one");
        return None;
    };
    let domain = |id, cpu| CacheDomain {
        id: DomainId(id),
        cpus: [cpu].into_iter().collect(),
        size_bytes: None,
        nodes: Default::default(),
    };
    Some([domain(0, first), domain(1, second)])
}

fn vm(name: &str, process: TaskId) -> Vm {
    let vcpu = Vcpu {
        index: 0,
        id: process.into(),
        process: Some(process),
        thread_name: Some("sleep".to_owned()),
        affinity: affinity(0),
        last_cpu: None,
        limits: Default::default(),
    };
    Vm {
        name: name.to_owned(),
        id: process.into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::Process,
        vcpus: vec![vcpu],
        memory: Vec::new(),
        allowed_cpus: affinity(0),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

fn plan(domains: &[CacheDomain; 2], placement: &[(&str, u32)]) -> Plan {
    let placed =
        |(vm, domain): &(&str, u32)| VcpuPlacement { vm: (*vm).into(), vcpu: 0, domain: DomainId(*domain) };
    Plan {
        policy: Policy::Paper,
        domains: domains.to_vec(),
        placement: placement.iter().map(placed).collect(),
        shared_within: None,
        shared_total: None,
        expected: None,
        waiting: None,
        reasons: Vec::new(),
    }
}

fn counts(changed: u32, unchanged: u32, skipped: u32) -> PinOutcome {
    PinOutcome { changed, unchanged, skipped }
}

#[test]
fn plans_are_carried_out_and_undone() {
    let Some(domains) = two_domains() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Tenant::start(), Tenant::start());
    let vms = [vm("a", a.id()), vm("b", b.id())];
    let all = affinity(0);
    let now = || (affinity(a.id().id), affinity(b.id().id));
    let [first, second] = domains.clone().map(|domain| domain.cpus);

    let mut pinner = pinner(dir.path());
    let both = plan(&domains, &[("a", 0), ("b", 1)]);
    assert_eq!(pinner.apply(&vms, &both).unwrap().outcome, counts(2, 0, 0));
    assert_eq!(now(), (first.clone(), second.clone()));
    assert_eq!(pinner.apply(&vms, &both).unwrap().outcome, counts(0, 2, 0));

    // A VM that the plan no longer names gets back what it had; the other moves.
    let moved = pinner.apply(&vms, &plan(&domains, &[("a", 1)])).unwrap();
    assert_eq!((moved.outcome, now()), (counts(2, 0, 0), (second, all.clone())));
    // So does one that is no longer found.
    let gone = pinner.apply(&vms[1..], &plan(&domains, &[("b", 0)])).unwrap();
    assert_eq!((gone.outcome, now()), (counts(2, 0, 0), (all.clone(), first)));

    let report = pinner.undo();
    assert_eq!((report.restored, report.failures.len()), (1, 0));
    assert_eq!(now(), (all.clone(), all));
    assert!(!dir.path().join("journal").exists());
}

#[test]
fn what_is_gone_replaced_or_not_allowed_is_skipped() {
    let Some(domains) = two_domains() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (mut gone, other, narrow) = (Tenant::start(), Tenant::start(), Tenant::start());
    let mut vms = [vm("gone", gone.id()), vm("other", other.id()), vm("narrow", narrow.id())];
    gone.end();
    let impostor = TaskId { start_ticks: other.id().start_ticks + 1, ..other.id() };
    vms[1].vcpus[0].id = impostor.into();
    vms[2].allowed_cpus = domains[1].cpus.clone();

    let mut pinner = pinner(dir.path());
    let placement = [("gone", 0), ("other", 0), ("narrow", 0), ("never", 0)];
    let report = pinner.apply(&vms, &plan(&domains, &placement)).unwrap();
    assert_eq!(report.outcome, counts(0, 0, 4));
    for words in [
        "vCPU 0 of VM gone",
        "is gone: skipped",
        "belongs to another task now",
        "the vCPU may use only",
        "never is placed, but was not found",
    ] {
        assert!(report.notes.iter().any(|note| note.contains(words)), "{words}: {:?}", report.notes);
    }
    assert_eq!((affinity(other.id().id), affinity(narrow.id().id)), (affinity(0), affinity(0)));
    assert!(pinner.journal().entries().is_empty());
}

#[test]
fn restore_passes_over_a_reused_number_and_undoes_the_rest_of_a_damaged_journal() {
    let Some(domains) = two_domains() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Tenant::start(), Tenant::start());
    // Start times have 10 ms: what began in the tick of the pinning may have been started by what was pinned.
    std::thread::sleep(Duration::from_millis(30));
    let mut pinner = pinner(dir.path());
    let vms = [vm("a", a.id()), vm("b", b.id())];
    pinner.apply(&vms, &plan(&domains, &[("a", 0), ("b", 0)])).unwrap();
    pinner.keep();

    let file = dir.path().join("journal");
    // As version 3 wrote it, without checksums: of this version the changed line would be damaged too.
    let text = std::fs::read_to_string(&file).unwrap();
    let text: String = text.lines().map(|line| format!("{}\n", &line[9..])).collect();
    let text = text.replace("huddle/journal/4", "huddle/journal/3");
    let reused = format!("\"thread\":{{\"id\":{},\"start_ticks\":1}}", a.id().id);
    let own = serde_json::to_string(&a.id()).unwrap();
    let damaged = text.replace(&format!("\"thread\":{own}"), &reused).replacen('\n', "\n{oops\n", 1);
    assert!(damaged.contains(&reused), "{damaged}");
    std::fs::write(&file, damaged).unwrap();

    let root = HostRoot::real();
    let refused = Journal::open(&root, &lock(dir.path())).unwrap_err().to_string();
    assert!(refused.contains("line 2") && refused.contains("{oops"), "{refused}");
    let report = restore(&Undoers::of_host(root.clone()), &lock(dir.path())).unwrap();
    assert_eq!(report.restored, 1);
    assert!(report.failures[0].contains("line 2 cannot be read"), "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains("another task now")), "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains("journal.damaged-1")), "{report:?}");
    assert_eq!((affinity(a.id().id), affinity(b.id().id)), (domains[0].cpus.clone(), affinity(0)));
    assert!(!file.exists() && dir.path().join("journal.damaged-1").exists());
    assert_eq!(restore(&Undoers::of_host(root.clone()), &lock(dir.path())).unwrap(), Default::default());
}

#[test]
fn an_affinity_the_kernel_refuses_stays_in_the_journal() {
    let Some(domains) = two_domains() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tenant = Tenant::start();
    let root = HostRoot::real();
    let mut journal = Journal::open(&root, &lock(dir.path())).unwrap();
    // As if the thread had run on a CPU that is no longer online.
    let change = Change::Affinity {
        vm: "a".to_owned(),
        vcpu: 0,
        of: VcpuRef::Thread { process: tenant.id(), thread: tenant.id() },
        before: [1000].into_iter().collect(),
        after: affinity(0),
        origin: Default::default(),
    };
    journal.record(&[change]).unwrap();
    drop(journal);
    let report = restore(&Undoers::of_host(root.clone()), &lock(dir.path())).unwrap();
    assert!(report.failures[0].contains("affinity 1000 of vCPU 0 of VM a"), "{report:?}");
    assert_eq!(Journal::open(&root, &lock(dir.path())).unwrap().entries().len(), 1);
    assert_eq!(affinity(tenant.id().id), affinity(0));
    drop(domains);
}

#[test]
fn the_settings_of_the_real_ksm_are_put_back() {
    let root = HostRoot::real();
    let dir = root.sys("kernel/mm/ksm");
    if !Uid::effective().is_root() || !dir.join("run").exists() {
        println!("skipped: needs root and a kernel with KSM");
        return;
    }
    let only = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open("/run/lock/huddle-ksm-test.lock")
        .unwrap();
    let _only = Flock::lock(only, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    let files = ["run", "pages_to_scan", "sleep_millisecs"];
    let before = files.map(read);
    let advisor = dir.join("advisor_mode").exists().then(|| read("advisor_mode"));

    let state = tempfile::tempdir().unwrap();
    let mut pinner = pinner(state.path());
    let pages = before[1].trim().parse::<u64>().unwrap() + 77;
    let set = |file, value: &str| (file, value.to_owned());
    pinner.set_ksm(&[set("sleep_millisecs", "31"), set("pages_to_scan", &pages.to_string())]).unwrap();
    assert_eq!((read("sleep_millisecs").trim(), read("pages_to_scan").trim().parse()), ("31", Ok(pages)));
    // Out of range: a refusal, and the ones before stay as they were set.
    let error = pinner.set_ksm(&[set("run", "9")]).unwrap_err().to_string();
    assert!(error.contains("KSM's run to \"9\"") && error.contains("out of range"), "{error}");
    if advisor.as_deref().is_some_and(|mode| mode.starts_with("[none]")) {
        pinner.set_ksm(&[set("advisor_mode", "scan-time")]).unwrap();
        assert!(read("advisor_mode").contains("[scan-time]"));
        assert!(pinner.journal().first(&Key::KsmSetting("advisor_mode".into())).is_some());
    }
    let report = pinner.undo();
    assert!(report.failures.is_empty(), "{report:?}");
    assert_eq!(files.map(read), before);
    assert_eq!(advisor.as_ref().map(|_| read("advisor_mode")), advisor);

    // An advisor overwrites pages_to_scan by itself.
    if advisor.as_deref().is_some_and(|mode| mode.starts_with("[none]")) {
        std::fs::write(dir.join("pages_to_scan"), "123").unwrap();
        pinner.set_ksm(&[set("advisor_mode", "scan-time")]).unwrap();
        let during = read("pages_to_scan");
        let report = pinner.undo();
        let after = read("pages_to_scan");
        std::fs::write(dir.join("pages_to_scan"), before[1].trim()).unwrap();
        assert_ne!(during.trim(), "123");
        assert_eq!((after.trim(), report.failures.len()), ("123", 0));
    }
}
