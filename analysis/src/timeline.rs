//! Rates over time, with changes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use huddle_model::schema::Table;
use huddle_model::stats::{BlockSums, SampleFlags};
use huddle_model::text::{counted, utc_text};
use huddle_model::trial::Objective;
use polars::prelude::*;
use serde::Serialize;

use crate::AnalysisError;
use crate::frame::Answer;
use crate::run::RunDir;
use crate::sums::{counter_sums, sums_of};
use crate::text::{clean, figure, lines, table, write_losses};

/// A run over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// Directory of the run.
    pub path: PathBuf,
    /// Losses, one sentence each; the points are from the rest.
    pub losses: Vec<String>,
    /// Number of windows per point.
    pub windows_a_point: u64,
    /// All VMs together, in order of time.
    pub points: Vec<Point>,
    /// Each VM separately, in order of name.
    pub vms: BTreeMap<String, Vec<Point>>,
    /// Placement changes, decisions and events, in order of time.
    pub moments: Vec<Moment>,
}

/// Some consecutive windows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// When the first of them began, since the Unix epoch.
    pub begin_us: i64,
    /// When the last of them ended.
    pub end_us: i64,
    /// The round of the last of them.
    pub round: u64,
    /// The arm of the last of them, if a trial ran.
    pub arm: Option<String>,
    /// LLC misses per 1000 instructions; `None` if unknown.
    pub mpki: Option<f64>,
    /// LLC misses per LLC reference.
    pub miss_ratio: Option<f64>,
    /// Instructions per cycle.
    pub ipc: Option<f64>,
    /// Flaws of the samples.
    pub samples: SampleFlags,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// When, since the Unix epoch.
    pub at_us: i64,
    /// placement, decision, or the kind of the event.
    pub kind: String,
    /// One sentence.
    pub what: String,
}

impl Timeline {
    /// The timeline of `run` in approximately `points` points.
    ///
    /// # Errors
    /// When the recording cannot be read.
    pub fn of(run: &RunDir, points: usize) -> Result<Self, AnalysisError> {
        let mut timeline = Self {
            path: run.path().to_owned(),
            losses: run.losses().to_vec(),
            windows_a_point: 1,
            points: Vec::new(),
            vms: BTreeMap::new(),
            moments: moments(run)?,
        };
        if let Some(frame) = run.scan(Table::Counters)? {
            timeline.add(&frame, points.max(1)).map_err(AnalysisError::table(run.path(), Table::Counters))?;
        }
        Ok(timeline)
    }

    fn add(&mut self, frame: &LazyFrame, points: usize) -> PolarsResult<()> {
        let ends = Answer::of(
            frame.clone().select([col("window").min().alias("first"), col("window").max().alias("last")]),
        )?;
        let (Some(Some(first)), Some(Some(last))) =
            (ends.u64s("first")?.first().copied(), ends.u64s("last")?.first().copied())
        else {
            return Ok(());
        };
        self.windows_a_point = (last - first + 1).div_ceil(points as u64);
        let number = ((col("window") - lit(first)).cast(DataType::Float64)
            / lit(self.windows_a_point as f64))
        .cast(DataType::UInt64)
        .alias("point");
        let frame = frame.clone().with_columns([number]);
        let mut asked = counter_sums();
        asked.extend([col("begin_us").min(), col("end_us").max(), col("round").max(), col("arm").last()]);
        let all = frame.clone().group_by([col("point")]).agg(asked.clone());
        self.points = read(&Answer::of(all)?)?.into_iter().map(|(_, point)| point).collect();
        let by_vm = frame.group_by([col("vm"), col("point")]).agg(asked);
        for (vm, point) in read(&Answer::of(by_vm)?)? {
            self.vms.entry(vm.unwrap_or_default()).or_default().push(point);
        }
        self.vms.values_mut().chain([&mut self.points]).for_each(|points| points.sort_by_key(|p| p.begin_us));
        Ok(())
    }
}

fn read(answer: &Answer) -> PolarsResult<Vec<(Option<String>, Point)>> {
    let (begins, ends, rounds) = (answer.i64s("begin_us")?, answer.i64s("end_us")?, answer.u64s("round")?);
    let arms = answer.texts("arm")?;
    // Without a column of VMs the points are for all VMs together.
    let vms = answer.texts("vm").unwrap_or_else(|_| vec![None; answer.rows()]);
    let point = |(row, sums): (usize, BlockSums)| {
        let value = |objective| sums.value(objective).value().copied();
        let point = Point {
            begin_us: begins[row].unwrap_or_default(),
            end_us: ends[row].unwrap_or_default(),
            round: rounds[row].unwrap_or_default(),
            arm: arms[row].clone(),
            mpki: value(Objective::Mpki),
            miss_ratio: value(Objective::MissRatio),
            ipc: value(Objective::Ipc),
            samples: sums.samples,
        };
        (vms[row].clone(), point)
    };
    Ok(sums_of(answer)?.into_iter().enumerate().map(point).collect())
}

