//! The overview: cache domains as boxes, and the last change with its reasons.

use huddle_model::availability::Availability;
use huddle_model::pinning::Pinning;
use huddle_model::summary::Arm;
use huddle_model::topology::{CacheDomain, DomainId};
use huddle_model::trial::Decision;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{self, Canvas};
use super::{chart, compare, format, hint, summary};
use crate::app::metric::Metric;
use crate::app::series::Subject;
use crate::app::{App, Change, DomainLoad, Move, Picture};

pub(crate) fn draw(canvas: &mut Canvas<'_>, body: Rect, app: &App, picture: &Picture) {
    let layout = app.overview_layout(body);
    if hint::is_due(app, picture) {
        no_vms(canvas, body, app, picture);
        return;
    }
    summary::draw(canvas, layout.summary, app, picture);
    match &picture.overview.domains {
        Availability::Unavailable(reason) => {
            let text = format!("cache domains: n/a: {reason}");
            let area = Rect { x: body.x + 1, width: body.width.saturating_sub(2), ..layout.grid };
            canvas.paragraph(area, &text, canvas.theme.warning());
        }
        Availability::Available(domains) => {
            let top = app.domain_top(&layout);
            let level = picture.view.round.topology.value().and_then(|topology| topology.level());
            for (index, domain) in domains.iter().enumerate() {
                if let Some(area) = layout.box_at(index, top) {
                    domain_box(canvas, area, app, picture, domain, level, index);
                }
            }
            let first = top * layout.boxes_across;
            let shown = layout.visible_rows() * layout.boxes_across;
            if shown < domains.len() {
                let last = (first + shown).min(domains.len());
                let text =
                    format!(" domains {} to {last} of {} (Up, Down to scroll)", first + 1, domains.len());
                let row = Rect { y: layout.summary.bottom().saturating_sub(1), height: 1, ..layout.summary };
                let x = row.right().saturating_sub(text.len() as u16 + 1);
                canvas.text(row, x, row.y, &text, canvas.theme.warning());
            }
        }
    }
    change(canvas, layout.change, app, picture);
}

/// What would make a VM appear, and the cache domains that wait for one.
fn no_vms(canvas: &mut Canvas<'_>, area: Rect, app: &App, picture: &Picture) {
    let inner = Rect {
        x: area.x + 1,
        y: area.y + 1,
        width: area.width.saturating_sub(2),
        height: area.height.saturating_sub(1),
    };
    let domains = match &picture.view.round.topology {
        Availability::Available(topology) => {
            let one = |domain: &CacheDomain| {
                let size =
                    domain.size_bytes.map_or_else(String::new, |bytes| format!(", {}", format::bytes(bytes)));
                format!("{} (CPUs {}{size})", domain.id, domain.cpus)
            };
            let all: Vec<String> = topology.domains().iter().map(one).collect();
            format!("Cache domains of this host: {}", all.join(", "))
        }
        Availability::Unavailable(reason) => format!("cache domains: n/a: {reason}"),
    };
    let last = Rect { y: inner.bottom().saturating_sub(2), height: inner.height.min(2), ..inner };
    canvas.paragraph(last, &domains, canvas.theme.faint());
    let above = Rect { height: inner.height.saturating_sub(3), ..inner };
    hint::no_vms(canvas, above, app, picture);
}

