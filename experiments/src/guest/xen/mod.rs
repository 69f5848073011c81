//! A Xen domain, created by `xl`, whose only program is `huddle-guest-init`. It is controlled on its console, the
//! one line that every domain has.
//!
//! A domain does not die with the process that made it. So a [`guard`], a process of its own, knows of each
//! domain before it is made, and destroys those that are left when the runner has ended, however it did.

mod console;
pub mod guard;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use huddle_host::{HostRoot, read_text};
use huddle_xen as xen;
use huddle_xen::toolstack::{Domain, DomainRef, Toolstack, XenError};
use huddle_xen::xenstore::Xenstore;
use huddle_xen::xl::Xl;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::console::Console;
use self::guard::Guard;
use super::protocol_guest::{Connection, ProtocolGuest};
use super::running::{Instance, Running};
use super::{GuestError, GuestId, TimeLimits};
use crate::interrupt::Interrupt;

/// How long `xl` may take to make a domain: some seconds in an emulator.
const CREATE: Duration = Duration::from_secs(60);

/// How long xenconsoled may take to make the domain's terminal.
const TERMINAL: Duration = Duration::from_secs(10);

/// The prefix of the domains' names in Xen, which no other domains have.
const PREFIX: &str = "huddle-";

/// How the domains are virtualised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DomainType {
    /// The processor translates their addresses: what Xen's memory sharing needs
    #[default]
    Pvh,
    /// Paravirtualised; nothing of them can be merged
    Pv,
}

impl DomainType {
    /// Its name in a domain's configuration (xl.cfg(5)).
    pub fn name(self) -> &'static str {
        match self {
            Self::Pvh => "pvh",
            Self::Pv => "pv",
        }
    }
}

/// What Xen calls the domain of a VM.
pub fn domain_name(vm: &str) -> String {
    format!("{PREFIX}{vm}")
}

/// What creates domains and queries them.
pub struct Maker {
    root: HostRoot,
    xl: Xl,
    toolstack: Box<dyn Toolstack>,
    guard: RefCell<Guard>,
}

impl Maker {
    /// With a guard of its own. `guards` is this program with the arguments that make it [`guard::run`].
    ///
    /// # Errors
    /// Why no domain can be made here, as one sentence.
    pub fn new(root: &HostRoot, guards: std::process::Command) -> Result<Self, String> {
        Ok(Self {
            root: root.clone(),
            xl: Xl::find(root).map_err(|error| error.to_string())?,
            toolstack: xen::open(root).map_err(|error| error.to_string())?,
            guard: RefCell::new(
                Guard::start(guards)
                    .map_err(|error| format!("cannot start the guard of domains: {error}"))?,
            ),
        })
    }

    /// The domain of that UUID, if there is one.
    fn find(&self, uuid: Uuid) -> Result<Option<Domain>, XenError> {
        let listed = self.toolstack.domains()?;
        Ok(listed.into_iter().find(|domain| domain.domain.uuid == *uuid.as_bytes()))
    }
}

/// How to make a domain.
#[derive(Clone, Debug)]
pub struct XenGuestSpec<'a> {
    /// Name of the VM; Xen's name of it begins with `huddle-`.
    pub name: &'a str,
    /// Directory with `vmlinuz` and `initrd`.
    pub image: &'a Path,
    /// How it is virtualised.
    pub domain_type: DomainType,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Directory for its configuration and what it says on its console.
    pub directory: &'a Path,
    /// How long it may take to answer.
    pub limits: TimeLimits,
    /// What ends the waiting for it early.
    pub interrupt: Interrupt,
}

