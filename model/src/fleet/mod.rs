//! VMs of many hosts: what they share, estimated from sketches of their contents, and the moves between hosts that
//! bring most of it together.
//!
//! One host can only bring together what it has. A [`Sketch`] of each VM, a few kilobytes, is enough to say which VM
//! of which host belongs beside which; [`propose`] says which moves are worth most under the limits of the hosts.
//! Nothing here moves a VM.

mod contents;
mod generated;
mod overview;
mod proposal;
mod sketch;

pub use contents::{Contents, FleetContents};
pub use generated::{FleetShape, GeneratedFleet, InvalidShape};
pub use overview::{
    FLEET_OVERVIEW_SCHEMA, FamilyOnHost, FamilyOverview, FleetOverview, HostOverview, InvalidOverview,
    MoveOverview,
};
pub use proposal::{Fleet, FleetHost, FleetVm, InvalidFleet, Move, MoveLimits, Proposal, propose};
pub use sketch::{Containment, Scale, Sketch, ZeroScale};
