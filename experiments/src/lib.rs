//! Workloads, guests and designs that test the method on real hosts.
//!
//! An experiment starts guests, lets the host merge their pages, and measures them under placements
//! that alternate in seeded, randomised blocks. Its statistics are pure functions of what was
//! measured; everything that changes the host goes through the journal of `huddle-host`.

pub mod access_stream;
pub mod data_pages;
pub mod demo;
pub mod frame;
pub mod guest;
pub mod host;
pub mod images;
pub mod interrupt;
pub mod microbench;
mod probes;
pub mod simulation;
pub mod web;

pub use probes::HostWindow;
