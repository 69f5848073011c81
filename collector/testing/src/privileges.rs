//! The capabilities that commands have by the table of docs/privileges.md.

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../docs/privileges.md");

/// What a command needs, and what it uses if it is available.
pub fn row(command: &str) -> BTreeSet<&'static str> {
    let row = PAGE.lines().find(|line| line.starts_with(&format!("| `{command}` |"))).unwrap();
    row.split(['|', ',']).map(str::trim).filter(|cell| cell.starts_with("CAP_")).collect()
}

/// Those of `run`, whose column "uses if available" is that of `matrix`.
pub fn of_a_loop() -> BTreeSet<&'static str> {
    row("run").union(&row("matrix")).copied().collect()
}
