//! Counters as somebody else on the host would use them.

use anyhow::Context;
use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

/// Opens pinned counters of a thread until the processor has none left, and keeps them while it lives: nothing that is
/// not pinned is counted beside them. Returns how many there are.
///
/// # Errors
/// Not one can be opened.
pub fn take_all(thread: i32) -> anyhow::Result<Vec<Counter>> {
    let mut taken = Vec::new();
    loop {
        let mut builder = Builder::new(Hardware::CPU_CYCLES);
        builder
            .observe_pid(thread)
            .any_cpu()
            .pinned(true)
            .enabled(true)
            .exclude_kernel(false)
            .exclude_hv(false);
        // A pinned event that does not fit is opened all the same, and is in an error state: reading it ends at once.
        match builder.build() {
            Ok(mut counter) => {
                if taken.len() > MOST || counter.read().is_err() {
                    break;
                }
                taken.push(counter);
            }
            Err(_) if !taken.is_empty() => break,
            Err(error) => return Err(error).context("no pinned counter can be opened"),
        }
    }
    Ok(taken)
}

/// Counts the instructions of a thread outside of guests, in user space and in the kernel.
///
/// # Errors
/// The processor cannot.
pub fn instructions_of_host(thread: i32) -> anyhow::Result<Counter> {
    let mut builder = Builder::new(Hardware::INSTRUCTIONS);
    builder
        .observe_pid(thread)
        .any_cpu()
        .enabled(true)
        .exclude_guest(true)
        .exclude_kernel(false)
        .exclude_hv(false);
    builder.build().context("instructions outside of guests cannot be counted")
}

/// More than any processor has for one thread.
const MOST: usize = 32;
