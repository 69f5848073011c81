//! The guard of domains: a process that destroys those that are left when the runner has ended.
//!
//! It reads on its standard input of each domain before it is made, when it has been made, and when it is gone.
//! The end of that input is the end of the runner, and comes with a `kill -9` too. The guard is a session of its
//! own, so that Ctrl-C does not reach it, and has the signals blocked that the runner has blocked.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_xen::toolstack::{DomainRef, Toolstack, XenError};
use huddle_xen::xl::Xl;
use uuid::Uuid;

/// How long to wait for a domain that may still be created: longer than `xl` may take.
pub const CREATE_LIMIT: Duration = Duration::from_secs(90);

/// How often it checks.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The state of a domain, as it is reported to the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may be created at any time.
    Expected,
    /// It exists until it is destroyed.
    Made,
}

/// The runner's side of the guard, which ends when this is dropped.
pub struct Guard {
    child: Child,
    input: Option<ChildStdin>,
}

impl Guard {
    /// Starts the program that is the guard.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut program: Command) -> io::Result<Self> {
        program.stdin(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: one system call between fork and exec.
        unsafe {
            program.pre_exec(|| {
                nix::unistd::setsid()?;
                Ok(())
            });
        }
        let mut child = program.spawn()?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// A domain of this UUID is about to be made.
    ///
    /// # Errors
    /// The guard has ended: it must not be made.
    pub fn expect(&mut self, uuid: Uuid) -> io::Result<()> {
        self.send("expect", uuid)
    }

    /// It has been created.
    ///
    /// # Errors
    /// The guard has ended.
    pub fn made(&mut self, uuid: Uuid) -> io::Result<()> {
        self.send("made", uuid)
    }

    /// It is gone.
    ///
    /// # Errors
    /// The guard has ended.
    pub fn gone(&mut self, uuid: Uuid) -> io::Result<()> {
        self.send("gone", uuid)
    }

    fn send(&mut self, word: &str, uuid: Uuid) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(format!("{word} {uuid}\n").as_bytes())?;
        input.flush()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.input = None;
        // It reports its own failures.
        let _ = self.child.wait();
    }
}

/// What the guard does with domains; tests have fake ones.
pub trait Domains {
    /// All there are.
    ///
    /// # Errors
    /// When Xen does not answer.
    fn list(&self) -> Result<Vec<DomainRef>, XenError>;
    /// Destroys one; that it is gone already is not an error.
    ///
    /// # Errors
    /// When it cannot.
    fn destroy(&self, domain: DomainRef) -> Result<(), XenError>;
}

/// Xen's domains.
pub struct XenDomains {
    toolstack: Box<dyn Toolstack>,
    xl: Xl,
}

impl XenDomains {
    /// Opens what lists and what destroys them.
    ///
    /// # Errors
    /// Xen cannot be asked here.
    pub fn open(root: &HostRoot) -> Result<Self, XenError> {
        Ok(Self { toolstack: huddle_xen::open(root)?, xl: Xl::find(root)? })
    }
}

impl Domains for XenDomains {
    fn list(&self) -> Result<Vec<DomainRef>, XenError> {
        Ok(self.toolstack.domains()?.into_iter().map(|domain| domain.domain).collect())
    }

    fn destroy(&self, domain: DomainRef) -> Result<(), XenError> {
        self.xl.destroy(domain)
    }
}

/// The guard: reads until the runner has ended, and destroys what is left. It waits for a domain that was expected
/// as long as its creation may take.
///
/// # Errors
/// One sentence for each domain that may be left.
pub fn run(input: impl BufRead, domains: &dyn Domains, limits: Duration) -> Result<(), Vec<String>> {
    let mut left = read_states(input);
    let until = Instant::now() + limits;
    loop {
        let failures = destroy(&mut left, domains);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            // One that was only expected was never created.
            return if failures.is_empty() { Ok(()) } else { Err(failures) };
        }
        std::thread::sleep(POLL_INTERVAL.min(limits));
    }
}

