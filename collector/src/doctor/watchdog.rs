//! Whether the watchdog takes a hardware counter.

use super::{Finding, Item};
use huddle_host::watchdog::{self, Detector};
use huddle_host::{HostRoot, kernel, optional};

pub(super) fn nmi_watchdog(item: Item, root: &HostRoot) -> Finding {
    const REMEDY: &str = "sysctl kernel.nmi_watchdog=0, for measurements";
    match optional(kernel::nmi_watchdog(root)) {
        Ok(None) => return item.good("not in this kernel", "it takes no hardware counter"),
        Ok(Some(0)) => return item.good("0", "it takes no hardware counter"),
        Ok(Some(_)) => {}
        Err(error) => return item.unknown(&error),
    }
    let unknown = match watchdog::detector(root) {
        Ok(Some(Detector::Buddy)) => {
            return item
                .good("1, by the timers of neighbouring CPUs (buddy)", "it takes no hardware counter");
        }
        Ok(Some(Detector::Perf)) => {
            return item.degraded(
                "1, by a hardware counter (perf)",
                "it takes a hardware counter of each CPU, so groups of events multiplex sooner",
                REMEDY,
            );
        }
        Ok(None) => "the kernel's symbols do not name its detector".to_owned(),
        Err(error) => error.to_string(),
    };
    item.degraded(
        format!("1; by what is not known: {unknown}"),
        "it may take a hardware counter of each CPU, so groups of events may multiplex sooner",
        REMEDY,
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::fixture::Tree;
    use super::*;

    #[test]
    fn only_the_detector_by_counters_takes_one() {
        let on = ("proc/sys/kernel/nmi_watchdog", "1\n");
        for (symbol, state, word) in [
            ("t watchdog_overflow_callback", State::Degraded, "takes a hardware counter of each CPU"),
            ("T watchdog_buddy_check_hardlockup", State::Good, "takes no hardware counter"),
            ("T other", State::Degraded, "may take a hardware counter"),
        ] {
            let tree = Tree::new(&[on, ("proc/kallsyms", &format!("0000000000000000 {symbol}\n"))]);
            let found = nmi_watchdog(Item { area: "observing", item: "nmi_watchdog" }, &tree.root);
            assert!(found.state == state && found.meaning.contains(word), "{symbol}: {found:?}");
        }
        let found = nmi_watchdog(Item { area: "observing", item: "nmi_watchdog" }, &Tree::new(&[on]).root);
        assert!(found.value.contains("not known") && found.value.contains("kallsyms"), "{found:?}");
    }
}
