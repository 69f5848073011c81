//! A tenant: a web server and its one user, as a guest of the experiment.

use std::time::{Duration, Instant};

use huddle_guest::chase;
use huddle_model::summary::{Failure, Response};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::load::{Schedule, User, Work};
use super::server::Server;
use super::spec::Page;
use crate::guest::{Guest, GuestData, GuestError, Holder, Pace, Patience, Reading};
use crate::interrupt::Interrupt;

/// A guest that answers requests.
pub trait Tenant: Guest {
    /// Requests done since it was started, good or not.
    fn answered(&self) -> usize;

    /// The requests between the last start and stop, in their order.
    fn take_responses(&mut self) -> Vec<Response>;
}

/// How a tenant is to work.
#[derive(Debug)]
pub struct TenantSpec {
    /// Name of its VM, or of the one it stands for.
    pub name: String,
    /// What requests ask for.
    pub page: Page,
    /// Whether they write to all of the data they visit.
    pub writes: bool,
    /// How often a request visits the data.
    pub visits: u64,
    /// Seed of where in the data requests begin.
    pub seed: u64,
    /// In an open loop, when the requests are sent; in a closed one the pace's rest counts.
    pub open: Option<Schedule>,
    /// After how long a request has failed.
    pub timeout: Duration,
    /// How long it may take to be up and to take its data, and to answer anything else.
    pub patience: Patience,
}

/// A running tenant. Dropping it ends its server.
#[derive(Debug)]
pub struct WebTenant {
    // In the order of their ends: without a server the user's last request is over at once.
    server: Server,
    user: User,
    spec: TenantSpec,
    words: u64,
    started: Option<Started>,
    responses: Vec<Response>,
}

#[derive(Debug)]
struct Started {
    at: Instant,
    cpu_ns: u64,
    reads: u64,
}

impl WebTenant {
    /// Gives `server` its user, without waiting until it answers: see [`Self::wait_ready`].
    ///
    /// # Errors
    /// The user cannot be started.
    pub fn of(server: Server, spec: TenantSpec) -> Result<Self, GuestError> {
        let user = User::start(&spec.name, server.address(), server.pid());
        let user = user.map_err(|source| GuestError::Start {
            name: spec.name.clone(),
            program: "its user".to_owned(),
            source,
        })?;
        Ok(Self { server, user, spec, words: 0, started: None, responses: Vec::new() })
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It ended, or does not answer in time.
    pub fn wait_ready(&mut self, interrupt: &Interrupt) -> Result<(), GuestError> {
        let until = Instant::now() + self.spec.patience.ready;
        loop {
            interrupt.check()?;
            self.server.check("ready")?;
            let left = until.saturating_duration_since(Instant::now());
            match self.user.get("/ready.php", left.min(Duration::from_secs(1))) {
                Ok((200, body)) if body == "ready\n" => return Ok(()),
                Ok((status, body)) => return Err(self.unexpected("ready", status, &body)),
                Err(_) if left.is_zero() => return Err(self.silent("ready", self.spec.patience.ready)),
                Err(_) => interrupt.sleep(Duration::from_millis(20))?,
            }
        }
    }

    fn get(&mut self, asked: &'static str, target: &str) -> Result<String, GuestError> {
        let answer = self.user.get(target, self.spec.patience.ready);
        self.good(asked, answer)
    }

    /// The body of a good answer.
    fn good(
        &mut self,
        asked: &'static str,
        answer: Result<(u16, String), Failure>,
    ) -> Result<String, GuestError> {
        match answer {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => Err(self.unexpected(asked, status, &body)),
            Err(Failure::TimedOut) => Err(self.silent(asked, self.spec.patience.ready)),
            Err(_) => {
                self.server.check_broken(asked)?;
                Err(self.silent(asked, self.spec.patience.ready))
            }
        }
    }

    fn target(&self, own: bool, reads: u64) -> String {
        let page = if self.spec.writes { "writer" } else { self.spec.page.name() };
        format!("/{page}.php?own={}&visits={}&reads={reads}", u8::from(own), self.spec.visits)
    }

    fn unexpected(&self, asked: &'static str, status: u16, body: &str) -> GuestError {
        GuestError::Unexpected {
            name: self.spec.name.clone(),
            holder: Holder::Process(self.server.pid()),
            asked,
            answer: format!("{status} {}{}", body.trim_end(), self.server.log_tail()),
        }
    }

    fn silent(&self, asked: &'static str, limit: Duration) -> GuestError {
        GuestError::Silent {
            name: self.spec.name.clone(),
            holder: Holder::Process(self.server.pid()),
            asked,
            seconds: limit.as_secs_f64(),
            console: self.server.log_tail(),
        }
    }

    fn readings(&self) -> Vec<Reading> {
        let (good, position) = self.user.good();
        let Some(started) = &self.started else { return Vec::new() };
        vec![Reading {
            reads: good * started.reads,
            elapsed_ns: started.at.elapsed().as_nanos() as u64,
            busy_ns: cpu_ns(self.server.pid()).saturating_sub(started.cpu_ns),
            position,
        }]
    }
}

impl Guest for WebTenant {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn holder(&self) -> Holder {
        Holder::Process(self.server.pid())
    }

