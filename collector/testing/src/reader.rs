//! Readers: this program again, as processes that read their data at random (a chase through all its
//! cache lines), and report how much they read, as workloads in VMs would.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_model::rng::Rng;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity, sched_yield};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::memory::{mergeable, page_bytes};

/// Words of eight bytes in a cache line.
const LINE_WORDS: usize = 8;
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// A reader process; dropping it ends the process.
pub struct Reader {
    /// Its name in reports.
    pub name: String,
    child: Child,
}

impl Reader {
    /// Starts a reader on a CPU. Readers of one seed hold the same `kib` of data; `writes` pages of it are
    /// written to every second.
    pub fn start(name: &str, seed: u64, kib: usize, cpu: usize, writes: usize, socket: &Path) -> Self {
        let numbers = [seed, kib as u64, cpu as u64, writes as u64].map(|number| number.to_string());
        let child = Command::new("/proc/self/exe")
            .args(["reader", name])
            .args(numbers)
            .arg(socket)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), child }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The only CPU it may run on; `None` if there are several.
    pub fn cpu(&self) -> Option<usize> {
        let cpus = sched_getaffinity(Pid::from_raw(self.pid())).unwrap();
        let mut allowed = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap());
        allowed.next().filter(|_| allowed.next().is_none())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reader itself, with the arguments after `reader`; a program that starts readers calls this in the
/// reader process.
pub fn run(mut arguments: impl Iterator<Item = String>) -> ! {
    prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
    let name = arguments.next().unwrap();
    let [seed, kib, cpu, writes] = [0; 4].map(|_: u64| arguments.next().unwrap().parse::<u64>().unwrap());
    let socket = arguments.next().unwrap();
    let mut cpus = CpuSet::new();
    cpus.set(cpu as usize).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();

    let data = mergeable((kib as usize * 1024).div_ceil(page_bytes()));
    let mut rng = Rng::new(seed);
    let lines = data.len() / LINE_WORDS;
    let mut next: Vec<usize> = (0..lines).collect();
    // Sattolo's algorithm: one ring over all lines.
    (1..lines).rev().for_each(|last| next.swap(last, rng.below(last)));
    for (line, next) in data.chunks_exact_mut(LINE_WORDS).zip(next) {
        line[0] = (next * LINE_WORDS) as u64;
        line[1..].fill_with(|| rng.next_u64());
    }
    let out = UnixDatagram::unbound().unwrap();
    let (mut at, mut reads, mut written) = (0, 0u64, 0);
    let (mut reported, began) = (Instant::now(), Instant::now());
    loop {
        // A quarter more than all lines, so that each lap uses all of the data.
        for _ in 0..lines + lines / 4 {
            at = data[at] as usize;
        }
        reads += (lines + lines / 4) as u64;
        while written < (began.elapsed().as_secs_f64() * writes as f64) as usize {
            // The last word of a page, which the chase does not use; its value does not change.
            let word = (written % (data.len() / 512)) * 512 + 511;
            // SAFETY: the word is one of `data`; volatile, so that the write of the same value is not
            // optimised away.
            unsafe { std::ptr::from_mut(&mut data[word]).write_volatile(std::hint::black_box(data[word])) };
            written += 1;
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            // Nothing listens before and after huddle runs; these reads belong to no window.
            let _ = out.send_to(format!("{name} {reads}").as_bytes(), &socket);
            (reads, reported) = (0, Instant::now());
        }
        sched_yield().unwrap();
    }
}
