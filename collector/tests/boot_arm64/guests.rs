//! Guests under KVM.

use crate::Test;

pub const TESTS: &[Test] = &[];
