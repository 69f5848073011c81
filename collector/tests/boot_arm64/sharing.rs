//! What KSM merges.

use crate::Test;

pub const TESTS: &[Test] = &[];
