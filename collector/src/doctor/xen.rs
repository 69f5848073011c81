//! What Xen reports to dom0. A host without Xen has none of these lines.

use super::{Finding, Item};
use huddle_host::HostRoot;
use huddle_xen::toolstack::Machine;
use huddle_xen::{self as xen, observer::NO_COUNTERS};

const AREA: &str = "xen";

/// Nothing where this is not dom0.
pub(super) fn examine(root: &HostRoot) -> Vec<Finding> {
    if !xen::is_control_domain(root) {
        return Vec::new();
    }
    let item = |item| Item { area: AREA, item };
    let mut findings = Vec::new();
    match xen::open(root) {
        Ok(toolstack) => {
            let name = toolstack.name();
            findings.push(match xen::open_memory(root) {
                Ok(_) => item("xen.toolstack").good(name, "domains are listed, pinned, and their pages read"),
                Err(error) => item("xen.toolstack").degraded(
                    name,
                    format!("domains are listed and pinned; what they share cannot be measured: {error}"),
                    "install the libraries of the Xen that runs (Debian: libxenmisc4.17), and run as root",
                ),
            });
            findings.push(match toolstack.machine() {
                Ok(machine) => cpus(item("xen.cpus"), &machine),
                Err(error) => item("xen.cpus").missing(
                    format!("not known: {error}"),
                    "there are no cache domains to place domains in",
                    None,
                ),
            });
        }
        Err(error) => findings.push(item("xen.toolstack").missing(
            format!("cannot be asked: {error}"),
            "domains are neither found nor measured",
            Some("run as root, with Xen's libraries or `xl` installed"),
        )),
    }
    findings.push(item("xen.counters").missing("none", NO_COUNTERS, None));
    let monitor = xen::open_monitor(root);
    findings.push(match monitor.reason() {
        None => item("xen.cache_monitoring")
            .good("there", "cache occupancy and memory traffic of each domain on each socket are measured"),
        Some(reason) => item("xen.cache_monitoring").missing(
            reason,
            "how much of a cache domains use is not known",
            Some("on an Intel processor that has it, start Xen with psr=cmt"),
        ),
    });
    findings
}

fn cpus(item: Item, machine: &Machine) -> Finding {
    let mut sockets: Vec<u32> = machine.cpus.iter().map(|cpu| cpu.socket).collect();
    sockets.sort_unstable();
    sockets.dedup();
    let value =
        format!("{} CPUs on {} sockets, {} cpupools", machine.cpus.len(), sockets.len(), machine.pools.len());
    item.degraded(
        value,
        "Xen reports sockets and cores, but no caches: a socket is taken for one last-level cache",
        "where a processor has several, give their CPUs as [xen] last_level_caches in --config FILE",
    )
}
