//! Cost of hashing and comparing pages, relative to a plain loop that only reads them.
//!
//! `cargo bench -p huddle-sharing --bench content -- [--gib N] [--vms N] [--rounds N]`, as root. Tenants are
//! processes that this program starts from itself; pairs of them have part of their pages in common, not
//! merged. Every byte differs from page to page.
//!
//! plain: the same pages through `/proc/PID/mem` in the same batches, adding up each word, in one thread. All
//! figures but the last two are CPU time of one thread, as ratios of speeds in the same round: 1 is as fast
//! as the plain loop. `hash`: reading, hashing and storing all pages; `scan`: the whole scan, including
//! reading again for comparison; `sample 10 %`: a scan that compares a tenth of the contents.
//! `CPU share`: the real CPU share of a scan limited to a quarter of a CPU. Median [min to max] over the
//! rounds.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark: what fails, panics")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_host::{HostRoot, task};
use huddle_model::cpuset::CpuSet;
use huddle_model::vm::{GuestRegion, MemoryKind, Vm, VmId, VmmKind};
use huddle_sharing::content::{ContentScan, ContentSettings, Share};
use huddle_testing::figures::spread;
use huddle_testing::memory::extra_mib;
use nix::time::ClockId;

const PAGE: usize = 4096;
/// As in the scan.
const BATCH_PAGES: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "tenant") {
        tenant(&args[1..]);
    }
    let number = |name: &str, default: usize| {
        let value = args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
        value.map_or(default, |text| text.parse().unwrap())
    };
    let (gib, rounds) = (number("--gib", 2), number("--rounds", 7));
    let vms = number("--vms", 4).next_multiple_of(2);
    println!("{gib} GiB of tenant memory in {vms} VMs, {rounds} rounds\n");
    println!(
        "| in common by pairs | plain ns/page | hash / plain | scan / plain | sample 10 % / plain | CPU share at 0.25 | extra MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    for percent in [0, 25, 90] {
        measure(percent, (gib << 30) / PAGE / vms, vms, rounds);
    }
}

fn measure(percent: usize, pages: usize, count: usize, rounds: usize) {
    let shared = pages * percent / 100;
    let tenants = Tenants::start(count, pages, shared);
    let vms = &tenants.vms;
    let unhurried = ContentSettings { cpu_share: Share::ALL, ..ContentSettings::default() };
    let scan = |settings| ContentScan::new(HostRoot::real(), settings);
    // A benchmark of a wrong result would be worthless.
    let found = scan(unhurried).measure(vms).unwrap();
    assert!(found.unmeasured.is_empty() && found.notes.is_empty(), "{:?}", found.notes);
    for (i, j) in found.matrix.pairs() {
        let expected = if i / 2 == j / 2 { shared as u64 } else { 0 };
        assert_eq!(found.matrix.shared_frames(i, j), Some(expected), "{i} {j}");
    }
    let sample = ContentSettings { sample: Some(Share::try_from(0.1).unwrap()), ..unhurried };
    let (mut plains, mut hashes, mut scans, mut samples) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut buffer = vec![0u64; BATCH_PAGES * PAGE / 8];
    plain(vms, &mut buffer);
    for _ in 0..rounds {
        let (plain, _) = timed(|| assert_eq!(plain(vms, &mut buffer), pages * count));
        let (hash, _) =
            timed(|| assert_eq!(scan(unhurried).hash_only(vms).unwrap().pages as usize, pages * count));
        let (whole, _) = timed(|| drop(scan(unhurried).measure(vms).unwrap()));
        let (sampled, _) = timed(|| drop(scan(sample).measure(vms).unwrap()));
        plains.push(plain * 1e9 / (pages * count) as f64);
        hashes.push(plain / hash);
        scans.push(plain / whole);
        samples.push(plain / sampled);
    }
    let quarter = ContentSettings { cpu_share: Share::try_from(0.25).unwrap(), ..unhurried };
    let (used, passed) = timed(|| drop(scan(quarter).measure(vms).unwrap()));
    let extra = extra_mib(|| drop(scan(unhurried).measure(vms).unwrap()));
    println!(
        "| {percent} % | {} | {} | {} | {} | {:.3} | {extra:.0} |",
        spread(&plains, 0),
        spread(&hashes, 2),
        spread(&scans, 2),
        spread(&samples, 1),
        used / passed
    );
}

