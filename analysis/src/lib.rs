//! Questions to huddle's recordings, answered by Polars from their Parquet segments.
//!
//! A recording is found ([`run`]), then summed up ([`summary`]) or checked ([`validate`]). Segments
//! are scanned lazily: a query reads the columns it asks for and nothing else.

pub mod cli;
mod error;
pub mod run;
pub mod summary;
mod text;
pub mod validate;

pub use error::AnalysisError;
