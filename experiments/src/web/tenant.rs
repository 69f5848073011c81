//! A tenant: a web server and its one user, as a guest of the experiment.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use huddle_collector::host::{HostRoot, read_text};
use huddle_guest::chase;

use super::load::{Failure, Response, Rhythm, User, Work};
use super::server::{Programs, Server};
use super::site::Site;
use super::spec::Page;
use crate::guest::{Guest, GuestData, GuestError, Pace, Patience, Reading};
use crate::interrupt::Interrupt;

/// A guest that answers requests.
pub trait Tenant: Guest {
    /// Requests done since it was started, good or not.
    fn answered(&self) -> usize;

    /// The requests between the last start and stop, in their order.
    fn take_responses(&mut self) -> Vec<Response>;
}

/// How to start a tenant.
#[derive(Debug)]
pub struct TenantSpec<'a> {
    /// Name of the VM it stands for.
    pub name: String,
    /// The programs.
    pub programs: &'a Programs,
    /// Where its files go.
    pub site: &'a Site,
    /// What requests ask for.
    pub page: Page,
    /// Whether they write to all of the data they visit.
    pub writes: bool,
    /// How often a request visits the data.
    pub visits: u64,
    /// Seed of where in the data requests begin.
    pub seed: u64,
    /// In an open loop, when the requests are sent; in a closed one the pace's rest counts.
    pub open: Option<Rhythm>,
    /// After how long a request has failed.
    pub timeout: Duration,
    /// How long it may take to be up and to take its data, and to answer anything else.
    pub patience: Patience,
    /// What ends the waiting for it early.
    pub interrupt: Interrupt,
}

/// A running tenant. Dropping it ends its server.
#[derive(Debug)]
pub struct WebTenant {
    // In the order of their ends: without a server the user's last request is over at once.
    server: Server,
    user: User,
    name: String,
    data: [PathBuf; 2],
    page: Page,
    writes: bool,
    visits: u64,
    seed: u64,
    open: Option<Rhythm>,
    timeout: Duration,
    patience: Patience,
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

impl TenantSpec<'_> {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not answer in time.
    pub fn start(&self) -> Result<WebTenant, GuestError> {
        let failed = |source| GuestError::Start {
            name: self.name.clone(),
            program: "Apache's files".to_owned(),
            source,
        };
        let dir = self.site.tenant(&self.name, self.programs.user()).map_err(failed)?;
        let server = Server::start(&self.name, self.programs, &dir)?;
        let user = User::start(&self.name, server.address(), server.pid()).map_err(failed)?;
        let mut tenant = WebTenant {
            server,
            user,
            name: self.name.clone(),
            data: ["data.bin", "own.bin"].map(|file| dir.file(file)),
            page: self.page,
            writes: self.writes,
            visits: self.visits,
            seed: self.seed,
            open: self.open,
            timeout: self.timeout,
            patience: self.patience,
            words: 0,
            started: None,
            responses: Vec::new(),
        };
        tenant.wait_ready(&self.interrupt)?;
        Ok(tenant)
    }
}

impl WebTenant {
    fn wait_ready(&mut self, interrupt: &Interrupt) -> Result<(), GuestError> {
        let until = Instant::now() + self.patience.ready;
        loop {
            interrupt.check()?;
            self.server.check("ready")?;
            let left = until.saturating_duration_since(Instant::now());
            match self.user.get("/ready.php", left.min(Duration::from_secs(1))) {
                Ok((200, body)) if body == "ready\n" => return Ok(()),
                Ok((status, body)) => return Err(self.unexpected("ready", status, &body)),
                Err(_) if left.is_zero() => return Err(self.silent("ready", self.patience.ready)),
                Err(_) => interrupt.sleep(Duration::from_millis(20))?,
            }
        }
    }

    fn get(&mut self, asked: &'static str, target: &str) -> Result<String, GuestError> {
        match self.user.get(target, self.patience.ready) {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => Err(self.unexpected(asked, status, &body)),
            Err(Failure::TimedOut) => Err(self.silent(asked, self.patience.ready)),
            Err(_) => {
                self.server.check_broken(asked)?;
                Err(self.silent(asked, self.patience.ready))
            }
        }
    }

    fn target(&self, own: bool, reads: u64) -> String {
        let page = if self.writes { "writer" } else { self.page.name() };
        format!("/{page}.php?own={}&visits={}&reads={reads}", u8::from(own), self.visits)
    }

    fn unexpected(&self, asked: &'static str, status: u16, body: &str) -> GuestError {
        GuestError::Unexpected {
            name: self.name.clone(),
            pid: self.server.pid(),
            asked,
            answer: format!("{status} {}{}", body.trim_end(), self.server.last_words()),
        }
    }

    fn silent(&self, asked: &'static str, limit: Duration) -> GuestError {
        GuestError::Silent {
            name: self.name.clone(),
            pid: self.server.pid(),
            asked,
            seconds: limit.as_secs_f64(),
            console: self.server.last_words(),
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
        &self.name
    }

    fn pid(&self) -> i32 {
        self.server.pid()
    }

    fn check(&mut self) -> Result<(), GuestError> {
        self.server.check("request")
    }

    /// Writes both files and, where the page keeps data in memory, has the server take them in. Makes sure
    /// that requests really follow the data.
    fn load(&mut self, data: GuestData) -> Result<(), GuestError> {
        const PROBE_READS: u64 = 1000;
        let mut words = vec![0; data.kib as usize * 1024 / size_of::<u64>()];
        chase::fill(&mut words, data.seed);
        let end = chase::walk(&words, 0, PROBE_READS);
        self.words = words.len() as u64;
        let mut own = words.clone();
        chase::set_apart(&mut own, data.own_seed);
        for (path, words) in self.data.iter().zip([words, own]) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            fs::write(path, bytes).map_err(|source| GuestError::Start {
                name: self.name.clone(),
                program: path.display().to_string(),
                source,
            })?;
        }
        if self.page == Page::Resident {
            let answer = self.get("load", "/load.php")?;
            if answer != format!("loaded {}\n", data.kib * 1024) {
                return Err(self.unexpected("load", 200, &answer));
            }
        }
        for own in [false, true] {
            // Without writing: what was written to is no longer what was loaded.
            let page = self.page.name();
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
            reads: pace.burst_reads * self.visits,
        });
        self.user.work(Work {
            target: self.target(own, pace.burst_reads),
            words: self.words,
            seed: self.seed,
            rhythm: self.open.unwrap_or(Rhythm::Closed { rest }),
            timeout: self.timeout,
        });
        Ok(())
    }

    fn read(&mut self) -> Result<Vec<Reading>, GuestError> {
        self.check()?;
        Ok(self.readings())
    }

    fn stop(&mut self) -> Result<Vec<Reading>, GuestError> {
        let readings = self.readings();
        let limit = self.timeout + self.patience.answer;
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

/// CPU time of a process of one thread, in nanoseconds (Documentation/scheduler/sched-stats.rst); 0 for
/// one that is gone, which its next check tells.
fn cpu_ns(pid: i32) -> u64 {
    let text = read_text(&HostRoot::real().proc(format!("{pid}/schedstat"))).unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0)
}