/// Reads all pages and adds up their words; returns how many pages it read.
fn plain(vms: &[Vm], buffer: &mut [u64]) -> usize {
    let (mut pages, mut sum) = (0, 0u64);
    for vm in vms {
        let mem = File::open(format!("/proc/{}/mem", vm.process().unwrap().id)).unwrap();
        for region in &vm.memory {
            let mut at = region.start;
            while at < region.end {
                let wanted = ((region.end - at) as usize).min(BATCH_PAGES * PAGE);
                let words = &mut buffer[..wanted / 8];
                // SAFETY: the same memory as bytes, of which any value is a word.
                let bytes =
                    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), wanted) };
                mem.read_exact_at(bytes, at).unwrap();
                sum = words.iter().fold(sum, |sum, word| sum.wrapping_add(*word));
                pages += wanted / PAGE;
                at += wanted as u64;
            }
        }
    }
    std::hint::black_box(sum);
    pages
}

/// Seconds of CPU time of this thread, and of wall time.
fn timed(work: impl FnOnce()) -> (f64, f64) {
    let processor = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap()).as_secs_f64();
    let (began, before) = (Instant::now(), processor());
    work();
    (processor() - before, began.elapsed().as_secs_f64())
}

/// The tenants; they end with it.
struct Tenants {
    children: Vec<Child>,
    vms: Vec<Vm>,
}

impl Tenants {
    fn start(count: usize, pages: usize, shared: usize) -> Self {
        let mut tenants = Self { children: Vec::new(), vms: Vec::new() };
        for position in 0..count {
            let child = Command::new("/proc/self/exe")
                .arg("tenant")
                .args([pages, shared, position].map(|number| number.to_string()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            tenants.children.push(child);
        }
        for child in &mut tenants.children {
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            tenants.vms.push(vm(child.id() as i32, line.trim().parse().unwrap(), pages));
        }
        tenants
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn vm(pid: i32, start: u64, pages: usize) -> Vm {
    let process = task::process(&HostRoot::real(), pid).unwrap().id;
    let end = start + (pages * PAGE) as u64;
    Vm {
        name: format!("tenant{pid}"),
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
}

/// Fills memory, the first part with the same data as its pair's, prints its address, and waits.
fn tenant(args: &[String]) -> ! {
    let numbers: Vec<usize> = args.iter().map(|arg| arg.parse().unwrap()).collect();
    let [pages, shared, position] = numbers[..] else { unreachable!("the arguments are our own") };
    let words = PAGE / 8;
    let mut memory = vec![0u64; (pages + 1) * words];
    let skipped = (memory.as_ptr() as usize).next_multiple_of(PAGE) - memory.as_ptr() as usize;
    let own = &mut memory[skipped / 8..][..pages * words];
    let length = pages * PAGE;
    let start = std::ptr::NonNull::new(own.as_mut_ptr().cast::<nix::libc::c_void>()).unwrap();
    // SAFETY: the range is memory of our own; the advice does not change its content.
    unsafe { nix::sys::mman::madvise(start, length, nix::sys::mman::MmapAdvise::MADV_NOHUGEPAGE) }.unwrap();
    for (page, content) in own.chunks_exact_mut(words).enumerate() {
        let owner = if page < shared { position / 2 } else { 1000 + position };
        let mut state = ((owner as u64 + 1) << 32) + page as u64;
        for word in content {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            *word = state;
        }
    }
    println!("{}", own.as_ptr() as usize);
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0)
}
