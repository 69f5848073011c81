//! Cost of a sharing scan, relative to only reading the same pagemaps.
//!
//! `cargo bench -p huddle-sharing --bench scan -- [--gib N] [--vms N] [--rounds N] [--only TEXT]`, as
//! root. Tenants are processes that this program starts from itself; the first column names the
//! arrangement. `fork`: pages that tenants share since they were forked from one process; `KSM`: pages
//! that KSM merged (its settings are changed and restored). 4 KiB pages unless marked THP.
//!
//! raw: the same ranges by `pread`, 1 MiB at a time, one thread. Ratios are raw over scan of the same round, of the
//! processor time of one thread, which other work on the machine disturbs least (nothing here sleeps): `pagemap` and
//! `tables` are scans by each way with an object that was used before, as in a round of `huddle run`, and `first` is
//! one by page tables with a new object, which has to find out how to read them, as in a single `huddle matrix`. `2
//! threads` is wall time of one thread over that of two, by page tables. Median [min to max] over the rounds. MiB is
//! what a scan adds to the memory of the process at its peak, on one thread.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark: what fails, panics")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_host::{HostRoot, task};
use huddle_model::matrix::ReadBy;
use huddle_model::vm::{GuestRegion, MemoryKind, Vm};
use huddle_sharing::{Measurement, MergedScan};
use huddle_testing::figures::spread;
use huddle_testing::ksm;
use huddle_testing::memory::extra_mib;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use nix::time::ClockId;
use nix::unistd::{ForkResult, fork};

const PAGE: usize = 4096;

/// Why tenants share pages.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Nothing,
    Fork,
    Ksm,
}

struct Arrangement {
    name: &'static str,
    vms: usize,
    /// Tenants of one group share with each other.
    group: usize,
    shared_percent: usize,
    by: By,
    thp: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "tenant") {
        tenant(&args[1..]);
    }
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str, default: usize| option(name).map_or(default, |text| text.parse().unwrap());
    let (gib, rounds) = (number("--gib", 12), number("--rounds", 7));
    let vms = number("--vms", 4).next_multiple_of(2);
    if let Some(reason) = ksm::missing() {
        println!("the scan cannot be measured here: {reason}");
        std::process::exit(3);
    }
    let plain = |name, vms, group, shared_percent, by| Arrangement {
        name,
        vms,
        group,
        shared_percent,
        by,
        thp: false,
    };
    let all = [
        plain("private", vms, 1, 0, By::Nothing),
        plain("25 % by pairs, fork", vms, 2, 25, By::Fork),
        plain("25 % by pairs, KSM", vms, 2, 25, By::Ksm),
        plain("90 % by all, fork", 64, 64, 90, By::Fork),
        plain("90 % by all, KSM", 64, 64, 90, By::Ksm),
        Arrangement { name: "private, THP", vms, group: 1, shared_percent: 0, by: By::Nothing, thp: true },
        Arrangement {
            name: "25 % by pairs, THP",
            vms,
            group: 2,
            shared_percent: 25,
            by: By::Fork,
            thp: true,
        },
    ];
    let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    println!("{gib} GiB of tenant memory, {rounds} rounds, {cpus} CPUs\n");
    println!(
        "| tenants | VMs | raw ns/page | tables ns/page | raw / pagemap | raw / tables | raw / first | 2 threads | MiB pagemap | MiB tables |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for arrangement in &all {
        if option("--only").is_none_or(|text| arrangement.name.contains(text.as_str())) {
            measure(arrangement, gib, rounds);
        }
    }
}

