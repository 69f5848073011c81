//! Misses of a simulated cache, under every placement of an experiment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Arm, ArmFigure, Ratio};
use crate::cache::estimate::{MISS_OVER_HIT, ReadCost};
use crate::cache::{CacheModel, Counts};
use crate::stats::{Estimate, signed_rank};
use crate::text::bytes;

/// The unit of simulated misses: reads that miss, of a thousand reads.
pub const MISSES_PER_THOUSAND_READS: &str = "misses/1000 reads";

/// The same where the reads are those of the whole guest, its kernel included ([`AccessOrigin::Emulator`]).
pub const MISSES_PER_THOUSAND_READS_OF_GUEST: &str = "misses/1000 reads of the whole guest";

/// The unit of counted misses in results of the microbenchmark: misses of any kind of access, by anything that ran on the
/// vCPU, for each read of the guest's loop.
pub const MISSES_PER_READ: &str = "misses/read";

/// The unit of the main figure of experiments with requests: their time in microseconds.
pub const MICROSECONDS: &str = "us";

/// Where simulated accesses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessOrigin {
    /// Computed: what guests read is known to the line, and the frames were read from the kernel.
    KnownReads,
    /// Computed: lines of the data at random, at frames that were read from the kernel. No guest read like that.
    RandomReads,
    /// Recorded by the emulator that runs the VMs.
    Emulator,
}

impl AccessOrigin {
    /// It in words, to follow what was simulated.
    pub fn words(self) -> &'static str {
        match self {
            Self::KnownReads => "from the reads that stand-ins are known to make",
            Self::RandomReads => "from reads of lines at random, as in the paper (stand-ins read a ring)",
            Self::Emulator => "from what the emulator ran",
        }
    }
}

/// Misses that the caches of a model have had. No counter was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedMisses {
    /// The caches.
    pub model: CacheModel,
    /// One of how many sets was simulated.
    pub fold: u32,
    /// Where the accesses come from.
    pub origin: AccessOrigin,
    /// Reads that miss, of a thousand, by arm; over all vCPUs.
    pub arms: BTreeMap<String, ArmFigure>,
    /// The same of each VM, in the order of the matrix.
    pub vms: Vec<SimulatedVm>,
    /// The same of each cache domain; in an arm whose VMs are placed anew in each block, others in each.
    pub domains: Vec<SimulatedDomain>,
    /// Ratios of misses, paired by block; null where a block has none in one of the arms.
    pub ratios: BTreeMap<String, Option<Ratio>>,
    /// The same as ratios of time, if a miss takes [`Self::miss_over_hit`] times a hit and nothing else takes time.
    pub time_ratios: BTreeMap<String, Option<Ratio>>,
    /// How many hits a miss takes in `time_ratios`.
    pub miss_over_hit: f64,
    /// What it means, in one sentence.
    pub verdict: String,
    /// Each block with accesses of its own: other places to begin, another order, other sets.
    pub blocks: Vec<SimulatedBlock>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedVm {
    /// Its name.
    pub vm: String,
    /// Reads that miss, of a thousand, by arm.
    pub arms: BTreeMap<String, ArmFigure>,
}

/// One cache domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedDomain {
    /// Its number in the simulation, from 0.
    pub domain: u32,
    /// Reads that miss, of a thousand, by arm.
    pub arms: BTreeMap<String, ArmFigure>,
}

/// What was counted in one block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedBlock {
    /// Number, from 1.
    pub number: usize,
    /// The arms, in the order of reports.
    pub samples: Vec<SimulatedSample>,
    /// Accesses that were lost on their way; they are not among those counted.
    pub lost: u64,
    /// Accesses to pages whose frame was not known; they are not among those counted either.
    pub without_frame: u64,
    /// Accesses to other memory than RAM (firmware, video memory), which is not simulated.
    #[serde(default)]
    pub elsewhere: u64,
    /// Instructions by which slow vCPUs were set forward in the order of accesses, to be beside fast ones. Like the three
    /// above, of the whole recording with its warm-up.
    #[serde(default)]
    pub set_forward: u64,
}

/// What was counted under one placement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedSample {
    /// The arm.
    pub arm: Arm,
    /// Each vCPU, in the order of the matrix.
    pub vcpus: Vec<SimulatedVcpu>,
}

