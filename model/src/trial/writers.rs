//! VMs that write to shared pages: their merged pages break, so they gain less from a common cache, and a
//! move for them is wasted. The weight of a VM is the share of its merged pages that is expected to last:
//! `merged / (merged + breaks per second * lasting)`.

use std::collections::BTreeMap;

use crate::observation::Observation;

/// Smoothing: windows of the last half minute weigh about as much as all earlier ones.
const MEMORY_S: f64 = 30.0;

/// Below this weight a VM counts as writing a lot.
pub const WRITER: f64 = 0.8;

/// State of one VM.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaking {
    /// Pages that left their merged frame, per second.
    pub breaks_per_s: f64,
    /// Pages that are merged.
    pub merged: f64,
}

/// The breaks of all VMs, smoothed over time.
#[derive(Clone, Debug, Default)]
pub struct Writers(BTreeMap<String, Breaking>);

impl Writers {
    /// Adds one window. Unavailable values change nothing.
    pub fn add(&mut self, seen: &Observation) {
        let seconds = seen.seconds();
        if seconds <= 0.0 {
            return;
        }
        let newer = 1.0 - (-seconds / MEMORY_S).exp();
        for vm in &seen.merging {
            let (Some(breaks), Some(merged)) = (vm.breaks.value(), vm.merged_now.value()) else { continue };
            let now = Breaking { breaks_per_s: *breaks as f64 / seconds, merged: *merged as f64 };
            let known = self.0.entry(vm.vm.clone()).or_insert(now);
            known.breaks_per_s += newer * (now.breaks_per_s - known.breaks_per_s);
            known.merged += newer * (now.merged - known.merged);
        }
        self.0.retain(|name, _| seen.merging.iter().any(|vm| vm.vm == *name));
    }

    /// The weights of VMs whose breaks are known, if merged pages have to last for `lasting_s` seconds.
    pub fn weights(&self, lasting_s: f64) -> BTreeMap<String, f64> {
        self.0.iter().map(|(name, vm)| (name.clone(), vm.weight(lasting_s))).collect()
    }

    /// One sentence for each VM that writes a lot, with its name.
    pub fn sentences(&self, lasting_s: f64) -> Vec<(String, String)> {
        let many = self.0.iter().filter(|(_, vm)| vm.weight(lasting_s) < WRITER);
        many.map(|(name, vm)| {
            let sentence = format!(
                "{name} writes: {:.0} of its {:.0} merged pages break per second, so its sharing counts {:.2}",
                vm.breaks_per_s,
                vm.merged,
                vm.weight(lasting_s),
            );
            (name.clone(), sentence)
        })
        .collect()
    }
}

impl Breaking {
    fn weight(&self, lasting_s: f64) -> f64 {
        let broken = self.breaks_per_s * lasting_s;
        if broken > 0.0 { self.merged / (self.merged + broken) } else { 1.0 }
    }
}
