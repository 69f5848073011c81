//! Simulation of the closed loop: thousands of synthetic hosts and workloads whose best placement is known, with
//! noise and drift, drive the same state machine as `huddle run`.
//!
//! A world has VMs in groups that share data, cache domains, and a true effect: how much more the
//! workloads get done when each is with its whole group. Time is simulated: windows of one second, a pass
//! of KSM every [`WorldSettings::pass_s`]. Everything follows from a seed.

mod chance;
mod figures;
mod world;

pub use figures::{
    Figures, Follow, Share, budget, follow, kept_with_effect, kept_without_difference, one_block_rule,
};
pub use world::{HostChange, World, WorldSettings};

#[cfg(test)]
mod tests;
