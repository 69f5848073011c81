//! The guard of domains: a process that destroys what is left of them when the runner has ended.
//!
//! It reads on its standard input of each domain before it is made, when it has been made, and when it is gone.
//! The end of that input is the end of the runner, and comes with a `kill -9` too. The guard is a session of its
//! own, so that Ctrl-C does not reach it, and has the signals blocked that the runner has blocked.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_xen::toolstack::{DomainRef, Toolstack, XenError};
use huddle_xen::xl::Xl;

/// How long a domain is waited for that may still come: longer than `xl` may take to make one.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// The name of a domain that no other ever has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&position) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits: Vec<u32> =
            text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16)).collect::<Option<_>>().ok_or(())?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|two| (two[0] * 16 + two[1]) as u8).collect();
        if digits.len() == 32 { bytes.try_into().map(Self).map_err(|_| ()) } else { Err(()) }
    }
}

/// What becomes of a domain, as it is reported to the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may come at any time.
    Expected,
    /// It is there, until somebody destroys it.
    Made,
}

/// The runner's side of it. Dropping it has the guard end.
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
        self.tell("expect", uuid)
    }

    /// It is there.
    ///
    /// # Errors
    /// The guard has ended.
    pub fn made(&mut self, uuid: Uuid) -> io::Result<()> {
        self.tell("made", uuid)
    }

    /// It is gone.
    ///
    /// # Errors
    /// The guard has ended.
    pub fn gone(&mut self, uuid: Uuid) -> io::Result<()> {
        self.tell("gone", uuid)
    }

    fn tell(&mut self, word: &str, uuid: Uuid) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(format!("{word} {uuid}\n").as_bytes())?;
        input.flush()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.input = None;
        // What it could not do it has said itself.
        let _ = self.child.wait();
    }
}

/// What the guard does to domains, so that tests can stand in for Xen.
pub trait Domains {
    /// All there are.
    ///
    /// # Errors
    /// When Xen does not answer.
    fn list(&self) -> Result<Vec<DomainRef>, XenError>;
    /// Destroys one; one that is gone is no error.
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

/// The guard: reads until the runner has ended, and destroys what is left. A domain that was expected is waited for
/// as long as it may take to make one.
///
/// # Errors
/// One sentence for each domain that may be left.
pub fn run(input: impl BufRead, domains: &dyn Domains, limits: Duration) -> Result<(), Vec<String>> {
    let mut left = told(input);
    let until = Instant::now() + limits;
    loop {
        let failures = destroy(&mut left, domains);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            // One that was only expected has never come.
            return if failures.is_empty() { Ok(()) } else { Err(failures) };
        }
        std::thread::sleep(LOOK.min(limits));
    }
}

/// What is there or may come when the input has ended.
fn told(input: impl BufRead) -> BTreeMap<Uuid, State> {
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

/// Destroys those that are there, and forgets those that are gone; what failed, one sentence each.
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
        let Some(domain) = listed.iter().find(|domain| domain.uuid == uuid.0) else {
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
        Uuid([id as u8; 16])
    }

    impl Domains for Fake {
        fn list(&self) -> Result<Vec<DomainRef>, XenError> {
            self.looks.set(self.looks.get() + 1);
            if let Some((_, id)) = self.comes.get().filter(|(look, _)| *look == self.looks.get()) {
                self.there.borrow_mut().push(id);
            }
            Ok(self.there.borrow().iter().map(|id| DomainRef { id: *id, uuid: uuid(*id).0 }).collect())
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
    fn uuids_are_written_as_they_are_read() {
        let text = "8b31ca9c-5e34-4a82-b251-d0d908621430";
        assert_eq!(text.parse::<Uuid>().unwrap().to_string(), text);
        for text in
            ["", "8b31ca9c", "8b31ca9c-5e34-4a82-b251-d0d90862143g", "8b31ca9c-5e34-4a82-b251-d0d9086214300"]
        {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_runner_left_is_destroyed_and_nothing_else() {
        let fake = Fake { there: RefCell::new(vec![0, 1, 2, 3, 7]), ..Fake::default() };
        let (one, two, three) = (uuid(1), uuid(2), uuid(3));
        let said = format!(
            "expect {one}\nmade {one}\nexpect {two}\nmade {two}\nexpect {three}\ngone {two}\nnonsense\nmade x\n"
        );
        run(said.as_bytes(), &fake, Duration::ZERO).unwrap();
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
        // One that never comes is no failure.
        run(format!("expect {}\n", uuid(5)).as_bytes(), &fake, Duration::from_millis(1)).unwrap();
    }

    #[test]
    fn one_that_cannot_be_destroyed_is_named() {
        let fake = Fake { there: RefCell::new(vec![6]), refuses: Some(6), ..Fake::default() };
        let left = run(format!("made {}\n", uuid(6)).as_bytes(), &fake, Duration::ZERO).unwrap_err();
        assert!(left[0].contains("number 6") && left[0].contains("EAGAIN"), "{left:?}");
    }
}
