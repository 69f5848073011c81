//! What weakens a comparison: one sentence for each kind, with the arms and measures that it applies to, the most
//! important first.

use std::collections::BTreeSet;

use huddle_model::availability::Availability;
use huddle_model::stats::{LEAST_STRETCHES, MIN_VALUES, SampleFlags, Side, Trend, Warning};

use super::{Arms, By, Change, Compared, Comparison, Groups, Measure, Place};

/// How many arms or measures are named; the others are counted.
const NAMED: usize = 4;

/// All caveats of a comparison.
pub(super) fn of(comparison: &Comparison, groups: &Groups) -> Vec<String> {
    let changes = Changes::of(comparison);
    let all = [
        nothing_to_compare(comparison),
        no_baseline(comparison, groups),
        failed(comparison),
        flaw(
            comparison,
            |flags| flags.without_misses,
            "have no LLC misses: see `doctor` for why the counters are missing",
        ),
        changes.few_values(),
        changes.few_stretches(),
        unpaired(comparison),
        changes.left_out(),
        lacking(comparison.by, groups),
        changes.drift(),
        flaw(
            comparison,
            |flags| flags.multiplexed,
            "are scaled estimates because the counters shared the PMU: count fewer events, or stop other users of perf",
        ),
        flaw(
            comparison,
            |flags| flags.migrated,
            "moved between caches within the window: pin, or use longer windows",
        ),
        flaw(
            comparison,
            |flags| flags.broken,
            "had shared pages broken by writes within the window: they share less than the matrix shows",
        ),
        changes.outliers(),
    ];
    all.into_iter().flatten().collect()
}

fn nothing_to_compare(comparison: &Comparison) -> Option<String> {
    match (comparison.arms.as_slice(), comparison.by) {
        ([], By::Trial) => Some(
            "no window belongs to an arm of a trial: record a run that tries placements, or compare by policy or run"
                .to_owned(),
        ),
        ([], By::Policy | By::Run) => {
            Some("no counters and no reports were recorded: there is nothing to compare".to_owned())
        }
        ([only], _) => Some(format!(
            "there is only one arm ({}), so nothing is compared: name a second recording, or record a trial",
            only.name
        )),
        _ => None,
    }
}

/// Trials without the arm that the others are compared with.
fn no_baseline(comparison: &Comparison, groups: &Groups) -> Option<String> {
    let baseline = comparison.baseline.as_ref()?;
    let without = groups.values().filter(|arms| !arms.contains_key(baseline)).count();
    (without > 0).then(|| {
        format!(
            "{without} of {} trials have no arm {baseline:?}, so nothing is compared in them: they ended early, or name \
             another --baseline",
            groups.len()
        )
    })
}

fn failed(comparison: &Comparison) -> Option<String> {
    let arms = comparison.arms.iter().filter(|arm| arm.failed > 0);
    let told: Vec<String> = arms.map(|arm| format!("{} {}", arm.failed, arm.of.name(&arm.name))).collect();
    (!told.is_empty()).then(|| {
        format!(
            "requests had no good response, and have no latency ({}): check the server before using the figures",
            list(&told)
        )
    })
}

/// Flawed samples, by arm.
fn flaw(comparison: &Comparison, count: impl Fn(&SampleFlags) -> u64, words: &str) -> Option<String> {
    let flawed: Vec<_> = comparison.arms.iter().filter(|arm| count(&arm.samples) > 0).collect();
    let counted = flawed.iter().map(|arm| count(&arm.samples)).sum::<u64>();
    let samples = flawed.iter().map(|arm| arm.samples.samples).sum::<u64>();
    let names: Vec<String> = flawed.iter().map(|arm| arm.of.name(&arm.name)).collect();
    (!names.is_empty()).then(|| format!("{}: {counted} of {samples} samples {words}", list(&names)))
}

fn unpaired(comparison: &Comparison) -> Option<String> {
    let what = match comparison.by {
        By::Trial => return None,
        By::Policy => "the rounds",
        By::Run => "the recordings",
    };
    (!comparison.changes.is_empty()).then(|| {
        format!(
            "{what} are not paired by block, so whatever else differed between them is part of the change: use a trial"
        )
    })
}

/// Blocks without one of the arms.
fn lacking(by: By, groups: &Groups) -> Option<String> {
    if by != By::Trial {
        return None;
    }
    let (mut all, mut unpaired) = (0, 0);
    for arms in groups.values().filter(|arms| arms.len() > 1) {
        let places: BTreeSet<Place> = arms.values().flat_map(|arm| arm.blocks.keys().copied()).collect();
        let lacks = |arms: &Arms, place: &Place| arms.values().any(|arm| !arm.blocks.contains_key(place));
        all += places.len();
        unpaired += places.iter().filter(|place| lacks(arms, place)).count();
    }
    (unpaired > 0).then(|| {
        format!(
            "{unpaired} of {all} blocks lack one of the arms and are in no pair: the trial ended early there"
        )
    })
}

/// The changes that were computed.
struct Changes<'a> {
    comparison: &'a Comparison,
    found: Vec<(&'a Change, &'a Compared)>,
}

