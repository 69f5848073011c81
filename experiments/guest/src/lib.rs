//! The inside of a guest: the data it holds, the way it reads it, and the protocol that controls it.
//!
//! Two programs are made of it: `huddle-standin` (a process as a stand-in for a VM) and
//! `huddle-guest-init`, the only program of a real VM. So that the second can be small and linked
//! statically, this crate depends on nothing of the host's side.

pub mod chase;
pub mod memory;
pub mod protocol;
mod serve;
pub mod work;

pub use serve::{GuestFailure, ServeOptions, serve};
