//! The load generator: one user of one server, on a thread and a connection of its own, who records when
//! each response was complete.
//!
//! In a closed loop the next request follows the response. In an open loop requests are sent at constant
//! distances; where the server is late, they wait for the one connection, and a response time counts from
//! when its request was to be sent, so that waiting is not hidden ("coordinated omission").
//!
//! The thread runs where its server runs, as the paper's users do, who sit inside the VMs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use huddle_guest::chase::NODE_WORDS;
use huddle_model::rng::Rng;
use huddle_model::summary::{Failure, Response};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tokio::net::TcpStream;

use huddle_host::clock::unix_us;

/// How long the thread rests after a connection that failed at once.
const PAUSE: Duration = Duration::from_millis(5);

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// After the response to the one before and a rest.
    Closed {
        /// The rest.
        rest: Duration,
    },
    /// At constant distances.
    Open {
        /// The distance.
        every: Duration,
        /// How long after the start the first one is.
        first: Duration,
    },
}

/// What is asked for, and how.
#[derive(Clone, Debug)]
pub struct Work {
    /// The target without the position to begin at: `/resident.php?own=0&reads=7`.
    pub target: String,
    /// Words of the data; requests begin at nodes drawn by lot.
    pub words: u64,
    /// Seed of that lot.
    pub seed: u64,
    /// When requests are sent.
    pub schedule: Schedule,
    /// After how long a request has failed.
    pub timeout: Duration,
}

/// What a user got while it worked.
#[derive(Debug, Default)]
struct Served {
    stop: AtomicBool,
    count: AtomicUsize,
    good: AtomicU64,
    position: AtomicU64,
    responses: Mutex<Vec<Response>>,
}

/// What is sent.
struct Request {
    target: String,
    /// What is to be put there; `None` to get.
    body: Option<Bytes>,
}

impl Request {
    fn get(target: impl Into<String>) -> Self {
        Self { target: target.into(), body: None }
    }
}

enum Command {
    Ask { request: Request, timeout: Duration, answer: Sender<Result<(u16, String), Failure>> },
    Work { work: Work, served: Arc<Served>, done: Sender<()> },
}

/// A user. Dropping it ends its thread.
#[derive(Debug)]
pub struct User {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    working: Option<(Arc<Served>, Receiver<()>)>,
}

impl User {
    /// A user of the server at `address` whose process is `pid`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(name: &str, address: SocketAddr, pid: i32) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (commands, received) = channel();
        let thread = std::thread::Builder::new().name(format!("user of {name}")).spawn(move || {
            let mut connection = Connection { address, sender: None };
            while let Ok(command) = received.recv() {
                runtime.block_on(handle(command, &mut connection, pid));
            }
        })?;
        Ok(Self { commands: Some(commands), thread: Some(thread), working: None })
    }

    /// Asks once: status and body.
    ///
    /// # Errors
    /// No response.
    pub fn get(&self, target: &str, timeout: Duration) -> Result<(u16, String), Failure> {
        self.ask(Request::get(target), timeout)
    }

    /// Sends `body` once: status and body of the answer.
    ///
    /// # Errors
    /// No response.
    pub fn put(&self, target: &str, body: Vec<u8>, timeout: Duration) -> Result<(u16, String), Failure> {
        self.ask(Request { target: target.to_owned(), body: Some(body.into()) }, timeout)
    }

    fn ask(&self, request: Request, timeout: Duration) -> Result<(u16, String), Failure> {
        let (answer, answered) = channel();
        self.command(Command::Ask { request, timeout, answer });
        // The thread keeps the limit itself; this is only for one that is gone.
        answered.recv_timeout(timeout + Duration::from_secs(5)).unwrap_or(Err(Failure::Connection))
    }

    /// Begins to work, and forgets what it did before.
    pub fn work(&mut self, work: Work) {
        let served = Arc::new(Served::default());
        let (done, finished) = channel();
        self.command(Command::Work { work, served: served.clone(), done });
        self.working = Some((served, finished));
    }

    /// How many requests are done since it began, good or not.
    pub fn count(&self) -> usize {
        self.working.as_ref().map_or(0, |(served, _)| served.count.load(Ordering::Acquire))
    }

    /// How many of them were good, and the position that the last of those came to.
    pub fn good(&self) -> (u64, u64) {
        let (good, position) = match &self.working {
            Some((served, _)) => (&served.good, &served.position),
            None => return (0, 0),
        };
        (good.load(Ordering::Acquire), position.load(Ordering::Acquire))
    }

    /// Stops, and tells all requests since it began in their order; `None` when it does not stop within
    /// `limit`.
    pub fn stop(&mut self, limit: Duration) -> Option<Vec<Response>> {
        let Some((served, finished)) = self.working.take() else { return Some(Vec::new()) };
        served.stop.store(true, Ordering::Release);
        match finished.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => None,
            _ => Some(std::mem::take(&mut *served.responses.lock().unwrap_or_else(PoisonError::into_inner))),
        }
    }

    fn command(&self, command: Command) {
        // A thread that is gone shows in the answer that does not come.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some((served, _)) = &self.working {
            served.stop.store(true, Ordering::Release);
        }
        // Its queue ends, and with it the thread, at the latest after the time-out of a request.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn handle(command: Command, connection: &mut Connection, pid: i32) {
    match command {
        Command::Ask { request, timeout, answer } => {
            let mut got = connection.ask(&request, timeout).await;
            if got == Err(Failure::Connection) {
                // A connection that was idle may have been closed; a new one tells.
                got = connection.ask(&request, timeout).await;
            }
            let _ = answer.send(got);
        }
        Command::Work { work, served, done } => {
            // Where the server may run: it was placed before.
            if let Ok(cpus) = sched_getaffinity(Pid::from_raw(pid)) {
                let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
            }
            serve(&work, &served, connection).await;
            let _ = done.send(());
        }
    }
}

