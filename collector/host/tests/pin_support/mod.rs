//! A pinner with a state directory of its own, for tests on real threads.

use std::path::Path;

use huddle_host::HostRoot;
use huddle_host::pin::{HostPinner, Journal, StateDir, StateLock};

pub(crate) fn lock(dir: &Path) -> StateLock {
    // Tests run side by side, each on processes of its own.
    let root = HostRoot::real().with_run(dir);
    StateDir::open(Some(dir)).unwrap().lock(&root).unwrap()
}

pub(crate) fn pinner(dir: &Path) -> HostPinner {
    let root = HostRoot::real();
    let journal = Journal::open(&root, &lock(dir)).unwrap();
    HostPinner::new(root, journal)
}