impl<'a> Changes<'a> {
    fn of(comparison: &'a Comparison) -> Self {
        let available = |change: &'a Change| match &change.compared {
            Availability::Available(compared) => Some((change, compared)),
            Availability::Unavailable(_) => None,
        };
        Self { comparison, found: comparison.changes.iter().filter_map(available).collect() }
    }

    /// All warnings about values of blocks, with the arm that each is about.
    fn warnings(&self) -> impl Iterator<Item = (String, Measure, &'a Warning)> + '_ {
        self.found.iter().flat_map(|(change, compared)| {
            let warnings = match compared {
                Compared::SignedRank(found) => found.warnings.as_slice(),
                Compared::Evidence(found) => found.warnings.as_slice(),
                Compared::BlockBootstrap(_) => &[],
            };
            warnings.iter().map(|warning| {
                let arm = match warning {
                    Warning::Drift { side: Side::Before, .. }
                    | Warning::Outliers { side: Side::Before, .. } => {
                        self.comparison.baseline.as_deref().unwrap_or("baseline")
                    }
                    _ => &change.arm,
                };
                (change.of.name(arm), change.measure, warning)
            })
        })
    }

    fn few_values(&self) -> Option<String> {
        let few = self.warnings().filter_map(|(arm, _, warning)| match warning {
            Warning::FewValues { n } => Some((arm, *n)),
            _ => None,
        });
        let few: Vec<(String, usize)> = few.collect();
        let fewest = few.iter().map(|(_, n)| *n).min()?;
        Some(format!(
            "{}: too few blocks for an interval ({fewest}, and {MIN_VALUES} are needed): run longer, or with shorter blocks",
            names(few.into_iter().map(|(arm, _)| arm))
        ))
    }

    fn few_stretches(&self) -> Option<String> {
        let place = self.comparison.place_word();
        let few = self.found.iter().filter_map(|(change, compared)| match compared {
            Compared::BlockBootstrap(found) if found.p_value.is_none() => {
                Some((change.of.name(&change.arm), found.stretches(), found.stretch.into_iter().max()?))
            }
            _ => None,
        });
        let few: Vec<(String, usize, usize)> = few.collect();
        let (fewest, longest) = (
            few.iter().map(|(_, stretches, _)| *stretches).min()?,
            few.iter().map(|(_, _, long)| *long).max()?,
        );
        Some(format!(
            "{}: no interval and no p value, since values depend on their neighbours (up to {longest} {place} on each other) \
             or are equal or too few: {fewest} independent stretches, and {LEAST_STRETCHES} are needed; record longer",
            names(few.into_iter().map(|(arm, ..)| arm))
        ))
    }

    fn left_out(&self) -> Option<String> {
        let of_blocks = self.warnings().filter_map(|(arm, _, warning)| match warning {
            Warning::LeftOut { n } => Some((arm, *n)),
            _ => None,
        });
        let of_series = self.found.iter().filter_map(|(change, compared)| match compared {
            Compared::BlockBootstrap(found) if found.left_out > 0 => {
                Some((change.of.name(&change.arm), found.left_out))
            }
            _ => None,
        });
        let all: Vec<(String, usize)> = of_blocks.chain(of_series).collect();
        let most = all.iter().map(|(_, n)| *n).max()?;
        Some(format!(
            "{}: up to {most} values were left out because they are not finite or would divide by 0: check why the counters \
             had none",
            names(all.into_iter().map(|(arm, _)| arm))
        ))
    }

    fn drift(&self) -> Option<String> {
        let drifting = self.warnings().filter_map(|(arm, measure, warning)| match warning {
            Warning::Drift { trend, .. } => Some((arm, measure, *trend)),
            _ => None,
        });
        let drifting: Vec<(String, Measure, Trend)> = drifting.collect();
        let (arm, measure, trend) =
            drifting.iter().max_by(|one, other| one.2.tau.abs().total_cmp(&other.2.tau.abs()))?.clone();
        let arms: BTreeSet<String> = drifting.into_iter().map(|(arm, ..)| arm).collect();
        let count =
            if arms.len() == 1 { "1 arm drifts".to_owned() } else { format!("{} arms drift", arms.len()) };
        Some(format!(
            "{count} with time: {} (most: {} of {arm}, Kendall's tau {:.2}, p {:.1e}): warm up longer, fix the frequency, or \
             check for other load; only the change within blocks can be trusted",
            names(arms),
            measure.title(),
            trend.tau,
            trend.p_value
        ))
    }

    fn outliers(&self) -> Option<String> {
        let mut found: Vec<(String, Measure, usize)> = Vec::new();
        for (arm, measure, warning) in self.warnings() {
            if let Warning::Outliers { at, .. } = warning
                // The baseline is in the comparison with each of the others.
                && !found.iter().any(|(known, of, _)| *known == arm && *of == measure)
            {
                found.push((arm, measure, at.len()));
            }
        }
        let (arm, measure, most) = found.iter().max_by_key(|(.., count)| *count)?.clone();
        let all: usize = found.iter().map(|(.., count)| count).sum();
        Some(format!(
            "{all} values are outliers, in {} (most: {most} of {}, {arm}): check what else ran then; the median is robust \
             against them, a mean is not",
            names(found.into_iter().map(|(arm, ..)| arm)),
            measure.title()
        ))
    }
}

/// Names, each once, in their order.
fn names(all: impl IntoIterator<Item = String>) -> String {
    let mut known: Vec<String> = Vec::new();
    for name in all {
        if !known.contains(&name) {
            known.push(name);
        }
    }
    list(&known)
}

fn list(all: &[String]) -> String {
    match all.len().checked_sub(NAMED) {
        None | Some(0) => all.join(", "),
        Some(more) => format!("{} and {more} more", all[..NAMED].join(", ")),
    }
}
