//! Whether a loop is to end: said once, seen by all who have a clone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Unset until somebody sets it, and set for good then.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Has everybody end who looks at it or at a clone.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
