//! Complete passes of ksmd: the trigger of the loop, from the tracepoints or from `full_scans`.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use aya::programs::tp_btf::BtfTracePointLink;
use huddle_abi::{PASS_START, PASS_STOP, PassEvent};
use huddle_model::availability::Availability;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::attach::Attacher;
use super::program::Program;
use super::{ProbeError, take_map};
use huddle_host::clock::monotonic_ns;
use huddle_host::stages::{Pass, PassTrigger, TriggerError};
use huddle_host::{HostRoot, ksm};

/// Reported by the tracepoints `ksm_start_scan` and `ksm_stop_scan` (Linux 6.4), at once and with times.
pub struct ProbeTrigger {
    ring: RingBuf<MapData>,
    tally: Tally,
    /// Dropping the links detaches the programs. Without `ksm_start_scan` passes have no start time.
    _links: (Option<BtfTracePointLink>, BtfTracePointLink),
}

impl ProbeTrigger {
    pub(super) fn attach(root: &HostRoot, attacher: &mut Attacher<'_>) -> Availability<Self> {
        let start = match attacher.tracepoint(Program::KsmStartScan) {
            Availability::Available(link) => Some(link),
            Availability::Unavailable(_) => None,
        };
        let stop = match attacher.tracepoint(Program::KsmStopScan) {
            Availability::Available(link) => link,
            Availability::Unavailable(reason) => return Availability::Unavailable(reason),
        };
        let failed = |source| ProbeError::Map { map: "PASSES", source };
        let ring = take_map(attacher.ebpf, "PASSES").and_then(|map| RingBuf::try_from(map).map_err(failed));
        let ring = match ring {
            Ok(ring) => ring,
            Err(error) => return Availability::Unavailable(error.to_string()),
        };
        // Read after attaching: a pass that ends in between is in the ring, but older than `from_ns`.
        let tally = ksm::full_scans(root).map(|full_scans| Tally {
            full_scans,
            from_ns: monotonic_ns(),
            began: None,
        });
        tally.map(|tally| Self { ring, tally, _links: (start, stop) }).into()
    }

    /// Reads all events of the ring; returns the newest complete pass.
    fn drain(&mut self) -> Option<Pass> {
        let mut newest: Option<Pass> = None;
        while let Some(item) = self.ring.next() {
            if let Some(mut pass) = parse(&item).and_then(|event| self.tally.take(&event)) {
                pass.missed += newest.map_or(0, |earlier| earlier.missed + 1);
                newest = Some(pass);
            }
        }
        newest
    }
}

/// Assembles passes from events.
#[derive(Debug)]
struct Tally {
    /// Number of the last complete pass, as in `full_scans`.
    full_scans: u64,
    /// Earlier events are counted in `full_scans` already; `CLOCK_MONOTONIC` in nanoseconds.
    from_ns: u64,
    /// Number and start of the current pass.
    began: Option<(u32, u64)>,
}

impl Tally {
    /// The pass that this event completes; `missed` counts passes between it and the last one.
    fn take(&mut self, event: &PassEvent) -> Option<Pass> {
        match event.kind {
            PASS_START => {
                self.began = Some((event.sequence, event.at_ns));
                None
            }
            PASS_STOP => {
                let began = self.began.take().filter(|(sequence, _)| *sequence == event.sequence);
                if event.at_ns < self.from_ns {
                    return None;
                }
                let mut full_scans = widen(self.full_scans, event.sequence.wrapping_add(1));
                if full_scans <= self.full_scans {
                    // The kernel counts from 0 again after KSM was set to unmerge everything.
                    self.full_scans = 0;
                    full_scans = u64::from(event.sequence) + 1;
                }
                let missed = full_scans - self.full_scans - 1;
                self.full_scans = full_scans;
                Some(Pass {
                    full_scans,
                    began_ns: began.map(|(_, at_ns)| at_ns),
                    ended_ns: Some(event.at_ns),
                    rmap_items: Some(event.rmap_items.into()),
                    missed,
                })
            }
            _ => None,
        }
    }
}

impl PassTrigger for ProbeTrigger {
    fn name(&self) -> &'static str {
        "probes"
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<Pass>, TriggerError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(pass) = self.drain() {
                return Ok(Some(pass));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Rounded up: a poll of 0 ms would spin until the deadline.
            let left_ms = u32::try_from(left.as_millis() + 1).unwrap_or(u32::MAX);
            let mut fds = [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(TriggerError::Poll(errno)),
            }
        }
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }
}

/// The fallback: polls `/sys/kernel/mm/ksm/full_scans`.
#[derive(Debug)]
pub struct FullScansTrigger {
    root: HostRoot,
    full_scans: u64,
    interval: Duration,
}

