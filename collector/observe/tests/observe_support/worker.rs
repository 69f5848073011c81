//! A thread that works on command and counts its own faults and switches.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::gettid;

/// A thread that works on command through a pipe, and answers through another one when done.
pub struct Worker {
    /// The thread.
    pub tid: i32,
    order: std::io::PipeWriter,
    answer: std::io::PipeReader,
    /// Page faults and switches of the thread by its own count, at its last answer.
    pub usage: Arc<[AtomicU64; 2]>,
}

impl Worker {
    /// Starts the thread; it waits for its first command.
    pub fn new(work: impl Fn() + Send + 'static) -> Self {
        let (mut orders, order) = std::io::pipe().unwrap();
        let (answer, mut answers) = std::io::pipe().unwrap();
        let (sender, tid) = mpsc::channel();
        let usage = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let shared = usage.clone();
        std::thread::spawn(move || {
            sender.send(gettid().as_raw()).unwrap();
            let mut byte = [0];
            while orders.read_exact(&mut byte).is_ok() {
                work();
                let own = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
                let faults = own.minor_page_faults() + own.major_page_faults();
                let switches = own.voluntary_context_switches() + own.involuntary_context_switches();
                shared[0].store(faults.cast_unsigned(), SeqCst);
                shared[1].store(switches.cast_unsigned(), SeqCst);
                answers.write_all(&byte).unwrap();
            }
        });
        Self { tid: tid.recv().unwrap(), order, answer, usage }
    }

    /// Runs the work once.
    pub fn run(&mut self) {
        self.order.write_all(&[0]).unwrap();
        self.answer.read_exact(&mut [0]).unwrap();
    }
}

/// The switches of a thread of this process as the kernel counts them in `status`.
pub fn switches(tid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let counts = text.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
    counts.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum()
}