fn domain_box(
    canvas: &mut Canvas<'_>,
    area: Rect,
    app: &App,
    picture: &Picture,
    load: &DomainLoad,
    level: Option<u8>,
    index: usize,
) {
    let theme = canvas.theme;
    let domain = &load.domain;
    let node = domain.nodes_text().map_or_else(String::new, |nodes| match domain.nodes.len() {
        1 => format!(", node {nodes}"),
        _ => format!(", nodes {nodes}"),
    });
    let is_selected = index == app.domain;
    let mark = if is_selected { ">" } else { " " };
    let title = format!("{mark}domain {}{node} ", domain.id);
    let style = if is_selected { theme.accent() } else { theme.faint() };
    let title_style = if is_selected { theme.accent() } else { theme.strong() };
    let inner = canvas.frame(area, &title, style, title_style);
    // The number has the colour that the domain has in the heatmap's strips.
    let number = Rect { x: area.x + 1 + mark.len() as u16 + 7, width: inner.width, height: 1, ..area };
    canvas.text(
        number.intersection(area),
        number.x,
        number.y,
        &domain.id.to_string(),
        theme.domain_style(index),
    );
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    let level = level.map_or_else(|| "cache".to_owned(), |level| format!("L{level}"));
    let size = domain.size_bytes.map_or_else(|| "size n/a".to_owned(), format::bytes);
    let cache = format!("{level} {size}  CPUs {}", domain.cpus);
    canvas.text(inner, inner.x, inner.y, &cache, theme.plain());
    if !picture.overview.is_place_known() {
        canvas.text(inner, inner.x, inner.y + 1, "VMs here n/a", theme.warning());
        return;
    }
    let cpus = domain.cpus.len();
    let vcpus = format::things(load.vcpus as u64, "vCPU");
    let mut load_text = format!("{vcpus} on {}", format::things(cpus as u64, "CPU"));
    if load_text.len() + " >=100%".len() > usize::from(inner.width) {
        load_text = format!("{vcpus}/{cpus}");
    }
    let load_style = if load.vcpus > cpus { theme.strong() } else { theme.plain() };
    let x = canvas.text(inner, inner.x, inner.y + 1, &load_text, load_style);
    let seen = picture.window.value().and_then(|figures| figures.domain(domain.id));
    // Without observation the last change below shows the reason; there is no room for it here.
    match seen.map(|seen| &seen.busy) {
        Some(Availability::Available(busy)) => {
            let least = if busy.is_least { ">=" } else { "" };
            let text = format!(" {least}{:.0}%", busy.part * 100.0);
            let style = if busy.part > 0.9 { theme.strong() } else { theme.plain() };
            canvas.text(inner, x, inner.y + 1, &text, style);
        }
        _ => {
            canvas.text(inner, x, inner.y + 1, " load n/a", theme.warning());
        }
    }
    let (within, known) = match &load.within_frames {
        Availability::Available(frames) => (format!("{} frames shared", format::count(*frames)), true),
        // The reason is in the summary.
        Availability::Unavailable(_) => ("shared n/a".to_owned(), false),
    };
    canvas.text(inner, inner.x, inner.y + 2, &within, if known { theme.plain() } else { theme.warning() });
    // A box that is too low keeps the VMs and leaves out the misses.
    let mut used = 3;
    if inner.height >= 5 {
        misses(canvas, Rect { y: inner.y + 3, height: 1, ..inner }, app, picture, domain.id);
        used += 1;
    }
    let members = Rect { y: inner.y + used, height: inner.height.saturating_sub(used), ..inner };
    flow_members(canvas, members, load);
}

/// Misses per second of the vCPUs in a domain, with their history; where no domain has them, the CPUs that are busy.
fn misses(canvas: &mut Canvas<'_>, area: Rect, app: &App, picture: &Picture, id: DomainId) {
    let theme = canvas.theme;
    let figures = picture.window.value();
    let seen = figures.and_then(|figures| figures.domain(id));
    let is_known = |metric: Metric| {
        let mut domains = figures.into_iter().flat_map(|figures| &figures.domains);
        domains.any(|domain| metric.of(&domain.figures).value().is_some())
    };
    let metric = match () {
        () if is_known(Metric::MissesPerS) || !is_known(Metric::Run) => Metric::MissesPerS,
        () => Metric::Run,
    };
    if metric == Metric::MissesPerS && seen.is_some_and(|seen| seen.figures.rates.vcpus == 0) {
        canvas.text(area, area.x, area.y, "no vCPU ran here", theme.faint());
        return;
    }
    let name = if metric == Metric::Run { "CPUs busy " } else { "misses/s " };
    let (text, style) = match (metric, seen.map(|seen| metric.of(&seen.figures))) {
        (Metric::Run, Some(Availability::Available(value))) => (format!("{value:.2}"), theme.plain()),
        (_, Some(Availability::Available(value))) => (format::si(*value), theme.plain()),
        _ => ("n/a".to_owned(), theme.warning()),
    };
    let x = canvas.pieces(area, area.x, area.y, &[(name, theme.faint()), (&text, style)]);
    // Sparklines of neighbours are aligned.
    let x = x.max(area.x + 15) + 1;
    let width = area.right().saturating_sub(x);
    if width >= 4 {
        let span = app.chart_span(picture);
        let columns = app.history.chart(Subject::Domain(id), metric, span, usize::from(width));
        chart::sparkline(canvas, Rect { x, width, ..area }, &columns);
    }
}

