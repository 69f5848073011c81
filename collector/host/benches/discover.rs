//! What it costs to look for VMs beside many processes of others that hold many descriptors: with nothing remembered,
//! and again when nothing is new. Prints milliseconds of processor time, the median of several, and their ratio.
//! Run it with `cargo bench -p huddle-host --bench discover`, or with other numbers: `-- PROCESSES DESCRIPTORS VMS`,
//! the descriptors for each process. The VMs are processes of the name of QEMU with two threads named like its vCPUs.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: what fails, panics")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use huddle_host::HostRoot;
use huddle_host::discover::{DiscoverOptions, Discoverer};
use nix::sys::resource::{UsageWho, getrusage};

const PROCESSES: usize = 1_000;
const DESCRIPTORS: usize = 60;
const VMS: usize = 64;
const QEMU: &str = "qemu-system-x86_64";
const REPETITIONS: usize = 9;

/// A process with descriptors; it ends with this value.
struct Holder(Child);

impl Holder {
    fn start(program: &Path, descriptors: usize) -> Self {
        let child = Command::new(program)
            .args(["holder", &descriptors.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn wait_until_ready(&mut self) {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hold(descriptors: usize) -> ! {
    let held: Vec<File> = (0..descriptors).map(|_| File::open("/dev/null").unwrap()).collect();
    let stop = Barrier::new(3);
    std::thread::scope(|scope| {
        if std::env::current_exe().unwrap().ends_with(QEMU) {
            for vcpu in 0..2 {
                let named = std::thread::Builder::new().name(format!("CPU {vcpu}/TCG"));
                named.spawn_scoped(scope, || stop.wait()).unwrap();
            }
        }
        println!("ready");
        let _ = std::io::stdin().read(&mut [0]);
        drop(held);
        std::process::exit(0)
    })
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let first = args.next();
    if first.as_deref() == Some("holder") {
        hold(args.next().unwrap().parse().unwrap());
    }
    let number = |text: Option<String>, default| text.map_or(default, |text| text.parse::<usize>().unwrap());
    let (processes, descriptors) = (number(first, PROCESSES), number(args.next(), DESCRIPTORS));
    let vms = number(args.next(), VMS);
    let dir = tempfile::tempdir().unwrap();
    let qemu = dir.path().join(QEMU);
    std::fs::copy("/proc/self/exe", &qemu).unwrap();
    let others = (0..processes).map(|_| Holder::start(Path::new("/proc/self/exe"), descriptors));
    let mut holders: Vec<Holder> = others.chain((0..vms).map(|_| Holder::start(&qemu, 0))).collect();
    holders.iter_mut().for_each(Holder::wait_until_ready);

    let new = || Discoverer::new(HostRoot::real(), DiscoverOptions::default());
    let uncached = median(|| _ = new().discover().unwrap());
    let mut discoverer = new();
    let found = discoverer.discover().unwrap().vms.len();
    assert!(found >= vms, "{found} VMs are found");
    let looks = discoverer.looks();
    let cached = median(|| _ = discoverer.discover().unwrap());
    println!("{processes} processes with {descriptors} descriptors each, {found} VMs");
    println!("nothing remembered: {uncached:8.2} ms of processor time");
    println!(
        "nothing new:        {cached:8.2} ms of processor time, {} looks into processes",
        discoverer.looks() - looks
    );
    println!("ratio:              {:8.1}", uncached / cached);
}

/// Milliseconds of processor time that a call takes.
fn median(mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..REPETITIONS)
        .map(|_| {
            let begin = cpu_time();
            call();
            (cpu_time() - begin).as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn cpu_time() -> Duration {
    let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_usec().unsigned_abs())
    };
    of(used.user_time()) + of(used.system_time())
}
