//! The figures as text.

use std::fmt;

use huddle_model::availability::Availability;
use huddle_model::summary::{ArmFigure, MISSES_PER_READ, MISSES_PER_THOUSAND_READS, PredictedReads, Ratio};
use huddle_model::text::bytes;

use super::{ArmMisses, Greatest, Misses, Prediction, Simulation, SizeMisses, gaps};
use crate::compare::estimate_text;
use crate::text::{clean, figure, lines, table};

impl fmt::Display for Simulation {
    /// One sentence without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, fold, origin, blocks, lost, without_frame, miss_over_hit } = self;
        write!(
            f,
            "SIMULATED, not counted: {} last-level caches of {} ({} in {} ways each, {}), one of {fold} sets, fed \
             {}, {blocks} block(s); as time a miss takes {miss_over_hit} hits",
            model.domains(),
            clean(model.name()),
            bytes(model.size_bytes()),
            model.ways(),
            model.replacement(),
            origin.words(),
        )?;
        if (*lost, *without_frame) != (0, 0) {
            write!(
                f,
                "; {lost} accesses were lost, and {without_frame} were to pages without a known frame"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Prediction {
    /// One sentence without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reads = match self.reads {
            PredictedReads::Independent => "reads of any line, whatever was read before",
            PredictedReads::Cyclic => "reads of every line in turn",
        };
        write!(
            f,
            "PREDICTED, an estimate from sizes alone: caches of {} ({} in {} ways each), {reads}; as time a miss takes {} hits",
            clean(&self.caches.name),
            bytes(self.caches.size_bytes),
            self.caches.ways,
            self.miss_over_hit
        )
    }
}

/// What was simulated and predicted, a sentence each; of what was not, nothing.
pub(crate) fn about(misses: &Misses) -> Vec<String> {
    let simulated = misses.simulation.value().map(Simulation::to_string);
    let predicted = misses.prediction.value().map(Prediction::to_string);
    predicted.into_iter().chain(simulated).collect()
}

/// A ratio with its interval, or a dash.
fn ratio_text(ratio: &Availability<Ratio>) -> String {
    match ratio {
        Availability::Unavailable(_) => "-".to_owned(),
        Availability::Available(Ratio { value, ci95: None, .. }) => figure(*value),
        Availability::Available(Ratio { value, ci95: Some([low, high]), .. }) => {
            format!("{} [{}, {}]", figure(*value), figure(*low), figure(*high))
        }
    }
}

fn value_text(value: &Availability<f64>) -> String {
    value.value().map_or_else(|| "-".to_owned(), |value| figure(*value))
}

fn figure_text(value: &Availability<ArmFigure>) -> String {
    estimate_text(&value.as_ref().map(|figure| figure.estimate))
}

/// A table for a page or a terminal: headings, of which those of numbers begin with `>`, and rows.
pub(crate) struct Columns {
    pub(crate) headings: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Misses {
    /// The size of data as people read it.
    fn size_text(kib: Option<u64>) -> String {
        kib.map_or_else(|| "-".to_owned(), |kib| bytes(kib.saturating_mul(1024)))
    }

    fn all_arms(&self) -> impl Iterator<Item = (&SizeMisses, &ArmMisses)> {
        self.sizes.iter().flat_map(|size| size.arms.value().into_iter().flatten().map(move |arm| (size, arm)))
    }

    /// The figures of arms; `None` if there are none.
    pub(crate) fn arm_columns(&self) -> Option<Columns> {
        let unit = |of: fn(&ArmMisses) -> &Availability<ArmFigure>, usual: &str| {
            let found = self.all_arms().find_map(|(_, arm)| Some(of(arm).value()?.unit.clone()));
            found.map_or_else(|| usual.to_owned(), |unit| clean(&unit))
        };
        let counted = match unit(|arm| &arm.counted_misses, "misses") {
            // Of what the guest's loop reads; its kernel is counted and is none of these.
            unit if unit == MISSES_PER_READ => format!("{unit} of the loop"),
            unit => unit,
        };
        let headings = vec![
            "data".to_owned(),
            "arm".to_owned(),
            format!(">predicted {MISSES_PER_THOUSAND_READS}"),
            format!(">SIMULATED {} [95 %]", unit(|arm| &arm.simulated_misses, MISSES_PER_THOUSAND_READS)),
            format!(">counted LLC {counted}, any kind [95 %]"),
            format!(">time, {} [95 %]", unit(|arm| &arm.time, "ns/read")),
        ];
        let rows: Vec<Vec<String>> = self
            .all_arms()
            .map(|(size, arm)| {
                vec![
                    Self::size_text(size.data_kib),
                    clean(&arm.arm),
                    value_text(&arm.predicted_misses),
                    figure_text(&arm.simulated_misses),
                    figure_text(&arm.counted_misses),
                    figure_text(&arm.time),
                ]
            })
            .collect();
        (!rows.is_empty()).then_some(Columns { headings, rows })
    }

    /// The effects of placement by size. The greatest of a column has a `*`.
    pub(crate) fn effect_columns(&self) -> Columns {
        let headings = [
            "data",
            ">predicted misses",
            ">SIMULATED misses [95 %]",
            ">predicted time",
            ">SIMULATED time [95 %]",
            ">measured time [95 %]",
            "valid",
        ];
        let row = |size: &SizeMisses| {
            let effect = &size.effect;
            let marked = |text: String, of: fn(&Greatest) -> Option<u64>| {
                let greatest = self.greatest.as_ref().and_then(of);
                let is_greatest = greatest.is_some() && greatest == size.data_kib && text != "-";
                if is_greatest { format!("* {text}") } else { text }
            };
            vec![
                Self::size_text(size.data_kib),
                value_text(&effect.predicted_misses),
                ratio_text(&effect.simulated_misses),
                marked(value_text(&effect.predicted_time), |greatest| greatest.predicted_kib),
                marked(ratio_text(&effect.simulated_time), |greatest| greatest.simulated_kib),
                marked(ratio_text(&effect.measured_time), |greatest| greatest.measured_kib),
                if size.valid { "yes" } else { "no" }.to_owned(),
            ]
        };
        let rows = self.sizes.iter().map(row).collect();
        Columns { headings: headings.map(str::to_owned).to_vec(), rows }
    }

    /// Why there are dashes, one sentence for each reason.
    pub(crate) fn gaps(&self) -> Vec<String> {
        gaps::sentences(self, Self::size_text)
    }

    /// Rank correlations as words with their values.
    pub(crate) fn correlations(&self) -> Vec<(&'static str, &Availability<f64>)> {
        let of = self.rank_correlations.as_ref();
        let all = of.map(|found| {
            [
                ("predicted and measured", &found.predicted_and_measured),
                ("simulated and measured", &found.simulated_and_measured),
                ("predicted and simulated", &found.predicted_and_simulated),
            ]
        });
        all.into_iter().flatten().collect()
    }
}

/// The columns as a table of a terminal.
fn drawn(Columns { headings, rows }: &Columns) -> String {
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut all = table(&headings);
    rows.iter().for_each(|row| {
        all.add_row(row);
    });
    lines(&all)
}

impl fmt::Display for Misses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", clean(&self.of.display().to_string()), clean(&self.experiment))?;
        about(self).iter().try_for_each(|sentence| writeln!(f, "{sentence}."))?;
        if let Some(arms) = self.arm_columns() {
            writeln!(f, "\nEach arm\n{}", drawn(&arms))?;
        }
        writeln!(f, "\nOpposed over recommended\n{}", drawn(&self.effect_columns()))?;
        if self.greatest.is_some() {
            writeln!(f, "* the greatest of its column")?;
        }
        let correlations = self.correlations();
        if !correlations.is_empty() {
            writeln!(f, "\nRank correlation of the ratios of time, over the sizes")?;
            for (what, value) in correlations {
                let text = match value {
                    Availability::Available(value) => format!("{value:.2}"),
                    Availability::Unavailable(why) => format!("-: {}", clean(why)),
                };
                writeln!(f, "{what:<24} {text}")?;
            }
        }
        let gaps = self.gaps();
        if !gaps.is_empty() {
            writeln!(f)?;
        }
        gaps.iter().try_for_each(|gap| writeln!(f, "note: {gap}"))
    }
}