/// The VMs of a box, on the available lines, with the number of those that do not fit.
fn flow_members(canvas: &mut Canvas<'_>, area: Rect, load: &DomainLoad) {
    let theme = canvas.theme;
    if area.is_empty() {
        return;
    }
    if load.members.is_empty() {
        canvas.text(area, area.x, area.y, "no VM", theme.faint());
        return;
    }
    let (mut x, mut y) = (area.x, area.y);
    let right = usize::from(area.right());
    for (at, member) in load.members.iter().enumerate() {
        let left = &load.members[at..];
        let rest = format!("+{} more", left.len());
        let fits = x == area.x || usize::from(x) + member.width <= right;
        if !fits && y + 1 < area.bottom() {
            (x, y) = (area.x, y + 1);
        }
        // On the last line a name may take the room of `rest` only if it is the last name.
        let all = left.iter().map(|member| member.width + 2).sum::<usize>() - 2;
        let with_rest = member.width + 2 + rest.len();
        if y + 1 == area.bottom() && usize::from(x) + all.min(with_rest) > right && (left.len() > 1 || !fits)
        {
            canvas.text(area, x, y, &rest, theme.warning());
            return;
        }
        x = canvas.text(area, x, y, &member.label, theme.strong()).saturating_add(2);
    }
}

fn change(canvas: &mut Canvas<'_>, area: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    if let Some((_, arm)) = app.experiment() {
        return of_arm(canvas, area, arm, picture);
    }
    let Some(change) = &picture.change else { return no_change(canvas, area, app, picture) };
    let time = format::time_of_day(change.at_unix_us);
    let title = format!(" last change: round {} at {time} UTC, policy {} ", change.round, change.policy);
    let mut below = within_rule(canvas, area, &title);
    let moves = what(change, usize::from(below.width), theme.arrow());
    line(canvas, &mut below, &moves, theme.strong(), 1);
    let (text, is_known) = since(app, picture, change);
    let most = decision_lines(below);
    line(canvas, &mut below, &text, if is_known { theme.strong() } else { theme.warning() }, most);
    // A proposal is not pinned in its own round.
    if picture.view.comparison.value().is_none() {
        line(canvas, &mut below, &pinned(change), theme.plain(), 1);
    }
    reasons(canvas, below, &change.reasons);
}

/// The placement of an experiment's arm with its reasons: nothing was there before it.
fn of_arm(canvas: &mut Canvas<'_>, area: Rect, arm: Arm, picture: &Picture) {
    let theme = canvas.theme;
    match &picture.view.round.plan {
        Availability::Available(plan) => {
            let below = within_rule(canvas, area, &format!(" arm {arm}: placed by policy {} ", plan.policy));
            reasons(canvas, below, &plan.reasons);
        }
        Availability::Unavailable(reason) => {
            let below = within_rule(canvas, area, &format!(" arm {arm} "));
            canvas.paragraph(below, &format!("plan n/a: {reason}"), theme.warning());
        }
    }
}

/// Where no change was seen: why, or the reasons of the plan that was there before.
fn no_change(canvas: &mut Canvas<'_>, area: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let why = match &picture.view.round.plan {
        Availability::Available(plan) => plan.waiting.clone().ok_or(plan),
        Availability::Unavailable(reason) => Ok(format!("plan n/a: {reason}")),
    };
    match why {
        Ok(why) => {
            let inner = within_rule(canvas, area, " last change ");
            canvas.paragraph(inner, &format!("none; {why}"), theme.plain());
        }
        Err(plan) => {
            let title = format!(" last change: none seen; the plan is of policy {} ", plan.policy);
            let mut below = within_rule(canvas, area, &title);
            if let Some(decision) = app.decisions().last() {
                let most = decision_lines(below);
                line(canvas, &mut below, &last_decision(decision), theme.strong(), most);
            }
            reasons(canvas, below, &plan.reasons);
        }
    }
}

/// The latest decision with its reason, which comes last and is the first to be cut.
fn last_decision(decision: &Decision) -> String {
    format!("last decision: {}; {}", compare::decision_line(decision), decision.reason)
}

/// Lines that the latest decision may take.
fn decision_lines(below: Rect) -> u16 {
    if below.height >= 9 { 3 } else { 1 }
}

