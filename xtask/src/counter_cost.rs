//! `cargo xtask counter-cost`: what reading counters costs huddle, beside perf, in an ARM64 host whose counts are exact.

use crate::emulated::{self, Kind, perf, programs};
use crate::{images, setup, shell};

pub(crate) fn run() -> anyhow::Result<()> {
    setup::busybox()?;
    setup::emulators()?;
    Kind::Arm64.make()?;
    perf::make(&images::images()?.join(perf::DIRECTORY))?;
    emulated::programs::build(programs::Architecture::Arm64, programs::Profile::Dev)?;
    emulated::programs::build(programs::Architecture::Arm64, programs::Profile::Dist)?;
    shell::run(shell::cargo().args(["bench", "--workspace", "--profile", "dev", "--bench", "counter_cost"]))
}
