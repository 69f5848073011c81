//! The load generator: one user of one server, who records when each response was complete.
//!
//! In a closed loop the next request follows the response. In an open loop requests are sent at constant
//! intervals; where the server is late, they wait for the one connection, and a response time counts from
//! when its request was to be sent, so that waiting is not hidden ("coordinated omission").
//!
//! Requests are sent by a thread that runs on the CPUs of its server, as the paper's users do, who sit inside
//! the VMs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use huddle_guest::chase::NODE_WORDS;
use huddle_host::clock::unix_us;
use huddle_host::pin::mask;
use huddle_model::rng::Rng;
use huddle_model::summary::{Failure, Response};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// How long to wait after a connection failed at once.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// How often the wait for the next request of an open loop looks whether it is to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// As soon as the one before has its response.
    Closed,
    /// At constant intervals.
    Open {
        /// The interval.
        every: Duration,
        /// How long after the start the first one is.
        first: Duration,
    },
}

/// The requests of a user, one after the other until they are stopped.
#[derive(Clone, Debug)]
pub struct Requests {
    /// The target without the position to begin at: `/resident.php?own=0&reads=7`.
    pub target: String,
    /// Words of the data; each request begins at a random node.
    pub words: u64,
    /// Seed of these nodes.
    pub seed: u64,
    /// When requests are sent.
    pub schedule: Schedule,
    /// After how long a request has failed.
    pub timeout: Duration,
}

/// Status and body of a response.
type Answer = Result<(u16, String), Failure>;

/// A user. Dropping it ends its requests.
#[derive(Debug)]
pub struct User {
    address: SocketAddr,
    pid: i32,
    /// `None` while its thread has it.
    client: Option<Client>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    progress: Arc<Progress>,
    results: Receiver<(Client, Vec<Response>)>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Progress {
    stop: AtomicBool,
    answered: AtomicUsize,
}

impl User {
    /// A user of the server at `address` whose process is `pid`.
    pub fn new(address: SocketAddr, pid: i32) -> Self {
        Self { address, pid, client: None, running: None }
    }

    /// Sends one request: a PUT of `body`, or a GET where there is none.
    ///
    /// # Errors
    /// No response.
    pub fn ask(&mut self, target: &str, body: Option<Bytes>, timeout: Duration) -> Answer {
        let mut client = self.client().map_err(|_| Failure::Connection)?;
        let mut answer = client.ask(target, body.clone(), timeout);
        if answer == Err(Failure::Connection) {
            // The server may have closed an idle connection: try a new one.
            answer = client.ask(target, body, timeout);
        }
        self.client = Some(client);
        answer
    }

    /// Begins to send requests.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(&mut self, requests: Requests) -> std::io::Result<()> {
        let mut client = self.client()?;
        let progress = Arc::new(Progress::default());
        let (sender, results) = channel();
        let (pid, shared) = (self.pid, Arc::clone(&progress));
        let thread = std::thread::Builder::new().name(format!("user of {pid}")).spawn(move || {
            // The CPUs of the server, which was placed before.
            if let Ok(cpus) = mask::get(pid) {
                let _ = mask::set(0, &cpus);
            }
            let responses = requests.send_all(&shared, &mut client);
            let _ = sender.send((client, responses));
        })?;
        self.running = Some(Running { progress, results, thread });
        Ok(())
    }

    /// How many requests since the start have an outcome, good or not.
    pub fn answered(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.progress.answered.load(Ordering::Acquire))
    }

    /// Stops, and returns all requests since the start in their order; `None` when it does not stop within
    /// `limit`.
    pub fn stop(&mut self, limit: Duration) -> Option<Vec<Response>> {
        let Some(running) = &self.running else { return Some(Vec::new()) };
        running.progress.stop.store(true, Ordering::Release);
        let (client, responses) = running.results.recv_timeout(limit).ok()?;
        (self.client, self.running) = (Some(client), None);
        Some(responses)
    }

    fn client(&mut self) -> std::io::Result<Client> {
        self.client.take().map_or_else(|| Client::new(self.address), Ok)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(Running { progress, thread, .. }) = self.running.take() {
            progress.stop.store(true, Ordering::Release);
            // At the latest after the time-out of a request.
            let _ = thread.join();
        }
    }
}

