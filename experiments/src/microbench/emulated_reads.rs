//! How much emulated VMs read while their accesses are recorded.

use std::time::Duration;

use crate::frame::Window;
use crate::frame::run::RunError;
use crate::frame::simulate::Phase;
use crate::frame::simulate::emulated::Work;
use crate::guest::Reader;

/// How often the slowest guest reads all of its data in the warm-up, and while misses are counted.
const PASSES: [u32; 2] = [2, 4];

/// For how long it is watched how fast guests read.
const WATCHED: Duration = Duration::from_millis(500);

/// How much slower guests may read while they are recorded. Beside a system call for each read they are 1.8 times as slow
/// (docs/decisions/accesses-of-emulated-vms.md).
const SLOWER: u32 = 2;

/// Reads of all of the data, so and so often: for as long as guests take for it that are not recorded, and some more.
pub(super) struct Reads {
    /// Lines of the data.
    lines: u64,
    /// How long a guest takes for all of them.
    pass: Duration,
    phase: Duration,
}

impl Reads {
    pub(super) fn of(lines: u64) -> Self {
        Self { lines, pass: Duration::ZERO, phase: Duration::ZERO }
    }
}

impl Work<dyn Reader> for Reads {
    fn prepare(&mut self, window: &mut Window<'_, dyn Reader>) -> Result<(), RunError> {
        let before = window.read()?;
        window.interrupt.sleep(WATCHED)?;
        let after = window.read()?;
        let readings = before.iter().flatten().zip(after.iter().flatten());
        // Of a vCPU that has not got through one burst: as if it had read one line.
        let slowest = readings.map(|(before, after)| after.reads.saturating_sub(before.reads).max(1)).min();
        let seconds = WATCHED.as_secs_f64() * self.lines as f64 / slowest.unwrap_or(1) as f64;
        self.pass = Duration::from_secs_f64(seconds);
        Ok(())
    }

    fn begin(&mut self, _: &mut Window<'_, dyn Reader>, phase: Phase) {
        let [warm_up, counted] = PASSES;
        let passes = match phase {
            Phase::WarmUp => warm_up,
            Phase::Counted => counted,
        };
        self.phase = self.pass * passes * SLOWER;
    }

    fn is_enough(&mut self, _: &mut Window<'_, dyn Reader>, elapsed: Duration) -> bool {
        elapsed >= self.phase
    }
}
