//! Queries over huddle's recordings, run by Polars on their Parquet segments.
//!
//! A recording is found ([`sources`]), then summarised ([`summary`]), compared ([`compare`]), drawn
//! ([`report`]), exported ([`export`]) or checked ([`validate`]). Segments are scanned lazily on the
//! streaming engine: a query reads only the columns it needs, and a recording may be larger than memory.

pub mod cli;
pub mod compare;
mod error;
pub mod experiment;
pub mod export;
mod figure;
pub mod fleet;
mod frame;
mod losses;
pub mod misses;
mod perfetto;
pub mod report;
mod rewritten;
mod rows;
pub mod run;
mod scan;
mod segment;
pub mod sharing;
pub mod sources;
pub mod summary;
mod sums;
mod text;
pub mod timeline;
pub mod validate;

pub use error::AnalysisError;