impl FullScansTrigger {
    /// Polls every `interval`.
    ///
    /// # Errors
    /// This kernel has no KSM.
    pub fn new(root: HostRoot, interval: Duration) -> Result<Self, TriggerError> {
        let full_scans = ksm::full_scans(&root)?;
        Ok(Self { root, full_scans, interval })
    }
}

impl PassTrigger for FullScansTrigger {
    fn name(&self) -> &'static str {
        "full_scans"
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<Pass>, TriggerError> {
        let deadline = Instant::now() + timeout;
        loop {
            let full_scans = ksm::full_scans(&self.root)?;
            // The kernel counts from 0 again after KSM was set to unmerge everything: no pass was completed.
            self.full_scans = self.full_scans.min(full_scans);
            if full_scans > self.full_scans {
                let missed = full_scans - self.full_scans - 1;
                self.full_scans = full_scans;
                let pass = Pass { full_scans, began_ns: None, ended_ns: None, rmap_items: None, missed };
                return Ok(Some(pass));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(left.min(self.interval));
        }
    }
}

fn parse(bytes: &[u8]) -> Option<PassEvent> {
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    let at_ns = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    Some(PassEvent { at_ns, kind: word(8)?, sequence: word(12)?, rmap_items: word(16)?, reserved: word(20)? })
}

/// The number nearest to `known` with the lower half `low`: the tracepoint has only 32 bits of the kernel's
/// count.
fn widen(known: u64, low: u32) -> u64 {
    let distance = low.wrapping_sub(known as u32) as i32;
    known.saturating_add_signed(i64::from(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_widened_across_the_wrap_in_both_directions() {
        assert_eq!(widen(10, 11), 11);
        assert_eq!(widen(10, 9), 9);
        assert_eq!(widen(0xffff_ffff, 0), 0x1_0000_0000);
        assert_eq!(widen(0x1_0000_0000, 0xffff_ffff), 0xffff_ffff);
    }

    #[test]
    fn passes_are_paired_and_counted_across_a_reset() {
        let event = |at_ns, kind, sequence| PassEvent { at_ns, kind, sequence, rmap_items: 5, reserved: 0 };
        let mut tally = Tally { full_scans: 7, from_ns: 100, began: None };
        assert_eq!(tally.take(&event(90, PASS_STOP, 6)), None, "known from full_scans");
        let pass = tally.take(&event(110, PASS_STOP, 7)).unwrap();
        assert_eq!((pass.full_scans, pass.began_ns, pass.missed), (8, None, 0));
        assert_eq!(tally.take(&event(120, PASS_START, 8)), None);
        let pass = tally.take(&event(130, PASS_STOP, 8)).unwrap();
        assert_eq!((pass.full_scans, pass.began_ns, pass.ended_ns), (9, Some(120), Some(130)));
        assert_eq!(tally.take(&event(140, PASS_START, 9)), None);
        let pass = tally.take(&event(150, PASS_STOP, 11)).unwrap();
        assert_eq!((pass.began_ns, pass.missed), (None, 2), "two passes and the start of this one were lost");
        // Everything was unmerged, and the kernel counts from 0 again.
        let pass = tally.take(&event(160, PASS_STOP, 1)).unwrap();
        assert_eq!((pass.full_scans, pass.missed), (2, 1));
        assert_eq!(tally.take(&event(170, PASS_STOP, 2)).unwrap().full_scans, 3);
        assert_eq!(tally.take(&event(180, 9, 3)), None, "an event of another kind");
    }

    #[test]
    fn the_fallback_reports_each_advance_once_with_the_missed_passes() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let path = root.sys("kernel/mm/ksm/full_scans");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "7\n").unwrap();
        let mut trigger = FullScansTrigger::new(root, Duration::from_millis(1)).unwrap();
        assert_eq!(trigger.wait(Duration::ZERO).unwrap(), None);
        std::fs::write(&path, "10\n").unwrap();
        let pass = trigger.wait(Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!((pass.full_scans, pass.missed, pass.ended_ns), (10, 2, None));
        assert_eq!(trigger.wait(Duration::from_millis(3)).unwrap(), None);
        std::fs::write(&path, "0\n").unwrap();
        assert_eq!(trigger.wait(Duration::ZERO).unwrap(), None, "a reset of the count is not a pass");
        std::fs::write(&path, "1\n").unwrap();
        assert_eq!(trigger.wait(Duration::ZERO).unwrap().map(|pass| pass.full_scans), Some(1));
        std::fs::remove_file(&path).unwrap();
        assert!(trigger.wait(Duration::ZERO).unwrap_err().to_string().contains("full_scans"));
    }
}