impl XenGuestSpec<'_> {
    /// Makes the domain without waiting until it is up: see [`Guest::wait_ready`](super::Guest::wait_ready).
    ///
    /// # Errors
    /// It cannot be made.
    pub fn start(&self, maker: &Rc<Maker>) -> Result<ProtocolGuest<DomainInstance>, GuestError> {
        let failed = |why: String| GuestError::Make { name: self.name.to_owned(), why };
        let uuid = read_text(&maker.root.proc("sys/kernel/random/uuid"))
            .map_err(|error| failed(error.to_string()))?;
        let uuid: Uuid = uuid.trim().parse().map_err(|_| failed(format!("{uuid:?} is not a UUID")))?;
        let config = self.directory.join(format!("domain-{}.cfg", self.name));
        let text = self.config(uuid).map_err(failed)?;
        std::fs::write(&config, text)
            .map_err(|error| failed(format!("cannot write {}: {error}", config.display())))?;
        let guard_failed = |error: std::io::Error| failed(format!("the guard of domains has ended: {error}"));
        maker.guard.borrow_mut().expect(uuid).map_err(guard_failed)?;
        let created = maker.xl.create(&config, CREATE);
        // Also where it failed: when it was given up, the domain may have existed.
        let found = maker.find(uuid).map_err(|error| failed(error.to_string()))?;
        let domain = match (created, found) {
            (Ok(()), Some(found)) => found.domain,
            (Err(error), None) => {
                // Where `xl` has ended there will be none, and the guard need not wait for one.
                if !matches!(error, XenError::TimedOut { .. }) {
                    maker.guard.borrow_mut().gone(uuid).map_err(guard_failed)?;
                }
                return Err(failed(error.to_string()));
            }
            (Ok(()), None) => return Err(failed("Xen does not list it".to_owned())),
            (Err(error), Some(found)) => {
                if maker.xl.destroy(found.domain).is_ok() {
                    maker.guard.borrow_mut().gone(uuid).map_err(guard_failed)?;
                }
                return Err(failed(error.to_string()));
            }
        };
        // From here on it is destroyed with this.
        let mut instance = DomainInstance { domain, uuid, maker: Rc::clone(maker), console: None };
        maker.guard.borrow_mut().made(uuid).map_err(guard_failed)?;
        let (console, line) = self.terminal(maker, domain).map_err(failed)?;
        instance.console = Some(console);
        let running = Running::new(self.name, instance);
        Ok(ProtocolGuest::new(running, line, self.limits, self.interrupt.clone()))
    }

    /// Its configuration (xl.cfg(5), Xen 4.17).
    fn config(&self, uuid: Uuid) -> Result<String, String> {
        let Self { memory_mib, vcpus, domain_type, .. } = self;
        let name = domain_name(self.name);
        let path = |file: &str| {
            let path = std::path::absolute(self.image.join(file)).map_err(|error| error.to_string())?;
            match path.to_str().filter(|path| !path.contains(['"', '\\', '\n'])) {
                Some(path) => Ok(path.to_owned()),
                None => Err(format!("{path:?} cannot be named in a configuration of xl's; move the images")),
            }
        };
        let (kernel, initrd) = (path("vmlinuz")?, path("initrd")?);
        // No balloon: what a domain gives back cannot be merged. All CPUs are named, since else libxl would prefer
        // those of a NUMA node of its choice, and no arm would be left to the scheduler.
        Ok(format!(
            "type = \"{}\"\nname = \"{name}\"\nuuid = \"{uuid}\"\nmemory = {memory_mib}\n\
             maxmem = {memory_mib}\nvcpus = {vcpus}\ncpus = \"all\"\nkernel = \"{kernel}\"\nramdisk = \"{initrd}\"\n\
             cmdline = \"console=hvc0 quiet panic=-1 rdinit=/init huddle.line=hvc0 mitigations=off nokaslr\"\n\
             on_poweroff = \"destroy\"\non_reboot = \"destroy\"\non_crash = \"destroy\"\n",
            domain_type.name()
        ))
    }

    /// Opens the domain's console, once there is one.
    fn terminal(&self, maker: &Maker, domain: DomainRef) -> Result<(Console, Connection), String> {
        let store = Xenstore::new(&maker.root);
        let until = Instant::now() + TERMINAL;
        let path = loop {
            match store.console(domain.id).map_err(|error| error.to_string())? {
                Some(path) => break path,
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
                None => {
                    let seconds = TERMINAL.as_secs();
                    return Err(format!("it has no console after {seconds} s; does xenconsoled run?"));
                }
            }
        };
        Console::open(&path, &self.directory.join(format!("console-{}.log", self.name)))
    }
}

/// A domain. Dropping it destroys it.
pub struct DomainInstance {
    domain: DomainRef,
    uuid: Uuid,
    maker: Rc<Maker>,
    console: Option<Console>,
}

impl Instance for DomainInstance {
    fn id(&self) -> GuestId {
        GuestId::Domain(self.domain)
    }

    fn ended(&mut self) -> Option<String> {
        match self.maker.find(self.uuid) {
            Ok(Some(found)) if found.is_ending => Some("its kernel has shut down or crashed".to_owned()),
            Ok(None) => Some("the domain is gone".to_owned()),
            // Not known.
            Ok(Some(_)) | Err(_) => None,
        }
    }

    fn end(&mut self) {
        match self.maker.xl.destroy(self.domain) {
            // Where this fails the guard finds out itself.
            Ok(()) => _ = self.maker.guard.borrow_mut().gone(self.uuid),
            Err(error) => tracing::error!("domain {} is not destroyed: {error}", self.domain.id),
        }
    }

    fn output(&self) -> Option<(String, String)> {
        self.console.as_ref().map(Console::output)
    }
}

impl Drop for DomainInstance {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_configuration_names_what_the_domain_boots_and_nothing_that_would_end_the_string() {
        let spec = XenGuestSpec {
            name: "vm1",
            image: Path::new("/images/generic"),
            domain_type: DomainType::Pvh,
            memory_mib: 128,
            vcpus: 2,
            directory: Path::new("/runs"),
            limits: TimeLimits { ready: CREATE, answer: CREATE },
            interrupt: Interrupt::default(),
        };
        let uuid: Uuid = "8b31ca9c-5e34-4a82-b251-d0d908621430".parse().unwrap();
        let config = spec.config(uuid).unwrap();
        for line in [
            "type = \"pvh\"",
            "name = \"huddle-vm1\"",
            "uuid = \"8b31ca9c-5e34-4a82-b251-d0d908621430\"",
            "memory = 128",
            "vcpus = 2",
            "kernel = \"/images/generic/vmlinuz\"",
        ] {
            assert!(config.lines().any(|of| of == line), "{line} in {config}");
        }
        let odd = XenGuestSpec { image: Path::new("/images/a\"b"), ..spec };
        assert!(odd.config(uuid).unwrap_err().contains("move the images"));
    }
}
