//! Misses that an estimate expects under the placements of a simulation, from sizes alone.

use std::collections::BTreeMap;

use huddle_model::cache::CacheModel;
use huddle_model::cache::estimate::{
    CacheShape, Data, EstimateError, ReadPattern, Reader, Use, misses_per_thousand_reads,
};
use huddle_model::plan::Plan;
use huddle_model::summary::{Arm, PredictedCaches, PredictedMisses, PredictedReads, PredictedVm};

/// What guests read: all of their data, as often as the others, and nothing else.
pub(in crate::frame) struct Reads<'a> {
    /// The order of reads.
    pub(in crate::frame) pattern: ReadPattern,
    /// The names of the VMs.
    pub(in crate::frame) vms: Vec<&'a str>,
    /// For each VM a name of its data: equal names, equal data.
    pub(in crate::frame) data: &'a [String],
    /// Size of a data set in bytes.
    pub(in crate::frame) data_bytes: u64,
    /// Whether equal data is merged.
    pub(in crate::frame) merges: bool,
}

/// Expected misses of each plan. Random placements, which are others in each block, have none.
///
/// # Errors
/// An estimate that is not possible.
pub(in crate::frame) fn predicted(
    model: &CacheModel,
    reads: &Reads<'_>,
    plans: &[(Arm, Plan)],
) -> Result<PredictedMisses, EstimateError> {
    let mut arms = BTreeMap::new();
    let mut vms: Vec<PredictedVm> =
        reads.vms.iter().map(|vm| PredictedVm { vm: (*vm).to_owned(), arms: BTreeMap::new() }).collect();
    for (arm, plan) in plans {
        let by_vcpu = of_plan(model, reads, *arm, plan)?;
        let mean = |misses: Vec<f64>| misses.iter().sum::<f64>() / misses.len() as f64;
        if by_vcpu.is_empty() {
            continue;
        }
        arms.insert(arm.name().to_owned(), mean(by_vcpu.iter().map(|(_, misses)| *misses).collect()));
        for (number, vm) in vms.iter_mut().enumerate() {
            let own: Vec<f64> =
                by_vcpu.iter().filter(|(of, _)| *of == number).map(|(_, misses)| *misses).collect();
            if !own.is_empty() {
                vm.arms.insert(arm.name().to_owned(), mean(own));
            }
        }
    }
    let caches = PredictedCaches {
        name: model.name().to_owned(),
        size_bytes: model.size_bytes(),
        ways: model.ways(),
        line_bytes: model.line_bytes(),
    };
    let pattern = match reads.pattern {
        ReadPattern::Independent => PredictedReads::Independent,
        ReadPattern::Cyclic => PredictedReads::Cyclic,
    };
    Ok(PredictedMisses::of(caches, pattern, arms, vms))
}

/// The number of the VM of each vCPU, and its misses of a thousand reads.
fn of_plan(
    model: &CacheModel,
    reads: &Reads<'_>,
    arm: Arm,
    plan: &Plan,
) -> Result<Vec<(usize, f64)>, EstimateError> {
    let mut domains: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for placed in &plan.placement {
        let vm = reads.vms.iter().position(|name| *name == placed.vm);
        domains.entry(placed.domain).or_default().extend(vm);
    }
    let mut found = Vec::new();
    for vms in domains.into_values() {
        let reader = Reader { rate: 1.0, pattern: reads.pattern };
        let mut data: BTreeMap<(Option<&str>, usize), Vec<Use>> = BTreeMap::new();
        for (reader, vm) in vms.iter().enumerate() {
            let name = reads.data.get(*vm).map(String::as_str).filter(|name| !name.is_empty());
            let is_common = reads.merges && !arm.reads_own() && name.is_some();
            let of = if is_common { (name, 0) } else { (None, *vm) };
            data.entry(of).or_default().push(Use { reader, share: 1.0 });
        }
        let data: Vec<Data> =
            data.into_values().map(|uses| Data { bytes: reads.data_bytes as f64, uses }).collect();
        let readers = vec![reader; vms.len()];
        let misses = misses_per_thousand_reads(CacheShape::of(model), &readers, &data)?;
        found.extend(vms.into_iter().zip(misses).filter_map(|(vm, misses)| Some((vm, misses?))));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use huddle_model::plan::{Plan, Policy};
    use serde_json::json;

    use super::*;

    fn plan(policy: Policy, domains: [u32; 4]) -> Plan {
        let placed: Vec<_> = domains
            .iter()
            .enumerate()
            .map(|(vm, domain)| json!({"vm": format!("vm{}", vm + 1), "vcpu": 0, "domain": domain}))
            .collect();
        serde_json::from_value(json!({"policy": policy, "placement": placed})).unwrap()
    }

    #[test]
    fn data_that_two_vms_of_a_cache_read_takes_one_place_unless_it_is_not_merged() {
        let model = CacheModel::preset("paper").unwrap();
        let data = ["A", "A", "B", "B"].map(str::to_owned);
        let of = |merges| {
            let reads = Reads {
                pattern: ReadPattern::Cyclic,
                vms: vec!["vm1", "vm2", "vm3", "vm4"],
                data: &data,
                data_bytes: 12 << 20,
                merges,
            };
            let plans = [
                (Arm::Recommended, plan(Policy::Paper, [0, 0, 1, 1])),
                (Arm::Opposed, plan(Policy::Opposed, [0, 1, 0, 1])),
                (Arm::NotMerged, plan(Policy::Paper, [0, 0, 1, 1])),
            ];
            predicted(&model, &reads, &plans).unwrap()
        };
        let found = of(true);
        // 12 of 20 MiB fit, and twice 12 do not.
        assert!(found.arms["recommended"] < 20.0, "{:?}", found.arms);
        assert!(found.arms["opposed"] > 600.0, "{:?}", found.arms);
        assert_eq!(found.arms["opposed"], found.arms["not_merged"]);
        assert_eq!((found.vms[3].vm.as_str(), found.vms[3].arms["opposed"]), ("vm4", found.arms["opposed"]));
        assert!(found.time_ratio("opposed_over_recommended").unwrap() > 3.0);
        let placebo = of(false);
        assert_eq!(placebo.arms["recommended"], found.arms["opposed"], "nothing is merged in a placebo");
    }
}
