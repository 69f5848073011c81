//! The inside of a guest: the data it holds, the way it reads it, and the words it is spoken to with.
//!
//! Two programs are made of it: `huddle-standin` (a process that stands for a VM) and
//! `huddle-guest-init`, the only program of a real VM. So that the second can be small and linked
//! statically, this crate depends on nothing of the host's side.

pub mod chase;
pub mod memory;
pub mod protocol;
mod serve;
pub mod work;

pub use serve::{GuestFailure, ServeOptions, serve};
