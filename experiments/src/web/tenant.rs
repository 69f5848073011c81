//! A tenant: a web server and its one user, as a guest of the experiment.

use std::time::{Duration, Instant};

use huddle_guest::chase;
use huddle_model::rng::Rng;
use huddle_model::summary::{Failure, Response};
use hyper::body::Bytes;

use super::load::{Requests, User};
use super::server::Server;
use super::{Page, WebSpec};
use crate::guest::{Guest, GuestData, GuestError, GuestId, Pace};
use crate::interrupt::Interrupt;

/// The random streams of where in the data requests begin (see [`Rng::of_part`]).
const REQUESTS: u64 = 4000;

/// A guest that answers requests.
pub trait Tenant: Guest {
    /// Requests since it was started that have an outcome, good or not.
    fn answered(&self) -> usize;

    /// The requests between the last start and stop, in their order.
    fn take_responses(&mut self) -> Vec<Response>;
}

/// A running tenant. Dropping it ends its server.
#[derive(Debug)]
pub struct WebTenant {
    // In the order of their ends: without a server the user's last request is over at once.
    server: Server,
    user: User,
    spec: WebSpec,
    number: usize,
    interrupt: Interrupt,
    words: u64,
    responses: Vec<Response>,
}

impl WebTenant {
    /// The tenant `number` of `spec`, whose server does not answer yet: see [`Guest::wait_ready`]. `interrupt` ends
    /// every waiting for it.
    pub fn new(server: Server, spec: &WebSpec, number: usize, interrupt: &Interrupt) -> Self {
        let user = User::new(server.address, server.process.instance.pid());
        let (spec, interrupt) = (spec.clone(), interrupt.clone());
        Self { server, user, spec, number, interrupt, words: 0, responses: Vec::new() }
    }

    /// Makes sure that `target`, a GET or with a body a PUT, gives the answer `expected`.
    fn expect(
        &mut self,
        command: &'static str,
        target: &str,
        body: Option<Bytes>,
        expected: &str,
    ) -> Result<(), GuestError> {
        let limit = self.spec.limits().ready;
        match self.user.ask(target, body, limit) {
            Ok((200, body)) if body == expected => Ok(()),
            Ok((status, body)) => Err(self.unexpected(command, status, &body)),
            Err(failure) => {
                if failure == Failure::Connection {
                    self.server.process.check_disconnected(command)?;
                }
                Err(self.server.process.timed_out(command, limit))
            }
        }
    }

    fn unexpected(&self, command: &'static str, status: u16, body: &str) -> GuestError {
        let process = &self.server.process;
        process.unexpected(command, format!("{status} {}{}", body.trim_end(), process.end_of_output()))
    }
}

impl Guest for WebTenant {
    fn name(&self) -> &str {
        self.server.process.name()
    }

    fn id(&self) -> GuestId {
        self.server.process.id()
    }

    fn wait_ready(&mut self) -> Result<(), GuestError> {
        let limit = self.spec.limits().ready;
        let until = Instant::now() + limit;
        loop {
            self.interrupt.check()?;
            self.server.process.check("ready")?;
            let left = until.saturating_duration_since(Instant::now());
            match self.user.ask("/ready.php", None, left.min(Duration::from_secs(1))) {
                Ok((200, body)) if body == "ready\n" => return Ok(()),
                Ok((status, body)) => return Err(self.unexpected("ready", status, &body)),
                Err(_) if left.is_zero() => return Err(self.server.process.timed_out("ready", limit)),
                Err(_) => self.interrupt.sleep(Duration::from_millis(20))?,
            }
        }
    }

    fn check(&mut self) -> Result<(), GuestError> {
        self.server.process.check("request")
    }

    /// Has the server store both files and, where the page keeps data in memory, load them. Makes sure that requests
    /// really follow the data.
    fn load(&mut self, data: GuestData) -> Result<(), GuestError> {
        const PROBE_READS: u64 = 1000;
        let mut words = vec![0; data.kib as usize * 1024 / size_of::<u64>()];
        chase::fill(&mut words, data.seed);
        let end = chase::walk(&words, 0, PROBE_READS);
        self.words = words.len() as u64;
        let mut own = words.clone();
        chase::set_apart(&mut own, data.own_seed);
        for (file, words) in [("data.bin", words), ("own.bin", own)] {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let stored = format!("stored {}\n", bytes.len());
            self.expect("load", &format!("/put.php?file={file}"), Some(bytes.into()), &stored)?;
        }
        if self.spec.settings.page == Page::Resident {
            self.expect("load", "/load.php", None, &format!("loaded {}\n", data.kib * 1024))?;
        }
        for own in [0, 1] {
            // Without writing: what was written to is no longer what was loaded.
            let page = self.spec.settings.page.name();
            let target = format!("/{page}.php?own={own}&visits=1&reads={PROBE_READS}&from=0");
            self.expect("request", &target, None, &format!("{end}\n"))?;
        }
        Ok(())
    }

    fn start(&mut self, pace: Pace, own: bool) -> Result<(), GuestError> {
        self.check()?;
        self.responses.clear();
        let settings = &self.spec.settings;
        let page = if self.spec.writes(self.number) { "writer" } else { settings.page.name() };
        let (own, visits, reads) = (u8::from(own), settings.visits, pace.burst_reads);
        let started = self.user.start(Requests {
            target: format!("/{page}.php?own={own}&visits={visits}&reads={reads}"),
            words: self.words,
            seed: Rng::of_part(self.spec.seed, REQUESTS + self.number as u64).next_u64(),
            schedule: self.spec.schedule(self.number),
            timeout: settings.timeout(),
        });
        started.map_err(|source| GuestError::start(self.name(), "its user", source))
    }

    fn stop(&mut self) -> Result<(), GuestError> {
        let limit = self.spec.settings.timeout() + self.spec.limits().answer;
        let responses = self.user.stop(limit);
        self.responses = responses.ok_or_else(|| self.server.process.timed_out("stop", limit))?;
        self.check()
    }
}

impl Tenant for WebTenant {
    fn answered(&self) -> usize {
        self.user.answered()
    }

    fn take_responses(&mut self) -> Vec<Response> {
        std::mem::take(&mut self.responses)
    }
}
