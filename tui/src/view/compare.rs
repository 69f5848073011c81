//! The compare view: the arms of a trial with their intervals on one scale, and the decisions.

use huddle_model::availability::Availability;
use huddle_model::stats::Estimate;
use huddle_model::trial::{Arm, Comparison, Decision, Objective, Outcome};
use ratatui::layout::Rect;

use super::canvas::Canvas;
use super::{chart, format};
use crate::app::compare::PairedBlocks;
use crate::app::series::Column;
use crate::app::{App, Picture};

/// Columns of an arm's name, its blocks, its median with the interval.
const NAME: u16 = 14;
const BLOCKS: u16 = 8;
const VALUE: u16 = 28;
/// Columns of a block's number, and of its change.
const BLOCK_NUMBER: u16 = 4;
const BLOCK_CHANGE: u16 = 12;
/// Columns of the sparkline of blocks, if there is room.
const SPARK: u16 = 24;
const WITH_SPARK: u16 = 130;

pub(crate) fn draw(canvas: &mut Canvas<'_>, body: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let comparison = match &picture.view.comparison {
        Availability::Available(comparison) => comparison,
        Availability::Unavailable(reason) => {
            let area = Rect { x: body.x + 1, y: body.y + 1, width: body.width.saturating_sub(2), height: 4 };
            canvas.paragraph(area, &format!("comparison: n/a: {reason}"), theme.warning());
            return;
        }
    };
    let layout = app.compare_layout(body);
    let better = if comparison.objective.more_is_better() { "more is better" } else { "less is better" };
    let unit = unit(comparison.objective);
    let phase = comparison.phase.to_string();
    let pieces = [
        ("now: ", theme.faint()),
        (phase.as_str(), theme.strong()),
        ("   judged by ", theme.faint()),
        (unit, theme.plain()),
        (", ", theme.faint()),
        (better, theme.faint()),
    ];
    canvas.pieces(layout.info, layout.info.x + 1, layout.info.y, &pieces);
    arms(canvas, layout.arms, comparison);
    if let Some(paired) = PairedBlocks::of(&comparison.arms) {
        blocks(canvas, layout.blocks, comparison.objective, &paired);
    }
    decisions(canvas, layout.decisions, app);
    detail(canvas, layout.detail, app);
}

fn unit(objective: Objective) -> &'static str {
    match objective {
        Objective::Mpki => "MPKI (LLC misses per 1000 instructions)",
        Objective::MissRatio => "miss ratio (LLC misses per reference)",
        Objective::Ipc => "IPC (instructions per cycle)",
        Objective::Reported => "operations per second, as reported by workloads",
    }
}

fn value(objective: Objective, value: f64) -> String {
    match objective {
        Objective::MissRatio => format::percent(value),
        Objective::Reported => format::si(value),
        Objective::Mpki | Objective::Ipc => format!("{value:.3}"),
    }
}

fn arms(canvas: &mut Canvas<'_>, area: Rect, comparison: &Comparison) {
    let theme = canvas.theme;
    if comparison.arms.is_empty() {
        canvas.text(area, area.x + 1, area.y, "no trial yet", theme.plain());
        return;
    }
    let has_spark = area.width >= WITH_SPARK;
    let spark = if has_spark { SPARK + 1 } else { 0 };
    let mut x = area.x + 1;
    for (title, width) in [("arm", NAME), ("blocks", BLOCKS), ("median [95 % interval]", VALUE)] {
        canvas.text(Rect { x, width, ..area }, x, area.y, title, theme.faint());
        x += width;
    }
    if has_spark {
        canvas.text(area, x, area.y, "by block", theme.faint());
    }
    let scale_x = x + spark;
    let scale = Rect { x: scale_x, width: area.right().saturating_sub(scale_x + 1), ..area };
    let range = range(&comparison.arms);
    let room = usize::from(area.height.saturating_sub(2)).max(1);
    for (arm, y) in comparison.arms.iter().take(room).zip(area.y + 1..area.bottom()) {
        let line = Rect { y, height: 1, ..area };
        let x = area.x + 1;
        canvas.text(Rect { width: NAME - 1 + 1, ..line }, x, y, &arm.name, theme.strong());
        let x = x + NAME;
        canvas.text(Rect { x, width: BLOCKS, ..line }, x, y, &arm.blocks.len().to_string(), theme.plain());
        let x = x + BLOCKS;
        match &arm.value {
            Availability::Unavailable(reason) => {
                canvas.text(line, x, y, &format!("n/a: {reason}"), theme.warning());
                continue;
            }
            Availability::Available(estimate) => {
                let text = value_with_interval(comparison.objective, estimate);
                canvas.text(Rect { x, width: VALUE, ..line }, x, y, &text, theme.plain());
                if has_spark {
                    let newest = arm.blocks.len().saturating_sub(usize::from(SPARK));
                    let columns: Vec<Column> =
                        arm.blocks[newest..].iter().map(|block| Column::Value(*block)).collect();
                    let own = Rect { x: x + VALUE, width: SPARK, ..line };
                    chart::sparkline(canvas, own, &columns);
                }
                if let Some(range) = range {
                    interval(canvas, Rect { y, height: 1, ..scale }, estimate, range);
                }
            }
        }
    }
    let y = area.bottom().saturating_sub(1);
    if comparison.arms.len() > room {
        let text = format!("+{} more arms (enlarge the terminal to see them)", comparison.arms.len() - room);
        canvas.text(area, area.x + 1, y, &text, theme.warning());
    } else if let Some((low, high)) = range.filter(|_| scale.width >= 20) {
        let row = Rect { y, height: 1, ..scale };
        canvas.text(row, row.x, y, &value(comparison.objective, low), theme.faint());
        canvas.right(row, &value(comparison.objective, high), theme.faint());
    }
}

