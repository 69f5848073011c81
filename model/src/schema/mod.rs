//! The schema of recordings.
