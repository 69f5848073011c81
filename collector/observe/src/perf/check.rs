//! Whether an event counts at all. An event that the processor does not have can be opened on many of them, and reads 0
//! for ever; so 0 is reported only of an event that was seen to count: on the calling thread before anything is
//! watched, or on any vCPU since.

use huddle_model::availability::Availability;
use huddle_model::counters::{CounterRole, Counts};

use super::events::EventSpec;

/// Memory that the check reads: more than the L2 of today's cores.
const BYTES: usize = 32 << 20;
/// Its reads, each of another line.
const READS: usize = 200_000;

/// Looks up the caches a good deal: writes new memory, and reads it in an order that no prefetcher follows.
pub(super) fn look_up_caches() {
    let mut memory = vec![1_u8; BYTES];
    let memory = std::hint::black_box(memory.as_mut_slice());
    let mut at = 0_usize;
    for _ in 0..READS {
        // A linear congruential generator modulo a power of two (Knuth, The Art of Computer Programming, volume 2,
        // 3.2.1.2); the next place depends on what was read, so that reads do not overlap.
        at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_222 + usize::from(memory[at % BYTES]));
    }
    std::hint::black_box(at);
}

/// Which events were seen to count, by role.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen([bool; 4]);

impl Seen {
    /// Notes what counted.
    pub(super) fn note(&mut self, counts: &Counts) {
        for (seen, role) in self.0.iter_mut().zip(CounterRole::ALL) {
            *seen |= counts.get(role).is_some_and(|count| count > 0);
        }
    }

    /// Why the count of `role` is not to be trusted: its event has not counted yet. Events of the kernel itself
    /// exist on every host, so that their zeros are real.
    pub(super) fn doubt(&self, role: CounterRole, event: &Availability<EventSpec>) -> Option<String> {
        let index = CounterRole::ALL.iter().position(|other| *other == role)?;
        let event = event.value().filter(|event| !event.is_software())?;
        (!self.0[index]).then(|| {
            format!(
                "{} has counted nothing yet, on any vCPU: an event that the processor does not have reads 0 for ever",
                event.name
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_doubted_until_the_event_counted_somewhere() {
        let raw = Availability::Available(EventSpec::raw("r1ff", 0x1ff));
        let mut seen = Seen::default();
        seen.note(&Counts { cycles: Some(5), llc_misses: Some(0), ..Counts::default() });
        assert_eq!(seen.doubt(CounterRole::Cycles, &raw), None);
        let reason = seen.doubt(CounterRole::LlcMisses, &raw).unwrap();
        assert!(reason.contains("r1ff has counted nothing yet"), "{reason}");
        // One vCPU that misses proves the event for idle ones.
        seen.note(&Counts { llc_misses: Some(1), ..Counts::default() });
        seen.note(&Counts { llc_misses: Some(0), ..Counts::default() });
        assert_eq!(seen.doubt(CounterRole::LlcMisses, &raw), None);
    }

    #[test]
    fn events_of_the_kernel_and_uncounted_roles_are_not_doubted() {
        let seen = Seen::default();
        let software = Availability::Available(EventSpec::page_faults());
        assert_eq!(seen.doubt(CounterRole::LlcMisses, &software), None);
        assert_eq!(seen.doubt(CounterRole::LlcMisses, &Availability::Unavailable("none".into())), None);
    }
}
