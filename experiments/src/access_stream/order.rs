//! One order of what several vCPUs did: pure, without a clock of its own.
//!
//! # Rules
//! A vCPU's clock is the number of its instructions since recording began, plus what it was set forward by. All are
//! taken to run at one rate: accesses are given out by the clocks at which they were made, those of one clock by the
//! number of the vCPU.
//!
//! What all vCPUs that run have reached can be given out. Three things would make it wait, and set slow ones forward
//! instead, to the clock that the others have reached:
//! - a vCPU that made no progress for [`Limits::halted_after`] is halted: it is not waited for, and its time passes with
//!   that of the others, as on a machine;
//! - one that is more than [`Limits::most_behind`] behind the first: guests that an emulator runs at different speeds
//!   would be ever farther apart;
//! - more than [`Limits::most_pending`] accesses of a vCPU that wait for others: memory is bounded.

use std::collections::VecDeque;
use std::time::Duration;

use huddle_model::cache::Access;

/// What vCPUs are waited for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Without progress for so long a vCPU is not waited for.
    pub halted_after: Duration,
    /// How far one may be behind the first, in instructions.
    pub most_behind: u64,
    /// How many accesses of one may wait for others.
    pub most_pending: usize,
}

impl Default for Limits {
    /// Longer than a slice of time on a host that has fewer CPUs than VMs have vCPUs (some milliseconds each), and
    /// 6 MiB a vCPU.
    fn default() -> Self {
        Self { halted_after: Duration::from_millis(50), most_behind: 1 << 25, most_pending: 1 << 18 }
    }
}

/// The order of several vCPUs.
#[derive(Debug)]
pub(super) struct Order {
    limits: Limits,
    vcpus: Vec<Vcpu>,
    /// Everything before this clock has been given out.
    reached: u64,
}

#[derive(Debug, Default)]
struct Vcpu {
    /// Instructions up to which all its accesses are here.
    complete: u64,
    /// What it was set forward by.
    forward: u64,
    /// When it last made progress.
    moved_at: Duration,
    pending: VecDeque<(u64, Access)>,
}

impl Vcpu {
    fn clock(&self) -> u64 {
        self.complete.saturating_add(self.forward)
    }
}

impl Order {
    pub(super) fn new(vcpus: usize, limits: Limits) -> Self {
        Self { limits, vcpus: (0..vcpus).map(|_| Vcpu::default()).collect(), reached: 0 }
    }

    /// How many more accesses of a vCPU there is room for.
    pub(super) fn room(&self, vcpu: usize) -> usize {
        self.limits.most_pending.saturating_sub(self.vcpus[vcpu].pending.len())
    }

    /// How many accesses have not been given out.
    pub(super) fn waiting(&self) -> usize {
        self.vcpus.iter().map(|vcpu| vcpu.pending.len()).sum()
    }

    /// An access that a vCPU made when it had begun so many instructions, not fewer than at the one before.
    pub(super) fn push(&mut self, vcpu: usize, instructions: u64, access: Access) {
        let vcpu = &mut self.vcpus[vcpu];
        vcpu.pending.push_back((instructions.saturating_add(vcpu.forward), access));
    }

    /// That all accesses of a vCPU before so many instructions have been pushed.
    pub(super) fn complete(&mut self, vcpu: usize, instructions: u64, now: Duration) {
        let vcpu = &mut self.vcpus[vcpu];
        if instructions > vcpu.complete {
            (vcpu.complete, vcpu.moved_at) = (instructions, now);
        }
    }

