//! Metrics over time, with bounded memory: each window for the last ten minutes (at one a second), the
//! mean of 16 windows for some two hours before.

use std::collections::{BTreeMap, HashMap, VecDeque};

use huddle_model::topology::DomainId;

use super::metric::{Figures, Metric, WindowFigures};

/// Windows kept one by one.
const FINE: usize = 600;
/// Windows in one point of the coarse history, and how many such points are kept.
const EVERY: usize = 16;
const COARSE: usize = 450;
/// Most series kept: 4096 of them take some 20 MB when full, for each metric that there are values of.
const MAX_SERIES: usize = 4096;
/// Marks kept on the time axis.
const MAX_MARKS: usize = 256;

/// Metrics.
const METRICS: usize = Metric::ALL.len();
/// All metrics in a window, in the order of [`Metric::ALL`]; NaN where unavailable.
type Point = [f32; METRICS];

/// The owner of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject<'a> {
    Host,
    Domain(DomainId),
    Vm(&'a str),
    Vcpu(&'a str, u32),
}

/// A change of the placement on the time axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) at_unix_us: u64,
    pub(crate) label: String,
}

/// One column of a chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Column {
    /// There was no window.
    Nothing,
    /// The metric was unavailable in all windows.
    Gap,
    /// The mean over the windows of the column.
    Value(f64),
}

/// One metric of a series. Empty until there is a first value, so that what a host cannot measure takes no room.
#[derive(Clone, Debug, Default)]
struct Track {
    fine: VecDeque<f32>,
    coarse: VecDeque<f32>,
    sum: f64,
    count: u32,
    has_values: bool,
}

