//! The sharing matrix of a run: of one round, and over all rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use huddle_model::schema::Table;
use polars::prelude::*;
use serde::Serialize;

use crate::AnalysisError;
use crate::frame::Answer;
use crate::run::RunDir;
use crate::text::{clean, lines, percent, table, write_losses};

/// Sharing of the VMs of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sharing {
    /// Directory of the run.
    pub path: PathBuf,
    /// Losses, one sentence each; the matrices are from the rest.
    pub losses: Vec<String>,
    /// The round of the matrix; `None` when no sharing was recorded.
    pub round: Option<u64>,
    /// The method of measurement.
    pub method: Option<String>,
    /// The VMs of that round, in order of name.
    pub vms: Vec<String>,
    /// `rates[i][j]`: the fraction (0 to 1) of VM i's used frames that it shares with VM j; `None` on the
    /// diagonal and if there is no row.
    pub rates: Vec<Vec<Option<f64>>>,
    /// Shared frames likewise.
    pub shared_frames: Vec<Vec<Option<u64>>>,
    /// Those of the shared frames that both VMs read; `None` also where that was not measured or is not seen.
    pub shared_frames_read: Vec<Vec<Option<u64>>>,
    /// The same as a fraction (0 to 1) of VM i's used frames; empty where none is known.
    pub read_rates: Vec<Vec<Option<f64>>>,
    /// Mean rate over all rounds that have the pair.
    pub mean_rates: Vec<Vec<Option<f64>>>,
}

impl Sharing {
    /// The matrix of `round`, or of the last one.
    ///
    /// # Errors
    /// When the recording cannot be read, or has no such round.
    pub fn of(run: &RunDir, round: Option<u64>) -> Result<Self, AnalysisError> {
        let empty = Self {
            path: run.path().to_owned(),
            losses: run.losses().to_vec(),
            round: None,
            method: None,
            vms: Vec::new(),
            rates: Vec::new(),
            shared_frames: Vec::new(),
            shared_frames_read: Vec::new(),
            read_rates: Vec::new(),
            mean_rates: Vec::new(),
        };
        let found = match run.scan(Table::Sharing)? {
            None => Ok(None),
            Some(frame) => {
                matrix(&frame, round, &empty).map_err(AnalysisError::table(run.path(), Table::Sharing))
            }
        }?;
        match (found, round) {
            (Some(sharing), _) => Ok(sharing),
            (None, Some(round)) => Err(AnalysisError::NoRound { run: run.path().to_owned(), round }),
            (None, None) => Ok(empty),
        }
    }
}

fn matrix(frame: &LazyFrame, round: Option<u64>, empty: &Sharing) -> PolarsResult<Option<Sharing>> {
    let last = match round {
        Some(round) => Some(round),
        None => {
            let last = Answer::of(frame.clone().select([col("round").max()]))?;
            last.u64s("round")?.first().copied().flatten()
        }
    };
    let Some(round) = last else { return Ok(None) };
    let rows = Answer::of(
        frame
            .clone()
            .filter(col("round").eq(lit(round)))
            .select(["vm", "other", "rate", "shared_frames", "shared_frames_read", "method"].map(col)),
    )?;
    if rows.rows() == 0 {
        return Ok(None);
    }
    let (vm, other) = (rows.texts("vm")?, rows.texts("other")?);
    let mut names: Vec<String> = vm.iter().chain(&other).flatten().cloned().collect();
    names.sort();
    names.dedup();
    let at: BTreeMap<&str, usize> =
        names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let n = names.len();
    let (mut rates, mut frames, mut means) =
        (vec![vec![None; n]; n], vec![vec![None; n]; n], vec![vec![None; n]; n]);
    let place = |vm: &Option<String>, other: &Option<String>| {
        Some((*at.get(vm.as_deref()?)?, *at.get(other.as_deref()?)?))
    };
    let (rate, shared) = (rows.f64s("rate")?, rows.u64s("shared_frames")?);
    let read = rows.u64s("shared_frames_read")?;
    let (mut frames_read, mut read_rates) = (vec![vec![None; n]; n], vec![vec![None; n]; n]);
    for row in 0..rows.rows() {
        if let Some((i, j)) = place(&vm[row], &other[row]) {
            rates[i][j] = rate[row].filter(|rate| rate.is_finite());
            frames[i][j] = shared[row];
            frames_read[i][j] = read[row].filter(|read| shared[row].is_some_and(|shared| *read <= shared));
            read_rates[i][j] = match (rates[i][j], shared[row], frames_read[i][j]) {
                (Some(_), Some(0), Some(_)) => Some(0.0),
                (Some(rate), Some(shared), Some(read)) => Some(rate * read as f64 / shared as f64),
                _ => None,
            };
        }
    }
    let mean = Answer::of(frame.clone().group_by([col("vm"), col("other")]).agg([col("rate").mean()]))?;
    let (vm, other, rate) = (mean.texts("vm")?, mean.texts("other")?, mean.f64s("rate")?);
    for row in 0..mean.rows() {
        if let Some((i, j)) = place(&vm[row], &other[row]) {
            means[i][j] = rate[row].filter(|rate| rate.is_finite());
        }
    }
    if read_rates.iter().flatten().all(Option::is_none) {
        read_rates.clear();
    }
    let method = rows.texts("method")?.into_iter().flatten().next();
    Ok(Some(Sharing {
        round: Some(round),
        method,
        vms: names,
        rates,
        shared_frames: frames,
        shared_frames_read: frames_read,
        read_rates,
        mean_rates: means,
        ..empty.clone()
    }))
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_losses(f, &self.losses)?;
        let Some(round) = self.round else {
            return writeln!(f, "{}: no sharing was recorded", self.path.display());
        };
        let method = self.method.as_deref().unwrap_or("-");
        writeln!(f, "{}, round {round}, measured by {}", self.path.display(), clean(method))?;
        let names: Vec<String> = self.vms.iter().map(|name| clean(name)).collect();
        for (title, rates) in [
            ("In this round: share of the frames of the row's VM shared with", &self.rates),
            ("Mean over all rounds", &self.mean_rates),
            ("Read by both meanwhile: share of the frames of the row's VM", &self.read_rates),
        ] {
            if rates.is_empty() {
                continue;
            }
            let titles: Vec<String> = names.iter().map(|name| format!(">{name}")).collect();
            let mut headings = vec!["VM"];
            headings.extend(titles.iter().map(String::as_str));
            let mut rows = table(&headings);
            for (name, row) in names.iter().zip(rates) {
                let mut cells = vec![name.clone()];
                cells.extend(row.iter().map(|rate| rate.map_or_else(|| "-".to_owned(), percent)));
                rows.add_row(cells);
            }
            writeln!(f, "\n{title}\n{}", lines(&rows))?;
        }
        Ok(())
    }
}
