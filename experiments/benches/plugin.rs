//! What recording costs an emulated guest: reads for each second of CPU time with the plugin, off and on, beside plain
//! emulation, in turns of one run; and the boot. Waits for room in a ring take no CPU time: they, and other work on the
//! machine, are in the ratios of wall-clock time beside.
//!
//! `cargo bench --workspace --profile dev --bench plugin`; needs QEMU and the images of `cargo xtask experiment
//! microbench --guest qemu`.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark: failures panic, results are printed"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use huddle_cache_plugin::stream::StreamReader;
use huddle_experiments::access_stream::{
    AccessStreams, KeptLine, RingRecords, StreamFile, Streamed, plugin_library,
};
use huddle_experiments::guest::child::ChildGuest;
use huddle_experiments::guest::qemu::{Accelerator, Plugin, QemuGuestSpec};
use huddle_experiments::guest::{Guest, GuestData, GuestId, Pace, TimeLimits};
use huddle_experiments::images;
use huddle_experiments::interrupt::Interrupt;
use huddle_host::HostRoot;
use huddle_host::discover::{DiscoverOptions, NamedProcess, discover};
use huddle_model::vm::Vm;

const MEMORY_MIB: u64 = 128;
const TURNS: usize = 7;
const BOOTS: usize = 3;
const MEASURED: Duration = Duration::from_millis(1000);
const DRAINED_EACH: Duration = Duration::from_millis(2);

/// What a guest does.
struct Load {
    name: &'static str,
    vcpus: u32,
    data_kib: u64,
    pace: Pace,
}

const LOADS: [Load; 4] = [
    Load {
        name: "64 KiB of data, 1 vCPU",
        vcpus: 1,
        data_kib: 64,
        pace: Pace { burst_reads: 20_000, idle_us: 0 },
    },
    Load {
        name: "4 MiB of data, 1 vCPU",
        vcpus: 1,
        data_kib: 4096,
        pace: Pace { burst_reads: 20_000, idle_us: 0 },
    },
    Load {
        name: "a system call for each read, 1 vCPU",
        vcpus: 1,
        data_kib: 64,
        pace: Pace { burst_reads: 1, idle_us: 0 },
    },
    Load {
        name: "64 KiB of data, 2 vCPUs",
        vcpus: 2,
        data_kib: 64,
        pace: Pace { burst_reads: 20_000, idle_us: 0 },
    },
];

fn image() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    images::find(&own.ancestors().nth(3).unwrap().join("guests"), "cloud").unwrap()
}

fn start(name: &str, vcpus: u32, directory: &Path, stream: Option<&StreamFile>) -> ChildGuest {
    let plugin = stream.map(|stream| Plugin {
        library: plugin_library(&std::env::current_exe().unwrap()).unwrap(),
        stream: stream.path(),
    });
    let spec = QemuGuestSpec {
        name,
        image: &image(),
        accelerator: Accelerator::Tcg,
        memory_mib: MEMORY_MIB,
        vcpus,
        console: directory.join(name),
        plugin,
        limits: TimeLimits { ready: Duration::from_secs(180), answer: Duration::from_secs(60) },
        interrupt: Interrupt::default(),
    };
    spec.start().unwrap()
}

fn pid(guest: &ChildGuest) -> i32 {
    let GuestId::Process(pid) = guest.id() else { unreachable!("QEMU is a process") };
    pid
}

/// Time on CPUs of all threads of a process (Documentation/scheduler/sched-stats.rst, Linux 6.18), which other work on
/// the machine disturbs less than the time that passed.
fn cpu_seconds(pid: i32) -> f64 {
    let of = |path: PathBuf| -> f64 {
        let stat = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
    };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| of(task.unwrap().path())).sum()
}

/// Reads a second of a guest.
#[derive(Clone, Copy)]
struct Rate {
    /// For each second of its CPU time.
    cpu: f64,
    /// For each second that passed.
    wall: f64,
}

/// Reads of the guest while `during` is called again and again.
fn rate(guest: &mut ChildGuest, pace: Pace, mut during: impl FnMut()) -> Rate {
    guest.start(pace, false).unwrap();
    let settled = Instant::now();
    let (mut before, mut began, mut is_settled) = (cpu_seconds(pid(guest)), settled, false);
    let reads = |guest: &mut ChildGuest| -> u64 {
        use huddle_experiments::guest::Reader;
        guest.read().unwrap().iter().map(|vcpu| vcpu.reads).sum()
    };
    let mut reads_before = 0;
    while settled.elapsed() < MEASURED + MEASURED / 4 {
        during();
        std::thread::sleep(DRAINED_EACH);
        // Code is translated anew first.
        if !is_settled && settled.elapsed() >= MEASURED / 4 {
            (reads_before, before, is_settled) = (reads(guest), cpu_seconds(pid(guest)), true);
            began = Instant::now();
        }
    }
    let reads = (reads(guest) - reads_before) as f64;
    let (cpu, wall) = (cpu_seconds(pid(guest)) - before, began.elapsed().as_secs_f64());
    guest.stop().unwrap();
    Rate { cpu: reads / cpu, wall: reads / wall }
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:.2} ({:.2} to {:.2})", values[values.len() / 2], values[0], values[values.len() - 1])
}