impl Track {
    fn close_window(&mut self, value: f32, ends_coarse: bool) {
        if !value.is_nan() {
            self.sum += f64::from(value);
            self.count += 1;
            self.has_values = true;
        }
        if !self.has_values {
            return;
        }
        push(&mut self.fine, value, FINE);
        if ends_coarse {
            let mean = if self.count > 0 { (self.sum / f64::from(self.count)) as f32 } else { f32::NAN };
            push(&mut self.coarse, mean, COARSE);
            (self.sum, self.count) = (0.0, 0);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Series {
    tracks: [Track; METRICS],
    /// Windows and coarse points since it began, as far as they are kept.
    fine: usize,
    coarse: usize,
    next: Option<Point>,
    /// Windows since the last value.
    silent: usize,
}

impl Series {
    fn close_window(&mut self, ends_coarse: bool) {
        let point = self.next.take();
        self.silent = if point.is_some() { 0 } else { self.silent + 1 };
        let point = point.unwrap_or([f32::NAN; METRICS]);
        self.fine = (self.fine + 1).min(FINE);
        self.coarse = (self.coarse + usize::from(ends_coarse)).min(COARSE);
        for (track, value) in self.tracks.iter_mut().zip(point) {
            track.close_window(value, ends_coarse);
        }
    }

    /// The values of a metric, the last one first; NaN where there is none.
    fn latest(&self, metric: Metric, is_fine: bool) -> impl Iterator<Item = f32> + '_ {
        let track = &self.tracks[metric.index()];
        let (values, length) = if is_fine { (&track.fine, self.fine) } else { (&track.coarse, self.coarse) };
        values.iter().rev().copied().chain(std::iter::repeat(f32::NAN)).take(length)
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(value);
}

/// The series of a VM and of its vCPUs.
#[derive(Clone, Debug, Default)]
struct VmSeries {
    own: Series,
    vcpus: BTreeMap<u32, Series>,
}

/// All series, and the time axis that they share: the last point of each belongs to the last window.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    host: Series,
    domains: BTreeMap<DomainId, Series>,
    vms: HashMap<String, VmSeries>,
    count: usize,
    fine_spans: VecDeque<(u64, u64)>,
    coarse_spans: VecDeque<(u64, u64)>,
    windows: usize,
    coarse_begin: u64,
    marks: VecDeque<Mark>,
}

fn point(figures: &Figures) -> Point {
    Metric::ALL.map(|metric| metric.of(figures).value().map_or(f32::NAN, |value| *value as f32))
}

impl History {
    /// Adds a window.
    pub(crate) fn push(&mut self, window: &WindowFigures) {
        if self.windows.is_multiple_of(EVERY) {
            self.coarse_begin = window.begin_unix_us;
        }
        self.windows += 1;
        let ends_coarse = self.windows.is_multiple_of(EVERY);
        push(&mut self.fine_spans, (window.begin_unix_us, window.end_unix_us), FINE);
        if ends_coarse {
            push(&mut self.coarse_spans, (self.coarse_begin, window.end_unix_us), COARSE);
        }
        self.host.next = Some(point(&window.host));
        for domain in &window.domains {
            self.domains.entry(domain.id).or_default().next = Some(point(&domain.figures));
        }
        let mut room = MAX_SERIES.saturating_sub(self.count);
        for row in window.vms.iter().chain(&window.vcpus) {
            if !self.vms.contains_key(&row.vm) {
                if room == 0 {
                    continue;
                }
                room -= 1;
                self.vms.insert(row.vm.clone(), VmSeries::default());
            }
            let Some(vm) = self.vms.get_mut(&row.vm) else { continue };
            match row.vcpu {
                None => vm.own.next = Some(point(&row.figures)),
                Some(index) => {
                    if let Some(series) = vm.vcpus.get_mut(&index) {
                        series.next = Some(point(&row.figures));
                    } else if room > 0 {
                        room -= 1;
                        vm.vcpus.entry(index).or_default().next = Some(point(&row.figures));
                    }
                }
            }
        }
        self.host.close_window(ends_coarse);
        self.domains.values_mut().for_each(|series| series.close_window(ends_coarse));
        // A series without a value for as long as single windows are kept is dropped.
        self.domains.retain(|_, series| series.silent < FINE);
        self.count = 0;
        self.vms.retain(|_, vm| {
            vm.own.close_window(ends_coarse);
            vm.vcpus.retain(|_, series| {
                series.close_window(ends_coarse);
                series.silent < FINE
            });
            let stays = vm.own.silent < FINE || !vm.vcpus.is_empty();
            self.count += if stays { 1 + vm.vcpus.len() } else { 0 };
            stays
        });
    }

    /// Adds a mark for a change of the placement.
    pub(crate) fn mark(&mut self, at_unix_us: u64, label: String) {
        push(&mut self.marks, Mark { at_unix_us, label }, MAX_MARKS);
    }

    /// The marks after `from` up to `to`, oldest first.
    pub(crate) fn marks(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = &Mark> {
        self.marks.iter().filter(move |mark| mark.at_unix_us > from && mark.at_unix_us <= to)
    }

    /// When the first kept window began.
    pub(crate) fn begin(&self) -> Option<u64> {
        self.coarse_spans.front().or(self.fine_spans.front()).map(|span| span.0)
    }

    fn series(&self, subject: Subject<'_>) -> Option<&Series> {
        match subject {
            Subject::Host => Some(&self.host),
            Subject::Domain(id) => self.domains.get(&id),
            Subject::Vm(vm) => self.vms.get(vm).map(|vm| &vm.own),
            Subject::Vcpu(vm, index) => self.vms.get(vm)?.vcpus.get(&index),
        }
    }

    /// The time from `from` to `to` in `columns` columns.
    pub(crate) fn chart(
        &self,
        subject: Subject<'_>,
        metric: Metric,
        (from, to): (u64, u64),
        columns: usize,
    ) -> Vec<Column> {
        let mut sums = vec![(0.0, 0u32, false); columns];
        let Some(series) = self.series(subject).filter(|_| columns > 0 && to > from) else {
            return vec![Column::Nothing; columns];
        };
        // The fine history if it reaches back far enough, or as far as the coarse one.
        let fine_from = self.fine_spans.front().map_or(u64::MAX, |span| span.0);
        let coarse_from = self.coarse_spans.front().map_or(u64::MAX, |span| span.0);
        let is_fine = fine_from <= from.max(coarse_from);
        let spans = if is_fine { &self.fine_spans } else { &self.coarse_spans };
        let width = (to - from) as f64 / columns as f64;
        let column = |at: u64| (at.saturating_sub(from) as f64 / width) as usize;
        for (span, value) in spans.iter().rev().zip(series.latest(metric, is_fine)) {
            // Not `break`: the clock may have been set back in between.
            if span.1 > to || span.1 <= from {
                continue;
            }
            // A window counts in every column that it overlaps, but not in one at whose start it ends.
            let first = column(span.0.max(from));
            let last = column(span.1.saturating_sub(1)).max(first).min(columns - 1);
            for sum in sums.iter_mut().take(last + 1).skip(first) {
                if value.is_nan() {
                    sum.2 = true;
                } else {
                    *sum = (sum.0 + f64::from(value), sum.1 + 1, true);
                }
            }
        }
        let column = |(sum, count, is_seen): (f64, u32, bool)| match (count, is_seen) {
            (0, false) => Column::Nothing,
            (0, true) => Column::Gap,
            _ => Column::Value(sum / f64::from(count)),
        };
        sums.into_iter().map(column).collect()
    }

    /// Mean of a metric over the windows wholly between two moments, with their number; `None` if it was
    /// unavailable in all of them.
    pub(crate) fn mean(
        &self,
        subject: Subject<'_>,
        metric: Metric,
        from: u64,
        to: u64,
    ) -> Option<(f64, usize)> {
        let series = self.series(subject)?;
        let within = self.fine_spans.iter().rev().zip(series.latest(metric, true));
        let values = within
            .filter(|(span, _)| span.0 >= from && span.1 <= to)
            .map(|(_, value)| f64::from(value))
            .filter(|value| !value.is_nan());
        let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        (count > 0).then(|| (sum / count as f64, count))
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::availability::Availability;

    use huddle_model::rates::Rates;

    use super::super::metric::Row;
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn figures(mpki: Option<f64>) -> Figures {
        let mut rates = Rates::of(&[]);
        if let Some(mpki) = mpki {
            rates.mpki = Availability::Available(mpki);
        }
        let no = || Availability::Unavailable("none".to_owned());
        Figures { rates, run: no(), own_domain: no(), operations: no() }
    }

    /// The window that ends `at` seconds after the start.
    fn window(at: u64, vm: &str, mpki: Option<f64>) -> WindowFigures {
        let row = Row { vm: vm.into(), vcpu: None, domains: Vec::new(), figures: figures(mpki) };
        WindowFigures {
            window: at,
            begin_unix_us: (at - 1) * SECOND,
            end_unix_us: at * SECOND,
            host: figures(mpki),
            domains: Vec::new(),
            vms: vec![row],
            vcpus: Vec::new(),
            known: Default::default(),
        }
    }

    fn chart(history: &History, vm: &str, from: u64, to: u64, columns: usize) -> Vec<Column> {
        history.chart(Subject::Vm(vm), Metric::Mpki, (from * SECOND, to * SECOND), columns)
    }

    #[test]
    fn columns_are_means_gaps_or_nothing() {
        let mut history = History::default();
        for (at, mpki) in [(1, Some(1.0)), (2, Some(3.0)), (3, None), (4, None), (5, Some(5.0))] {
            history.push(&window(at, "a", mpki));
        }
        use Column::{Gap, Nothing, Value};
        assert_eq!(chart(&history, "a", 0, 6, 3), [Value(2.0), Gap, Value(5.0)]);
        assert_eq!(chart(&history, "a", 0, 6, 6)[5], Nothing);
        assert_eq!(chart(&history, "a", 4, 6, 4), [Value(5.0), Value(5.0), Nothing, Nothing]);
        assert_eq!(chart(&history, "b", 0, 6, 2), [Nothing; 2]);
        assert_eq!(history.mean(Subject::Vm("a"), Metric::Mpki, 0, 4 * SECOND), Some((2.0, 2)));
        assert_eq!(history.mean(Subject::Vm("a"), Metric::Mpki, 2 * SECOND, 4 * SECOND), None);
    }

    #[test]
    fn what_is_known_later_has_gaps_before() {
        let mut history = History::default();
        for (at, mpki) in [(1, None), (2, None), (3, Some(3.0))] {
            history.push(&window(at, "a", mpki));
        }
        assert_eq!(chart(&history, "a", 0, 3, 3), [Column::Gap, Column::Gap, Column::Value(3.0)]);
    }

    #[test]
    fn a_later_vm_starts_at_its_own_time() {
        let mut history = History::default();
        history.push(&window(1, "a", Some(1.0)));
        history.push(&window(2, "b", Some(2.0)));
        assert_eq!(chart(&history, "b", 0, 2, 2), [Column::Nothing, Column::Value(2.0)]);
        assert_eq!(chart(&history, "a", 0, 2, 2), [Column::Value(1.0), Column::Gap]);
    }

    #[test]
    fn memory_is_bounded_and_gone_series_are_dropped() {
        let mut history = History::default();
        for at in 1..=19_990 {
            let vm = if at % 2_000 < 5 { format!("short-{}", at / 2_000) } else { "long".to_owned() };
            history.push(&window(at, &vm, Some(at as f64)));
            history.mark(at, String::new());
        }
        assert_eq!((history.vms.len(), history.count), (1, 1));
        let long = &history.vms["long"].own;
        let mpki = &long.tracks[Metric::Mpki.index()];
        assert_eq!((mpki.fine.len(), mpki.coarse.len()), (FINE, COARSE));
        assert_eq!(long.tracks[Metric::Run.index()].fine.capacity(), 0, "there is no value to keep");
        assert_eq!((history.fine_spans.len(), history.coarse_spans.len()), (FINE, COARSE));
        assert_eq!(history.marks.len(), MAX_MARKS);
        // Only the coarse history reaches two hours back.
        let columns = chart(&history, "long", 19_990 - 7200, 19_990, 72);
        assert!(columns.iter().all(|column| matches!(column, Column::Value(_))), "{columns:?}");
    }

    #[test]
    fn more_series_than_are_kept_are_left_out() {
        let mut history = History::default();
        let mut crowd = window(1, "a", Some(1.0));
        let row = crowd.vms[0].clone();
        crowd.vms = (0..MAX_SERIES + 10).map(|vm| Row { vm: vm.to_string(), ..row.clone() }).collect();
        history.push(&crowd);
        assert_eq!(history.count, MAX_SERIES);
        assert_eq!(chart(&history, "0", 0, 1, 1), [Column::Value(1.0)]);
        assert_eq!(chart(&history, &(MAX_SERIES + 1).to_string(), 0, 1, 1), [Column::Nothing]);
    }
}
