//! Plain data and pure logic of huddle: ids, topology, the sharing matrix, plans, the updates of the loop,
//! and the schema of recordings.
//!
//! Nothing here does I/O, reads a clock or uses unsafe code, so every decision of huddle can be replayed from
//! plain values. The data flow is discover -> measure sharing -> plan -> pin -> observe -> compare -> record
//! -> show; every arrow is a type of this crate.
#![forbid(unsafe_code)]

pub mod assignment;
pub mod availability;
pub mod binding;
pub mod cache;
pub mod command;
pub mod counters;
pub mod cpuset;
pub mod event;
pub mod exits;
pub mod fleet;
pub mod id;
pub mod kind;
pub mod ksm;
pub mod left_out;
pub mod matrix;
pub mod names;
pub mod observation;
pub mod page_size;
pub mod pinning;
pub mod plan;
pub mod rates;
pub mod recording;
pub mod rng;
pub mod schedulers;
pub mod schema;
pub mod selection;
pub mod stats;
pub mod summary;
pub mod text;
pub mod topology;
pub mod trial;
pub mod update;
pub mod view;
pub mod vm;
