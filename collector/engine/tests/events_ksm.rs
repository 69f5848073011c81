//! The graph of frames that is kept current by events, on the real KSM, against fresh scans. The tenants
//! are this program again. Needs root, BTF and KSM; reports if they are missing.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a test: what fails, panics")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_engine::EventsSharing;
use huddle_host::stages::SharingSource;
use huddle_host::{HostRoot, task};
use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::Method;
use huddle_model::vm::{GuestRegion, MemoryKind, Vm, VmId, VmmKind};
use huddle_observe::probes::graph::frame_changes;
use huddle_sharing::events::{Drift, EventsConfig, EventsGraph, Stale, Update};
use huddle_sharing::{Measurement, MergedScan};
use huddle_testing::ksm::{self, Ksm};
use huddle_testing::memory::{Fork, huge};
use huddle_testing::output::say;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

const PAGE: usize = 4096;
/// Pages that each tenant has merged.
const PAGES: usize = 6000;

fn main() {
    let own: Vec<String> = std::env::args().skip(1).collect();
    match own.first().map(String::as_str) {
        Some("tenant") => tenant(own[1].parse().unwrap()),
        Some("holder") => holder(),
        _ => {}
    }
    let missing = ksm::missing().or_else(|| {
        let btf = "/sys/kernel/btf/vmlinux";
        (!std::path::Path::new(btf).exists()).then(|| format!("this kernel has no {btf}"))
    });
    let trial = |name: &str, test: fn()| {
        let run = move || std::panic::catch_unwind(test).map_err(|panic| Failed::from(text_of(&*panic)));
        let Some(reason) = missing.clone() else { return Trial::test(name, run) };
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Trial::test(name, move || Err(Failed::from(format!("CI must not skip this: {reason}"))));
        }
        say(&format!("{name}: skipped: {reason}"));
        Trial::test(name, run).with_ignored_flag(true)
    };
    let trials = vec![
        trial("events_follow_writes_and_merges", follow_writes_and_merges),
        trial("events_follow_writes_of_the_kernel", follow_writes_of_the_kernel),
        trial("events_follow_what_becomes_zero", follow_what_becomes_zero),
        trial("events_follow_merges_with_the_zero_page", follow_merges_with_the_zero_page),
        trial("events_of_forks_with_huge_pages", forks_with_huge_pages),
        trial("events_that_are_lost_make_the_graph_stale", lost_events_make_it_stale),
        trial("events_sample_finds_changes_without_events", sample_finds_changes_without_events),
        trial("events_resident_memory_that_left_is_noticed", memory_that_left_is_noticed),
        trial("events_frames_that_all_left_are_reported", frames_that_all_left_are_reported),
        trial("events_memory_of_kvm_is_reported_at_once", memory_of_kvm_is_reported),
        trial("events_tenant_that_ends_is_named", tenant_that_ends),
        trial("events_new_baseline_of_other_vms", baseline_of_other_vms),
        trial("events_in_the_loop_report_their_drift", the_loop_reports_the_drift),
        trial("events_in_the_loop_fall_back_to_the_scan", the_loop_falls_back),
        trial("events_programs_are_gone_after_kill", programs_are_gone_after_kill),
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Holds `PAGES` pages that its group holds too, and carries out commands, line by line.
fn tenant(group: usize) -> ! {
    let length = NonZeroUsize::new(PAGES * PAGE).unwrap();
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe {
        mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
    }
    .unwrap();
    let advise = |from: usize, count: usize, advice| {
        // SAFETY: within the mapping made above, which nothing borrows from at this moment.
        unsafe { madvise(map.byte_add(from * PAGE), count * PAGE, advice) }.unwrap();
    };
    // SAFETY: one word of a page of the mapping above.
    let write = |page: usize, word: u64| unsafe {
        map.cast::<u64>().add((page + 1) * PAGE / 8 - 1).write_volatile(word);
    };
    advise(0, PAGES, MmapAdvise::MADV_NOHUGEPAGE);
    (0..PAGES).for_each(|page| write(page, ((group as u64 + 1) << 32) + page as u64));
    advise(0, PAGES, MmapAdvise::MADV_MERGEABLE);
    let say = |text: &str| {
        println!("{text}");
        std::io::stdout().flush().unwrap();
    };
    say(&(map.as_ptr() as u64).to_string());
    let mut machine = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        let (from, count) = (number(1), number(2));
        match words[0] {
            // Content of a seed: the same in every tenant that is given it.
            "write" => {
                (from..from + count).for_each(|page| write(page, ((number(3) as u64) << 40) + page as u64));
            }
            "zero" => (from..from + count).for_each(|page| write(page, 0)),
            "kernel" => {
                let mut file = File::open("/dev/urandom").unwrap();
                for page in from..from + count {
                    // SAFETY: eight bytes of a page of the mapping above.
                    let bytes = unsafe {
                        std::slice::from_raw_parts_mut(map.cast::<u8>().add(page * PAGE).as_ptr(), 8)
                    };
                    file.read_exact(bytes).unwrap();
                }
            }
            "drop" => advise(from, count, MmapAdvise::MADV_DONTNEED),
            "unmerge" => advise(from, count, MmapAdvise::MADV_UNMERGEABLE),
            "kvm" => machine = Some(machine_with_memory(map.as_ptr() as u64)),
            _ => panic!("{line:?} is no command"),
        }
        say("done");
    }
    drop(machine);
    std::process::exit(0);
}

