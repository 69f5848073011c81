//! Where VMs ran: their CPU time by cache domain.

use super::{Anchor, Canvas, Figure, colour, shortened};

/// One VM: CPU time in nanoseconds by place in the list of domains.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) name: String,
    pub(crate) parts: Vec<f64>,
}

/// Draws a bar of 100 % per VM.
pub(crate) fn residency(id: &str, title: &str, domains: &[String], vms: &[Stack]) -> Figure {
    let (left, right, top, row) = (190.0, 690.0, 10.0, 26.0);
    let bottom = top + row * vms.len() as f64;
    let mut canvas = Canvas::new(720.0, bottom + 52.0 + 18.0 * (domains.len() / 4) as f64);
    for (place, vm) in vms.iter().enumerate() {
        let y = top + row * place as f64;
        canvas.text(left - 8.0, y + 17.0, Anchor::End, "", &shortened(&vm.name, 24));
        let total: f64 = vm.parts.iter().sum();
        let mut x = left;
        for (domain, part) in vm.parts.iter().enumerate().filter(|_| total > 0.0) {
            let width = (right - left) * part / total;
            canvas.raw(format_args!(
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"20\" fill=\"{}\" fill-opacity=\"0.6\"/>",
                y + 2.0,
                colour(domain)
            ));
            if width > 42.0 {
                let text = format!("{:.0} %", 100.0 * part / total);
                canvas.text(x + width / 2.0, y + 17.0, Anchor::Middle, "", &text);
            }
            x += width;
        }
    }
    for percent in [0, 25, 50, 75, 100] {
        let x = left + (right - left) * f64::from(percent) / 100.0;
        canvas.text(x, bottom + 18.0, Anchor::Middle, "dim", &format!("{percent} %"));
    }
    canvas.legend(left, bottom + 42.0, domains.iter().map(String::as_str).zip(0..));
    let description = format!(
        "CPU time of {} VMs by cache domain ({}), each as a part of the VM's own. The numbers are in the table below it.",
        vms.len(),
        domains.join(", ")
    );
    canvas.finish(id, title, &description)
}
