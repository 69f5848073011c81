//! Asking the monitors (QMP) of VMs whose vCPU threads have no telling names.
//!
//! All are asked side by side, on threads of their own, and share one deadline: a monitor that says nothing, or a path
//! into a file system that never answers, keeps nobody waiting but its own thread. An answer is kept until the threads
//! that it names are gone, or the process has another number of threads. A monitor that gave none is left alone for a
//! while, longer each time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use huddle_model::vm::TaskId;

use super::cmdline::{self, ConfigFiles};
use super::config_file;
use super::monitor_socket::Listener;
use super::qmp::{self, QmpError};
use crate::HostRoot;
use crate::limits::{Limits, count};
use crate::threads::without_signals;

/// How long a monitor that did not answer is left alone at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(600)];

/// An answer for another number of threads is asked for again at the soonest after this time: programs start and end
/// threads of other kinds all the time.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Monitors that are asked at one time. Each takes a few descriptors and a thread.
const SIDE_BY_SIDE: usize = 32;

/// A thread of a conversation needs little.
const STACK_BYTES: usize = 512 << 10;

/// vCPU numbers with thread ids as the process itself counts them.
pub(super) type Threads = Vec<(u32, i32)>;

/// What monitors said.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    known: BTreeMap<TaskId, Answer>,
    /// Threads that still wait for something.
    at_work: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Answer {
    threads: Result<Threads, String>,
    /// Threads that the process had.
    of_threads: usize,
    at: Instant,
    /// How long it is left alone after a failure.
    patience: Duration,
}

/// A VM whose threads are to be asked for.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) process: TaskId,
    pub(super) uid: u32,
    pub(super) sockets: Vec<PathBuf>,
    /// Files that may name further ones.
    pub(super) configs: ConfigFiles,
    /// Threads that the process has.
    pub(super) threads: usize,
}

/// What one thread is to find out, and what it found.
type Job = (TaskId, Listener, Vec<PathBuf>, ConfigFiles);
type Done = (TaskId, Result<Threads, String>);

impl Monitors {
    /// Forgets processes that are not in `alive`.
    pub(super) fn retain(&mut self, alive: &BTreeSet<TaskId>) {
        self.known.retain(|process, _| alive.contains(process));
    }

    /// What is known of a process; `None` where it was not reached yet.
    pub(super) fn answer(&self, process: TaskId) -> Option<&Result<Threads, String>> {
        self.known.get(&process).map(|answer| &answer.threads)
    }

    /// Forgets what a process said: its threads are not there any more.
    pub(super) fn forget(&mut self, process: TaskId) {
        self.known.remove(&process);
    }

    /// Asks those of whom nothing current is known.
    pub(super) fn ask(&mut self, root: &HostRoot, questions: &[Question], limits: &Limits) {
        let now = Instant::now();
        let due: Vec<&Question> = questions.iter().filter(|question| self.is_due(question, now)).collect();
        let jobs: VecDeque<Job> = due
            .iter()
            .map(|question| {
                let listener = Listener { pid: question.process.id, uid: question.uid };
                (question.process, listener, question.sockets.clone(), question.configs.clone())
            })
            .collect();
        if jobs.is_empty() {
            return;
        }
        for (process, threads) in self.side_by_side(root, jobs, limits) {
            let before = self.known.get(&process).filter(|answer| answer.threads.is_err());
            let patience = before.map_or(RETRY[0], |before| (before.patience * 2).min(RETRY[1]));
            let of_threads = due.iter().find(|question| question.process == process).map_or(0, |q| q.threads);
            self.known.insert(process, Answer { threads, of_threads, at: Instant::now(), patience });
        }
    }

    fn is_due(&self, question: &Question, now: Instant) -> bool {
        let Some(answer) = self.known.get(&question.process) else { return true };
        let age = now.saturating_duration_since(answer.at);
        match &answer.threads {
            Ok(_) => answer.of_threads != question.threads && age >= MAX_AGE,
            Err(_) => age >= answer.patience,
        }
    }

