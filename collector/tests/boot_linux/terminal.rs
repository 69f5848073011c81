//! The terminal on a host: `huddle top` on a pseudo-terminal there, whose screen is drawn by a terminal here.

use huddle_testing::emulated::host::EmulatedHost;
use huddle_testing::tmux::Terminal;

use crate::RUN;

const SIZE: (u16, u16) = (110, 32);

/// Keys of views, and what each view must show.
const VIEWS: [(char, &[&str]); 5] = [
    ('1', &["[1 overview]", "domain 0", "domain 1", "8 MiB"]),
    ('2', &["[2 sharing]", "1 VM"]),
    ('3', &["MPKI 1.0k", "IPC 1.00", "100.0 %"]),
    ('5', &["pages_to_scan"]),
    ('6', &["vm_appeared"]),
];

/// Each view of a recording of one VM, in which each instruction is a miss.
pub fn shows_a_recording(host: &mut EmulatedHost, recording: &str) {
    let keys: String = VIEWS.iter().map(|(key, _)| *key).chain(['q']).collect();
    let (columns, rows) = SIZE;
    let command = format!(
        "export TERM=xterm-256color LC_ALL=C.UTF-8; huddle-workload terminal --columns {columns} --rows {rows} \
         --first 8 --keys {keys} --out /tmp/view- -- huddle top --replay {recording}"
    );
    let ran = host.run(&command, RUN);
    assert_eq!(ran.code, 0, "{ran:?}");
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
    let script = format!("base64 -d {}; sleep 1000", file.display());
    let terminal = Terminal::start(directory.path(), SIZE, &script);
    terminal.until(|screen| words.iter().all(|word| screen.contains(word)))
}