    fn check(&mut self) -> Result<(), GuestError> {
        self.server.check("request")
    }

    /// Has the server keep both files and, where the page keeps data in memory, has the server take them in. Makes sure
    /// that requests really follow the data.
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
            let answer = self.user.put(&format!("/put.php?file={file}"), bytes, self.spec.patience.ready);
            let answer = self.good("load", answer)?;
            if answer != stored {
                return Err(self.unexpected("load", 200, &answer));
            }
        }
        if self.spec.page == Page::Resident {
            let answer = self.get("load", "/load.php")?;
            if answer != format!("loaded {}\n", data.kib * 1024) {
                return Err(self.unexpected("load", 200, &answer));
            }
        }
        for own in [false, true] {
            // Without writing: what was written to is no longer what was loaded.
            let page = self.spec.page.name();
            let target = format!("/{page}.php?own={}&visits=1&reads={PROBE_READS}&from=0", u8::from(own));
            let answer = self.get("request", &target)?;
            if answer.trim_end() != end.to_string() {
                return Err(self.unexpected("request", 200, &answer));
            }
        }
        Ok(())
    }

    fn start(&mut self, pace: Pace, own: bool) -> Result<(), GuestError> {
        self.check()?;
        let rest = Duration::from_micros(pace.idle_us);
        self.responses.clear();
        self.started = Some(Started {
            at: Instant::now(),
            cpu_ns: cpu_ns(self.server.pid()),
            reads: pace.burst_reads * self.spec.visits,
        });
        self.user.work(Work {
            target: self.target(own, pace.burst_reads),
            words: self.words,
            seed: self.spec.seed,
            schedule: self.spec.open.unwrap_or(Schedule::Closed { rest }),
            timeout: self.spec.timeout,
        });
        Ok(())
    }

    fn read(&mut self) -> Result<Vec<Reading>, GuestError> {
        self.check()?;
        Ok(self.readings())
    }

    fn stop(&mut self) -> Result<Vec<Reading>, GuestError> {
        let readings = self.readings();
        let limit = self.spec.timeout + self.spec.patience.answer;
        match self.user.stop(limit) {
            Some(responses) => self.responses = responses,
            None => return Err(self.silent("stop", limit)),
        }
        self.check()?;
        Ok(readings)
    }
}

impl Tenant for WebTenant {
    fn answered(&self) -> usize {
        self.user.count()
    }

    fn take_responses(&mut self) -> Vec<Response> {
        std::mem::take(&mut self.responses)
    }
}

/// CPU time of all threads of a process, in nanoseconds (clock_getcpuclockid(3)); 0 for one that is gone,
/// which its next check tells.
fn cpu_ns(pid: i32) -> u64 {
    let time = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).and_then(clock_gettime);
    time.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
