//! The times between two reads of a line, and how many lines come between.

use super::{CacheShape, Data, EstimateError, ReadPattern, Reader};

/// Points of time at which the probability of a hit is known, between near 1 and near 0.
const POINTS: usize = 48;

/// Least probability that is told from 0, and from 1.
const LEAST: f64 = 1e-9;

/// A line that was not read after as many times its mean time is not waited for: `exp(-25)` are left.
const LONGEST: f64 = 25.0;

/// Most evaluations of the reads of a part at a time, over all.
const MAX_WORK: usize = 50_000_000;

/// Reads of the lines of a part.
struct Lines {
    /// Their number.
    lines: f64,
    /// Reads of one line in a unit of time by all readers that choose independently.
    free_rate: f64,
    /// Time of a round of each reader that goes round, with its position.
    rounds: Vec<(usize, f64)>,
}

impl Lines {
    fn of(part: &Data, readers: &[Reader], line_bytes: f64) -> Self {
        let lines = part.bytes / line_bytes;
        let mut found = Self { lines, free_rate: 0.0, rounds: Vec::new() };
        for of in part.uses.iter().filter(|of| of.share > 0.0 && lines > 0.0) {
            let rate = readers[of.reader].rate * of.share / lines;
            match readers[of.reader].pattern {
                ReadPattern::Independent => found.free_rate += rate,
                ReadPattern::Cyclic => found.rounds.push((of.reader, rate.recip())),
            }
        }
        found
    }

    /// Probability that none of the readers, without `except` of those that go round, reads a line within `time`.
    fn unread(&self, time: f64, except: Option<usize>) -> f64 {
        let others = self.rounds.iter().filter(|(reader, _)| Some(*reader) != except);
        let rounds: f64 = others.map(|(_, round)| (1.0 - time / round).max(0.0)).product();
        rounds * (-self.free_rate * time).exp()
    }

    /// Time after which nearly every line was read again; 0 for what nobody reads.
    fn longest(&self) -> f64 {
        let free = if self.free_rate > 0.0 { LONGEST / self.free_rate } else { f64::INFINITY };
        let least = self.rounds.iter().fold(free, |least, (_, round)| least.min(*round));
        if least.is_finite() { least } else { 0.0 }
    }
}

/// What a cache does with all reads of its domain.
pub(super) struct Reuse {
    lines: Vec<Lines>,
    sets: f64,
    ways: u32,
    /// Times, ascending from 0, and the probability that a line which was read as long ago is still there. It is near
    /// 1 at the second, and 0 after the last.
    points: Vec<(f64, f64)>,
}

impl Reuse {
    /// # Errors
    /// There is more than can be reckoned with.
    pub(super) fn new(shape: CacheShape, readers: &[Reader], data: &[Data]) -> Result<Self, EstimateError> {
        let line_bytes = f64::from(shape.line_bytes());
        let lines: Vec<Lines> = data.iter().map(|part| Lines::of(part, readers, line_bytes)).collect();
        // The rounds of each part are gone through for each of its readers.
        let work = |of: &Lines| (1 + of.rounds.len()).saturating_pow(2).saturating_mul(3 * POINTS);
        if lines.iter().map(work).fold(0, usize::saturating_add) > MAX_WORK {
            let uses = data.iter().map(|part| part.uses.len()).sum();
            return Err(EstimateError::TooMuch { parts: data.len(), uses });
        }
        let mut reuse = Self { lines, sets: shape.sets(), ways: shape.ways(), points: Vec::new() };
        reuse.points = reuse.all_points(readers);
        Ok(reuse)
    }

    /// Probability that at most `ways - 1` lines came into a set within `time`.
    fn stays(&self, time: f64) -> f64 {
        let read = |of: &Lines| if of.lines > 0.0 { of.lines * (1.0 - of.unread(time, None)) } else { 0.0 };
        let mean = self.lines.iter().map(read).sum::<f64>() / self.sets;
        poisson_below(self.ways, mean)
    }

