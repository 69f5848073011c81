//! All figures as rows of one kind, for CSV: one figure of one source a row.

use std::io::Write;

use huddle_model::availability::Availability;
use huddle_model::summary::{ArmFigure, MISSES_PER_THOUSAND_READS, OPPOSED_OVER_RECOMMENDED, Ratio};
use polars::prelude::*;

use super::{ArmMisses, Misses, SizeMisses};

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Predicted,
    Simulated,
    Measured,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Predicted => "predicted",
            Self::Simulated => "simulated",
            Self::Measured => "measured",
        }
    }
}

/// One figure; the experiment and its size are in every row.
#[derive(Debug)]
struct Row {
    directory: String,
    data_kib: Option<u64>,
    /// An arm, or the ratio of two.
    of: String,
    /// `misses` or `time`.
    figure: &'static str,
    source: Source,
    value: Option<f64>,
    ci95: Option<[f64; 2]>,
    n: Option<u64>,
    unit: Option<String>,
    why_none: Option<String>,
}

/// A figure without its place.
struct Value {
    value: Option<f64>,
    ci95: Option<[f64; 2]>,
    n: Option<u64>,
    unit: Option<String>,
    why_none: Option<String>,
}

impl Value {
    fn none(why: &str) -> Self {
        Self { value: None, ci95: None, n: None, unit: None, why_none: Some(why.to_owned()) }
    }

    fn predicted(value: &Availability<f64>, unit: &str) -> Self {
        match value {
            Availability::Unavailable(why) => Self::none(why),
            Availability::Available(value) => {
                Self { value: Some(*value), ci95: None, n: None, unit: Some(unit.to_owned()), why_none: None }
            }
        }
    }

    fn figure(value: &Availability<ArmFigure>) -> Self {
        match value {
            Availability::Unavailable(why) => Self::none(why),
            Availability::Available(ArmFigure { estimate, unit }) => Self {
                value: Some(estimate.median),
                ci95: estimate.ci95,
                n: Some(estimate.n as u64),
                unit: Some(unit.clone()),
                why_none: None,
            },
        }
    }

    fn ratio(value: &Availability<Ratio>) -> Self {
        match value {
            Availability::Unavailable(why) => Self::none(why),
            Availability::Available(Ratio { value, ci95, n, .. }) => Self {
                value: Some(*value),
                ci95: *ci95,
                n: Some(*n as u64),
                unit: Some(RATIO.to_owned()),
                why_none: None,
            },
        }
    }
}

/// The unit of ratios.
const RATIO: &str = "ratio";

fn rows_of(misses: &Misses) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |size: &SizeMisses, of: &str, figure, source, found: Value| {
        let Value { value, ci95, n, unit, why_none } = found;
        rows.push(Row {
            directory: misses.of.display().to_string(),
            data_kib: size.data_kib,
            of: of.to_owned(),
            figure,
            source,
            value,
            ci95,
            n,
            unit,
            why_none,
        });
    };
    for size in &misses.sizes {
        for ArmMisses { arm, predicted_misses, simulated_misses, counted_misses, time } in
            size.arms.value().into_iter().flatten()
        {
            let predicted = Value::predicted(predicted_misses, MISSES_PER_THOUSAND_READS);
            add(size, arm, "misses", Source::Predicted, predicted);
            add(size, arm, "misses", Source::Simulated, Value::figure(simulated_misses));
            add(size, arm, "misses", Source::Measured, Value::figure(counted_misses));
            add(size, arm, "time", Source::Measured, Value::figure(time));
        }
        let (effect, of) = (&size.effect, OPPOSED_OVER_RECOMMENDED);
        add(size, of, "misses", Source::Predicted, Value::predicted(&effect.predicted_misses, RATIO));
        add(size, of, "misses", Source::Simulated, Value::ratio(&effect.simulated_misses));
        add(size, of, "time", Source::Predicted, Value::predicted(&effect.predicted_time, RATIO));
        add(size, of, "time", Source::Simulated, Value::ratio(&effect.simulated_time));
        add(size, of, "time", Source::Measured, Value::ratio(&effect.measured_time));
    }
    rows
}

/// Writes all figures as comma-separated values with a heading, a row for each figure of each source; what is unavailable
/// is empty, with the reason in `why_none`.
///
/// # Errors
/// When it cannot be written.
pub fn write_csv(all: &[Misses], out: &mut impl Write) -> std::io::Result<()> {
    let rows: Vec<Row> = all.iter().flat_map(rows_of).collect();
    let text = |of: &dyn Fn(&Row) -> Option<&str>| rows.iter().map(of).collect::<StringChunked>();
    let number = |of: &dyn Fn(&Row) -> Option<f64>| rows.iter().map(of).collect::<Float64Chunked>();
    let count = |of: &dyn Fn(&Row) -> Option<u64>| rows.iter().map(of).collect::<UInt64Chunked>();
    let columns = vec![
        text(&|row| Some(&row.directory)).with_name("directory".into()).into_column(),
        count(&|row| row.data_kib).with_name("data_kib".into()).into_column(),
        text(&|row| Some(&row.of)).with_name("of".into()).into_column(),
        text(&|row| Some(row.figure)).with_name("figure".into()).into_column(),
        text(&|row| Some(row.source.name())).with_name("source".into()).into_column(),
        number(&|row| row.value).with_name("value".into()).into_column(),
        number(&|row| row.ci95.map(|[low, _]| low)).with_name("ci95_low".into()).into_column(),
        number(&|row| row.ci95.map(|[_, high]| high)).with_name("ci95_high".into()).into_column(),
        count(&|row| row.n).with_name("n".into()).into_column(),
        text(&|row| row.unit.as_deref()).with_name("unit".into()).into_column(),
        text(&|row| row.why_none.as_deref()).with_name("why_none".into()).into_column(),
    ];
    let mut frame = DataFrame::new(rows.len(), columns).map_err(std::io::Error::other)?;
    // Through memory, so that an error of `out` stays what it is.
    let mut csv = Vec::new();
    CsvWriter::new(&mut csv).finish(&mut frame).map_err(std::io::Error::other)?;
    out.write_all(&csv)
}
