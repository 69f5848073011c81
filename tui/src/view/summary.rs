//! The lines above the overview's boxes: what there is, what it shares, and which placement is in force.

use huddle_model::availability::Availability;
use huddle_model::page_size::PageSize;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::Canvas;
use super::theme::Theme;
use super::{compare, format, or_reason};
use crate::app::{App, Basis, Gain, InForce, Overview, Picture};

pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let overview = &picture.overview;
    let view = &picture.view;
    let vcpus: usize = view.round.vms.iter().map(|vm| vm.vcpus.len()).sum();
    let (policy, known) = or_reason(&view.round.plan, |plan| plan.policy.to_string());
    let style = if known { theme.strong() } else { theme.warning() };
    let vms = format!(
        "{}, {}  policy ",
        format::things(view.round.vms.len() as u64, "VM"),
        format::things(vcpus as u64, "vCPU")
    );
    let x = canvas.pieces(area, area.x + 1, area.y, &[(&vms, theme.plain()), (&policy, style)]);
    if let Some((matrix, (i, j))) =
        picture.matrix().and_then(|(matrix, figures)| Some((matrix, figures.highest?)))
    {
        let name = |vm: usize| matrix.vms()[vm].name.as_str();
        let most = format!("{} and {}, {}", name(i), name(j), format::percent(matrix.rate(i, j)));
        canvas.pieces(area, x + 2, area.y, &[("share most: ", theme.faint()), (&most, theme.strong())]);
    }

    let y = area.y + 1;
    match (&overview.within_frames, &overview.total_frames) {
        (Availability::Available(within), Availability::Available(total)) => {
            let part = match total {
                0 => String::new(),
                _ => format!(", {}", format::percent(*within as f64 / *total as f64)),
            };
            let size = view.round.matrix.value().map_or_else(PageSize::default, |matrix| matrix.page_size());
            let inside =
                format!("{} frames ({}{part})", format::count(*within), format::frames_bytes(*within, size));
            let across = total.saturating_sub(*within);
            let across = format!("{} ({})", format::count(across), format::frames_bytes(across, size));
            let pieces = [
                ("shared within domains ", theme.faint()),
                (&inside, theme.strong()),
                ("  across ", theme.faint()),
                (&across, theme.plain()),
            ];
            canvas.pieces(area, area.x + 1, y, &pieces);
        }
        (within, total) => {
            let reason = total.reason().or(within.reason()).unwrap_or_default();
            let text = format!("n/a: {reason}");
            let pieces = [("shared frames ", theme.faint()), (text.as_str(), theme.warning())];
            canvas.pieces(area, area.x + 1, y, &pieces);
        }
    }

    if app.experiment().is_none() {
        let (text, style) = in_force(picture, theme);
        canvas.text(area, area.x + 1, area.y + 2, &text, style);
    }
    if area.height > 3 || app.experiment().is_some() {
        let y = if app.experiment().is_some() { area.y + 2 } else { area.bottom() - 1 };
        boxes(canvas, Rect { y, height: 1, ..area }, overview);
    }
}

/// What is in force, since when, and how much better it is than what was before, on one line.
fn in_force(picture: &Picture, theme: Theme) -> (String, Style) {
    match InForce::of(picture) {
        InForce::Nothing(why) => {
            (format!("nothing in force, the kernel places all vCPUs: {why}"), theme.warning())
        }
        InForce::Trial { phase, arm } => {
            let arm = arm.map_or_else(String::new, |arm| format!(", arm {arm}"));
            (format!("in force by turns: {phase}{arm}; not decided yet"), theme.strong())
        }
        InForce::Placed { what, since_unix_us, gain } => {
            let since = match since_unix_us {
                Some(at) => {
                    let age_s = picture.moment().saturating_sub(at) / 1_000_000;
                    format!("since {} UTC ({})", format::time_of_day(at), format::seconds(age_s))
                }
                None => "since before the first round seen here".to_owned(),
            };
            let gain = match gain {
                Gain::Seen(estimate) => compare::better_than_before(&estimate),
                Gain::NotSeen => "its trial has no figure".to_owned(),
                Gain::NotTried => return (format!("in force {since}: {what}, not tried"), theme.strong()),
            };
            (format!("in force {since}: {gain}; {what}"), theme.strong())
        }
    }
}

/// What the boxes show.
fn boxes(canvas: &mut Canvas<'_>, area: Rect, overview: &Overview) {
    let theme = canvas.theme;
    let (basis, style) = match &overview.basis {
        Basis::Pinned => ("as pinned".into(), theme.plain()),
        Basis::Tried => ("in force now, while a trial runs".into(), theme.strong()),
        Basis::Bound => ("by affinity or last CPU; plans are tried first".into(), theme.plain()),
        Basis::PlannedOnly(reason) => (format!("planned, not pinned: {reason}"), theme.warning()),
        Basis::NotPlaced(reason) => {
            (format!("no placement: {reason}; by affinity or last CPU"), theme.warning())
        }
    };
    let mut pieces = vec![("boxes: ", theme.faint()), (basis.as_str(), style)];
    let elsewhere = format::things(overview.elsewhere as u64, "vCPU");
    let elsewhere = match overview.basis {
        Basis::NotPlaced(_) | Basis::Bound => format!("; {elsewhere} of unknown place"),
        _ => format!("; {elsewhere} placed by the kernel"),
    };
    if overview.elsewhere > 0 {
        pieces.push((&elsewhere, theme.plain()));
    }
    canvas.pieces(area, area.x + 1, area.y, &pieces);
}