    fn all_points(&self, readers: &[Reader]) -> Vec<(f64, f64)> {
        let rate: f64 = readers.iter().map(|reader| reader.rate).sum();
        let longest = self.lines.iter().map(Lines::longest).fold(0.0, f64::max);
        if !(longest > 0.0 && rate > 0.0) {
            return vec![(0.0, 1.0)];
        }
        // Before that not even a thousandth of a set can have come.
        let first = (self.sets * 1e-3 / rate).min(longest);
        let begin = self.last(first, longest, 1.0 - LEAST);
        let end = self.last(first, longest, LEAST);
        let step = (end / begin).powf(1.0 / (POINTS - 1) as f64);
        let times = (0..POINTS).scan(begin, |time, _| {
            let now = *time;
            *time *= step;
            Some(now)
        });
        std::iter::once((0.0, 1.0)).chain(times.map(|time| (time, self.stays(time)))).collect()
    }

    /// The last time from `first` to `longest` at which a line stays with a probability of `least` or more.
    fn last(&self, first: f64, longest: f64, least: f64) -> f64 {
        if self.stays(longest) >= least {
            return longest;
        }
        let (mut low, mut high) = (first, longest);
        // Their ratio is halved, as an exponent.
        while high > low * 1.02 {
            let middle = (low * high).sqrt();
            *(if self.stays(middle) >= least { &mut low } else { &mut high }) = middle;
        }
        high
    }

    /// Probability that a read of the part at `part` hits, by any reader that chooses independently: what came before
    /// does not matter to it, so whoever reads next finds the same.
    pub(super) fn independent_hits(&self, part: usize) -> f64 {
        self.mean(|time| self.lines[part].unread(time, None), None)
    }

    /// The same by the reader at `reader`, which goes round.
    pub(super) fn cyclic_hits(&self, part: usize, reader: usize) -> f64 {
        let lines = &self.lines[part];
        let round = lines.rounds.iter().find(|(of, _)| *of == reader).map(|(_, round)| *round);
        self.mean(|time| lines.unread(time, Some(reader)), round)
    }

    /// Mean probability of a hit, for times between reads that exceed `time` with the probability `exceeds(time)`, and
    /// never exceed `longest`.
    fn mean(&self, exceeds: impl Fn(f64) -> f64, longest: Option<f64>) -> f64 {
        let (mut before, mut left, mut hits) = ((0.0, 1.0), 1.0, 0.0);
        for point in self.points.iter().skip(1).copied() {
            if longest.is_some_and(|longest| longest <= point.0) {
                break;
            }
            let rest = exceeds(point.0);
            hits += (left - rest) * (before.1 + point.1) / 2.0;
            (before, left) = (point, rest);
        }
        // Beyond the last point it is 0, or no time exceeds it but that of a round.
        longest.map_or(hits, |longest| {
            let (stays, rest) = (self.stays(longest), exceeds(longest));
            hits + (left - rest) * (before.1 + stays) / 2.0 + rest * stays
        })
    }
}

/// Probability that a number of a Poisson distribution is below `below`.
fn poisson_below(below: u32, mean: f64) -> f64 {
    // The first term would be no number above 0 any more; `MAX_WAYS` is far below that mean.
    if mean > 700.0 {
        return 0.0;
    }
    let (mut term, mut sum) = ((-mean).exp(), 0.0);
    for number in 0..below {
        sum += term;
        term *= mean / f64::from(number + 1);
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of R's `ppois(k - 1, mean)`.
    #[test]
    fn poisson_is_that_of_tables() {
        for (below, mean, expected) in
            [(1, 1.0, 0.367_879_4), (16, 16.0, 0.466_744_9), (20, 15.0, 0.875_218_8), (8, 2.5, 0.995_753_3)]
        {
            let found = poisson_below(below, mean);
            assert!((found - expected).abs() < 1e-6, "{below} {mean}: {found}");
        }
        assert_eq!(poisson_below(512, 1e9), 0.0);
        assert_eq!(poisson_below(16, 0.0), 1.0);
    }
}
