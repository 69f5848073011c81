//! Everything of huddle that touches the host: discovery, the sharing scan, pinning with its journal,
//! recording and replaying, and the loop over them.
//!
//! Every reader of `/proc` or `/sys` takes a [`host::HostRoot`], so that tests give it a tree of
//! fixtures. Everything that changes the host goes through [`pin::journal`].

pub mod attach;
pub mod discover;
pub mod doctor;
pub mod engine;
pub mod host;
pub mod observe;
pub mod pin;
pub mod record;
pub mod replay;
pub mod sharing;
pub mod xen;
