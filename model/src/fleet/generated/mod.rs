//! Generated fleets: VMs of known systems and applications, whose sketches are drawn as a keyed hash would draw them, and
//! whose true overlaps are known. Nothing of it was measured.
//!
//! A VM has a fixed number of distinct contents: those of its system, those of its application, and its own. Contents of
//! system and application drift: each VM has a random part of them replaced by contents of its own, as updates,
//! configuration and use do. What is shared is therefore known exactly, content by content ([`GeneratedFleet::common`]).
//!
//! Only contents that a sketch keeps are drawn, by the gaps between them, which are geometric where each content is kept
//! with the same chance (Devroye, "Non-Uniform Random Variate Generation", X.2). Their hashes are uniform below the limit
//! of the sketch, which is the distribution of a pseudorandom function such as SipHash under a secret seed. So a VM of
//! 4 GiB costs some thousand draws instead of a million, and any VM can be made without the others.

mod plant;
#[cfg(test)]
mod tests;

use super::Scale;
use crate::rng::Rng;

/// What a generated fleet is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetShape {
    /// Equal seeds give equal fleets.
    pub seed: u64,
    /// Number of hosts.
    pub hosts: u32,
    /// VMs on each host.
    pub vms_per_host: u32,
    /// VMs of each application; divides `vms_per_host`.
    pub application_vms: u32,
    /// Number of systems; applications have them in turn.
    pub systems: u32,
    /// Distinct contents of each VM.
    pub contents: u32,
    /// How many of them its system has, before they drift.
    pub system_contents: u32,
    /// How many of them its application has, before they drift.
    pub application_contents: u32,
    /// The greatest part, from 0 to 1, of the contents of system and application that a VM has replaced; each VM has a part
    /// of its own, evenly distributed up to this one.
    pub drift: f64,
    /// Which contents sketches keep.
    pub scale: Scale,
}

impl Default for FleetShape {
    /// Ten hosts of VMs of 4 GiB: ten VMs of each application, five applications on a host, four systems.
    fn default() -> Self {
        Self {
            seed: 1,
            hosts: 10,
            vms_per_host: 50,
            application_vms: 10,
            systems: 4,
            contents: 1_024_000,
            system_contents: 204_800,
            application_contents: 307_200,
            drift: 0.2,
            scale: Scale::DEFAULT,
        }
    }
}

/// A shape of which there is no fleet.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum InvalidShape {
    /// Nothing to make.
    #[error("a fleet has at least one host, one VM on each, one system and one VM of each application")]
    Empty,
    /// More VMs than are numbered.
    #[error("{hosts} hosts of {vms_per_host} VMs are too many: at most {} VMs are made", u32::MAX)]
    TooMany {
        /// Hosts.
        hosts: u32,
        /// VMs on each.
        vms_per_host: u32,
    },
    /// No grouping has each application on one host.
    #[error("{application_vms} VMs of an application do not divide {vms_per_host} VMs of a host")]
    Groups {
        /// VMs of each application.
        application_vms: u32,
        /// VMs on each host.
        vms_per_host: u32,
    },
    /// More contents than a VM has.
    #[error("system and application have {parts} contents, and a VM has {contents}")]
    Parts {
        /// Contents of system and application.
        parts: u64,
        /// Contents of a VM.
        contents: u32,
    },
    /// No part of a whole.
    #[error("the drift is {0}, expected a number from 0 to 1")]
    Drift(f64),
}

/// A fleet, of which hosts and VMs are made when they are asked for. VMs and hosts are numbered from 0.
#[derive(Clone, Debug)]
pub struct GeneratedFleet {
    shape: FleetShape,
    /// Which VM is in each place: `vms_per_host` places a host, in the order of the hosts.
    places: Vec<u32>,
}

/// Kinds of random streams.
#[derive(Clone, Copy)]
enum Stream {
    Places,
    System,
    Application,
    Own,
    Drift,
    Replaced,
    Name,
}

impl GeneratedFleet {
    /// A fleet of this shape, with its VMs on random hosts.
    ///
    /// # Errors
    /// [`InvalidShape`].
    pub fn new(shape: FleetShape) -> Result<Self, InvalidShape> {
        let FleetShape { hosts, vms_per_host, application_vms, .. } = shape;
        if hosts == 0 || vms_per_host == 0 || application_vms == 0 || shape.systems == 0 {
            return Err(InvalidShape::Empty);
        }
        let vms = hosts.checked_mul(vms_per_host).ok_or(InvalidShape::TooMany { hosts, vms_per_host })?;
        if vms_per_host % application_vms != 0 {
            return Err(InvalidShape::Groups { application_vms, vms_per_host });
        }
        let parts = u64::from(shape.system_contents) + u64::from(shape.application_contents);
        if parts > u64::from(shape.contents) {
            return Err(InvalidShape::Parts { parts, contents: shape.contents });
        }
        if !(0.0..=1.0).contains(&shape.drift) {
            return Err(InvalidShape::Drift(shape.drift));
        }
        let mut places: Vec<u32> = (0..vms).collect();
        stream(shape.seed, Stream::Places, 0).shuffle(&mut places);
        Ok(Self { shape, places })
    }

