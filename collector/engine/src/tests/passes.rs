//! Passes of KSM, and the rounds that follow them.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use huddle_host::stages::{Pass, PassTrigger, TriggerError};

use super::*;

/// A pass every few milliseconds.
pub(super) struct Often;

impl PassTrigger for Often {
    fn name(&self) -> &'static str {
        "often"
    }

    fn wait(&mut self, _timeout: Duration) -> Result<Option<Pass>, TriggerError> {
        std::thread::sleep(Duration::from_millis(5));
        Ok(Some(Pass { full_scans: 1, began_ns: None, ended_ns: None, rmap_items: None, missed: 0 }))
    }
}

/// Never reports a pass, and says why from the second look on.
#[derive(Default)]
pub(super) struct Idle {
    looks: u32,
}

impl PassTrigger for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<Pass>, TriggerError> {
        std::thread::sleep(timeout.min(Duration::from_millis(5)));
        Ok(None)
    }

    fn idle(&mut self) -> Option<String> {
        self.looks += 1;
        (self.looks > 1).then(|| "nothing is scanned".to_owned())
    }
}

/// Fails instead of reporting a pass.
pub(super) struct Broken;

impl PassTrigger for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn wait(&mut self, _timeout: Duration) -> Result<Option<Pass>, TriggerError> {
        Err(TriggerError::Poll(nix::errno::Errno::EBADF))
    }
}

/// A pass for each byte in a pipe; counts how often it is asked.
struct Piped {
    passes: PipeReader,
    asked: Arc<AtomicU64>,
}

impl PassTrigger for Piped {
    fn name(&self) -> &'static str {
        "piped"
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<Pass>, TriggerError> {
        assert_eq!(timeout, Duration::ZERO, "it has a descriptor to wait for");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut bytes = [0; 16];
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&self.passes, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
        let read = self.passes.read(&mut bytes).unwrap_or(0) as u64;
        let pass = Pass { full_scans: read, began_ns: None, ended_ns: None, rmap_items: None, missed: 0 };
        Ok((read > 0).then_some(pass))
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.passes.as_fd())
    }
}

#[tokio::test]
async fn rounds_follow_passes_until_stopped_and_then_everything_is_undone() {
    let pinner = FakePinner::default();
    let engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    let publisher = Publisher::new(100);
    let steps = Mutex::new(0);
    let publish = |step: &Step| {
        *steps.lock().unwrap() += 1;
        publisher.publish(step, Arc::clone(step));
    };
    let stop = seen(publisher.subscribe(), |view| view.round.number >= 4);
    let options = RunOptions {
        without_passes: WITHOUT_PASSES,
        min_interval: Duration::ZERO,
        rounds: None,
        window: Duration::from_secs(60),
    };
    let end = run(engine, Box::new(Often), stop, publish, no_commands(), options).await.unwrap();
    assert_eq!(end.rounds, 4);
    assert_eq!(*steps.lock().unwrap(), 4);
    let log = pinner.0.lock().unwrap();
    assert_eq!(log.iter().filter(|what| what.starts_with("apply")).count(), 4);
    assert_eq!(log.last().map(String::as_str), Some("undo"));
    assert_eq!(end.undo.unwrap().restored, 1);
}

#[tokio::test]
async fn without_passes_rounds_come_by_time_and_it_is_said_once() {
    let pinner = FakePinner::default();
    let engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    let said = Mutex::new(Vec::new());
    let publish = |step: &Step| {
        let events = step.iter().filter_map(|update| match update {
            Update::Event(event) => Some(event.message.clone()),
            _ => None,
        });
        said.lock().unwrap().extend(events);
    };
    let options = RunOptions {
        without_passes: Duration::from_millis(50),
        min_interval: Duration::ZERO,
        rounds: Some(4),
        window: Duration::from_secs(60),
    };
    let begin = std::time::Instant::now();
    let trigger = Box::new(Idle::default());
    let end = run(engine, trigger, std::future::pending(), publish, no_commands(), options).await.unwrap();
    assert_eq!((end.rounds, end.broken), (4, None));
    assert!(begin.elapsed() >= Duration::from_millis(150), "not before the time");
    assert_eq!(*said.lock().unwrap(), ["rounds come by time, not after passes of KSM: nothing is scanned"]);
}

#[tokio::test]
async fn passes_that_come_faster_than_the_interval_make_one_round() {
    let pinner = FakePinner::default();
    let engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    let begin = std::time::Instant::now();
    let options = RunOptions {
        without_passes: WITHOUT_PASSES,
        min_interval: Duration::from_millis(100),
        rounds: Some(4),
        window: Duration::from_secs(60),
    };
    run(engine, Box::new(Often), std::future::pending(), |_| {}, no_commands(), options).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300), "there are three intervals between four rounds");
}

#[tokio::test]
async fn a_trigger_that_breaks_ends_in_waiting_for_the_stop_and_undoes() {
    let pinner = FakePinner::default();
    let engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    let stop = tokio::time::sleep(Duration::from_millis(300));
    let options = RunOptions {
        without_passes: WITHOUT_PASSES,
        min_interval: Duration::ZERO,
        rounds: None,
        window: Duration::from_secs(60),
    };
    let end = run(engine, Box::new(Broken), stop, |_| {}, no_commands(), options).await.unwrap();
    assert_eq!((end.rounds, end.undo.unwrap().restored), (1, 1));
}

#[tokio::test]
async fn a_trigger_with_a_descriptor_is_asked_only_when_there_may_be_a_pass() {
    let engine = engine(vec![Ok(vec![vm("a", 1)])], &FakePinner::default());
    let (passes, sender): (PipeReader, PipeWriter) = std::io::pipe().unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let trigger = Box::new(Piped { passes, asked: Arc::clone(&asked) });
    let rounds = AtomicU64::new(0);
    // A pass 250 ms after each round: a trigger that is polled would be asked in between.
    let publish = |_: &Step| {
        rounds.fetch_add(1, Ordering::Relaxed);
        let mut sender = sender.try_clone().unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(250));
            // After the last round nobody may be there to read it.
            let _ = sender.write_all(&[1]);
        });
    };
    let options = RunOptions {
        without_passes: WITHOUT_PASSES,
        min_interval: Duration::ZERO,
        rounds: Some(4),
        window: Duration::from_secs(60),
    };
    let end = run(engine, trigger, std::future::pending(), publish, no_commands(), options).await.unwrap();
    assert_eq!((end.rounds, rounds.into_inner()), (4, 4));
    // Before and after each of three passes, and once more where the descriptor was ready from before.
    let asked = asked.load(Ordering::Relaxed);
    assert!((6..=9).contains(&asked), "{asked}");
}