/// What was counted of one vCPU, in the simulated sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulatedVcpu {
    /// Name of its VM.
    pub vm: String,
    /// Number of the vCPU within it.
    pub vcpu: u32,
    /// The number of its domain in the simulation, from 0.
    pub domain: u32,
    /// What it did.
    #[serde(flatten)]
    pub counts: Counts,
}

impl SimulatedBlock {
    fn sample(&self, arm: Arm) -> Option<&SimulatedSample> {
        self.samples.iter().find(|sample| sample.arm == arm)
    }
}

impl SimulatedSample {
    /// Reads that miss, of a thousand, of the vCPUs for which `of` holds; `None` if these read nothing.
    pub fn misses_per_thousand_reads(&self, of: impl Fn(&SimulatedVcpu) -> bool) -> Option<f64> {
        let mut total = Counts::default();
        self.vcpus.iter().filter(|vcpu| of(vcpu)).for_each(|vcpu| total.add(vcpu.counts));
        total.misses_per_thousand_reads()
    }

    fn all(&self) -> Option<f64> {
        self.misses_per_thousand_reads(|_| true)
    }
}

/// The ratios of simulated arms: the name in the summary, the arm of the numerator, that of the denominator.
pub const SIMULATED_RATIOS: [(&str, Arm, Arm); 6] = [
    ("opposed_over_recommended", Arm::Opposed, Arm::Recommended),
    ("recommended_over_by_reads", Arm::Recommended, Arm::ByReads),
    ("not_merged_over_opposed", Arm::NotMerged, Arm::Opposed),
    ("not_merged_over_recommended", Arm::NotMerged, Arm::Recommended),
    ("not_merged_opposed_over_not_merged", Arm::NotMergedOpposed, Arm::NotMerged),
    ("random_over_recommended", Arm::Random, Arm::Recommended),
];

impl SimulatedMisses {
    /// The figures of blocks.
    pub fn of(model: CacheModel, fold: u32, origin: AccessOrigin, blocks: Vec<SimulatedBlock>) -> Self {
        let vms = names(&blocks).into_iter().map(|vm| SimulatedVm {
            arms: figures(&blocks, |sample| sample.misses_per_thousand_reads(|vcpu| vcpu.vm == vm)),
            vm,
        });
        let domains = (0..model.domains()).map(|domain| SimulatedDomain {
            domain,
            arms: figures(&blocks, |sample| sample.misses_per_thousand_reads(|vcpu| vcpu.domain == domain)),
        });
        let domains = domains.filter(|domain| !domain.arms.is_empty()).collect();
        let arms = figures(&blocks, SimulatedSample::all);
        let measured = |(_, over, under): &(&str, Arm, Arm)| {
            arms.contains_key(over.name()) && arms.contains_key(under.name())
        };
        let named = |of: &dyn Fn(f64) -> f64| {
            let ratios = SIMULATED_RATIOS.iter().filter(|ratio| measured(ratio));
            ratios
                .map(|(name, over, under)| ((*name).to_owned(), ratio(&blocks, *over, *under, of)))
                .collect::<BTreeMap<_, _>>()
        };
        let (ratios, time_ratios) = (named(&|misses| misses), named(&time));
        let verdict = verdict(&arms, &ratios, &time_ratios);
        Self {
            vms: vms.collect(),
            domains,
            ratios,
            time_ratios,
            verdict,
            arms,
            model,
            fold,
            origin,
            miss_over_hit: MISS_OVER_HIT,
            blocks,
        }
    }

    /// The caches in words: the model's name, how they are built, and where the accesses come from.
    pub fn caches(&self) -> String {
        let model = &self.model;
        format!(
            "{} ({} in {} ways each, {}), {}",
            model.name(),
            bytes(model.size_bytes()),
            model.ways(),
            model.replacement(),
            self.origin.words()
        )
    }

    /// A ratio of misses, if available.
    pub fn ratio(&self, name: &str) -> Option<Ratio> {
        self.ratios.get(name).copied().flatten()
    }

    /// A ratio of times, if available.
    pub fn time_ratio(&self, name: &str) -> Option<Ratio> {
        self.time_ratios.get(name).copied().flatten()
    }

