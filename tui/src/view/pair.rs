//! The panel of the sharing view: the exact figures of the cell under the cursor, and what the pair would gain together.

use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::{DomainMisses, ExpectedMisses};
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::canvas::{self, Canvas};
use super::format;
use crate::app::geometry::HeatLayout;
use crate::app::{Home, Overview, Picture, RATES_ONLY, Sharing};

pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    layout: &HeatLayout,
    picture: &Picture,
    matrix: &SharingMatrix,
    sharing: &Sharing,
) {
    let area = layout.detail;
    let theme = canvas.theme;
    let vm = |at: usize| sharing.order.get(at).copied();
    let (Some(i), Some(j)) = (vm(sharing.cursor.0), vm(sharing.cursor.1)) else { return };
    let name = |vm: usize| matrix.vms()[vm].name.as_str();
    let is_beside = layout.is_beside;
    let inner = if is_beside {
        canvas.frame(area, " cell under the cursor ", theme.faint(), theme.strong())
    } else {
        canvas.rule(area, " cell under the cursor ")
    };
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    let mut lines: Vec<(String, Style)> = Vec::new();
    if i == j {
        lines.push((format!("{} with itself: not sharing between VMs", name(i)), theme.strong()));
        lines.extend(own_lines(matrix, i).into_iter().map(|line| (line, theme.plain())));
    } else {
        let of_files = match matrix.shared_file_frames(i, j) {
            Some(frames) if frames > 0 => format!(", {} by files", format::count(frames)),
            _ => String::new(),
        };
        let read = match (matrix.shared_frames_read(i, j), matrix.read_window_ms()) {
            (Some(frames), _) => format!(", {} read by both", format::count(frames)),
            (None, Some(_)) => ", reads n/a".to_owned(),
            (None, None) => String::new(),
        };
        let shared = match matrix.shared_frames(i, j) {
            Some(frames) => {
                format!(
                    "{} frames ({}){of_files}{read}",
                    format::count(frames),
                    format::frames_bytes(frames, matrix.page_size())
                )
            }
            None => format!("frames n/a: {RATES_ONLY}"),
        };
        let pair = format!("{} and {}", name(i), name(j));
        if is_beside {
            lines.push((pair, theme.strong()));
            lines.push((format!("share {shared}"), theme.strong()));
        } else {
            // The figures matter most: long names are cut, not they.
            let room = usize::from(inner.width).saturating_sub(canvas::width(&shared) + 9);
            lines.push((
                format!("{}: share {shared}", shorten(&pair, room, theme.ellipsis())),
                theme.strong(),
            ));
        }
        lines.push((rate_line(matrix, i, j), theme.plain()));
        lines.push((rate_line(matrix, j, i), theme.plain()));
        let together = together(picture, matrix, (i, j));
        if is_beside {
            lines.push((String::new(), theme.plain()));
        }
        lines.extend(together.into_iter().map(|line| (line, theme.accent())));
        for vm in [i, j] {
            if let Some(reason) = matrix.reads_unavailable(vm) {
                lines.push((format!("what {} reads is not seen: {reason}", name(vm)), theme.warning()));
            }
        }
    }
    lines.push((String::new(), theme.plain()));
    let measured = measured(picture, matrix);
    if is_beside {
        lines.extend(measured.into_iter().map(|line| (line, theme.faint())));
    } else {
        lines.pop();
        lines.push((measured.join(", "), theme.faint()));
    }
    let mut y = inner.y;
    for (text, style) in lines {
        if y >= inner.bottom() {
            return;
        }
        // Below the heatmap there is a line for each; beside it long ones take several.
        let most = if is_beside { 4 } else { 1 };
        let room = Rect { y, height: (inner.bottom() - y).min(most), ..inner };
        y += canvas.paragraph(room, &text, style).max(1);
    }
}

/// Where the two VMs are, and what they would gain in one cache domain, by the model that plans go by: a frame that both
/// map is cached once there. An estimate; what was placed and measured is in the view "compare".
fn together(picture: &Picture, matrix: &SharingMatrix, (i, j): (usize, usize)) -> Vec<String> {
    let overview = &picture.overview;
    let name = |vm: usize| matrix.vms()[vm].name.as_str();
    let home = |vm: usize| overview.home(name(vm));
    let mut lines = Vec::new();
    let (Some(one), Some(other)) = (home(i), home(j)) else {
        lines.push("which cache domains they are in is not known".to_owned());
        lines.extend(kept_once(matrix, (i, j), 0.0));
        return lines;
    };
    let met = one.meets(other);
    lines.push(match (one.only(), other.only()) {
        (Some(here), Some(there)) if here == there => {
            format!("both are in cache domain {}", overview.mark(here))
        }
        _ => format!("{} is in {}, {} in {}", name(i), place(overview, one), name(j), place(overview, other)),
    });
    lines.extend(kept_once(matrix, (i, j), met));
    let misses = picture.view.round.plan.value().and_then(|plan| plan.expected.as_ref()?.misses.as_ref());
    lines.extend(misses.and_then(|misses| misses_of(misses, [name(i), name(j)])));
    lines
}