fn moments(run: &RunDir) -> Result<Vec<Moment>, AnalysisError> {
    let mut moments = Vec::new();
    let mut ask = |table: Table, query: &dyn Fn(LazyFrame) -> PolarsResult<Vec<Moment>>| {
        if let Some(frame) = run.scan(table)? {
            moments.extend(query(frame).map_err(AnalysisError::table(run.path(), table))?);
        }
        Ok::<(), AnalysisError>(())
    };
    ask(Table::Decisions, &|frame| {
        let changed = frame.filter(col("changed").fill_null(lit(false)));
        let answer = Answer::of(changed.select(["end_us", "round", "policy", "threads_changed"].map(col)))?;
        let (ends, rounds) = (answer.i64s("end_us")?, answer.u64s("round")?);
        let (policies, threads) = (answer.texts("policy")?, answer.u64s("threads_changed")?);
        let moment = |row: usize| Moment {
            at_us: ends[row].unwrap_or_default(),
            kind: "placement".to_owned(),
            what: format!(
                "round {}: {} threads moved, by policy {}",
                rounds[row].unwrap_or_default(),
                threads[row].unwrap_or_default(),
                policies[row].as_deref().unwrap_or("no policy")
            ),
        };
        Ok((0..answer.rows()).map(moment).collect())
    })?;
    ask(Table::Trials, &|frame| {
        let answer = Answer::of(frame.select(["begin_us", "proposal", "outcome", "reason"].map(col)))?;
        let (at, proposals) = (answer.i64s("begin_us")?, answer.texts("proposal")?);
        let (outcomes, reasons) = (answer.texts("outcome")?, answer.texts("reason")?);
        let moment = |row: usize| Moment {
            at_us: at[row].unwrap_or_default(),
            kind: "decision".to_owned(),
            what: format!(
                "{}: {}, because {}",
                outcomes[row].as_deref().unwrap_or("-"),
                proposals[row].as_deref().unwrap_or("-"),
                reasons[row].as_deref().unwrap_or("-")
            ),
        };
        Ok((0..answer.rows()).map(moment).collect())
    })?;
    ask(Table::Events, &|frame| {
        let answer = Answer::of(frame.select(["at_us", "kind", "message"].map(col)))?;
        let (at, kinds, texts) = (answer.i64s("at_us")?, answer.texts("kind")?, answer.texts("message")?);
        let moment = |row: usize| Moment {
            at_us: at[row].unwrap_or_default(),
            kind: kinds[row].clone().unwrap_or_default(),
            what: texts[row].clone().unwrap_or_default(),
        };
        Ok((0..answer.rows()).map(moment).collect())
    })?;
    moments.sort_by_key(|moment| moment.at_us);
    Ok(moments)
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_losses(f, &self.losses)?;
        writeln!(f, "{}, {} a point", self.path.display(), counted(self.windows_a_point, "window"))?;
        if self.points.is_empty() {
            writeln!(f, "No counters were recorded.")?;
        }
        let mut rows =
            table(&["begin", ">round", "arm", ">MPKI", ">miss ratio", ">IPC", ">samples", "what happened"]);
        let mut moments = self.moments.iter().peekable();
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
        for (place, point) in self.points.iter().enumerate() {
            // Events before the next point belong to this one.
            let until = self.points.get(place + 1).map_or(i64::MAX, |next| next.begin_us);
            let mut happened = Vec::new();
            while let Some(moment) = moments.next_if(|moment| moment.at_us < until) {
                if moment.kind == "placement" || moment.kind == "decision" {
                    happened.push(clean(&moment.what));
                }
            }
            rows.add_row([
                utc_text(point.begin_us),
                point.round.to_string(),
                clean(point.arm.as_deref().unwrap_or("-")),
                shown(point.mpki),
                shown(point.miss_ratio),
                shown(point.ipc),
                point.samples.samples.to_string(),
                happened.join("; "),
            ]);
        }
        if !self.points.is_empty() {
            writeln!(f, "{}", lines(&rows))?;
        }
        // Without counters there are no points to show events with.
        for moment in moments {
            writeln!(f, "{}  {}  {}", utc_text(moment.at_us), clean(&moment.kind), clean(&moment.what))?;
        }
        Ok(())
    }
}
