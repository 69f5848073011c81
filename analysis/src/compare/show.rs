//! The comparison as text.

use std::fmt;

use huddle_model::availability::Availability;
use huddle_model::stats::Estimate;
use huddle_model::text::p_value;

use super::{By, Compared, Comparison, LATENCY_QUANTILES, LatencyOf, TrialOf};
use crate::text::{FLAG_HEADINGS, clean, figure, flag_cells, lines, signed_percent, table};

impl Comparison {
    /// What a value of an arm is.
    pub(crate) fn place_word(&self) -> &'static str {
        match self.by {
            By::Trial => "blocks",
            By::Policy => "rounds",
            By::Run => "spans of windows",
        }
    }

    /// Whether arms have a trial to be told by.
    pub(crate) fn has_trials(&self) -> bool {
        self.arms.iter().any(|arm| arm.of.text().is_some())
    }

    /// The first columns of a table of arms: the trial, where there is one, and the arm.
    fn head<'a>(&self, rest: &[&'a str]) -> Vec<&'a str> {
        let trial = self.has_trials().then_some("trial");
        trial.into_iter().chain(std::iter::once("arm")).chain(rest.iter().copied()).collect()
    }

    fn cells(&self, of: &TrialOf, arm: &str) -> Vec<String> {
        let trial = self.has_trials().then(|| of.text().map_or_else(|| "-".to_owned(), |text| clean(&text)));
        trial.into_iter().chain(std::iter::once(clean(arm))).collect()
    }

    /// What its latencies were measured for; `None` if it has none.
    pub(crate) fn latency_of(&self) -> Option<LatencyOf> {
        self.arms.iter().find_map(|arm| arm.latency_of)
    }
}

/// The value with its interval.
pub(crate) fn estimate(value: &Availability<Estimate>) -> String {
    match value {
        Availability::Unavailable(_) => "-".to_owned(),
        Availability::Available(Estimate { median, ci95: None, .. }) => figure(*median),
        Availability::Available(Estimate { median, ci95: Some([low, high]), .. }) => {
            format!("{} [{}, {}]", figure(*median), figure(*low), figure(*high))
        }
    }
}

/// The change with its interval.
pub(crate) fn change(compared: &Compared) -> String {
    let change = compared.change();
    match change.ci95 {
        None => signed_percent(change.median),
        Some([low, high]) => {
            format!("{} [{}, {}]", signed_percent(change.median), signed_percent(low), signed_percent(high))
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.arms.is_empty() {
            self.arms(f)?;
        }
        if let Some(baseline) = &self.baseline {
            self.changes(f, baseline)?;
        }
        for warning in &self.warnings {
            writeln!(f, "note: {}", clean(warning))?;
        }
        Ok(())
    }
}

impl Comparison {
    fn arms(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = format!(">{}", self.place_word());
        let mut headings = self.head(&[&places]);
        headings.extend(self.measures.iter().map(|measure| measure.title()));
        let mut rows = table(&headings);
        for arm in &self.arms {
            let mut row = self.cells(&arm.of, &arm.name);
            row.push(arm.places.to_string());
            row.extend(self.measures.iter().map(|measure| estimate(&arm.values[measure])));
            rows.add_row(row);
        }
        let intervals = if self.by == By::Trial { ", with 95 % intervals" } else { "" };
        writeln!(f, "Medians over {}{intervals}\n{}", self.place_word(), lines(&rows))?;
        self.latencies(f)?;
        let mut rows = table(&self.head(&FLAG_HEADINGS));
        for arm in &self.arms {
            let mut row = self.cells(&arm.of, &arm.name);
            row.extend(flag_cells(&arm.samples));
            rows.add_row(row);
        }
        writeln!(f, "\nSamples (one vCPU in one window), including flawed ones\n{}", lines(&rows))
    }

    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(of) = self.latency_of() else { return Ok(()) };
        let unit = format!(">{}", of.unit());
        let titles: Vec<String> = LATENCY_QUANTILES.iter().map(|q| format!(">p{}", q * 100.0)).collect();
        let mut headings = self.head(&[&unit]);
        headings.extend(titles.iter().map(String::as_str));
        let mut rows = table(&headings);
        for arm in &self.arms {
            let Some(quantiles) = &arm.latency_quantiles_us else { continue };
            let mut row = self.cells(&arm.of, &arm.name);
            row.push(arm.latencies.to_string());
            row.extend(quantiles.iter().map(|value| figure(*value)));
            rows.add_row(row);
        }
        writeln!(f, "\nLatency in us, {}\n{}", of.words(), lines(&rows))
    }

    fn changes(&self, f: &mut fmt::Formatter<'_>, baseline: &str) -> fmt::Result {
        let columns = ["measure", ">n", "change, + is better", ">p", ">effect size", "test"];
        let mut rows = table(&self.head(&columns));
        for found in &self.changes {
            let mut row = self.cells(&found.of, &found.arm);
            row.push(found.measure.title().to_owned());
            match &found.compared {
                Availability::Unavailable(reason) => {
                    row.push("0".to_owned());
                    row.push(format!("-: {}", clean(reason)));
                    row.extend(["-"; 3].map(str::to_owned));
                }
                Availability::Available(compared) => {
                    let effect = compared.effect_size(found.measure.more_is_better());
                    row.push(compared.change().n.to_string());
                    row.push(change(compared));
                    row.push(compared.p_value().map_or_else(|| "-".to_owned(), p_value));
                    row.push(effect.map_or_else(|| "-".to_owned(), |effect| format!("{effect:+.2}")));
                    row.push(compared.method().to_owned());
                }
            }
            rows.add_row(row);
        }
        writeln!(f, "\nAgainst {}\n{}", clean(baseline), lines(&rows))
    }
}
