//! Whether the last minutes take as much memory as they are estimated to take: the limit is one of memory. A program of its
//! own, since it counts every allocation.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use huddle_model::update::{Step, Update};
use huddle_record::{KeepLimits, LastMinutes};
use huddle_testing::output::say;
use huddle_testing::sample_observed::observed;

/// Counts what is in use, as glibc does: with a header for each allocation, in units of 16 bytes.
struct Counting;

static IN_USE: AtomicI64 = AtomicI64::new(0);

fn taken(layout: Layout) -> i64 {
    (layout.size() + 8).max(24).next_multiple_of(16) as i64
}

// SAFETY: all is the system's allocator's; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps to what `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps to what `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What these steps really take, and what they are estimated to take.
fn real_and_estimated(make: impl Fn(u64) -> Step) -> (i64, i64) {
    let begin = Instant::now();
    let limits = KeepLimits { age: Duration::from_secs(3600), max_bytes: u64::MAX };
    let mut last = LastMinutes::new(limits);
    let before = IN_USE.load(Ordering::Relaxed);
    for number in 1..=50 {
        last.push(&make(number), begin);
    }
    let real = IN_USE.load(Ordering::Relaxed) - before;
    (real, last.kept(begin).bytes as i64)
}

#[test]
fn the_estimate_is_close_to_what_is_taken() {
    let only = |number, windows: bool| -> Step {
        let updates = observed(number, 64).updates_since(None).into_iter();
        updates.filter(|update| matches!(update, Update::Window(_)) == windows).collect()
    };
    for (what, windows) in [("windows", true), ("rounds", false)] {
        let (real, estimated) = real_and_estimated(|number| only(number, windows));
        let ratio = estimated as f64 / real as f64;
        say(&format!("{what} of 64 vCPUs: {} bytes each", real / 50));
        assert!((0.8..1.25).contains(&ratio), "{what}: {estimated} estimated, {real} taken: {ratio:.2}");
    }
}
