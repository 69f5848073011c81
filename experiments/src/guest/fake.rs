//! Fake guests, which read and answer as the paper's caches would have it, and runs with them on the fake host.

use std::rc::Rc;

use huddle_model::summary::{Failure, Response, Summary};

use super::{Guest, GuestData, GuestError, GuestId, Pace, Reader, Reading};
use crate::frame::run::{RunError, Step, run};
use crate::frame::summary::{About, summary};
use crate::frame::{Outcome, Workload};
use crate::host::fake::{FakeHost, Shared};
use crate::interrupt::Interrupt;
use crate::web::tenant::Tenant;

/// A guest of either workload.
pub(crate) struct FakeGuest {
    world: Shared,
    pub(crate) name: String,
    own: bool,
    starts: usize,
    now: Reading,
    /// From which start on it has ended.
    pub(crate) ends_at_start: Option<usize>,
    /// How often it is still seen living after it has ended, as a process is that frees its memory.
    pub(crate) checks_until_seen: usize,
    /// After which start it gets no CPU time.
    pub(crate) starves_at_start: Option<usize>,
    /// Whether a request of each window times out.
    pub(crate) fails: bool,
    /// Whether it answers nothing from the first block on.
    pub(crate) is_slow: bool,
}

impl FakeGuest {
    fn is_fast(&self) -> bool {
        !self.own && self.world.borrow().is_with_partner(&self.name)
    }
}

impl Guest for FakeGuest {
    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> GuestId {
        GuestId::Process(100)
    }

    fn wait_ready(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    fn check(&mut self) -> Result<(), GuestError> {
        if self.ends_at_start.is_none_or(|at| self.starts < at) {
            return Ok(());
        }
        if self.checks_until_seen > 0 {
            self.checks_until_seen -= 1;
            return Ok(());
        }
        Err(GuestError::Ended {
            name: self.name.clone(),
            id: self.id(),
            command: "anything",
            status: "killed".into(),
            output: String::new(),
        })
    }

    fn load(&mut self, data: GuestData) -> Result<(), GuestError> {
        self.world.borrow_mut().loaded.push(data);
        Ok(())
    }

    fn start(&mut self, _: Pace, own: bool) -> Result<(), GuestError> {
        (self.own, self.starts) = (own, self.starts + 1);
        self.world.borrow_mut().reading += 1;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), GuestError> {
        self.world.borrow_mut().reading -= 1;
        Ok(())
    }
}

impl Reader for FakeGuest {
    fn read(&mut self) -> Result<Vec<Reading>, GuestError> {
        self.check()?;
        if self.starves_at_start != Some(self.starts) {
            self.now.elapsed_ns += 1_000_000_000;
            self.now.busy_ns += 500_000_000;
            self.now.reads += if self.is_fast() { 2_000 } else { 1_000 };
        }
        Ok(vec![self.now])
    }
}

impl Tenant for FakeGuest {
    fn answered(&self) -> usize {
        let has_ended = self.ends_at_start.is_some_and(|at| self.starts >= at);
        if has_ended || self.is_slow && self.starts > 2 { 0 } else { 1000 }
    }

    fn take_responses(&mut self) -> Vec<Response> {
        let latency_ns = if self.is_fast() { 1_000_000 } else { 2_000_000 };
        let failure = self.fails.then_some(Failure::TimedOut);
        let warm_up = Response { at_us: 0, latency_ns: 99_000_000, status: Some(200), failure: None };
        let one = Response { at_us: 1, latency_ns, status: Some(200), failure: None };
        let last = Response { failure, ..one };
        // The warm-up, the measured ones, and one that came before the others were done.
        [vec![warm_up; 2], vec![one; 9], vec![last], vec![warm_up]].concat()
    }
}

impl Drop for FakeGuest {
    fn drop(&mut self) {
        self.world.borrow_mut().living -= 1;
    }
}

/// A workload with fake guests on the fake host.
pub(crate) struct FakeRun<W: Workload> {
    pub(crate) workload: W,
    pub(crate) host: FakeHost,
    /// Interrupts the run when it reports what begins with this.
    pub(crate) interrupt_at: Option<&'static str>,
    /// Changes each guest before it is used.
    pub(crate) change: fn(&mut FakeGuest),
    boxed: fn(FakeGuest) -> Box<W::Guest>,
}

impl<W: Workload> FakeRun<W> {
    pub(crate) fn new(workload: W, host: FakeHost, boxed: fn(FakeGuest) -> Box<W::Guest>) -> Self {
        Self { workload, host, interrupt_at: None, change: |_| {}, boxed }
    }

    pub(crate) fn run(&mut self) -> Result<Outcome, RunError> {
        let (world, interrupt) = (Rc::clone(&self.host.world), Interrupt::default());
        let mut start = |number: usize| {
            world.borrow_mut().living += 1;
            let mut guest = FakeGuest {
                world: Rc::clone(&world),
                name: self.workload.spec().guest_name(number),
                own: false,
                starts: 0,
                now: Reading::default(),
                ends_at_start: None,
                checks_until_seen: 0,
                starves_at_start: None,
                fails: false,
                is_slow: false,
            };
            (self.change)(&mut guest);
            Ok((self.boxed)(guest))
        };
        let mut progress = |step: Step<'_>| {
            if self.interrupt_at.is_some_and(|text| step.text.starts_with(text)) {
                interrupt.raise();
            }
        };
        run(&self.workload, &mut self.host, &mut start, &interrupt, &mut progress)
    }

    /// The summary of a run that has a result.
    pub(crate) fn summary(&mut self) -> Summary<W::Figures> {
        let outcome = self.run().unwrap();
        summary(&self.workload, outcome, About::default())
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.host.world.borrow().log.clone()
    }

    /// Makes sure that the run ended by undoing its changes while so many guests lived, and then ended these.
    pub(crate) fn assert_undone(&self, guests: usize) {
        assert_eq!(self.log().last().unwrap(), &format!("undo with {guests} guests"));
        assert_eq!(self.host.world.borrow().living, 0);
    }
}
