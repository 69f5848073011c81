//! The queries of the summary.

use std::collections::BTreeMap;

use huddle_model::schema::Table;
use polars::prelude::*;

use super::{PairSummary, PlacementSummary, Rounds, VmSummary};
use crate::AnalysisError;
use crate::frame::collect;
use crate::run::RunDir;

/// Queries of one table of one run.
pub(super) struct Query<'a> {
    run: &'a RunDir,
    table: Table,
}

impl<'a> Query<'a> {
    pub(super) fn new(run: &'a RunDir, table: Table) -> Self {
        Self { run, table }
    }

    /// The result of `ask` for the table; the default if nothing of it was recorded.
    fn answer<T: Default>(&self, ask: impl FnOnce(LazyFrame) -> PolarsResult<T>) -> Result<T, AnalysisError> {
        match self.run.scan(self.table)? {
            Some(frame) => ask(frame).map_err(AnalysisError::table(self.run.path(), self.table)),
            None => Ok(T::default()),
        }
    }

    /// The number of ordered pairs, and the `top` of them.
    pub(super) fn pairs(&self, top: usize) -> Result<(usize, Vec<PairSummary>), AnalysisError> {
        self.answer(|frame| {
            // Within a group rows keep the order of the segments, so `last` is the latest round.
            let pairs = frame
                .group_by([col("vm"), col("other")])
                .agg([
                    len().cast(DataType::UInt64).alias("rounds"),
                    col("rate").mean().alias("mean_rate"),
                    col("rate").last().alias("last_rate"),
                    col("shared_frames").last().alias("last_shared_frames"),
                ])
                .sort_by_exprs(
                    // Equal to a billionth: the last digits depend on the order in which rows are added.
                    [(col("mean_rate") * lit(1e9) + lit(0.5)).cast(DataType::Int64), col("vm"), col("other")],
                    SortMultipleOptions::new().with_order_descending_multi([true, false, false]),
                );
            let pairs = collect(pairs)?;
            let count = pairs.height();
            let pairs = pairs.head(Some(top));
            let (vm, other) = (pairs.column("vm")?.str()?, pairs.column("other")?.str()?);
            let (rounds, frames) =
                (pairs.column("rounds")?.u64()?, pairs.column("last_shared_frames")?.u64()?);
            let (mean, last) = (pairs.column("mean_rate")?.f64()?, pairs.column("last_rate")?.f64()?);
            let rows = (0..pairs.height()).map(|row| PairSummary {
                vm: text(vm, row),
                other: text(other, row),
                rounds: rounds.get(row).unwrap_or_default(),
                mean_rate: mean.get(row).map_or(f64::NAN, settled),
                last_rate: last.get(row).unwrap_or(f64::NAN),
                last_shared_frames: frames.get(row),
            });
            Ok((count, rows.collect()))
        })
    }

    /// The VMs, one entry per process or domain.
    pub(super) fn vms(&self) -> Result<Vec<VmSummary>, AnalysisError> {
        self.answer(|frame| {
            let vms = frame
                .group_by(["vm", "vm_kind", "pid", "start_ticks", "uuid", "domid"].map(col))
                .agg([
                    len().cast(DataType::UInt64).alias("rounds"),
                    col("vmm").last(),
                    col("vcpus").last(),
                    col("frames_used").last(),
                ])
                .sort_by_exprs(
                    ["vm", "start_ticks", "pid", "domid", "uuid"].map(col),
                    SortMultipleOptions::new(),
                );
            let vms = collect(vms)?;
            let (vm, vmm) = (vms.column("vm")?.str()?, vms.column("vmm")?.str()?);
            let (kind, uuid) = (vms.column("vm_kind")?.str()?, vms.column("uuid")?.str()?);
            let domid = vms.column("domid")?.u32()?;
            let (pid, vcpus) = (vms.column("pid")?.i32()?, vms.column("vcpus")?.u32()?);
            let (rounds, frames) = (vms.column("rounds")?.u64()?, vms.column("frames_used")?.u64()?);
            let rows = (0..vms.height()).map(|row| VmSummary {
                vm: text(vm, row),
                vm_kind: kind.get(row).map(str::to_owned),
                pid: pid.get(row),
                uuid: uuid.get(row).map(str::to_owned),
                domid: domid.get(row),
                vmm: text(vmm, row),
                vcpus: vcpus.get(row).unwrap_or_default(),
                rounds: rounds.get(row).unwrap_or_default(),
                frames_used: frames.get(row),
            });
            Ok(rows.collect())
        })
    }

