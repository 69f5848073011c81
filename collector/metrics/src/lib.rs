//! Metrics of a loop: what an operator's monitoring reads.
//!
//! [`Fold`] takes the updates of the loop and keeps its view and the sums of its windows. [`Encoder`] makes the text of
//! it, with the families of [`families`] and no others. [`Server`] gives it to whoever asks by HTTP, and [`TextFile`] writes
//! it to a file from time to time. Taking an update is quick; encoding happens on other threads, on a copy of pointers, so
//! a slow or greedy client holds up nothing.

mod derived;
mod encode;
mod facts;
pub mod families;
mod fold;
mod labels;
mod sample;
mod server;
mod settings;
mod shared;
mod text_file;

pub use encode::{Encoder, Format};
pub use facts::{Facts, RecorderFacts};
pub use fold::Fold;
pub use server::{ListenError, MAX_CONNECTIONS, MAX_REQUEST_BYTES, Server, TIMEOUT};
pub use settings::{BadSetting, Listen, MetricsSettings, NoPlace};
pub use shared::Metrics;
pub use text_file::{TextFile, TextFileError};
