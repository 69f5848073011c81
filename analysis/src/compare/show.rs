//! The comparison as text.

use std::fmt;

use huddle_model::availability::Availability;
use huddle_model::stats::{Compared, Estimate, Side, Warning};
use huddle_model::text::p_value;

use super::{By, Comparison, LATENCY_QUANTILES, LatencyOf};
use crate::text::{clean, figure, lines, signed_percent, table};

impl Comparison {
    /// What a value of an arm is.
    pub(crate) fn place_word(&self) -> &'static str {
        match self.by {
            By::Arm => "blocks",
            By::Policy => "rounds",
            By::Run => "spans of windows",
        }
    }

    /// The warnings of all changes, each with its arm and measure; warnings about the baseline are shown
    /// once, not for each arm.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for found in &self.changes {
            let Availability::Available(compared) = &found.compared else { continue };
            for warning in &compared.warnings {
                let arm = match warning {
                    Warning::Drift { side: Side::Before, .. }
                    | Warning::Outliers { side: Side::Before, .. } => {
                        self.baseline.as_deref().unwrap_or("baseline")
                    }
                    _ => &found.arm,
                };
                let note = format!("{arm}, {}: {warning}", found.measure.title());
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        notes
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
    match compared.change.ci95 {
        None => signed_percent(compared.change.median),
        Some([low, high]) => format!(
            "{} [{}, {}]",
            signed_percent(compared.change.median),
            signed_percent(low),
            signed_percent(high)
        ),
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
        let mut headings = vec!["arm", &places];
        headings.extend(self.measures.iter().map(|measure| measure.title()));
        let mut rows = table(&headings);
        for arm in &self.arms {
            let mut row = vec![clean(&arm.name), arm.places.to_string()];
            row.extend(self.measures.iter().map(|measure| estimate(&arm.values[measure])));
            rows.add_row(row);
        }
        writeln!(f, "Medians over {}, with 95 % intervals\n{}", self.place_word(), lines(&rows))?;
        self.latencies(f)?;
        let mut rows = table(&[
            "arm",
            ">samples",
            ">without misses",
            ">multiplexed",
            ">moved caches",
            ">sharing broken",
        ]);
        for arm in &self.arms {
            let flags = arm.samples;
            rows.add_row([
                clean(&arm.name),
                flags.samples.to_string(),
                flags.without_misses.to_string(),
                flags.multiplexed.to_string(),
                flags.migrated.to_string(),
                flags.broken.to_string(),
            ]);
        }
        writeln!(f, "\nSamples (one vCPU in one window), including flawed ones\n{}", lines(&rows))
    }

    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(of) = self.latency_of() else { return Ok(()) };
        let unit = format!(">{}", of.unit());
        let titles: Vec<String> = LATENCY_QUANTILES.iter().map(|q| format!(">p{}", q * 100.0)).collect();
        let mut headings = vec!["arm", &unit];
        headings.extend(titles.iter().map(String::as_str));
        let mut rows = table(&headings);
        for arm in &self.arms {
            let Some(quantiles) = &arm.latency_quantiles_us else { continue };
            let mut row = vec![clean(&arm.name), arm.latencies.to_string()];
            row.extend(quantiles.iter().map(|value| figure(*value)));
            rows.add_row(row);
        }
        writeln!(f, "\nLatency in us, {}\n{}", of.words(), lines(&rows))
    }

    fn changes(&self, f: &mut fmt::Formatter<'_>, baseline: &str) -> fmt::Result {
        let mut rows = table(&["arm", "measure", ">n", "change, + is better", ">p", ">effect size", "test"]);
        for found in &self.changes {
            let (name, title) = (clean(&found.arm), found.measure.title());
            match &found.compared {
                Availability::Unavailable(reason) => {
                    rows.add_row([
                        name,
                        title.to_owned(),
                        "0".to_owned(),
                        format!("-: {}", clean(reason)),
                        "-".to_owned(),
                        "-".to_owned(),
                        "-".to_owned(),
                    ]);
                }
                Availability::Available(compared) => {
                    let effect = compared.effect_size(found.measure.more_is_better());
                    rows.add_row([
                        name.clone(),
                        title.to_owned(),
                        compared.change.n.to_string(),
                        change(compared),
                        compared.test.map_or_else(|| "-".to_owned(), |test| p_value(test.p_value)),
                        effect.map_or_else(|| "-".to_owned(), |effect| format!("{effect:+.2}")),
                        if compared.paired { "signed rank" } else { "Mann-Whitney" }.to_owned(),
                    ]);
                }
            }
        }
        writeln!(f, "\nAgainst {}\n{}", clean(baseline), lines(&rows))?;
        for note in self.notes() {
            writeln!(f, "note: {}", clean(&note))?;
        }
        Ok(())
    }
}