    /// Gives out what is in order by now. Returns by how many instructions vCPUs were set forward, all together.
    pub(super) fn take(&mut self, now: Duration, into: &mut Vec<Access>) -> u64 {
        let runs = |vcpu: &&Vcpu| now.saturating_sub(vcpu.moved_at) < self.limits.halted_after;
        let first = self.vcpus.iter().map(Vcpu::clock).max().unwrap_or(0);
        let slowest = self.vcpus.iter().filter(runs).map(Vcpu::clock).min();
        let pressed = self.vcpus.iter().filter(|vcpu| vcpu.pending.len() >= self.limits.most_pending.max(1));
        let pressed = pressed.filter_map(|vcpu| vcpu.pending.get(vcpu.pending.len() / 2)).map(|(at, _)| *at);
        let until = [self.reached, slowest.unwrap_or(first), first.saturating_sub(self.limits.most_behind)];
        let until = until.into_iter().chain(pressed).max().unwrap_or(0);
        self.give(|at| at < until, into);
        self.reached = until;
        let mut set_forward = 0u64;
        for vcpu in &mut self.vcpus {
            let missing = until.saturating_sub(vcpu.clock());
            vcpu.forward = vcpu.forward.saturating_add(missing);
            set_forward = set_forward.saturating_add(missing);
        }
        set_forward
    }

    /// Gives out the rest, whatever its clock is.
    pub(super) fn finish(&mut self, into: &mut Vec<Access>) {
        self.give(|_| true, into);
    }