fn measure(arrangement: &Arrangement, gib: usize, rounds: usize) {
    let ksm = (arrangement.by == By::Ksm).then(ksm::Ksm::start);
    let pages = (gib << 30) / PAGE / arrangement.vms / 512 * 512;
    let shared = pages * arrangement.shared_percent / 100;
    let tenants = Tenants::start(arrangement, pages, shared);
    if let Some(ksm) = &ksm {
        ksm.merge(&tenants.vms.iter().map(|vm| vm.process().unwrap().id).collect::<Vec<_>>());
    }
    let mut buffer = vec![1; 1 << 20];
    let one = NonZeroUsize::MIN;
    let fresh = || MergedScan::new(HostRoot::real()).with_threads(one);
    let (tables, pagemap) = (fresh(), fresh().with_read_by(ReadBy::Pagemap));
    let both = MergedScan::new(HostRoot::real()).with_threads(NonZeroUsize::MIN.saturating_add(1));
    for (scan, by) in
        [(&tables, ReadBy::PageTables), (&pagemap, ReadBy::Pagemap), (&both, ReadBy::PageTables)]
    {
        check(arrangement, scan, by, &tenants.vms, pages, shared);
    }
    let mut rows: [Vec<f64>; 6] = Default::default();
    raw_read(&tenants.vms, &mut buffer);
    let measure = |scan: &MergedScan| timed(|| drop(scan.measure(&tenants.vms).unwrap()));
    for _ in 0..rounds {
        let (raw, _) = timed(|| raw_read(&tenants.vms, &mut buffer));
        let (by_pagemap, _) = measure(&pagemap);
        let (by_tables, wall) = measure(&tables);
        let (first, _) = measure(&fresh());
        let (_, wall_both) = measure(&both);
        let pages = (pages * arrangement.vms) as f64;
        let figures = [
            raw * 1e9 / pages,
            by_tables * 1e9 / pages,
            raw / by_pagemap,
            raw / by_tables,
            raw / first,
            wall / wall_both,
        ];
        rows.iter_mut().zip(figures).for_each(|(row, figure)| row.push(figure));
        ksm.iter().for_each(ksm::Ksm::go_on);
    }
    let extra = |scan: &MergedScan| extra_mib(|| drop(scan.measure(&tenants.vms).unwrap()));
    let extra = [extra(&pagemap), extra(&tables)];
    println!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} |",
        arrangement.name,
        arrangement.vms,
        spread(&rows[0], 1),
        spread(&rows[1], 2),
        spread(&rows[2], 2),
        spread(&rows[3], 1),
        spread(&rows[4], 1),
        spread(&rows[5], 2),
        extra[0],
        extra[1]
    );
}

/// A benchmark of a wrong result would be worthless. Pages that the kernel is just moving (it makes room for huge pages)
/// are nowhere for a moment, so what is missing is looked for again.
fn check(arrangement: &Arrangement, scan: &MergedScan, by: ReadBy, vms: &[Vm], pages: usize, shared: usize) {
    let is_whole = |found: &Measurement| {
        found.matrix.vms().iter().all(|vm| vm.memory.unwrap().frames_used == pages as u64)
    };
    let mut found = scan.measure(vms).unwrap();
    for _ in 0..10 {
        if is_whole(&found) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        found = scan.measure(vms).unwrap();
    }
    let reading = found.matrix.frame_reading().unwrap();
    assert_eq!(reading.by, by, "{:?}", reading.reason);
    assert!(found.unmeasured.is_empty() && found.notes.is_empty(), "{:?}", found.notes);
    for (i, j) in found.matrix.pairs() {
        let same = i / arrangement.group == j / arrangement.group;
        let expected = if same { shared as u64 } else { 0 };
        assert_eq!(found.matrix.shared_frames(i, j), Some(expected), "{} {i} {j}", arrangement.name);
    }
    for vm in found.matrix.vms() {
        assert_eq!(vm.memory.unwrap().frames_used, pages as u64, "{}", arrangement.name);
    }
}

/// Seconds of CPU time of this thread, and of wall time.
fn timed(work: impl FnOnce()) -> (f64, f64) {
    let processor = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap()).as_secs_f64();
    let (began, processor_before) = (Instant::now(), processor());
    work();
    (processor() - processor_before, began.elapsed().as_secs_f64())
}

fn raw_read(vms: &[Vm], buffer: &mut [u8]) {
    for vm in vms {
        let pagemap = File::open(format!("/proc/{}/pagemap", vm.process().unwrap().id)).unwrap();
        for region in &vm.memory {
            let (mut at, end) = (region.start / PAGE as u64 * 8, region.end / PAGE as u64 * 8);
            while at < end {
                let wanted = (buffer.len() as u64).min(end - at) as usize;
                let read = pagemap.read_at(&mut buffer[..wanted], at).unwrap();
                assert!(read > 0);
                at += read as u64;
            }
        }
        std::hint::black_box(&buffer);
    }
}