    /// The placements of the last round.
    pub(super) fn placements(&self) -> Result<Vec<PlacementSummary>, AnalysisError> {
        self.answer(|frame| {
            let last = collect(frame.clone().select([col("round").max()]))?;
            let Some(last) = last.column("round")?.u64()?.get(0) else { return Ok(Vec::new()) };
            let placed = frame
                .filter(col("round").eq(lit(last)))
                .select(["vm", "vcpu", "domain", "cpus", "applied", "not_applied_reason"].map(col));
            let placed = collect(placed)?;
            let (vm, cpus) = (placed.column("vm")?.str()?, placed.column("cpus")?.str()?);
            let (vcpu, domain) = (placed.column("vcpu")?.u32()?, placed.column("domain")?.u32()?);
            let applied = placed.column("applied")?.bool()?;
            let reason = placed.column("not_applied_reason")?.str()?;
            let rows = (0..placed.height()).map(|row| PlacementSummary {
                vm: text(vm, row),
                vcpu: vcpu.get(row).unwrap_or_default(),
                domain: domain.get(row),
                cpus: cpus.get(row).map(str::to_owned),
                applied: applied.get(row),
                not_applied_reason: reason.get(row).map(str::to_owned),
            });
            Ok(rows.collect())
        })
    }

    /// The rounds.
    pub(super) fn rounds(&self) -> Result<Rounds, AnalysisError> {
        self.answer(|frame| {
            let missing = |column: &str| {
                let why = col(column);
                [
                    why.clone().count().cast(DataType::UInt64).alias(format!("{column}_rounds")),
                    why.drop_nulls().last().alias(column),
                ]
            };
            let mut asked = vec![
                len().cast(DataType::UInt64).alias("count"),
                col("begin_us").first(),
                col("end_us").last(),
                sum_of_known("changed"),
                sum_of_known("threads_changed"),
                col("own_cpu_us").last(),
            ];
            asked.extend(missing("sharing_unavailable"));
            asked.extend(missing("pin_unavailable"));
            let rounds = collect(frame.select(asked))?;
            let number = |name: &str| Ok::<_, PolarsError>(rounds.column(name)?.u64()?.get(0));
            let time = |name: &str| Ok::<_, PolarsError>(rounds.column(name)?.i64()?.get(0));
            let why =
                |name: &str| Ok::<_, PolarsError>(rounds.column(name)?.str()?.get(0).map(str::to_owned));
            Ok(Rounds {
                count: number("count")?.unwrap_or_default(),
                first_begin_us: time("begin_us")?,
                last_end_us: time("end_us")?,
                without_sharing: number("sharing_unavailable_rounds")?.unwrap_or_default(),
                sharing_unavailable: why("sharing_unavailable")?,
                without_pinning: number("pin_unavailable_rounds")?.unwrap_or_default(),
                pin_unavailable: why("pin_unavailable")?,
                changed: number("changed")?,
                threads_changed: number("threads_changed")?,
                own_cpu_us: number("own_cpu_us")?,
            })
        })
    }

    /// Number of events of each kind.
    pub(super) fn events(&self) -> Result<BTreeMap<String, u64>, AnalysisError> {
        self.answer(|frame| {
            let kinds = frame.group_by([col("kind")]).agg([len().cast(DataType::UInt64).alias("count")]);
            let kinds = collect(kinds)?;
            let (kind, count) = (kinds.column("kind")?.str()?, kinds.column("count")?.u64()?);
            Ok((0..kinds.height()).map(|row| (text(kind, row), count.get(row).unwrap_or_default())).collect())
        })
    }
}

/// The sum of the values of a column that are not null; null where all are.
fn sum_of_known(column: &str) -> Expr {
    let values = col(column).cast(DataType::UInt64);
    when(values.clone().count().gt(lit(0))).then(values.sum()).otherwise(lit(NULL)).alias(column)
}

/// A mean rate to twelve places: those beyond depend on the order in which rows are added, and files of one recording may
/// have them in another one.
fn settled(mean: f64) -> f64 {
    (mean * 1e12).round() / 1e12
}

/// A value of a column without nulls, which `validate` checks.
fn text(column: &StringChunked, row: usize) -> String {
    column.get(row).unwrap_or_default().to_owned()
}