/// The latest blocks, each a line between its two values, on the scale of all of them.
fn blocks(canvas: &mut Canvas<'_>, area: Rect, objective: Objective, paired: &PairedBlocks<'_>) {
    let theme = canvas.theme;
    if area.height < 2 || area.width < 40 {
        return;
    }
    let [one, other] = paired.names;
    let list = canvas.rule(area, &format!(" blocks, latest first: o {one}, x {other} "));
    let all = || paired.pairs.iter().flatten().copied().filter(|value| value.is_finite());
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let scale_x = list.x + 1 + BLOCK_NUMBER + BLOCK_CHANGE;
    let scale = Rect { x: scale_x, width: list.right().saturating_sub(scale_x + 1), ..list };
    for ((number, [one, other]), y) in paired.pairs.iter().enumerate().rev().zip(list.y..list.bottom()) {
        let line = Rect { y, height: 1, ..list };
        canvas.text(line, list.x + 1, y, &format!("{:>3}", number + 1), theme.faint());
        let grown = other / one - 1.0;
        let better = if objective.more_is_better() { grown } else { -grown };
        let change =
            if better.is_finite() { format!("{:>+8.1} %", better * 100.0) } else { "     n/a".into() };
        canvas.text(line, list.x + 1 + BLOCK_NUMBER, y, &change, theme.plain());
        if !(one.is_finite() && other.is_finite() && scale.width >= 5) {
            continue;
        }
        let column = |value: f64| {
            let part = if high > low { (value - low) / (high - low) } else { 0.5 };
            scale.x + (part * f64::from(scale.width - 1)).round() as u16
        };
        let (from, to) = (column(*one), column(*other));
        for x in from.min(to)..=from.max(to) {
            canvas.put(x, y, theme.lines().horizontal, theme.accent());
        }
        canvas.put(from, y, 'o', theme.plain());
        canvas.put(to, y, 'x', theme.strong());
    }
}

fn value_with_interval(objective: Objective, estimate: &Estimate) -> String {
    let median = value(objective, estimate.median);
    match estimate.ci95 {
        Some([low, high]) => format!("{median} [{}, {}]", value(objective, low), value(objective, high)),
        None => format!("{median} (too few blocks)"),
    }
}

/// The range that covers all intervals.
fn range(arms: &[Arm]) -> Option<(f64, f64)> {
    let ends = arms.iter().filter_map(|arm| arm.value.value()).flat_map(|estimate| {
        let [low, high] = estimate.ci95.unwrap_or([estimate.median; 2]);
        [low.min(estimate.median), high.max(estimate.median)]
    });
    let (low, high) = ends
        .filter(|end| end.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), end| (low.min(end), high.max(end)));
    (low <= high).then_some((low, high))
}

