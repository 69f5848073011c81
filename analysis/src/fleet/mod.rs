//! VMs of many hosts, from the sketches that each host recorded (`huddle sketch`).

mod commands;
mod exact;
mod families;
mod hosts;
mod load;
mod newest;
mod openstack;
mod overview;
mod pairs;
mod propose;
mod question;
mod views;

pub use families::{Family, FleetFamilies};
pub use hosts::{VmHost, VmHosts};
pub use load::FleetLimits;
pub use newest::{Contained, NewestSketches};
pub use pairs::{FleetPairs, Pair};
pub use propose::{ProposedMove, ProposedMoves};
pub(crate) use question::FleetQuestion;