    /// Gives out, in order, what is due by its clock.
    fn give(&mut self, is_due: impl Fn(u64) -> bool, into: &mut Vec<Access>) {
        loop {
            let vcpus = self.vcpus.iter().enumerate();
            let fronts = vcpus.filter_map(|(number, vcpu)| Some((vcpu.pending.front()?.0, number)));
            let Some((at, next)) = fronts.clone().min() else { return };
            if !is_due(at) {
                return;
            }
            // As many as come before those of all others.
            let other = fronts.filter(|(_, number)| *number != next).min();
            let pending = &mut self.vcpus[next].pending;
            while let Some((at, access)) = pending.front()
                && is_due(*at)
                && other.is_none_or(|other| (*at, next) < other)
            {
                into.push(*access);
                pending.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use huddle_model::cache::AccessKind;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { halted_after: Duration::from_millis(50), most_behind: 1000, most_pending: 64 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The access that a vCPU makes at so many instructions.
    fn access(vcpu: usize, instructions: u64) -> Access {
        Access::new(vcpu as u16, instructions * 64, AccessKind::Read).unwrap()
    }

    fn push(order: &mut Order, vcpu: usize, at: &[u64]) {
        at.iter().for_each(|at| order.push(vcpu, *at, access(vcpu, *at)));
    }

    fn taken(order: &mut Order, now: u64) -> Vec<(u16, u64)> {
        let mut into = Vec::new();
        order.take(ms(now), &mut into);
        into.iter().map(|access| (access.vcpu(), access.address() / 64)).collect()
    }

    #[test]
    fn what_all_have_reached_is_given_out_in_order() {
        let mut order = Order::new(2, LIMITS);
        push(&mut order, 0, &[5, 10, 10, 40]);
        push(&mut order, 1, &[3, 10, 20]);
        order.complete(0, 41, ms(1));
        order.complete(1, 20, ms(1));
        assert_eq!(taken(&mut order, 1), [(1, 3), (0, 5), (0, 10), (0, 10), (1, 10)], "20 may not be all");
        order.complete(1, 60, ms(2));
        assert_eq!(taken(&mut order, 2), [(1, 20), (0, 40)]);
        push(&mut order, 1, &[60]);
        let mut rest = Vec::new();
        order.finish(&mut rest);
        assert_eq!(rest, [access(1, 60)]);
    }

    #[test]
    fn a_halted_vcpu_is_not_waited_for_and_its_time_passes() {
        let mut order = Order::new(2, LIMITS);
        order.complete(1, 10, ms(1));
        order.complete(0, 500, ms(1));
        push(&mut order, 0, &[400]);
        assert_eq!(taken(&mut order, 1), []);
        order.complete(0, 600, ms(60));
        push(&mut order, 0, &[550]);
        assert_eq!(taken(&mut order, 60), [(0, 400), (0, 550)], "without progress since 1 ms");
        // What it does after that comes after that.
        push(&mut order, 1, &[11]);
        order.complete(1, 12, ms(61));
        push(&mut order, 0, &[602]);
        order.complete(0, 700, ms(61));
        assert_eq!(taken(&mut order, 61), [(1, 11)]);
        order.complete(1, 200, ms(62));
        assert_eq!(taken(&mut order, 62), [(0, 602)]);
    }

    #[test]
    fn with_all_halted_everything_is_given_out() {
        let mut order = Order::new(2, LIMITS);
        push(&mut order, 0, &[1]);
        order.complete(0, 2, ms(1));
        assert_eq!(taken(&mut order, 100), [(0, 1)]);
    }

    #[test]
    fn one_that_is_far_behind_or_whose_records_fill_the_memory_is_set_forward() {
        let mut order = Order::new(2, LIMITS);
        push(&mut order, 0, &[100, 1500]);
        order.complete(0, 2000, ms(1));
        order.complete(1, 1, ms(1));
        let mut into = Vec::new();
        assert_eq!(order.take(ms(1), &mut into), 999, "from 1 to 1000");
        assert_eq!(into, [access(0, 100)]);

        let mut order = Order::new(2, LIMITS);
        order.complete(0, 100, ms(1));
        order.complete(1, 1, ms(1));
        let many: Vec<u64> = (0..64).collect();
        push(&mut order, 0, &many);
        assert_eq!(order.room(0), 0);
        assert_eq!(taken(&mut order, 1).len(), 32);
        assert_eq!(order.room(0), 32);
    }

    #[test]
    fn clocks_at_their_end_stay_there_and_the_rest_is_given_out() {
        let mut order = Order::new(2, LIMITS);
        push(&mut order, 0, &[7]);
        order.push(0, u64::MAX, access(0, 8));
        order.complete(0, u64::MAX, ms(1));
        order.complete(1, 1, ms(1));
        let mut into = Vec::new();
        assert_eq!(order.take(ms(1), &mut into), u64::MAX - 1000 - 1);
        assert_eq!(into, [access(0, 7)]);
        // Its clock would pass the end by 4,000 instructions.
        order.push(1, 5000, access(1, 9));
        order.complete(1, 5001, ms(2));
        into.clear();
        assert_eq!(order.take(ms(2), &mut into), 0);
        assert_eq!(into, []);
        order.finish(&mut into);
        assert_eq!(into, [access(0, 8), access(1, 9)]);
        assert_eq!(order.waiting(), 0);
    }

    proptest! {
        /// However vCPUs progress: nothing is lost or made up, those of a vCPU stay in order, and the same gives the
        /// same.
        #[test]
        fn every_access_is_given_out_once_in_the_order_of_its_vcpu(
            steps in prop::collection::vec((0..3usize, 0..400u64, 0..8usize, 0..30u64), 1..80)
        ) {
            let run = || {
                let mut order = Order::new(3, LIMITS);
                let (mut into, mut now, mut clocks, mut pushed) = (Vec::new(), 0, [0; 3], [0; 3]);
                for (vcpu, instructions, accesses, passed) in &steps {
                    let accesses = *accesses.min(&order.room(*vcpu));
                    for _ in 0..accesses {
                        order.push(*vcpu, clocks[*vcpu], access(*vcpu, pushed[*vcpu]));
                        pushed[*vcpu] += 1;
                    }
                    clocks[*vcpu] += instructions;
                    now += passed;
                    order.complete(*vcpu, clocks[*vcpu], ms(now));
                    order.take(ms(now), &mut into);
                }
                order.finish(&mut into);
                (into, pushed)
            };
            let (into, pushed) = run();
            for (vcpu, pushed) in pushed.into_iter().enumerate() {
                let of_vcpu = into.iter().filter(|access| usize::from(access.vcpu()) == vcpu);
                let numbers: Vec<u64> = of_vcpu.map(|access| access.address() / 64).collect();
                prop_assert_eq!(numbers, (0..pushed).collect::<Vec<_>>());
            }
            prop_assert_eq!(run().0, into);
        }
    }
}