/// The domains that exist or may be created when the input has ended.
fn read_states(input: impl BufRead) -> BTreeMap<Uuid, State> {
    let mut left = BTreeMap::new();
    for line in input.lines().map_while(Result::ok) {
        let Some((word, uuid)) = line.split_once(' ') else { continue };
        let Ok(uuid) = uuid.parse() else { continue };
        match word {
            "expect" => _ = left.insert(uuid, State::Expected),
            "made" => _ = left.insert(uuid, State::Made),
            "gone" => _ = left.remove(&uuid),
            _ => {}
        }
    }
    left
}

/// Destroys those that exist, and removes those that are gone; returns failures, one sentence each.
fn destroy(left: &mut BTreeMap<Uuid, State>, domains: &dyn Domains) -> Vec<String> {
    if left.is_empty() {
        return Vec::new();
    }
    let listed = match domains.list() {
        Ok(listed) => listed,
        Err(error) => {
            return left.keys().map(|uuid| format!("domain {uuid} may be left: {error}")).collect();
        }
    };
    let mut failures = Vec::new();
    left.retain(|uuid, state| {
        let Some(domain) = listed.iter().find(|domain| domain.uuid == *uuid.as_bytes()) else {
            return *state == State::Expected;
        };
        match domains.destroy(*domain) {
            Ok(()) => false,
            Err(error) => {
                failures.push(format!("domain {uuid} is left (number {}): {error}", domain.id));
                true
            }
        }
    });
    failures
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::cell::{Cell, RefCell};

    use super::*;

    /// Domains by number, each with a UUID of that byte; one may come at a later look.
    #[derive(Default)]
    struct Fake {
        there: RefCell<Vec<u16>>,
        comes: Cell<Option<(u32, u16)>>,
        looks: Cell<u32>,
        refuses: Option<u16>,
    }

    fn uuid(id: u16) -> Uuid {
        Uuid::from_bytes([id as u8; 16])
    }

    impl Domains for Fake {
        fn list(&self) -> Result<Vec<DomainRef>, XenError> {
            self.looks.set(self.looks.get() + 1);
            if let Some((_, id)) = self.comes.get().filter(|(look, _)| *look == self.looks.get()) {
                self.there.borrow_mut().push(id);
            }
            Ok(self
                .there
                .borrow()
                .iter()
                .map(|id| DomainRef { id: *id, uuid: uuid(*id).into_bytes() })
                .collect())
        }

        fn destroy(&self, domain: DomainRef) -> Result<(), XenError> {
            if self.refuses == Some(domain.id) {
                return Err(XenError::Xenstore("EAGAIN".into()));
            }
            self.there.borrow_mut().retain(|id| *id != domain.id);
            Ok(())
        }
    }

    #[test]
    fn what_the_runner_left_is_destroyed_and_nothing_else() {
        let fake = Fake { there: RefCell::new(vec![0, 1, 2, 3, 7]), ..Fake::default() };
        let (one, two, three) = (uuid(1), uuid(2), uuid(3));
        let input = format!(
            "expect {one}\nmade {one}\nexpect {two}\nmade {two}\nexpect {three}\ngone {two}\nnonsense\nmade x\n"
        );
        run(input.as_bytes(), &fake, Duration::ZERO).unwrap();
        assert_eq!(*fake.there.borrow(), [0, 2, 7]);
        // A runner that ended in order left nothing to look for.
        let looks = fake.looks.get();
        run(&b""[..], &fake, Duration::from_secs(60)).unwrap();
        assert_eq!(fake.looks.get(), looks);
    }

    #[test]
    fn a_domain_that_is_only_being_made_is_waited_for() {
        let fake = Fake { comes: Cell::new(Some((3, 4))), ..Fake::default() };
        run(format!("expect {}\n", uuid(4)).as_bytes(), &fake, Duration::from_secs(60)).unwrap();
        assert_eq!((fake.looks.get(), fake.there.borrow().len()), (3, 0));
        // That one is never created is not a failure.
        run(format!("expect {}\n", uuid(5)).as_bytes(), &fake, Duration::from_millis(1)).unwrap();
    }

    #[test]
    fn one_that_cannot_be_destroyed_is_named() {
        let fake = Fake { there: RefCell::new(vec![6]), refuses: Some(6), ..Fake::default() };
        let left = run(format!("made {}\n", uuid(6)).as_bytes(), &fake, Duration::ZERO).unwrap_err();
        assert!(left[0].contains("number 6") && left[0].contains("EAGAIN"), "{left:?}");
    }
}
