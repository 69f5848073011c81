//! Starting the guests of the microbenchmark, of whichever kind.

use std::path::PathBuf;
use std::rc::Rc;

use huddle_model::rng::Rng;

use super::process::ProcessGuestSpec;
use super::qemu::{Accelerator, QemuGuestSpec};
use super::xen::{Maker, XenGuestSpec};
use super::{GuestError, Reader};
use crate::access_stream::Recorders;
use crate::interrupt::Interrupt;
use crate::microbench::MicrobenchSpec;

/// The random streams of the stand-ins' private memory (see [`Rng::of_part`]).
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
        /// What records their accesses, if that is wanted.
        recorders: Option<Rc<Recorders>>,
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

    /// Starts the guest `number` of `spec`, without waiting until it is up.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        &self,
        spec: &MicrobenchSpec,
        number: usize,
        interrupt: &Interrupt,
    ) -> Result<Box<dyn Reader>, GuestError> {
        let (name, limits) = (&spec.guest_name(number), spec.limits());
        let (vcpus, memory_mib, interrupt) = (spec.settings.vcpus, spec.memory_mib, interrupt.clone());
        Ok(match self {
            Self::Processes { program } => {
                let (private_kib, private_seed) =
                    (spec.settings.private_kib, Rng::of_part(spec.seed, PRIVATE + number as u64).next_u64());
                let guest =
                    ProcessGuestSpec { name, program, vcpus, private_kib, private_seed, limits, interrupt };
                Box::new(guest.start()?)
            }
            Self::Vms { images, accelerator, directory, recorders } => {
                let (image, accelerator) = (&images[number], *accelerator);
                let console = directory.join(format!("console-{name}.log"));
                let guest = QemuGuestSpec {
                    name,
                    image,
                    accelerator,
                    memory_mib,
                    vcpus,
                    console,
                    plugin: recorders.as_ref().and_then(|recorders| recorders.plugin(number)),
                    limits,
                    interrupt,
                };
                Box::new(guest.start()?)
            }
            Self::Domains { images, maker, directory } => {
                let (image, domain_type) = (&images[number], spec.settings.domain_type);
                let guest = XenGuestSpec {
                    name,
                    image,
                    domain_type,
                    memory_mib,
                    vcpus,
                    directory,
                    limits,
                    interrupt,
                };
                Box::new(guest.start(maker)?)
            }
        })
    }
}
