//! Why figures are missing, told once for each reason.

use super::{ArmMisses, Effect, Misses, SizeMisses};
use crate::text::clean;

/// How many arms or sizes are named; the others are counted.
const NAMED: usize = 6;

/// What lacks a figure for a reason.
struct Gap {
    reason: String,
    what: &'static str,
    /// Arms or sizes.
    of: Vec<String>,
}

/// Gaps by what is missing and why, in the order they were found.
#[derive(Default)]
struct Gaps(Vec<Gap>);

impl Gaps {
    fn add(&mut self, what: &'static str, of: &str, reason: Option<&str>) {
        let Some(reason) = reason else { return };
        let of = of.to_owned();
        match self.0.iter_mut().find(|gap| gap.what == what && gap.reason == reason) {
            Some(gap) if gap.of.contains(&of) => {}
            Some(gap) => gap.of.push(of),
            None => self.0.push(Gap { reason: reason.to_owned(), what, of: vec![of] }),
        }
    }

    /// One sentence for each reason. What lacks a figure in all of `all` arms or sizes is told without their names.
    fn sentences(self, all: usize) -> Vec<(String, String)> {
        let told = |Gap { reason, what, of }: Gap| {
            let names = of.iter().take(NAMED).map(|name| clean(name)).collect::<Vec<_>>().join(", ");
            let named = match of.len() {
                count if count >= all => what.to_owned(),
                0..=NAMED => format!("{what} of {names}"),
                count => format!("{what} of {names} and {} more", count - NAMED),
            };
            (reason, named)
        };
        self.0.into_iter().map(told).collect()
    }
}

/// Why there is a dash in a column, one sentence for each reason.
pub(super) fn sentences(misses: &Misses, size_text: impl Fn(Option<u64>) -> String) -> Vec<String> {
    let (mut arms, mut sizes) = (Gaps::default(), Gaps::default());
    let mut names = Vec::new();
    for SizeMisses { data_kib, arms: found, effect, .. } in &misses.sizes {
        let size = size_text(*data_kib);
        sizes.add("figures of arms", &size, found.reason());
        for arm in found.value().into_iter().flatten() {
            if !names.contains(&&arm.arm) {
                names.push(&arm.arm);
            }
            of_arm(&mut arms, arm);
        }
        of_effect(&mut sizes, &size, effect);
    }
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for (reason, what) in arms.sentences(names.len()).into_iter().chain(sizes.sentences(misses.sizes.len())) {
        match found.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, all)) => all.push(what),
            None => found.push((reason, vec![what])),
        }
    }
    found.into_iter().map(|(reason, what)| format!("no {}: {}", what.join(", no "), clean(&reason))).collect()
}

fn of_arm(gaps: &mut Gaps, arm: &ArmMisses) {
    let ArmMisses { arm, predicted_misses, simulated_misses, counted_misses, time } = arm;
    gaps.add("predicted misses", arm, predicted_misses.reason());
    gaps.add("simulated misses", arm, simulated_misses.reason());
    gaps.add("counted misses", arm, counted_misses.reason());
    gaps.add("time", arm, time.reason());
}

fn of_effect(gaps: &mut Gaps, size: &str, effect: &Effect) {
    let Effect { predicted_misses, simulated_misses, predicted_time, simulated_time, measured_time } = effect;
    gaps.add("ratio of predicted misses", size, predicted_misses.reason());
    gaps.add("ratio of simulated misses", size, simulated_misses.reason());
    gaps.add("ratio of predicted time", size, predicted_time.reason());
    gaps.add("ratio of simulated time", size, simulated_time.reason());
    gaps.add("ratio of measured time", size, measured_time.reason());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_named_many_are_counted_and_all_are_not_named() {
        let told = |count: usize| {
            let names: Vec<String> = (0..count).map(|number| format!("a{number}")).collect();
            let mut gaps = Gaps::default();
            names.iter().for_each(|name| gaps.add("time", name, Some("why")));
            gaps.sentences(9).remove(0).1
        };
        assert_eq!(told(2), "time of a0, a1");
        assert_eq!(told(8), "time of a0, a1, a2, a3, a4, a5 and 2 more");
        assert_eq!(told(9), "time");
    }
}
