//! Names of what is written now: recordings, pictures.

use huddle_host::clock::unix_us;
use huddle_model::schema::run_id;

/// The name of a run that begins now; such names sort by time.
pub(crate) fn new_run() -> String {
    run_id(unix_us(), std::process::id())
}

/// A new name with the current time, which says what it is.
pub(crate) fn new_name(what: &str) -> String {
    format!("huddle-{what}-{}", new_run())
}