    /// What came back in time. Who did not answer in time is among them; who was not reached is not.
    fn side_by_side(&self, root: &HostRoot, jobs: VecDeque<Job>, limits: &Limits) -> Vec<Done> {
        let deadline = Instant::now() + limits.monitor_time();
        let workers = jobs.len().min(SIDE_BY_SIDE.saturating_sub(self.at_work.load(Ordering::Relaxed)));
        let jobs = Arc::new(Mutex::new(jobs));
        let begun = Arc::new(Mutex::new(BTreeSet::new()));
        let (to_here, answers) = mpsc::channel::<Done>();
        for _ in 0..workers {
            let (root, limits, jobs) = (root.clone(), limits.clone(), Arc::clone(&jobs));
            let (begun, to_here, at_work) =
                (Arc::clone(&begun), to_here.clone(), AtWork::begin(&self.at_work));
            let work = move || {
                let _at_work = at_work;
                while Instant::now() < deadline {
                    let Some((process, listener, sockets, configs)) = lock(&jobs).pop_front() else { return };
                    lock(&begun).insert(process);
                    let threads = sockets_of(&root, listener, sockets, configs, &limits)
                        .and_then(|sockets| ask(&root, listener, &sockets, &limits, deadline));
                    if to_here.send((process, threads.map_err(|error| error.to_string()))).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name("monitor".into()).stack_size(STACK_BYTES);
            // It may still be waiting when vCPUs are pinned, which no signal may interrupt.
            let started = without_signals(|| thread.spawn(work));
            // Where no thread can be had fewer are asked at a time.
            if started.is_err() {
                break;
            }
        }
        drop(to_here);
        // A conversation that is within its time ends by itself at the deadline.
        let grace = deadline + limits.monitor_time() / 4;
        let mut done: Vec<Done> = Vec::new();
        while let Ok(answer) = answers.recv_timeout(grace.saturating_duration_since(Instant::now())) {
            done.push(answer);
        }
        let answered: BTreeSet<TaskId> = done.iter().map(|(process, _)| *process).collect();
        let late: Vec<TaskId> = lock(&begun).difference(&answered).copied().collect();
        let why = format!("its QMP socket could not be reached within {} ms", limits.monitor_ms);
        done.extend(late.into_iter().map(|process| (process, Err(why.clone()))));
        done
    }
}

/// The sockets of a process, with those that its configuration files name.
fn sockets_of(
    root: &HostRoot,
    listener: Listener,
    mut sockets: Vec<PathBuf>,
    configs: ConfigFiles,
    limits: &Limits,
) -> Result<Vec<PathBuf>, QmpError> {
    let ConfigFiles { paths, mut args } = configs;
    let mut failed = None;
    for path in &paths {
        match config_file::read(root, listener, path, limits.command_line_bytes()) {
            Ok(text) => args.extend(config_file::as_args(&text)),
            Err(source) => failed = Some(QmpError::Config { path: path.clone(), source }),
        }
    }
    if !paths.is_empty() {
        sockets = cmdline::qmp_sockets(&args);
    }
    sockets.truncate(count(limits.monitors));
    match failed {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok(sockets),
    }
}

/// Asks the sockets of a process until one answers.
fn ask(
    root: &HostRoot,
    listener: Listener,
    sockets: &[PathBuf],
    limits: &Limits,
    deadline: Instant,
) -> Result<Threads, QmpError> {
    let mut last = None;
    for socket in sockets {
        match qmp::query_cpus(root, listener, socket, limits, deadline) {
            Ok(threads) => return Ok(threads),
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(Vec::new()), Err)
}

/// Counts a thread for as long as it lives.
struct AtWork(Arc<AtomicUsize>);

impl AtWork {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a thread that panicked left behind is whole: each step is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn mute_monitors_are_waited_for_at_one_time_and_then_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let own = Listener::this_process();
        std::fs::create_dir_all(root.proc(own.pid.to_string())).unwrap();
        symlink(dir.path(), root.proc(format!("{}/root", own.pid))).unwrap();
        let limits = Limits { monitor_ms: 300, ..Limits::default() };
        let mut listeners = Vec::new();
        let questions: Vec<Question> = (0..SIDE_BY_SIDE as u64)
            .map(|number| {
                let name = format!("q{number}");
                listeners.push(UnixListener::bind(dir.path().join(&name)).unwrap());
                // Several VMs in one process: they differ by their start here.
                let process = TaskId { id: own.pid, start_ticks: number };
                Question {
                    process,
                    uid: own.uid,
                    sockets: vec![format!("/{name}").into()],
                    configs: ConfigFiles::default(),
                    threads: 1,
                }
            })
            .collect();
        let mut monitors = Monitors::default();
        let begin = Instant::now();
        monitors.ask(&root, &questions, &limits);
        let took = begin.elapsed();
        assert!(took >= limits.monitor_time() && took < limits.monitor_time() * 3, "{took:?}");
        for question in &questions {
            let answer = monitors.answer(question.process).unwrap().as_ref().unwrap_err();
            assert!(answer.contains("does not answer within 300 ms"), "{answer}");
        }
        let begin = Instant::now();
        monitors.ask(&root, &questions, &limits);
        assert!(begin.elapsed() < limits.monitor_time());
        monitors.retain(&BTreeSet::new());
        assert!(monitors.answer(questions[0].process).is_none());
        drop(listeners);
    }
}