/// The tenants of one arrangement; they end with it.
struct Tenants {
    children: Vec<Child>,
    vms: Vec<Vm>,
}

impl Tenants {
    fn start(arrangement: &Arrangement, pages: usize, shared: usize) -> Self {
        let mut tenants = Self { children: Vec::new(), vms: Vec::new() };
        // One process for each group by fork, one for each tenant otherwise.
        let forks = if arrangement.by == By::Fork { arrangement.group } else { 1 };
        for first in (0..arrangement.vms).step_by(forks) {
            let seed = first / arrangement.group;
            let flags = [arrangement.by == By::Ksm, arrangement.thp];
            let child = Command::new("/proc/self/exe")
                .arg("tenant")
                .args([pages, shared, forks, seed].map(|number| number.to_string()))
                .args(flags.map(|flag| flag.to_string()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            tenants.children.push(child);
        }
        for child in &mut tenants.children {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            for line in lines.take(forks) {
                let line = line.unwrap();
                let numbers: Vec<u64> = line.split(' ').map(|text| text.parse().unwrap()).collect();
                tenants.vms.push(vm(numbers[0] as i32, numbers[1], pages, shared, arrangement.by));
            }
        }
        assert_eq!(tenants.vms.len(), arrangement.vms);
        tenants
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Its forked children end soon after it.
        for vm in &self.vms {
            while task::is_alive(&HostRoot::real(), vm.process().unwrap()).unwrap_or(false) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn vm(pid: i32, start: u64, pages: usize, shared: usize, by: By) -> Vm {
    let process = task::process(&HostRoot::real(), pid).unwrap().id;
    let middle = start + (shared * PAGE) as u64;
    let shared_kind = if by == By::Ksm { MemoryKind::Mergeable } else { MemoryKind::Anonymous };
    let region = |start, end, kind| GuestRegion { process: Some(process), start, end, kind };
    let end = start + (pages * PAGE) as u64;
    let mut memory = vec![region(start, middle, shared_kind), region(middle, end, MemoryKind::Anonymous)];
    memory.retain(|region| region.len_bytes() > 0);
    Vm::of_process(format!("tenant{pid}"), process, memory)
}

/// Maps memory, writes a different word to each page (the same in each tenant of a group for shared pages),
/// prints its address, and waits.
fn tenant(args: &[String]) -> ! {
    let numbers: Vec<usize> = args[..4].iter().map(|arg| arg.parse().unwrap()).collect();
    let [pages, shared, forks, seed] = numbers[..] else { unreachable!("the arguments are our own") };
    let (mergeable, thp) = (args[4] == "true", args[5] == "true");
    let length = NonZeroUsize::new(pages * PAGE).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    let advice = if thp { MmapAdvise::MADV_HUGEPAGE } else { MmapAdvise::MADV_NOHUGEPAGE };
    // SAFETY: the range is the mapping made above; the advice does not change its content.
    unsafe { madvise(map, length.get(), advice) }.unwrap();
    // SAFETY: the mapping is writable, page-aligned, `pages * PAGE` long, and only used through this.
    let words = unsafe { std::slice::from_raw_parts_mut(map.cast::<u64>().as_ptr(), length.get() / 8) };
    let touch = |words: &mut [u64], from: usize, to: usize, seed: usize| {
        (from..to).for_each(|page| words[page * PAGE / 8] = ((seed as u64 + 1) << 32) + page as u64);
    };
    touch(words, 0, shared, seed);
    let mut own_seed = std::process::id() as usize;
    for _ in 1..forks {
        // SAFETY: this process has one thread, so the child may continue to use everything.
        if let ForkResult::Child = unsafe { fork() }.unwrap() {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
            own_seed = std::process::id() as usize;
            break;
        }
    }
    touch(words, shared, pages, own_seed);
    if mergeable {
        // SAFETY: as above; merged or not, the content is the same.
        unsafe { madvise(map, shared * PAGE, MmapAdvise::MADV_MERGEABLE) }.unwrap();
    }
    // A single write, so that lines of tenants on one pipe do not mix.
    let line = format!("{} {}\n", std::process::id(), map.as_ptr() as u64);
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0)
}
