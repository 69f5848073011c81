//! Cost of measuring what VMs read, relative to a scan without it.
//!
//! `cargo bench -p huddle-sharing --bench reads -- [--mib N] [--rounds N]`, as root. Two processes map the same pages, of
//! 4 KiB each, since they were forked, and read a quarter of them again and again. Processor time of one thread, without
//! the window in between: of clearing accessed bits for each page, and of a measurement with reads over a scan without,
//! median [min to max] over the rounds.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark: what fails, panics")]

use std::num::NonZeroUsize;
use std::time::Duration;

use huddle_host::{HostRoot, task};
use huddle_model::vm::{GuestRegion, MemoryKind, Vm};
use huddle_sharing::content::Share;
use huddle_sharing::{MergedScan, ReadSettings};
use huddle_testing::figures::spread;
use huddle_testing::ksm;
use huddle_testing::memory::{Fork, mergeable, page_bytes};
use nix::time::ClockId;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str, default: usize| option(name).map_or(default, |text| text.parse().unwrap());
    let (mib, rounds) = (number("--mib", 2048), number("--rounds", 7));
    if let Some(reason) = ksm::missing() {
        println!("reads cannot be measured here: {reason}");
        std::process::exit(3);
    }
    let words_of_page = page_bytes() / 8;
    let pages = (mib << 20) / page_bytes();
    let words = mergeable(pages);
    words.iter_mut().step_by(words_of_page).zip(1..).for_each(|(word, number)| *word = number);
    let words = &*words;
    let read = || {
        let quarter = words.iter().step_by(words_of_page).take(pages / 4);
        std::hint::black_box(quarter.fold(0, |sum: u64, word| sum.wrapping_add(*word)));
    };
    let readers = [(); 2].map(|()| Fork::that_repeats(read));
    let start = words.as_ptr() as u64;
    let vms = readers.each_ref().map(|reader| vm(reader.pid(), start, start + (mib << 20) as u64));
    let one = NonZeroUsize::MIN;
    let scan = MergedScan::new(HostRoot::real()).with_threads(one);
    // Long enough to read it all on a busy machine.
    let settings = ReadSettings { cpu_share: Share::ALL, window_ms: 2000 };
    let with_reads = scan.clone().with_reads(settings);
    let (mut clearing, mut ratios) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (without, found) = timed(|| scan.measure(&vms).unwrap());
        assert_eq!(found.matrix.shared_frames(0, 1), Some(pages as u64));
        let (with, found) = timed(|| with_reads.measure(&vms).unwrap());
        let both_read = found.matrix.shared_frames_read(0, 1).unwrap() as f64 / pages as f64;
        assert!(
            (both_read - 0.25).abs() < 0.01,
            "{both_read}: a benchmark of a wrong result would be worthless"
        );
        // The first one finds out how to read.
        if round > 0 {
            clearing.push(found.least_interval.as_secs_f64() * 1e9 / (2 * pages) as f64);
            ratios.push(with / without);
        }
    }
    println!("{mib} MiB in each of two processes, {rounds} rounds");
    println!("clearing accessed bits: {} ns/page", spread(&clearing, 1));
    println!("a measurement with reads over one without: {}", spread(&ratios, 2));
}

/// Seconds of processor time of this thread, and what came of the work.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let processor = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap()).as_secs_f64();
    let before = processor();
    let done = work();
    (processor() - before, done)
}

fn vm(pid: i32, start: u64, end: u64) -> Vm {
    let process = task::process(&HostRoot::real(), pid).unwrap().id;
    let memory = vec![GuestRegion { process: Some(process), start, end, kind: MemoryKind::Mergeable }];
    Vm::of_process(format!("reader{pid}"), process, memory)
}
