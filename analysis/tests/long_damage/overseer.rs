//! Starts workers, and counts how the recordings went: also those that a worker did not survive.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::PATIENCE;

/// How many recordings a worker takes before another process goes on, so that what a library keeps does not add up.
const A_WORKER: u64 = 500;

/// Things that went wrong, as many as are told.
const MAX_TOLD: usize = 20;

/// How it went.
#[derive(Default)]
pub(crate) struct Counts {
    recordings: u64,
    segments: u64,
    answers: u64,
    real: u64,
    hangs: u64,
    ends: u64,
    panics: u64,
    wrong: u64,
    peak_kib: u64,
    told: Vec<String>,
}

impl Counts {
    pub(crate) fn is_good(&self) -> bool {
        self.recordings > 0 && self.hangs + self.ends + self.panics + self.wrong == 0
    }

    fn tell(&mut self, what: String) {
        if self.told.len() < MAX_TOLD {
            self.told.push(what);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} damaged recordings with {} damaged segments, {} answers; {} recordings also put to the real programs",
            self.recordings, self.segments, self.answers, self.real
        )?;
        writeln!(
            f,
            "{} panics, {} hangs, {} other ends, {} wrong answers; most resident memory of a worker: {} MiB",
            self.panics,
            self.hangs,
            self.ends,
            self.wrong,
            self.peak_kib / 1024
        )?;
        self.told.iter().try_for_each(|told| writeln!(f, "  {told}"))
    }
}

/// Has workers take these recordings, as many at a time as there are CPUs.
pub(crate) fn run(seed: u64, numbers: Range<u64>) -> Counts {
    let counts = Arc::new(Mutex::new(Counts::default()));
    let next = Mutex::new(numbers.clone());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let part = {
                        let mut next = next.lock().unwrap();
                        let end = next.end.min(next.start + A_WORKER);
                        let part = next.start..end;
                        next.start = end;
                        part
                    };
                    if part.is_empty() {
                        return;
                    }
                    take(seed, part, &counts);
                }
            });
        }
    });
    Arc::into_inner(counts).unwrap().into_inner().unwrap()
}

/// Takes recordings, with a new worker after each that ended before its time.
fn take(seed: u64, mut numbers: Range<u64>, counts: &Mutex<Counts>) {
    while !numbers.is_empty() {
        numbers.start = work(seed, numbers.clone(), counts);
    }
}

/// One worker; the number of the recording to go on with.
fn work(seed: u64, numbers: Range<u64>, counts: &Mutex<Counts>) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--seed", &seed.to_string()])
        .args(["--worker-from", &numbers.start.to_string(), "--worker-to", &numbers.end.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = child.stderr.take().map(|stderr| thread::spawn(move || panics_in(stderr))).unwrap();
    let lines = lines_of(&mut child);
    let (mut at, mut what) = (numbers.start, String::new());
    let is_silent = loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
                let mut counts = counts.lock().unwrap();
                match word {
                    "harm" => what = rest.to_owned(),
                    "wrong" => {
                        counts.wrong += 1;
                        counts.tell(format!("wrong answer: {rest}"));
                    }
                    "real" => counts.real += 1,
                    "peak" => counts.peak_kib = counts.peak_kib.max(rest.parse().unwrap()),
                    "end" => {
                        let numbers: Vec<u64> =
                            rest.split(' ').map(|number| number.parse().unwrap()).collect();
                        at = numbers[0] + 1;
                        counts.recordings += 1;
                        counts.segments += numbers[1];
                        counts.answers += numbers[2];
                    }
                    _ => {}
                }
            }
            Err(RecvTimeoutError::Timeout) => break true,
            Err(RecvTimeoutError::Disconnected) => break false,
        }
    };
    // By its handle: nobody else can have its number before it was waited for.
    let _ = child.kill();
    let status = child.wait().unwrap();
    let panics = said.join().unwrap();
    let mut counts = counts.lock().unwrap();
    counts.panics += panics.len() as u64;
    panics.into_iter().for_each(|panic| counts.tell(format!("panic: {panic}")));
    if at == numbers.end {
        return at;
    }
    // The recording at hand was not survived.
    counts.recordings += 1;
    match is_silent {
        true => counts.hangs += 1,
        false => counts.ends += 1,
    }
    counts.tell(format!("the worker ended with {status} at recording {what}"));
    at + 1
}

/// Its lines as they come, so that waiting for one has an end.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let out = child.stdout.take().unwrap();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// What a worker said of panics.
fn panics_in(stderr: impl Read) -> Vec<String> {
    let mut panics = Vec::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let is_panic =
            ["panicked at", "memory allocation of", "stack overflow"].iter().any(|sign| line.contains(sign));
        if is_panic {
            panics.push(line);
        }
    }
    panics
}