/// What is below a rule, with a margin.
fn within_rule(canvas: &mut Canvas<'_>, area: Rect, title: &str) -> Rect {
    let inner = canvas.rule(area, title);
    Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner }
}

/// Writes at the top of `below`, in at most `most` lines, and leaves there what is below it.
fn line(canvas: &mut Canvas<'_>, below: &mut Rect, text: &str, style: Style, most: u16) {
    let used = canvas.paragraph(Rect { height: below.height.min(most), ..*below }, text, style);
    *below = Rect { y: below.y + used, height: below.height - used, ..*below };
}

fn reasons(canvas: &mut Canvas<'_>, mut below: Rect, reasons: &[String]) {
    let theme = canvas.theme;
    for (at, reason) in reasons.iter().enumerate() {
        let remaining = reasons.len() - at;
        if below.height == 0 {
            break;
        }
        if below.height == 1 && remaining > 1 {
            let text = format!("... and {remaining} more reasons: see the log");
            line(canvas, &mut below, &text, theme.faint(), 1);
            break;
        }
        // A long reason may take a second line only if the others keep theirs.
        let spare = usize::from(below.height).saturating_sub(remaining).clamp(0, 2) as u16;
        line(canvas, &mut below, &format!("because {reason}"), theme.plain(), 1 + spare);
    }
}

/// Whether it helped: the latest decision of a trial, else the misses or the operations before and after, which is only
/// a comparison without a test. The flag tells whether anything is known.
fn since(app: &App, picture: &Picture, change: &Change) -> (String, bool) {
    if let Some(decision) = app.decisions().last() {
        return (last_decision(decision), true);
    }
    let host = match &picture.window {
        Availability::Unavailable(reason) => return (format!("misses n/a: {reason}"), false),
        Availability::Available(figures) => &figures.host,
    };
    let now = picture.moment();
    let length = app.span_s() * 1_000_000;
    let at = change.at_unix_us;
    for metric in [Metric::Mpki, Metric::Operations] {
        let before = app.history.mean(Subject::Host, metric, at.saturating_sub(length), at);
        let after = app.history.mean(Subject::Host, metric, at, now.min(at.saturating_add(length)));
        let Some((after, windows)) = after else { continue };
        let (name, after_text) = (metric.name(), format::metric(metric, after));
        let Some((before, _)) = before else {
            return (format!("{name} of all vCPUs: {after_text} since, n/a before"), true);
        };
        let part =
            if before > 0.0 { format!(" ({:+.1} %)", (after / before - 1.0) * 100.0) } else { String::new() };
        let text = format!(
            "{name} of all vCPUs: {} before, {after_text} in {} since{part}; not tested",
            format::metric(metric, before),
            format::things(windows as u64, "window")
        );
        return (text, true);
    }
    match &host.rates.mpki {
        Availability::Unavailable(reason) => (format!("MPKI n/a: {reason}"), false),
        Availability::Available(_) => ("MPKI since then: no window yet".into(), false),
    }
}

/// The moves that fit on a line.
fn what(change: &Change, room: usize, arrow: &str) -> String {
    let mut text = change
        .policy_before
        .map_or_else(String::new, |before| format!("policy {before} {arrow} {}; ", change.policy));
    if change.moves.is_empty() {
        return text + "no vCPU moved";
    }
    for (at, moved) in change.moves.iter().enumerate() {
        let next = one_move(moved, arrow);
        let rest = format!("+{} more", change.moves.len() - at);
        if at > 0 && canvas::width(&text) + canvas::width(&next) + rest.len() + 2 > room {
            return text + &rest;
        }
        text += &next;
        if at + 1 < change.moves.len() {
            text += ", ";
        }
    }
    text
}

fn one_move(moved: &Move, arrow: &str) -> String {
    let place = |domain: Option<DomainId>| domain.map_or_else(|| "kernel".to_owned(), |id| id.to_string());
    let list: Vec<String> = moved.vcpus.iter().map(u32::to_string).collect();
    format!("{}[{}] {} {arrow} {}", moved.vm, list.join(","), place(moved.from), place(moved.to))
}

fn pinned(change: &Change) -> String {
    match &change.pinning {
        Pinning::Done(outcome) => format!(
            "pinned: {} changed, {} already in place, {} skipped",
            format::things(outcome.changed.into(), "thread"),
            outcome.unchanged,
            outcome.skipped
        ),
        other => format!("not pinned: {}", other.reason().unwrap_or_default()),
    }
}
