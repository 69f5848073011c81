//! The terminal on this host: `huddle top` on a pseudo-terminal there, whose screen is drawn by a terminal here.

use huddle_testing::emulated::host::EmulatedHost;
use huddle_testing::tmux::Terminal;

use crate::{RUN, Test, end, start};

pub const ARM64: &[Test] = &[("the_terminal_shows_vms_and_counters", the_terminal_shows_vms_and_counters)];

const SIZE: (u16, u16) = (110, 32);

/// Keys of views, and what each view must show.
const VIEWS: [(char, &[&str]); 5] = [
    ('1', &["[1 overview]", "domain 0", "domain 1", "web-1", "8 MiB"]),
    ('2', &["web-1 and web-2", "method merged"]),
    ('3', &["MPKI 1.0k", "IPC 1.00", "100.0 %", "web-1"]),
    ('5', &["pages_to_scan"]),
    ('6', &["vm_appeared"]),
];

fn the_terminal_shows_vms_and_counters(host: &mut EmulatedHost) {
    let load = "spin --turns 100000 --sleep-us 5000";
    let pids = [start(host, load), start(host, load)];
    let [columns, rows] = [SIZE.0, SIZE.1];
    let keys: String = VIEWS.iter().map(|(key, _)| *key).chain(['q']).collect();
    let top = format!(
        "huddle top --vm web-1={} --vm web-2={} --window 0.5 --event llc_misses=r08 --event llc_references=r11",
        pids[0], pids[1]
    );
    let terminal =
        format!("huddle-workload terminal --columns {columns} --rows {rows} --keys {keys} --out /tmp/view-");
    let command = format!("export TERM=xterm-256color LC_ALL=C.UTF-8; {terminal} -- {top}");
    let ran = host.run(&command, RUN);
    assert_eq!(ran.code, 0, "{ran:?}");
    end(host, &pids);
    for (key, words) in VIEWS {
        let written = host.run(&format!("base64 /tmp/view-{key}"), RUN).success();
        let screen = drawn(&written, words);
        println!("{screen}");
        let widest = screen.lines().map(|line| line.trim_end().chars().count()).max();
        assert!(widest.is_some_and(|width| width <= usize::from(columns)), "{screen}");
    }
}

/// The screen after these bytes, once it shows the words.
fn drawn(base64: &str, words: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("written");
    std::fs::write(&file, base64).unwrap();
    let terminal =
        Terminal::start(directory.path(), SIZE, &format!("base64 -d {}; sleep 1000", file.display()));
    terminal.until(|screen| words.iter().all(|word| screen.contains(word)))
}