fn find(guest: &ChildGuest, name: &str) -> Vm {
    let processes = vec![NamedProcess { name: name.to_owned(), pid: pid(guest) }];
    let options = DiscoverOptions { processes, scan_host: false, ..DiscoverOptions::default() };
    discover(&HostRoot::real(), &options).unwrap().vms.remove(0)
}

fn measure(load: &Load, directory: &Path) {
    let stream = StreamFile::create(load.vcpus as usize, RingRecords::DEFAULT).unwrap();
    let mut plain = start("plain", load.vcpus, directory, None);
    let mut recorded = start("recorded", load.vcpus, directory, Some(&stream));
    for guest in [&mut plain, &mut recorded] {
        guest.wait_ready().unwrap();
        guest.load(GuestData { seed: 5, own_seed: 6, kib: load.data_kib, cold: None }).unwrap();
    }
    let vm = find(&recorded, "recorded");
    let streamed = Streamed { vm: &vm, memory_mib: MEMORY_MIB, stream: &stream };
    let mut streams = AccessStreams::open(&HostRoot::real(), [streamed]).unwrap();
    let (mut off_ratios, mut on_ratios, mut wall_ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rates, mut kept, mut lost) = (Vec::new(), Vec::new(), 0u64);
    let mut accesses = Vec::new();
    for turn in 0..TURNS {
        let base = rate(&mut plain, load.pace, || ());
        let off = rate(&mut recorded, load.pace, || ());
        streams.start(KeptLine::new(turn as u8 * 9).unwrap()).unwrap();
        let (mut count, began) = (0, Instant::now());
        let on = rate(&mut recorded, load.pace, || {
            accesses.clear();
            count += streams.next(&mut accesses).unwrap().accesses;
        });
        kept.push(count as f64 / began.elapsed().as_secs_f64() / 1e6);
        lost = lost.saturating_add(streams.losses().lost);
        streams.stop(&mut accesses).unwrap();
        // Another return from an interrupt, after which code records nothing.
        rate_of_rest(&mut recorded, load.pace);
        off_ratios.push(base.cpu / off.cpu);
        on_ratios.push(base.cpu / on.cpu);
        wall_ratios.push(base.wall / on.wall);
        rates.push(base.cpu / 1e6);
    }
    println!(
        "{}: plain over off {}, plain over on {}, by wall-clock time plain over on {}; plain {} million reads a CPU \
         second, recorded {} million accesses a second, {lost} lost",
        load.name,
        spread(off_ratios),
        spread(on_ratios),
        spread(wall_ratios),
        spread(rates),
        spread(kept),
    );
}

fn rate_of_rest(guest: &mut ChildGuest, pace: Pace) {
    guest.start(pace, false).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    guest.stop().unwrap();
}

/// CPU seconds of a boot; recorded from its first interrupt on if it is to be.
fn boot(directory: &Path, stream: Option<&StreamFile>, records: bool) -> f64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if let Some(stream) = stream.filter(|_| records) {
            let mut reader = StreamReader::new(stream);
            reader.start(KeptLine::new(7).unwrap());
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    reader.drain(0, usize::MAX, |_| ()).unwrap();
                    std::thread::sleep(DRAINED_EACH);
                }
            });
        }
        let mut guest = start("boot", 1, directory, stream);
        guest.wait_ready().unwrap();
        let seconds = cpu_seconds(pid(&guest));
        done.store(true, Ordering::Relaxed);
        seconds
    })
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    for load in &LOADS {
        measure(load, directory.path());
    }
    let (mut off, mut on, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..BOOTS {
        let stream = || StreamFile::create(1, RingRecords::DEFAULT).unwrap();
        let base = boot(directory.path(), None, false);
        off.push(boot(directory.path(), Some(&stream()), false) / base);
        on.push(boot(directory.path(), Some(&stream()), true) / base);
        plain.push(base);
    }
    println!(
        "boot: CPU time off over plain {}, on over plain {}; plain {} CPU seconds",
        spread(off),
        spread(on),
        spread(plain)
    );
}
