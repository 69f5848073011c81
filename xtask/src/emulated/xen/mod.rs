//! A host with Xen and a Debian dom0.

mod image;
mod packages;
mod root;
mod vmlinux;

pub(super) use image::make;
#[cfg(test)]
pub(super) use image::COMMAND;

/// The domains to play with.
pub(super) const START: &str = include_str!("start.sh");
