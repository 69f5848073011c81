//! The whole run on a fake host and fake servers.
