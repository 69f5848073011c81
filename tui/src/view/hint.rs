//! What a terminal without VMs says: what would make one appear.

use huddle_model::availability::Availability;
use huddle_model::left_out::LeftOutVms;
use ratatui::layout::Rect;

use super::canvas::Canvas;
use super::format;
use crate::app::{App, Picture};

/// Whether VMs were looked for and none was found.
pub(super) fn is_due(app: &App, picture: &Picture) -> bool {
    let round = &picture.view.round;
    app.experiment().is_none() && round.vms.is_empty() && round.left_out.value().is_some()
}

/// What would make a VM appear, and what was seen and not taken for one.
pub(super) fn no_vms(canvas: &mut Canvas<'_>, area: Rect, app: &App, picture: &Picture) {
    let theme = canvas.theme;
    let mut below = area;
    let mut line = |canvas: &mut Canvas<'_>, text: &str, style| {
        let used = if text.is_empty() { 1 } else { canvas.paragraph(below, text, style) };
        let used = used.min(below.height);
        below = Rect { y: below.y + used, height: below.height - used, ..below };
    };
    let Availability::Available(left_out) = &picture.view.round.left_out else { return };
    line(canvas, "No VM was found yet. The next round shows one if", theme.strong());
    for way in [
        "a VM is started: by libvirt, Proxmox or any other manager, or QEMU, cloud-hypervisor, Firecracker or \
         crosvm of root, or another program that holds a VM of KVM; on Xen a domain beside dom0",
        "a process stands in for one: huddle top --vm NAME=PID",
        "the configuration names processes, containers or patterns: huddle top --config FILE",
    ] {
        line(canvas, &format!("- {way}"), theme.plain());
    }
    line(canvas, "", theme.plain());
    not_taken(canvas, &mut line, left_out);
    if app.source.is_attached() {
        line(canvas, "These options are those of the loop that this terminal is attached to.", theme.faint());
    }
}

/// What looks like a VM and is left out.
fn not_taken(
    canvas: &mut Canvas<'_>,
    line: &mut impl FnMut(&mut Canvas<'_>, &str, ratatui::style::Style),
    left_out: &LeftOutVms,
) {
    let theme = canvas.theme;
    if left_out.count == 0 {
        let text = "Nothing that looks like a VM was left out. `huddle vms` shows what is found.";
        line(canvas, text, theme.faint());
        return;
    }
    let (what, verb) = match left_out.count {
        1 => ("1 process or domain".to_owned(), "looks"),
        count => (format!("{} processes or domains", format::count(count)), "look"),
    };
    let text = format!("{what} {verb} like a VM and was not taken (all: `huddle vms`):");
    let text = if left_out.count == 1 { text } else { text.replace(" was not", " were not") };
    line(canvas, &text, theme.warning());
    for one in &left_out.first {
        line(canvas, &format!("- {} ({}): {}", one.name, one.id, one.reason), theme.plain());
    }
    let more = left_out.count.saturating_sub(left_out.first.len() as u64);
    if more > 0 {
        line(canvas, &format!("- and {} more", format::count(more)), theme.plain());
    }
}
