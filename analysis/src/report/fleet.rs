//! The report of a fleet: what its VMs have in common, on which hosts, and the moves that bring it together.

use huddle_model::fleet::{FamilyOverview, FleetOverview, HostOverview};
use huddle_model::text::{bytes, counted};

use super::Report;
use super::page::Page;
use crate::figure::{Grid, grid};
use crate::text::{percent, signed_percent};

/// Rows of a table, and of the figure.
const ROWS: usize = 30;
/// Columns of the figure; with more its numbers have no room.
const COLUMNS: usize = 24;

impl Report {
    /// The report of a fleet.
    pub(crate) fn of_fleet(fleet: &FleetOverview) -> Self {
        let mut page = Page::new();
        page.gaps(&fleet.left_out);
        let hosts = by_shared(fleet);
        families(&mut page, fleet, &hosts);
        hosts_of(&mut page, &hosts);
        moves(&mut page, fleet);
        let vms: u64 = fleet.hosts.iter().map(|host| host.vms).sum();
        let lead = format!(
            "{} with {}. All sizes are estimates from sketches of the contents.",
            counted(fleet.hosts.len() as u64, "host"),
            counted(vms, "VM")
        );
        let (html, figures) = page.finish("huddle: report of a fleet", &lead);
        Self { html, figures, has_unread: false }
    }
}

/// The hosts with their positions, those first whose VMs share most.
fn by_shared(fleet: &FleetOverview) -> Vec<(usize, &HostOverview)> {
    let mut hosts: Vec<(usize, &HostOverview)> = fleet.hosts.iter().enumerate().collect();
    let share = |host: &HostOverview| host.saved_share().unwrap_or(0.0);
    hosts.sort_by(|(_, a), (_, b)| share(b).total_cmp(&share(a)).then_with(|| a.name.cmp(&b.name)));
    hosts
}

fn families(page: &mut Page, fleet: &FleetOverview, hosts: &[(usize, &HostOverview)]) {
    page.chapter("families", "Families");
    if fleet.families.is_empty() {
        page.paragraph("No contents are held by so many VMs that they make a family.");
        return;
    }
    page.paragraph(
        "Contents that many VMs hold, such as systems and libraries, taken together where nearly the same VMs hold them.",
    );
    let shown: Vec<(String, &FamilyOverview)> =
        (1..).map(|number: usize| format!("family {number}")).zip(&fleet.families).take(ROWS).collect();
    let row = |(name, family): &(String, &FamilyOverview)| {
        vec![
            name.clone(),
            bytes(family.bytes),
            family.vms.to_string(),
            family.hosts.len().to_string(),
            bytes(family.hosts.iter().map(|on| on.bytes).sum()),
        ]
    };
    page.table(
        &of_all("families", shown.len(), fleet.families.len()),
        &["family", ">contents", ">VMs", ">hosts", ">on all hosts, once on each"],
        &shown.iter().map(row).collect::<Vec<_>>(),
    );
    let hosts: Vec<(usize, &HostOverview)> = hosts.iter().take(COLUMNS).copied().collect();
    let columns: Vec<String> = hosts.iter().map(|(_, host)| host.name.clone()).collect();
    let rows: Vec<String> = shown.iter().map(|(name, _)| name.clone()).collect();
    let rates: Vec<Vec<f64>> = (shown.iter())
        .map(|(_, family)| hosts.iter().map(|(place, _)| family.share_on(*place)).collect())
        .collect();
    let of = Grid {
        rows: &rows,
        columns: &columns,
        rates: &rates,
        unit: "% of the family that the host's VMs hold",
    };
    let caption = match fleet.hosts.len() {
        all if hosts.len() < all => {
            format!("The {} of {all} hosts whose VMs share most.", hosts.len())
        }
        _ => "A family takes its memory on each host that has it.".to_owned(),
    };
    page.figure(grid("families-by-host", "Families by host", &of), &caption);
}

fn hosts_of(page: &mut Page, hosts: &[(usize, &HostOverview)]) {
    page.chapter("hosts", "Hosts");
    page.paragraph(
        "What the VMs of each host hold, each with its distinct contents, and how much of it equals what another VM of \
         that host holds: merging saves that.",
    );
    let row = |(_, host): &(usize, &HostOverview)| {
        vec![
            host.name.clone(),
            host.vms.to_string(),
            bytes(host.held_bytes),
            bytes(host.saved_bytes()),
            host.saved_share().map_or_else(|| "-".to_owned(), percent),
        ]
    };
    page.table(
        &of_all("hosts, those first that share most", hosts.len().min(ROWS), hosts.len()),
        &["host", ">VMs", ">they hold", ">saved if merged", ">of what they hold"],
        &hosts.iter().take(ROWS).map(row).collect::<Vec<_>>(),
    );
}

fn moves(page: &mut Page, fleet: &FleetOverview) {
    page.chapter("moves", "Proposed moves");
    if fleet.moves.is_empty() {
        page.paragraph("No move within the limits brings more together.");
        return;
    }
    let today: u64 = fleet.hosts.iter().map(HostOverview::saved_bytes).sum();
    let more: i64 = fleet.moves.iter().map(|one| one.saved_bytes).sum();
    let change = match today {
        0 => String::new(),
        today => format!(" ({} of what is shared today)", signed_percent(more as f64 / today as f64)),
    };
    page.paragraph(&format!(
        "{} bring {} more together{change}, with a standard error of {}. Each has room when the ones before it are done. \
         Nothing was moved.",
        counted(fleet.moves.len() as u64, "move"),
        signed_bytes(more),
        bytes(fleet.saved_more_standard_error_bytes)
    ));
    let rows: Vec<Vec<String>> = (fleet.moves.iter())
        .enumerate()
        .map(|(number, one)| {
            vec![
                (number + 1).to_string(),
                one.vm.clone(),
                one.from.clone(),
                one.to.clone(),
                signed_bytes(one.saved_bytes),
                bytes(one.memory_bytes),
            ]
        })
        .collect();
    page.table("Moves in order", &["move", "VM", "from", "to", ">together", ">copied"], &rows);
}

fn signed_bytes(size: i64) -> String {
    format!("{}{}", if size < 0 { "-" } else { "" }, bytes(size.unsigned_abs()))
}

fn of_all(what: &str, shown: usize, all: usize) -> String {
    if shown < all { format!("The first {shown} of {all} {what}") } else { format!("All {what}") }
}