/// `[---o---]` on the common scale.
fn interval(canvas: &mut Canvas<'_>, area: Rect, estimate: &Estimate, (low, high): (f64, f64)) {
    let theme = canvas.theme;
    if area.width < 5 {
        return;
    }
    let column = |value: f64| {
        let part = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        area.x + (part * f64::from(area.width - 1)).round() as u16
    };
    if let Some([from, to]) = estimate.ci95 {
        let (from, to) = (column(from), column(to));
        for x in from..=to {
            canvas.put(x, area.y, theme.lines().horizontal, theme.accent());
        }
        canvas.put(from, area.y, '[', theme.accent());
        canvas.put(to, area.y, ']', theme.accent());
    }
    canvas.put(column(estimate.median), area.y, 'o', theme.strong());
}

/// A relative change with its interval; positive is better.
pub(crate) fn gain(estimate: &Estimate) -> String {
    let signed = |part: f64| format!("{:+.1} %", part * 100.0);
    match estimate.ci95 {
        Some([low, high]) => {
            format!("{} [{:+.1}, {:+.1}]", signed(estimate.median), low * 100.0, high * 100.0)
        }
        None => format!("{} (too few blocks for an interval)", signed(estimate.median)),
    }
}

/// How much better something is than what was before it, by its trial.
pub(crate) fn better_than_before(estimate: &Estimate) -> String {
    let part = estimate.median * 100.0;
    let text = match part < 0.0 {
        true => format!("{:.1} % worse than before", -part),
        false => format!("{part:.1} % better than before"),
    };
    match estimate.ci95 {
        Some([low, high]) => format!("{text} [{:+.1}, {:+.1}]", low * 100.0, high * 100.0),
        None => format!("{text} (too few blocks for an interval)"),
    }
}

/// A decision on one line.
pub(crate) fn decision_line(decision: &Decision) -> String {
    let seen = match &decision.observed_change {
        Some(estimate) => format!(", {}", gain(estimate)),
        None => String::new(),
    };
    format!("{}{seen}: {}", decision.outcome.label(), decision.proposal)
}

fn decisions(canvas: &mut Canvas<'_>, area: Rect, app: &App) {
    let theme = canvas.theme;
    let all = app.decisions();
    let title = match all.len() {
        0 => " decisions ".to_owned(),
        count => format!(" {}, latest first, UTC ", format::things(count as u64, "decision")),
    };
    let list = canvas.rule(area, &title);
    if all.is_empty() {
        canvas.text(list, list.x + 1, list.y, "no decision yet", theme.plain());
        return;
    }
    let selected = app.selected_decision();
    let top = app.decisions_top(usize::from(list.height));
    for ((at, decision), y) in all.iter().rev().enumerate().skip(top).zip(list.y..list.bottom()) {
        let is_selected = at == selected;
        let mark = if is_selected { ">" } else { " " };
        let time = format::time_of_day(decision.at_unix_us);
        let style = match (is_selected, decision.outcome) {
            (true, _) => theme.accent(),
            (_, Outcome::Kept) => theme.strong(),
            (_, Outcome::Aborted) => theme.warning(),
            _ => theme.plain(),
        };
        let pieces = [(mark, theme.accent()), (time.as_str(), theme.faint()), (" ", theme.plain())];
        let x = canvas.pieces(list, list.x, y, &pieces);
        canvas.text(list, x, y, &decision_line(decision), style);
    }
}

fn detail(canvas: &mut Canvas<'_>, area: Rect, app: &App) {
    let theme = canvas.theme;
    let inner = canvas.rule(area, " selected decision (+ is better) ");
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    let Some(decision) = app.decisions().iter().rev().nth(app.selected_decision()) else { return };
    let expected = decision
        .expected_change
        .map_or_else(|| "n/a (not predicted)".into(), |part| format!("{:+.1} %", part * 100.0));
    let seen = decision.observed_change.as_ref().map_or_else(|| "n/a (not measured)".into(), gain);
    let trial = decision.trial.map_or_else(String::new, |trial| format!(", trial {trial}"));
    let evidence = decision.evidence.map_or_else(String::new, |evidence| format!(", evidence {evidence}"));
    let first = format!(
        "round {}{trial}: {}; expected {expected}, observed {seen}{evidence}",
        decision.round,
        decision.outcome.label()
    );
    let used = canvas.paragraph(Rect { height: inner.height.min(2), ..inner }, &first, theme.plain());
    let below = Rect { y: inner.y + used, height: inner.height.saturating_sub(used), ..inner };
    canvas.paragraph(below, &format!("because {}", decision.reason), theme.plain());
}