    /// Accesses that were lost, or whose frame was not known, in all blocks.
    pub fn not_counted(&self) -> (u64, u64) {
        self.blocks.iter().fold((0, 0), |(lost, without), block| {
            (lost.saturating_add(block.lost), without.saturating_add(block.without_frame))
        })
    }
}

/// The time of a read in hits.
pub(super) fn time(misses_per_thousand: f64) -> f64 {
    ReadCost::PAPER.read_time(misses_per_thousand)
}

/// The reads of a thousand that miss in one arm, if those of another have `under` and it takes `ratio` times as long.
pub fn misses_for(ratio: f64, under: f64) -> f64 {
    (ratio * time(under) - 1.0) * 1000.0 / (MISS_OVER_HIT - 1.0)
}

fn names(blocks: &[SimulatedBlock]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let first = blocks.iter().find_map(|block| block.samples.first());
    for vcpu in first.into_iter().flat_map(|sample| &sample.vcpus) {
        if names.last() != Some(&vcpu.vm) {
            names.push(vcpu.vm.clone());
        }
    }
    names
}

fn figures(
    blocks: &[SimulatedBlock],
    of: impl Fn(&SimulatedSample) -> Option<f64>,
) -> BTreeMap<String, ArmFigure> {
    Arm::by_name(|arm| {
        let values = blocks.iter().map(|block| of(block.sample(arm)?)).collect::<Option<Vec<f64>>>()?;
        let estimate = Estimate::of_median(&values)?;
        Some(ArmFigure { estimate, unit: MISSES_PER_THOUSAND_READS.to_owned() })
    })
}

fn ratio(blocks: &[SimulatedBlock], over: Arm, under: Arm, of: &dyn Fn(f64) -> f64) -> Option<Ratio> {
    let value = |block: &SimulatedBlock, arm| Some(of(block.sample(arm)?.all()?));
    let pair = |block: &SimulatedBlock| Some((value(block, over)?, value(block, under)?));
    let pairs = blocks.iter().map(pair).collect::<Option<Vec<(f64, f64)>>>()?;
    if pairs.iter().any(|(over, under)| *over <= 0.0 || *under <= 0.0) {
        return None;
    }
    let Estimate { n, median, ci95 } = Estimate::of_paired_ratio(&pairs)?;
    let logarithms: Vec<(f64, f64)> = pairs.iter().map(|(over, under)| (under.ln(), over.ln())).collect();
    Some(Ratio { value: median, ci95, n, test: signed_rank(&logarithms) })
}