async fn serve(work: &Work, served: &Served, connection: &mut Connection) {
    let (begun, begun_us) = (Instant::now(), unix_us());
    let mut rng = Rng::new(work.seed);
    for number in 0.. {
        if served.stop.load(Ordering::Acquire) {
            return;
        }
        let due = match work.schedule {
            Schedule::Closed { rest } if number > 0 && !rest.is_zero() => {
                tokio::time::sleep(rest).await;
                Instant::now()
            }
            Schedule::Closed { .. } => Instant::now(),
            Schedule::Open { every, first } => {
                let due = begun + first + every.mul_f64(f64::from(number));
                if !wait_until(due, &served.stop).await {
                    return;
                }
                due
            }
        };
        let nodes = work.words / NODE_WORDS as u64;
        let from = rng.below(nodes.max(1) as usize) * NODE_WORDS;
        let request = Request::get(format!("{}&from={from}", work.target));
        let got = connection.ask(&request, work.timeout).await;
        let latency_ns = due.elapsed().as_nanos() as u64;
        let (status, verdict) = classify(got, work.words);
        if let Ok(position) = verdict {
            served.position.store(position, Ordering::Release);
            served.good.fetch_add(1, Ordering::Release);
        }
        let failure = verdict.err();
        let at_us = begun_us + due.duration_since(begun).as_micros() as i64;
        let response = Response { at_us, latency_ns, status, failure };
        served.responses.lock().unwrap_or_else(PoisonError::into_inner).push(response);
        served.count.fetch_add(1, Ordering::Release);
        if failure == Some(Failure::Connection) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether to go on: false when it was stopped before.
async fn wait_until(due: Instant, stop: &AtomicBool) -> bool {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        if stop.load(Ordering::Acquire) {
            return false;
        }
    }
}

/// The status of an answer, and the position it tells or why it is no good one.
fn classify(got: Result<(u16, String), Failure>, words: u64) -> (Option<u16>, Result<u64, Failure>) {
    match got {
        Err(failure) => (None, Err(failure)),
        Ok((200, body)) => {
            let position = body.trim_end().parse().ok().filter(|position| *position < words);
            (Some(200), position.ok_or(Failure::Body))
        }
        Ok((status, _)) => (Some(status), Err(Failure::Status)),
    }
}

/// A connection that is kept, and made anew after it broke.
struct Connection {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    async fn ask(&mut self, request: &Request, timeout: Duration) -> Result<(u16, String), Failure> {
        let answer =
            tokio::time::timeout(timeout, self.exchange(request)).await.unwrap_or(Err(Failure::TimedOut));
        if answer.is_err() {
            // What is still to come on it would be the answer to another request.
            self.sender = None;
        }
        answer
    }

    async fn exchange(&mut self, request: &Request) -> Result<(u16, String), Failure> {
        let broken = |_| Failure::Connection;
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(self.address).await.map_err(|_| Failure::Connection)?;
            stream.set_nodelay(true).map_err(|_| Failure::Connection)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
            // It ends with the sender; what breaks it shows in the answer that does not come.
            tokio::spawn(async move { drop(connection.await) });
            self.sender = Some(sender);
        }
        let Some(sender) = self.sender.as_mut() else { return Err(Failure::Connection) };
        sender.ready().await.map_err(broken)?;
        let method = if request.body.is_some() { hyper::Method::PUT } else { hyper::Method::GET };
        let request = hyper::Request::builder()
            .method(method)
            .uri(&request.target)
            .header(hyper::header::HOST, self.address.to_string())
            .body(Full::new(request.body.clone().unwrap_or_default()))
            .map_err(|_| Failure::Connection)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

#[cfg(test)]
mod tests;
