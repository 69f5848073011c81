//! Starting all guests of the microbenchmark, of whichever kind.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use huddle_model::rng::Rng;

use super::process::ProcessGuestSpec;
use super::protocol_guest::{Instance, ProtocolGuest};
use super::qemu::{Accelerator, QemuGuestSpec};
use super::xen::{Maker, XenGuestSpec};
use super::{Guest, GuestError};
use crate::interrupt::Interrupt;
use crate::microbench::Config;

/// The stream of chance that draws what each stand-in holds for itself (see [`Rng::of_part`]).
const PRIVATE: u64 = 20;

/// What guests are started with.
pub enum Starter {
    /// Stand-ins.
    Processes {
        /// The program `huddle-standin`.
        program: PathBuf,
    },
    /// QEMU's VMs.
    Vms {
        /// For each VM, the directory of its kernel and initramfs.
        images: Vec<PathBuf>,
        /// What runs them.
        accelerator: Accelerator,
        /// Directory for their consoles.
        directory: PathBuf,
    },
    /// Xen's domains.
    Domains {
        /// For each domain, the directory of its kernel and initramfs.
        images: Vec<PathBuf>,
        /// What makes them.
        maker: Rc<Maker>,
        /// Directory for their configurations and consoles.
        directory: PathBuf,
    },
}

impl Starter {
    /// What runs the instructions of VMs; `None` where none was chosen.
    pub fn accelerator(&self) -> Option<Accelerator> {
        match self {
            Self::Vms { accelerator, .. } => Some(*accelerator),
            Self::Processes { .. } | Self::Domains { .. } => None,
        }
    }

    /// Starts the guests of `config`, in its order; all of them ready.
    ///
    /// # Errors
    /// One of them cannot be started, or is not up in time.
    pub fn start(&self, config: &Config, interrupt: &Interrupt) -> Result<Vec<Box<dyn Guest>>, GuestError> {
        match self {
            Self::Processes { program } => all_ready(config, interrupt, |number, name| {
                stand_in(config, interrupt, program, number, name)
            }),
            Self::Vms { images, accelerator, directory } => all_ready(config, interrupt, |number, name| {
                QemuGuestSpec {
                    name,
                    image: &images[number],
                    accelerator: *accelerator,
                    memory_mib: config.memory_mib,
                    vcpus: config.own.vcpus,
                    console: directory.join(format!("console-{name}.log")),
                    patience: config.patience(),
                    interrupt: interrupt.clone(),
                }
                .start()
            }),
            Self::Domains { images, maker, directory } => all_ready(config, interrupt, |number, name| {
                XenGuestSpec {
                    name,
                    image: &images[number],
                    domain_type: config.own.domain_type,
                    memory_mib: config.memory_mib,
                    vcpus: config.own.vcpus,
                    directory,
                    patience: config.patience(),
                    interrupt: interrupt.clone(),
                }
                .start(maker)
            }),
        }
    }
}

fn stand_in(
    config: &Config,
    interrupt: &Interrupt,
    program: &Path,
    number: usize,
    name: &str,
) -> Result<super::child::ChildGuest, GuestError> {
    ProcessGuestSpec {
        name,
        program,
        vcpus: config.own.vcpus,
        private_kib: config.own.private_kib,
        private_seed: Rng::of_part(config.seed, PRIVATE + number as u64).next_u64(),
        patience: config.patience(),
        interrupt: interrupt.clone(),
    }
    .start()
}

/// All of them are started before the first is waited for.
fn all_ready<B: Instance + 'static>(
    config: &Config,
    interrupt: &Interrupt,
    start: impl Fn(usize, &str) -> Result<ProtocolGuest<B>, GuestError>,
) -> Result<Vec<Box<dyn Guest>>, GuestError> {
    let started = (0..config.guests()).map(|number| {
        interrupt.check()?;
        start(number, &config.guest_name(number))
    });
    let mut started = started.collect::<Result<Vec<_>, _>>()?;
    started.iter_mut().try_for_each(ProtocolGuest::wait_ready)?;
    Ok(started.into_iter().map(|guest| Box::new(guest) as Box<dyn Guest>).collect())
}