    /// Its shape.
    pub fn shape(&self) -> &FleetShape {
        &self.shape
    }

    /// Number of VMs.
    pub fn vms(&self) -> u32 {
        self.shape.hosts * self.shape.vms_per_host
    }

    /// The VMs of a host, as they are placed today; none for a host that does not exist.
    pub fn on_host(&self, host: u32) -> &[u32] {
        let first = host as usize * self.shape.vms_per_host as usize;
        self.places.get(first..first + self.shape.vms_per_host as usize).unwrap_or_default()
    }

    /// The application of a VM; applications are numbered over all systems.
    pub fn application(&self, vm: u32) -> u32 {
        vm / self.shape.application_vms
    }

    /// The system of a VM.
    pub fn system(&self, vm: u32) -> u32 {
        // A host and its neighbour have one, so that VMs that are kept apart can change places (`plant`).
        self.home(vm) / 2 % self.shape.systems
    }

    /// The hashes that a sketch of a VM keeps, ascending.
    pub fn sketch(&self, vm: u32) -> Vec<u64> {
        let (system, both) = self.parts();
        let mut hashes = Vec::new();
        let parts = [
            (Stream::System, self.system(vm), 0..system),
            (Stream::Application, self.application(vm), system..both),
            (Stream::Own, vm, 0..self.shape.contents),
        ];
        let replaced = self.replaced(vm);
        for (kind, number, slots) in parts {
            let is_own = matches!(kind, Stream::Own);
            self.kept(kind, number, slots, |slot, hash| {
                if (slot >= both || replaced(slot)) == is_own {
                    hashes.push(hash);
                }
            });
        }
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    /// How many of a VM's distinct contents another VM has, too: the truth that sketches estimate. The same in both
    /// directions, since all VMs have as many contents.
    pub fn common(&self, a: u32, b: u32) -> u64 {
        if a == b {
            return u64::from(self.shape.contents);
        }
        let (system, both) = self.parts();
        let (of_a, of_b) = (self.replaced(a), self.replaced(b));
        let both_have =
            |slots: std::ops::Range<u32>| slots.filter(|slot| !of_a(*slot) && !of_b(*slot)).count() as u64;
        let of_system = if self.system(a) == self.system(b) { both_have(0..system) } else { 0 };
        let same_application = self.application(a) == self.application(b);
        of_system + if same_application { both_have(system..both) } else { 0 }
    }

    /// The truth of [`super::Containment`]: the share, from 0 to 1, of one VM's contents that the other has.
    pub fn containment(&self, a: u32, b: u32) -> f64 {
        self.common(a, b) as f64 / f64::from(self.shape.contents)
    }

    /// A number that is not likely to be that of another VM, for a UUID.
    pub fn number(&self, vm: u32) -> u128 {
        let mut rng = stream(self.shape.seed, Stream::Name, vm);
        u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
    }

    /// Where the contents of the system end, and those of the application.
    fn parts(&self) -> (u32, u32) {
        (self.shape.system_contents, self.shape.system_contents + self.shape.application_contents)
    }

    /// Whether a VM has the content of system or application in a slot replaced.
    fn replaced(&self, vm: u32) -> impl Fn(u32) -> bool + use<> {
        let seed = self.shape.seed;
        let part = self.shape.drift * unit(stream(seed, Stream::Drift, vm).next_u64());
        let below = (part * 2f64.powi(64)) as u64;
        let of_vm = stream(seed, Stream::Replaced, vm).next_u64();
        move |slot| Rng::of_part(of_vm, u64::from(slot)).next_u64() < below
    }

    /// Calls `each` with the slot and the hash of each content of a part that a sketch keeps.
    fn kept(&self, kind: Stream, number: u32, slots: std::ops::Range<u32>, mut each: impl FnMut(u32, u64)) {
        let one_in = self.shape.scale.one_in();
        let (limit, not_kept) = (u64::MAX / one_in, libm::log1p(-1.0 / one_in as f64));
        let mut rng = stream(self.shape.seed, kind, number);
        let mut next = f64::from(slots.start);
        loop {
            // Contents that are not kept before the next one that is.
            next += (libm::log(unit(rng.next_u64())) / not_kept).floor();
            if next >= f64::from(slots.end) {
                return;
            }
            let hash = (u128::from(rng.next_u64()) * (u128::from(limit) + 1)) >> 64;
            each(next as u32, hash as u64);
            next += 1.0;
        }
    }
}

/// A number above 0 and up to 1.
fn unit(random: u64) -> f64 {
    ((random >> 11) + 1) as f64 / 2f64.powi(53)
}

fn stream(seed: u64, kind: Stream, number: u32) -> Rng {
    Rng::of_part(Rng::of_part(seed, kind as u64 + 1).next_u64(), u64::from(number))
}
