use proptest::prelude::*;

use super::*;

// In the format of tools/xl/xl_psr.c (Xen 4.17), with two sockets; not recorded, for lack of a processor with
// PSR.
const OCCUPANCY: &str = include_str!("../../fixtures/psr-cmt-show-cache-occupancy.txt");
const BANDWIDTH: &str = include_str!("../../fixtures/psr-cmt-show-total-mem-bandwidth.txt");

fn kb(numbers: &[u64], unit: Unit) -> Vec<Value> {
    numbers.iter().map(|number| Value { number: *number, unit }).collect()
}

#[test]
fn occupancy_and_bandwidth() {
    let shown = show(OCCUPANCY).unwrap();
    assert_eq!(shown.sockets, [0, 1]);
    assert_eq!(
        shown.lines,
        [
            Line { id: 0, values: kb(&[6400, 320], Unit::Kb) },
            Line { id: 3, values: kb(&[14_976, 0], Unit::Kb) },
            // A domain named `web 7 KB`; one of its sockets could not be read.
            Line { id: 5, values: kb(&[64], Unit::Kb) },
        ]
    );
    let shown = show(BANDWIDTH).unwrap();
    assert_eq!(shown.lines[1], Line { id: 3, values: kb(&[1_253_400, 96], Unit::KbPerSecond) });
}

#[test]
fn no_domain_is_monitored() {
    let head: Vec<&str> = OCCUPANCY.lines().take(3).collect();
    assert_eq!(show(&head.join("\n")), Ok(Shown { sockets: vec![0, 1], lines: Vec::new() }));
}

#[test]
fn damage_is_named() {
    assert!(show("").is_err());
    assert!(show("Total RMID: 63\nName   ID   Socket\n").is_err());
    for (from, to) in [("14976 KB", "x KB"), ("320 KB", "320 KB 1 KB"), ("    3  ", "    z  ")] {
        let error = show(&OCCUPANCY.replace(from, to)).unwrap_err();
        assert_eq!(error.what, "a domain of xl psr-cmt-show", "{to}");
    }
}

proptest! {
    #[test]
    fn any_name_and_number(name in "[!-~]([ -~]{0,50}[!-~])?", id in 0u16..32_752, values in proptest::collection::vec(0u64..1 << 36, 0..3)) {
        let columns: String = values.iter().map(|value| format!("{value:>13} KB")).collect();
        let text = format!("{}\n{name:<40} {id:>5}{columns}\n", OCCUPANCY.lines().take(3).collect::<Vec<_>>().join("\n"));
        prop_assert_eq!(show(&text).unwrap().lines, [Line { id, values: kb(&values, Unit::Kb) }]);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}(\\n\\PC{0,60}){0,4}") {
        let _ = show(&format!("Name ID Socket 0\n{text}"));
    }
}