/// A KVM machine that has the tenant's pages as its memory and never runs.
fn machine_with_memory(address: u64) -> kvm_ioctls::VmFd {
    let machine = kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap();
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: 0,
        memory_size: (PAGES * PAGE) as u64,
        userspace_addr: address,
        flags: 0,
    };
    // SAFETY: the memory stays mapped as long as the machine is there, and no guest ever uses it.
    unsafe { machine.set_user_memory_region(region) }.unwrap();
    machine
}

struct Tenant {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    vm: Vm,
}

impl Tenant {
    fn start(name: &str, group: usize) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["tenant", &group.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let start: u64 = line.trim().parse().unwrap();
        let process = task::process(&HostRoot::real(), child.id().cast_signed()).unwrap().id;
        let end = start + (PAGES * PAGE) as u64;
        let vm = Vm {
            name: name.to_owned(),
            id: VmId::Process(process),
            uuid: None,
            vmid: None,
            owner: None,
            vmm: VmmKind::Process,
            vcpus: Vec::new(),
            memory: vec![GuestRegion { process: Some(process), start, end, kind: MemoryKind::Mergeable }],
            allowed_cpus: CpuSet::default(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        };
        Self { child, input, output, vm }
    }

    fn command(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
        self.input.flush().unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "done", "{command}");
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two pairs of tenants, all merged, and a graph of them that has a baseline.
struct Host {
    // The graph before the tenants, and KSM last.
    graph: EventsGraph,
    tenants: Vec<Tenant>,
    vms: Vec<Vm>,
    ksm: Ksm,
}

impl Host {
    fn start(config: EventsConfig) -> Self {
        Self::start_with(config, |_| {})
    }

    fn start_with(config: EventsConfig, set: impl Fn(&Ksm)) -> Self {
        let ksm = Ksm::start();
        set(&ksm);
        let tenants: Vec<Tenant> =
            [("a", 0), ("b", 0), ("c", 1), ("d", 1)].map(|(name, group)| Tenant::start(name, group)).into();
        let vms: Vec<Vm> = tenants.iter().map(|tenant| tenant.vm.clone()).collect();
        ksm.merge(&pids(&vms));
        let mut graph =
            EventsGraph::start(HostRoot::real(), config, &*frame_changes(HostRoot::real())).unwrap();
        let baseline = graph.baseline(&vms).unwrap();
        assert_eq!(baseline.before.looked_at, 0);
        let mut host = Self { graph, tenants, vms, ksm };
        host.assert_same(&baseline.measurement, &fresh(&host.vms));
        assert_eq!(baseline.measurement.matrix.shared_frames(0, 1), Some(PAGES as u64));
        assert!(host.graph.covers(&host.vms) && !host.graph.covers(&host.vms[1..]));
        host
    }

    /// Lets ksmd see everything, some passes long.
    fn pass(&self) {
        self.ksm.set("run", "1");
        self.ksm.merge(&pids(&self.vms));
    }

    fn update(&mut self) -> Update {
        let update = self.graph.bring_up_to_date().unwrap();
        assert_eq!(update.measurement.matrix.method(), Method::Events);
        update
    }

    fn assert_same(&mut self, kept: &Measurement, fresh: &Measurement) {
        assert!(kept.notes.is_empty(), "{:?}", kept.notes);
        let drift = Drift::between(&kept.matrix, &fresh.matrix).unwrap();
        assert_eq!(drift, Drift { frames: 0, share: 0.0, unmatched_vms: 0 });
        for (kept, fresh) in kept.matrix.vms().iter().zip(fresh.matrix.vms()) {
            assert_eq!(kept.memory, fresh.memory, "{}", kept.name);
        }
    }

    /// What a fresh scan finds, which the graph must have found before.
    fn assert_current(&mut self) -> Update {
        let update = self.update();
        assert_eq!((&update.stale, update.lost_events), (&None, 0));
        self.assert_same(&update.measurement, &fresh(&self.vms));
        update
    }
}

fn pids(vms: &[Vm]) -> Vec<i32> {
    vms.iter().map(|vm| vm.process().unwrap().id).collect()
}

fn fresh(vms: &[Vm]) -> Measurement {
    MergedScan::new(HostRoot::real()).measure(vms).unwrap()
}

fn zero_pages(update: &Update, vm: usize) -> u64 {
    update.measurement.matrix.vms()[vm].memory.unwrap().pages_zero
}

fn follow_writes_and_merges() {
    let mut host = Host::start(EventsConfig::default());
    let before = host.update().measurement;
    // The pairs rewrite 1 % alike, and one of each pair another 1 % with what nobody else has.
    for (at, tenant) in host.tenants.iter_mut().enumerate() {
        tenant.command(&format!("write 1000 {} 77", PAGES / 100));
        if at % 2 == 0 {
            tenant.command(&format!("write 3000 {} {}", PAGES / 100, 1000 + at));
        }
    }
    let update = host.assert_current();
    assert_eq!(update.measurement.matrix.shared_frames(0, 1), Some(PAGES as u64 * 98 / 100));
    assert!(update.changes.write_faults >= 6 * PAGES as u64 / 100, "{:?}", update.changes);
    host.pass();
    let update = host.assert_current();
    // What was written alike is merged again, by now between all four.
    assert_eq!(update.measurement.matrix.shared_frames(0, 1), Some(PAGES as u64 * 99 / 100));
    assert_eq!(update.measurement.matrix.shared_frames(0, 2), Some(PAGES as u64 / 100));
    assert!(update.changes.merges >= 4 * PAGES as u64 / 100, "{:?}", update.changes);
    assert_eq!(update.sample.wrong, 0);
    assert!(update.sample.looked_at > 0);
    // The matrix of before is off by more than nothing, or this test could not fail.
    let drift = Drift::between(&before.matrix, &fresh(&host.vms).matrix).unwrap();
    assert!(drift.share >= 0.01, "{drift:?}");
}

fn follow_writes_of_the_kernel() {
    let mut host = Host::start(EventsConfig::default());
    host.tenants[0].command("kernel 100 300");
    let update = host.assert_current();
    assert_eq!(update.measurement.matrix.shared_frames(0, 1), Some(PAGES as u64 - 300));
}

fn follow_what_becomes_zero() {
    let mut host = Host::start(EventsConfig::default());
    host.tenants[0].command("zero 0 700");
    host.tenants[1].command("zero 50 10");
    host.pass();
    let update = host.assert_current();
    assert_eq!((zero_pages(&update, 0), zero_pages(&update, 1)), (700, 10));
    assert_eq!(update.measurement.matrix.shared_frames(0, 1), Some(PAGES as u64 - 700));
    host.tenants[0].command("write 0 700 5");
    let update = host.assert_current();
    assert_eq!(zero_pages(&update, 0), 0);
}

fn follow_merges_with_the_zero_page() {
    let mut host = Host::start_with(EventsConfig::default(), |ksm| ksm.set("use_zero_pages", "1"));
    host.tenants[2].command("zero 0 300");
    host.pass();
    let update = host.assert_current();
    assert_eq!(zero_pages(&update, 2), 300);
    host.tenants[2].command("write 0 100 5");
    let update = host.assert_current();
    assert_eq!(zero_pages(&update, 2), 200);
}

/// A graph of a process and its fork, of which one wrote to the first page of a huge page before and one after.
fn forks_with_huge_pages() {
    let Some(words) = huge(4) else {
        return say("events_of_forks_with_huge_pages: skipped: this kernel gives no huge pages");
    };
    let (start, end) = (words.as_ptr() as u64, words.as_ptr_range().end as u64);
    let vm = |name: &str, pid: i32| {
        let process = task::process(&HostRoot::real(), pid).unwrap().id;
        Vm {
            name: name.to_owned(),
            id: VmId::Process(process),
            uuid: None,
            vmid: None,
            owner: None,
            vmm: VmmKind::Process,
            vcpus: Vec::new(),
            memory: vec![GuestRegion { process: Some(process), start, end, kind: MemoryKind::Anonymous }],
            allowed_cpus: CpuSet::default(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        }
    };
    let ksm = Ksm::start();
    ksm.set("run", "0");
    let fork = Fork::that_writes(words, &[0]);
    let vms = [vm("parent", std::process::id().cast_signed()), vm("fork", fork.pid())];
    let config = EventsConfig::default();
    let mut graph = EventsGraph::start(HostRoot::real(), config, &*frame_changes(HostRoot::real())).unwrap();
    let found = graph.baseline(&vms).unwrap().measurement;
    assert_eq!(
        (found.matrix.shared_frames(0, 1), fresh(&vms).matrix.shared_frames(0, 1)),
        (Some(2047), Some(2047))
    );
    assert_eq!(found.matrix.vms(), fresh(&vms).matrix.vms());
    // The parent writes to two pages, one the first of another huge page.
    for page in [700, 1024] {
        words[page * PAGE / 8 + 3] = 5;
    }
    let update = graph.bring_up_to_date().unwrap();
    assert_eq!(update.stale, None);
    assert_eq!(update.measurement.matrix.shared_frames(0, 1), fresh(&vms).matrix.shared_frames(0, 1));
    assert_eq!(update.measurement.matrix.shared_frames(0, 1), Some(2045));
}

fn lost_events_make_it_stale() {
    // Room for about 128 changes.
    let mut host = Host::start(EventsConfig { ring_bytes: 4096, sample_pages: 0, ..EventsConfig::default() });
    host.tenants[0].command("write 0 1000 9");
    let update = host.update();
    let Some(Stale::Lost { events }) = update.stale else { panic!("{:?}", update.stale) };
    assert_eq!(events, update.lost_events);
    assert!((800..1000).contains(&events), "{events}");
    let kept = update.measurement.matrix.shared_frames(0, 1).unwrap();
    assert!(kept > PAGES as u64 - 200, "{kept}: what was lost is not in the graph");
    // It stays stale, although nothing is lost any more, until everything is read again.
    assert!(matches!(host.update().stale, Some(Stale::Lost { .. })));
    let vms = host.vms.clone();
    let baseline = host.graph.baseline(&vms).unwrap();
    assert_eq!((baseline.before.looked_at, baseline.before.wrong), (4 * PAGES as u64, events));
    let update = host.assert_current();
    assert_eq!(update.measurement.matrix.shared_frames(0, 1), Some(PAGES as u64 - 1000));
}

fn sample_finds_changes_without_events() {
    let mut host = Host::start(EventsConfig::default());
    // 3,000 of 24,000 pages get frames of their own without any fault.
    host.tenants[3].command("unmerge 0 3000");
    let update = host.update();
    let Some(Stale::Sample(sample)) = update.stale else { panic!("{:?}", update.stale) };
    let share = sample.wrong_share().unwrap();
    assert!((0.08..0.17).contains(&share), "{sample:?}: an eighth of the pages is elsewhere");
    let vms = host.vms.clone();
    let baseline = host.graph.baseline(&vms).unwrap();
    // Those that the sample found were put right, with some of their neighbours.
    assert!((1..=3000 - sample.wrong).contains(&baseline.before.wrong), "{:?} {sample:?}", baseline.before);
    host.assert_current();
}

fn memory_that_left_is_noticed() {
    let mut host = Host::start(EventsConfig { sample_pages: 0, ..EventsConfig::default() });
    host.tenants[1].command("drop 0 3000");
    let update = host.update();
    let Some(Stale::Resident { vm, pages }) = update.stale else { panic!("{:?}", update.stale) };
    assert_eq!(vm, "b");
    assert!(pages.abs_diff(3000) < 512, "{pages}");
    assert!(update.measurement.matrix.coverage().unwrap() < 1.0);
}

fn frames_that_all_left_are_reported() {
    let mut host = Host::start(EventsConfig { sample_pages: 0, ..EventsConfig::default() });
    host.tenants[0].command("drop 0 500");
    host.tenants[1].command("drop 0 500");
    assert_eq!(host.update().measurement.matrix.shared_frames(0, 1), Some(PAGES as u64));
    // ksmd looks for frames that are gone where others of like content come in, so give it some.
    for tenant in &mut host.tenants[2..] {
        tenant.command("write 0 3000 31");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        host.pass();
        let shared = host.update().measurement.matrix.shared_frames(0, 1).unwrap();
        if shared < PAGES as u64 {
            // What is reported is right: each page is read again first.
            assert!(shared >= PAGES as u64 - 500);
            return;
        }
        assert!(Instant::now() < deadline, "ksmd never reached them");
    }
}

fn memory_of_kvm_is_reported() {
    if kvm_ioctls::Kvm::new().is_err() {
        say("events_memory_of_kvm_is_reported_at_once: skipped: no /dev/kvm");
        return;
    }
    let mut host = Host::start(EventsConfig::default());
    host.tenants[0].command("kvm 0 0");
    host.tenants[0].command("drop 100 500");
    let update = host.assert_current();
    assert_eq!(update.measurement.matrix.shared_frames(0, 1), Some(PAGES as u64 - 500));
    assert!(update.changes.reread_pages >= 500, "{:?}", update.changes);
}

fn tenant_that_ends() {
    let mut host = Host::start(EventsConfig::default());
    let ended = host.tenants.remove(1);
    drop(ended);
    host.tenants[0].command("write 0 10 3");
    let update = host.update();
    assert_eq!(update.measurement.unmeasured.len(), 1);
    assert_eq!(update.measurement.unmeasured[0].vm, "b");
    host.vms.remove(1);
    assert!(!host.graph.covers(&host.vms));
    let found = fresh(&host.vms);
    host.assert_same(&update.measurement, &found);
}

fn baseline_of_other_vms() {
    let mut host = Host::start(EventsConfig::default());
    host.tenants[0].command("write 0 10 3");
    host.vms.remove(2);
    let vms = host.vms.clone();
    let baseline = host.graph.baseline(&vms).unwrap();
    assert_eq!((baseline.before.looked_at, baseline.before.wrong), (3 * PAGES as u64, 0));
    // Events of the VM that is no longer measured are ignored.
    host.tenants[2].command("write 0 100 4");
    host.tenants[3].command("write 0 20 5");
    let update = host.assert_current();
    assert!((20..100).contains(&update.changes.write_faults), "{:?}", update.changes);
}

fn the_loop_reports_the_drift() {
    let mut host = Host::start(EventsConfig::default());
    let mut sharing = EventsSharing::new(
        HostRoot::real(),
        MergedScan::new(HostRoot::real()),
        frame_changes(HostRoot::real()),
        3,
    );
    assert!(sharing.measure(&host.vms).unwrap().notes.is_empty());
    for round in 1..=6 {
        host.tenants[0].command(&format!("write {} 20 {round}", 50 * round));
        let found = sharing.measure(&host.vms).unwrap();
        let shared = (PAGES - 20 * round) as u64;
        assert_eq!(found.matrix.shared_frames(0, 1), Some(shared), "round {round}");
        let expected = if round % 3 == 0 { 1 } else { 0 };
        assert_eq!(found.notes.len(), expected, "round {round}: {:?}", found.notes);
        if let Some(note) = found.notes.first() {
            assert!(note.contains("0 frames (0.000 %)") && note.contains("3 rounds"), "{note}");
        }
    }
    // Changes without events make it read everything again at once, with a note.
    host.tenants[3].command("unmerge 0 3000");
    let found = sharing.measure(&host.vms).unwrap();
    assert!(found.notes[0].contains("on other frames than expected"), "{:?}", found.notes);
    let drift = Drift::between(&found.matrix, &fresh(&host.vms).matrix).unwrap();
    assert_eq!(drift.frames, 0);
}

fn the_loop_falls_back() {
    let host = Host::start(EventsConfig::default());
    let elsewhere = tempfile::tempdir().unwrap();
    let scan = MergedScan::new(HostRoot::real());
    let mut sharing = EventsSharing::new(
        HostRoot::at(elsewhere.path()),
        scan,
        frame_changes(HostRoot::at(elsewhere.path())),
        3,
    );
    let found = sharing.measure(&host.vms).unwrap();
    assert_eq!(found.matrix.method(), Method::Merged);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(PAGES as u64));
    assert!(found.notes.iter().any(|note| note.contains("CONFIG_DEBUG_INFO_BTF")), "{:?}", found.notes);
}

fn holder() -> ! {
    let graph =
        EventsGraph::start(HostRoot::real(), EventsConfig::default(), &*frame_changes(HostRoot::real()))
            .unwrap();
    let ids: Vec<String> = graph.program_ids().iter().map(u32::to_string).collect();
    println!("{}", ids.join(" "));
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0)
}

fn programs_are_gone_after_kill() {
    let mut child = Command::new("/proc/self/exe")
        .arg("holder")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let loaded = || {
        let programs = aya::programs::loaded_programs().flatten();
        programs.filter(|program| ids.contains(&program.id())).count()
    };
    assert!(ids.len() >= 2);
    assert_eq!(loaded(), ids.len());
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while loaded() > 0 {
        assert!(Instant::now() < deadline, "programs are still loaded");
        std::thread::sleep(Duration::from_millis(20));
    }
}