impl Requests {
    fn send_all(&self, progress: &Progress, client: &mut Client) -> Vec<Response> {
        let (begun, begun_us) = (Instant::now(), unix_us());
        let mut rng = Rng::new(self.seed);
        let mut responses = Vec::new();
        while let Some(due) = self.wait_until_due(begun, responses.len(), &progress.stop) {
            let nodes = self.words / NODE_WORDS as u64;
            let from = rng.below(nodes.max(1) as usize) * NODE_WORDS;
            let answer = client.ask(&format!("{}&from={from}", self.target), None, self.timeout);
            let latency_ns = due.elapsed().as_nanos() as u64;
            let (status, failure) = classify(answer, self.words);
            let at_us = begun_us + due.duration_since(begun).as_micros() as i64;
            responses.push(Response { at_us, latency_ns, status, failure });
            progress.answered.store(responses.len(), Ordering::Release);
            if failure == Some(Failure::Connection) {
                std::thread::sleep(RETRY_DELAY);
            }
        }
        responses
    }

    /// When request `number` is to be sent, once that is; `None` when stopped.
    fn wait_until_due(&self, begun: Instant, number: usize, stop: &AtomicBool) -> Option<Instant> {
        let due = match self.schedule {
            Schedule::Closed => Instant::now(),
            Schedule::Open { every, first } => begun + first + every.mul_f64(number as f64),
        };
        while !stop.load(Ordering::Acquire) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(due);
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
        None
    }
}

/// The status of an answer, and why it is not a good one, with a position within the data as its body.
fn classify(answer: Answer, words: u64) -> (Option<u16>, Option<Failure>) {
    match answer {
        Err(failure) => (None, Some(failure)),
        Ok((200, body)) => {
            let is_position = body.trim_end().parse().is_ok_and(|position: u64| position < words);
            (Some(200), (!is_position).then_some(Failure::Body))
        }
        Ok((status, _)) => (Some(status), Some(Failure::Status)),
    }
}

/// One connection that is kept, and opened anew after it broke: a server has one worker, which a second
/// connection would wait for.
#[derive(Debug)]
struct Client {
    address: SocketAddr,
    runtime: Runtime,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    fn new(address: SocketAddr) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        Ok(Self { address, runtime, sender: None })
    }

    fn ask(&mut self, target: &str, body: Option<Bytes>, timeout: Duration) -> Answer {
        let exchange = exchange(self.address, &mut self.sender, target, body);
        let answer = self.runtime.block_on(async { tokio::time::timeout(timeout, exchange).await });
        answer.unwrap_or(Err(Failure::TimedOut))
    }
}

/// Keeps the connection only after a whole answer: what is still to come after a time-out would be taken for the
/// answer to another request.
async fn exchange(
    address: SocketAddr,
    kept: &mut Option<SendRequest<Full<Bytes>>>,
    target: &str,
    body: Option<Bytes>,
) -> Answer {
    let broken = |_| Failure::Connection;
    let mut sender = match kept.take().filter(|sender| !sender.is_closed()) {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connection)?;
            stream.set_nodelay(true).map_err(|_| Failure::Connection)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
            // It ends with the sender; what breaks it shows in the answer that does not come.
            tokio::spawn(async move { drop(connection.await) });
            sender
        }
    };
    sender.ready().await.map_err(broken)?;
    let request = hyper::Request::builder()
        .method(if body.is_some() { hyper::Method::PUT } else { hyper::Method::GET })
        .uri(target)
        .header(hyper::header::HOST, address.to_string())
        .body(Full::new(body.unwrap_or_default()))
        .map_err(|_| Failure::Connection)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    *kept = Some(sender);
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests;
