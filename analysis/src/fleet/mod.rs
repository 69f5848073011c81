//! VMs of many hosts, from the sketches that each host recorded (`huddle sketch`).

mod load;
mod moves;

pub use load::{FleetLimits, LoadedFleet};
pub use moves::ProposedMoves;