fn place(overview: &Overview, home: &Home) -> String {
    let marks: Vec<String> = home.parts.iter().map(|(domain, _)| overview.mark(*domain)).collect();
    match marks.len() {
        1 => format!("domain {}", marks[0]),
        _ => format!("domains {}", marks.join(", ")),
    }
}

/// What a cache holds once instead of twice. `met`: the part of their pairs of vCPUs that are under one cache now.
fn kept_once(matrix: &SharingMatrix, (i, j): (usize, usize), met: f64) -> Option<String> {
    let frames = matrix.shared_frames(i, j)?;
    let bytes = |part: f64| format::frames_bytes((frames as f64 * part).round() as u64, matrix.page_size());
    Some(match met {
        _ if frames == 0 => "together they would gain nothing: they share no frame".to_owned(),
        _ if met >= 1.0 => format!("together, as now, they save up to {} of cache (estimate)", bytes(1.0)),
        _ if met > 0.0 => format!(
            "together they would save up to {} of cache, {} of it now (estimate)",
            bytes(1.0),
            bytes(met)
        ),
        _ => format!("together they would save up to {} of cache, none of it now (estimate)", bytes(1.0)),
    })
}

/// The estimated misses of both VMs, where they are now and under the plan.
fn misses_of(misses: &ExpectedMisses, names: [&str; 2]) -> Option<String> {
    let of = |domains: &[DomainMisses], name: &str| {
        let of_vm = domains.iter().flat_map(|domain| &domain.vms).filter(|vm| vm.vm == name);
        let all: Vec<f64> = of_vm.map(|vm| f64::from(vm.misses_per_million_reads) / 1000.0).collect();
        // With vCPUs in several domains the estimate has no single figure.
        match all[..] {
            [one] => Some(format!("{one:.1}")),
            _ => None,
        }
    };
    let one = |name: &str| {
        let planned = of(&misses.domains, name)?;
        let now = of(&misses.now_domains, name).unwrap_or_else(|| "n/a".to_owned());
        Some(format!("{name} {now} now, {planned} by the plan"))
    };
    Some(format!("estimated misses of 1000 reads: {}; {}", one(names[0])?, one(names[1])?))
}

fn shorten(text: &str, room: usize, ellipsis: char) -> String {
    if canvas::width(text) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for character in text.chars() {
        if canvas::width(&kept) + canvas::width(character.encode_utf8(&mut [0; 4])) + 1 > room {
            break;
        }
        kept.push(character);
    }
    kept.push(ellipsis);
    kept
}

fn rate_line(matrix: &SharingMatrix, i: usize, j: usize) -> String {
    let vm = &matrix.vms()[i];
    let rate = format::percent(matrix.rate(i, j));
    match &vm.memory {
        Some(memory) => format!("{rate} of the {} frames of {}", format::count(memory.frames_used), vm.name),
        None => format!("{rate} of the frames of {} (their number n/a: {RATES_ONLY})", vm.name),
    }
}

fn own_lines(matrix: &SharingMatrix, vm: usize) -> Vec<String> {
    let Some(memory) = &matrix.vms()[vm].memory else {
        return vec![format!("memory use n/a: {RATES_ONLY}")];
    };
    vec![
        format!(
            "{} frames used, {} resident pages ({})",
            format::count(memory.frames_used),
            format::count(memory.pages_resident),
            format::frames_bytes(memory.pages_resident, matrix.page_size())
        ),
        format!(
            "{} zero-filled pages, {} pages repeat another page of the VM",
            format::count(memory.pages_zero),
            format::count(memory.self_shared_pages)
        ),
        match memory.pages_file {
            Some(pages) => format!("{} pages of files and shared memory", format::count(pages)),
            None => "pages of files n/a (not measured)".into(),
        },
    ]
}

/// How the matrix was measured.
fn measured(picture: &Picture, matrix: &SharingMatrix) -> Vec<String> {
    let coverage = match matrix.coverage() {
        Some(coverage) => format!("coverage {}", format::percent(coverage)),
        None => "coverage n/a (not in the file)".into(),
    };
    let duration = match matrix.duration_ms() {
        Some(duration_ms) => format!("scanned in {duration_ms:.0} ms"),
        None => "scan time n/a".into(),
    };
    let at = format::time_of_day(picture.view.round.end_unix_us);
    vec![format!("method {}", matrix.method()), coverage, duration, format!("round ended {at} UTC")]
}
