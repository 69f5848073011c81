//! One file a command.

pub(crate) mod doctor;
pub(crate) mod matrix;
pub(crate) mod pin;
pub(crate) mod plan;
pub(crate) mod restore;
pub(crate) mod run;
mod show_plan;
pub(crate) mod sketch;
pub(crate) mod top;
pub(crate) mod vms;
mod what_if;
