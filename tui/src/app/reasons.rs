//! Why values are not available, collected for the shown view.

use huddle_model::availability::Availability;
use huddle_model::summary::SimulatedMisses;
use huddle_model::view::View as LoopView;

use super::metric::{Metric, Row};
use super::{App, Picture, Report, View};

/// Reasons with the values they explain; equal reasons are grouped.
#[derive(Debug, Default)]
struct Reasons {
    found: Vec<(String, Vec<String>)>,
}

impl Reasons {
    fn add(&mut self, what: impl Into<String>, reason: &str) {
        let what = what.into();
        match self.found.iter_mut().find(|(known, _)| known == reason) {
            Some((_, whats)) => {
                if !whats.contains(&what) {
                    whats.push(what);
                }
            }
            None => self.found.push((reason.to_owned(), vec![what])),
        }
    }

    fn check<T>(&mut self, what: &str, value: &Availability<T>) {
        if let Availability::Unavailable(reason) = value {
            self.add(what, reason);
        }
    }

    /// One line a reason; of many values only the first few are named.
    fn lines(self) -> Vec<String> {
        const NAMED: usize = 6;
        let line = |(reason, whats): (String, Vec<String>)| {
            let more = whats.len().saturating_sub(NAMED);
            let named = whats[..whats.len().min(NAMED)].join(", ");
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{named}{rest}: {reason}")
        };
        self.found.into_iter().map(line).collect()
    }
}

impl App {
    /// Why values of the view shown are n/a.
    pub(crate) fn reasons(&self) -> Report {
        let mut reasons = Reasons::default();
        match &self.shown {
            None => reasons.add("everything", "no round has ended yet"),
            Some(picture) => self.gather(picture, &mut reasons),
        }
        let mut lines = reasons.lines();
        if lines.is_empty() {
            lines.push("every value of this view is available".into());
        }
        Report { title: format!("why values of {} are n/a", self.view.name()), lines, top: 0 }
    }

    fn gather(&self, picture: &Picture, reasons: &mut Reasons) {
        let view = &picture.view;
        match self.view {
            View::Overview => {
                stages(view, reasons);
                reasons.check("shared frames", &picture.overview.total_frames);
                reasons.check("shared frames within domains", &picture.overview.within_frames);
                if let Some(figures) = picture.window.value() {
                    for domain in &figures.domains {
                        reasons.check(&format!("load of domain {}", domain.id), &domain.busy);
                        let misses = Metric::MissesPerS.of(&domain.figures);
                        reasons.check(&format!("misses of domain {}", domain.id), misses);
                    }
                }
            }
            View::Sharing => {
                reasons.check("sharing matrix", &view.round.matrix);
                if let Some((matrix, _)) = picture.matrix() {
                    for vm in matrix.vms().iter().filter(|vm| vm.memory.is_none()) {
                        reasons.add(format!("frames of {}", vm.name), super::RATES_ONLY);
                    }
                }
                for vm in view.round.vms.iter() {
                    for why in &vm.cannot_merge {
                        reasons.add(format!("part of the memory of {}", vm.name), why);
                    }
                }
            }
            View::Misses => {
                reasons.check("counters", &view.observation);
                if let Some((result, _)) = self.experiment() {
                    simulated(&result.simulated, reasons);
                }
                if let Some(seen) = view.observation.value() {
                    for counted in &seen.events {
                        reasons.check(counted.role.name(), &counted.event);
                    }
                }
                // The selected row comes first.
                let rows = self.miss_rows();
                let selected = self.misses.table.position(rows.iter().map(|row| super::misses::key(row)));
                for row in rows.get(selected).into_iter().chain(&rows) {
                    for metric in Metric::ALL {
                        let what = format!("{} of {}", metric.name(), label(row));
                        reasons.check(&what, metric.of(&row.figures));
                    }
                }
            }
            View::Compare => {
                reasons.check("comparison", &view.comparison);
                for arm in view.comparison.value().into_iter().flat_map(|comparison| &comparison.arms) {
                    reasons.check(&format!("arm {}", arm.name), &arm.value);
                }
            }
            View::Ksm => {
                reasons.check("state of KSM", &view.round.ksm);
                reasons.check("merges and breaks", &view.observation);
                for row in self.merge_rows().0 {
                    reasons.check(&format!("merged pages of {}", row.vm), &row.merged_now);
                    reasons.check(&format!("merges of {}", row.vm), &row.merges);
                    reasons.check(&format!("breaks of {}", row.vm), &row.breaks);
                    reasons.check(&format!("failed merges of {}", row.vm), &row.failed);
                }
            }
            View::Log => {
                stages(view, reasons);
                if let Some(seen) = view.observation.value() {
                    reasons.check("cache occupancy", &seen.occupancy);
                    reasons.check("losses of probes", &seen.losses);
                    for program in &seen.programs {
                        reasons.check(&format!("program {}", program.name), &program.cost);
                    }
                }
            }
        }
    }
}

fn simulated(simulated: &Availability<SimulatedMisses>, reasons: &mut Reasons) {
    reasons.check("simulated misses", simulated);
    for (arm, figure) in simulated.value().into_iter().flat_map(|simulated| &simulated.arms) {
        if figure.estimate.ci95.is_none() {
            let what = format!("95 % interval of simulated misses, arm {arm}");
            reasons.add(what, "too few blocks were simulated");
        }
    }
}

/// `web` for a VM, `web[0]` for a vCPU.
pub(crate) fn label(row: &Row) -> String {
    row.vcpu.map_or_else(|| row.vm.clone(), |index| format!("{}[{index}]", row.vm))
}

fn stages(view: &LoopView, reasons: &mut Reasons) {
    reasons.check("cache domains", &view.round.topology);
    reasons.check("sharing matrix", &view.round.matrix);
    reasons.check("plan", &view.round.plan);
    if let Some(reason) = view.pinning.reason() {
        reasons.add("pinning", reason);
    }
    reasons.check("counters and load", &view.observation);
    reasons.check("comparison", &view.comparison);
    reasons.check("KSM", &view.round.ksm);
    reasons.check("own CPU time", &view.round.own_cpu_us);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_reasons_are_grouped_and_long_lists_cut() {
        let mut reasons = Reasons::default();
        for vm in 0..10 {
            reasons.add(format!("vm{vm}"), "no PMU");
        }
        reasons.add("vm0", "no PMU");
        reasons.add("x", "gone");
        assert_eq!(reasons.lines(), ["vm0, vm1, vm2, vm3, vm4, vm5 and 4 more: no PMU", "x: gone"]);
    }
}