fn verdict(
    arms: &BTreeMap<String, ArmFigure>,
    ratios: &BTreeMap<String, Option<Ratio>>,
    time_ratios: &BTreeMap<String, Option<Ratio>>,
) -> String {
    let misses = |arm: Arm| arms.get(arm.name()).map(|figure| figure.estimate.median);
    let (Some(recommended), Some(opposed)) = (misses(Arm::Recommended), misses(Arm::Opposed)) else {
        return "no block has both placements to compare, recommended and opposed".to_owned();
    };
    let interval = |ratio: Ratio| {
        ratio.ci95.map_or_else(
            || ", too few blocks for an interval".to_owned(),
            |[low, high]| format!(" (95 % interval {low:.2} to {high:.2})"),
        )
    };
    let name = SIMULATED_RATIOS[0].0;
    let ratio = match ratios.get(name).copied().flatten() {
        Some(ratio) => format!("{:.2} times as many{}", ratio.value, interval(ratio)),
        None if recommended == 0.0 && opposed == 0.0 => "none in both".to_owned(),
        None => "a ratio that does not exist, since there are blocks without misses".to_owned(),
    };
    let time = time_ratios.get(name).copied().flatten().map_or_else(String::new, |ratio| {
        format!("; if a miss takes {MISS_OVER_HIT} hits, {:.2} times the time", ratio.value)
    });
    format!(
        "simulated, of 1000 reads {opposed:.1} miss placed the opposite way and {recommended:.1} as recommended: {ratio}{time}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::ByKind;

    fn block(number: usize, misses: &[(Arm, [u64; 2])]) -> SimulatedBlock {
        let vcpu = |(number, misses): (u32, u64)| SimulatedVcpu {
            vm: format!("vm{}", number + 1),
            vcpu: 0,
            domain: number,
            counts: Counts {
                accesses: ByKind { reads: 1000, writes: 7, fetches: 0 },
                references: ByKind { reads: misses * 2, ..ByKind::default() },
                misses: ByKind { reads: misses, writes: 7, fetches: 0 },
            },
        };
        let sample = |(arm, misses): &(Arm, [u64; 2])| SimulatedSample {
            arm: *arm,
            vcpus: (0..).zip(*misses).map(vcpu).collect(),
        };
        SimulatedBlock {
            number,
            samples: misses.iter().map(sample).collect(),
            lost: 3,
            without_frame: 1,
            elsewhere: 0,
            set_forward: 0,
        }
    }

    fn of(blocks: Vec<SimulatedBlock>) -> SimulatedMisses {
        let model = CacheModel::preset("paper").unwrap();
        SimulatedMisses::of(model, 8, AccessOrigin::KnownReads, blocks)
    }

    #[test]
    fn misses_are_of_reads_and_ratios_are_paired() {
        let blocks = (1..=8).map(|n| {
            let n = n as u64;
            block(n as usize, &[(Arm::Recommended, [10 * n, 30 * n]), (Arm::Opposed, [40 * n, 40 * n])])
        });
        let found = of(blocks.collect());
        assert_eq!(found.arms["recommended"].estimate.median, 90.0, "20 n of a thousand, n from 1 to 8");
        assert_eq!(found.vms[1].arms["recommended"].estimate.median, 135.0);
        assert_eq!((found.vms.len(), found.domains.len(), found.domains[1].domain), (2, 2, 1));
        let ratio = found.ratio("opposed_over_recommended").unwrap();
        assert!((ratio.value - 2.0).abs() < 1e-12 && ratio.n == 8 && ratio.ci95.is_some());
        // A block with 20 n misses of a thousand takes 1 + 0.1 n hits for a read, and one with 40 n 1 + 0.2 n.
        let time = found.time_ratio("opposed_over_recommended").unwrap().value;
        let expected = 0.5 * (1.8 / 1.4 + 2.0 / 1.5);
        assert!((time - expected).abs() < 1e-12, "{time} {expected}");
        assert!(!found.ratios.contains_key("random_over_recommended"), "it was not simulated");
        assert_eq!(found.not_counted(), (24, 8));
        assert!(found.verdict.contains("180.0 miss") && found.verdict.contains("90.0"), "{}", found.verdict);
    }

    #[test]
    fn there_is_no_ratio_to_nothing() {
        let blocks = |misses| {
            (1..=8)
                .map(|n| block(n, &[(Arm::Recommended, [0, 0]), (Arm::Opposed, misses)]))
                .collect::<Vec<_>>()
        };
        let found = of(blocks([5, 5]));
        assert_eq!(found.ratio("opposed_over_recommended"), None);
        assert!(found.ratios.contains_key("opposed_over_recommended"), "simulated, and null");
        assert!(found.verdict.contains("does not exist"), "{}", found.verdict);
        assert!(found.time_ratio("opposed_over_recommended").unwrap().value > 1.0);
        assert!(of(blocks([0, 0])).verdict.contains("none in both"));
        assert!(of(Vec::new()).verdict.contains("no block"));
        assert!(of(Vec::new()).arms.is_empty(), "never 0");
    }

    #[test]
    fn what_a_ratio_of_time_needs_in_misses() {
        // 1 + 5 m = 2.1: 220 of a thousand.
        assert!((misses_for(2.1, 0.0) - 220.0).abs() < 1e-9);
        assert!((time(misses_for(1.7, 40.0)) / time(40.0) - 1.7).abs() < 1e-12);
    }

    #[test]
    fn what_is_written_is_read() {
        let found = of(vec![block(1, &[(Arm::Recommended, [1, 2]), (Arm::Opposed, [3, 4])])]);
        let text = serde_json::to_string(&found).unwrap();
        let read: SimulatedMisses = serde_json::from_str(&text).unwrap();
        assert_eq!((read.blocks, read.arms, read.verdict), (found.blocks, found.arms, found.verdict));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["origin"], "known_reads");
        assert_eq!(json["blocks"][0]["samples"][0]["vcpus"][1]["misses"]["reads"], 2);
    }
}
