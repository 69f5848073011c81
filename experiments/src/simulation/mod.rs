//! Simulation of the closed loop: thousands of synthetic hosts and workloads whose best placement is known, with
//! noise and drift, below the seams of the engine of `huddle run`.
//!
//! A world has VMs in groups that share data, cache domains, affinities, and a true effect: how much more the
//! workloads get done when each is with its whole group. What it reports follows from the affinities that the engine
//! really set. Time is simulated: windows of one second, a pass of KSM every [`WorldSettings::pass_s`]. Everything
//! follows from a seed.

mod chance;
mod figures;
mod host;
mod noise;
mod world;

pub use figures::{
    Day, FirstTrials, Follow, Hosts, Share, budget, day_without_effect, first_trials, follow, one_block_rule,
};
pub use noise::Noise;
pub use world::{HostChange, World, WorldSettings};

#[cfg(test)]
mod tests;
