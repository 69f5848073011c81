//! A host with Xen and a Debian dom0.

mod image;
mod packages;
mod root;
mod vmlinux;

#[cfg(test)]
pub(super) use image::COMMAND;
pub(super) use image::make;

/// The domains to play with.
pub(super) const START: &str = include_str!("start.sh");
