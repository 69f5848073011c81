//! Pinning and loops: what they do, what they record, and that every end undoes it.

use super::*;

/// A cache level with more than one domain; prints a message and returns `None` if there is none.
fn level_with_two_domains(huddle: &Huddle) -> Option<String> {
    for level in ["3", "2", "1"] {
        let csv = huddle.file("two.csv", "vm,a,b\na,-,0\nb,0,-\n");
        let output = huddle.output(&["plan", "--matrix", &csv, "--cache-level", level, "--format", "json"]);
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if plan["domains"].as_array().is_some_and(|domains| domains.len() > 1) {
            return Some(level.to_owned());
        }
    }
    say("skipped: this host has one cache domain at every level");
    None
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "waited 30 s until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_pin_does_restore_undoes() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let Some(level) = level_with_two_domains(&huddle) else { return };
    let processes = [Process::start(), Process::start()];
    let before: Vec<_> = processes.iter().map(Process::cpus).collect();
    let names: Vec<String> =
        processes.iter().zip(["a", "b"]).map(|(p, n)| format!("{n}={}", p.pid())).collect();
    // They share nothing, so a policy that goes by sharing would leave them where they are.
    let args = ["--vm", &names[0], "--vm", &names[1], "--cache-level", &level, "--policy", "spread"];

    let dry = huddle.json(&[&["pin", "--dry-run"], &args[..]].concat());
    assert_eq!(dry["changed"], Value::Null);
    assert!(!huddle.state_dir().exists(), "a dry run leaves no trace");

    let pinned = huddle.json(&[&["pin"], &args[..]].concat());
    assert_eq!(pinned["changed"], 2, "{pinned}");
    for (process, before) in processes.iter().zip(&before) {
        assert!(process.cpus().len() < before.len());
    }
    let again = huddle.json(&[&["pin"], &args[..]].concat());
    assert_eq!((&again["changed"], &again["unchanged"]), (&0.into(), &2.into()));

    let restored = huddle.json(&["restore"]);
    assert_eq!(restored["restored"], 2, "{restored}");
    assert_eq!(processes.iter().map(Process::cpus).collect::<Vec<_>>(), before);
    assert_eq!(huddle.json(&["restore"])["restored"], 0);
}

/// Starts the loop on two processes and waits until they are pinned.
fn start_loop(huddle: &Huddle, processes: &[Process; 2], level: &str, more: &[&str]) -> Child {
    let names = [format!("a={}", processes[0].pid()), format!("b={}", processes[1].pid())];
    let policy = ["--policy", "spread"];
    let args =
        [&["run", "--vm", &names[0], "--vm", &names[1], "--cache-level", level], &policy[..], more].concat();
    let child = huddle.command(&args).stderr(Stdio::piped()).spawn().unwrap();
    let all = processes[0].cpus().len();
    wait_until("both are pinned", || processes.iter().all(|process| process.cpus().len() < all));
    child
}

#[test]
fn every_end_of_the_loop_leaves_the_host_as_it_was() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let Some(level) = level_with_two_domains(&huddle) else { return };
    let processes = [Process::start(), Process::start()];
    let before = processes[0].cpus();
    let cpus_now = || processes.iter().map(Process::cpus).collect::<Vec<_>>();

    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut child = start_loop(&huddle, &processes, &level, &[]);
        let second = huddle.refusal(1, &["pin", "--vm", &format!("a={}", processes[0].pid())]);
        assert!(second.contains(&child.id().to_string()), "the lock names its holder: {second}");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{signal}: {status}");
        assert_eq!(cpus_now(), [before.clone(), before.clone()], "after {signal}");
    }

    let mut child = start_loop(&huddle, &processes, &level, &[]);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(processes[0].cpus().len() < before.len(), "kill -9 undoes nothing by itself");
    assert_eq!(huddle.json(&["restore"])["restored"], 2);
    assert_eq!(cpus_now(), [before.clone(), before.clone()]);

    // A run after a kill undoes what is left over before it starts.
    let mut child = start_loop(&huddle, &processes, &level, &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    let names = [format!("a={}", processes[0].pid())];
    let output = huddle.output(&["run", "--rounds", "1", "--vm", &names[0], "--cache-level", &level]);
    assert!(output.status.success());
    assert_eq!(cpus_now(), [before.clone(), before.clone()]);
}

#[test]
fn what_somebody_else_set_meanwhile_is_left() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let Some(level) = level_with_two_domains(&huddle) else { return };
    let processes = [Process::start(), Process::start()];
    let before = processes[0].cpus();
    let mut child = start_loop(&huddle, &processes, &level, &[]);
    let pinned = processes[0].cpus();
    let mut theirs = CpuSet::new();
    let other = before.iter().find(|cpu| !pinned.contains(cpu)).unwrap();
    theirs.set(*other).unwrap();
    sched_setaffinity(processes[0].pid(), &theirs).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(processes[0].cpus(), [*other]);
    assert_eq!(processes[1].cpus(), before);
}

#[test]
fn rounds_are_lines_of_json_and_a_recording() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let process = Process::start();
    let run_dir = huddle.dir.path().join("run");
    let name = format!("a={}", process.pid());
    let output = huddle.output(&[
        "run",
        "--rounds",
        "1",
        "--vm",
        &name,
        "--dry-run",
        "--format",
        "json",
        "--record",
        run_dir.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = BufReader::new(&output.stdout[..])
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["schema"], "huddle/round/1");
    assert_eq!(lines[0]["matrix"]["vms"][0]["name"], "a");
    assert_eq!(lines[0]["changed"], Value::Null, "a dry run changes nothing, which is not 0 changes");
    assert!(!huddle.state_dir().exists());

    let manifest: Value =
        serde_json::from_slice(&std::fs::read(run_dir.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["schema_version"], huddle_model::schema::SCHEMA_VERSION);
    assert_eq!(manifest["git_revision"], Value::from(option_env!("HUDDLE_GIT_REVISION")));
    for table in ["sharing", "groups", "vms", "placements", "decisions", "ksm", "events"] {
        // One VM shares with nobody: `sharing` has no row, and so no segment.
        if table != "sharing" {
            assert_eq!(segments(&run_dir.join(table)), 1, "{table}");
        }
    }
    let line = huddle.refusal(1, &["run", "--vm", &name, "--dry-run", "--record", run_dir.to_str().unwrap()]);
    assert!(line.contains("is not empty"), "{line}");
}

#[test]
fn windows_between_rounds_are_recorded_with_what_they_cost() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let busy = Process(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
    let (name, run_dir) = (format!("busy={}", busy.pid()), huddle.dir.path().join("run"));
    // Software events take the same way as the processor's, on any host.
    let events = ["--event", "instructions=task-clock", "--event", "llc_references=none"];
    let args = ["run", "--vm", &name, "--dry-run", "--window", "0.2", "--record", run_dir.to_str().unwrap()];
    let args = [&args[..], &events[..]].concat();
    let mut child = huddle.command(&args).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("round 1")));
    std::thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let rest: Vec<String> = log.collect();
    assert!(child.wait().unwrap().success());
    assert!(rest.iter().any(|line| line.contains("own cost over")), "{rest:?}");

    let windows = columns(&run_dir.join("windows"), ["begin_us", "end_us", "own_cpu_us", "lost_pass_events"]);
    assert!(windows.len() >= 4, "{windows:?}");
    for pair in windows.windows(2) {
        let (end, next_begin) = (pair[0][1].unwrap(), pair[1][0].unwrap());
        assert!((end..end + 50_000).contains(&next_begin), "windows follow each other: {windows:?}");
    }
    let long_us: i64 = windows.iter().map(|window| window[1].unwrap() - window[0].unwrap()).sum();
    assert!(windows.iter().all(|window| window[2].unwrap() > 0), "our own time is recorded: {windows:?}");

    let counters = columns(&run_dir.join("counters"), ["migrations", "thread"]);
    assert_eq!(counters.len(), windows.len(), "one vCPU a window");
    assert!(counters.iter().all(|row| row[0].is_some() && row[1] == Some(busy.pid().as_raw().into())));
    let residency = columns(&run_dir.join("residency"), ["run_ns", "window"]);
    let run_us: i64 = residency.iter().map(|row| row[0].unwrap() / 1000).sum();
    // A busy thread runs, and on one CPU at a time; what it loses to others depends on them. 1 % of room
    // for readings that are not of the very moment.
    assert!(run_us > 0 && run_us <= long_us + long_us / 100 + 20_000, "{run_us} of {long_us}");
    let counted =
        columns(&run_dir.join("counters"), ["instructions", "llc_references", "interval_ns", "window"]);
    assert!(counted.iter().all(|row| row[1].is_none() && row[2].is_some()), "{counted:?}");
    let counts: Vec<i64> = counted.iter().filter_map(|row| row[0]).collect();
    assert!(!counts.is_empty(), "no window has a count: {counted:?}");
    let counted_us: i64 = counts.iter().map(|ns| ns / 1000).sum();
    // On a busy machine a thread may get no CPU for a whole window, in which there is then nothing to count.
    for [_, _, _, window] in counted.iter().filter(|row| row[0].is_none()) {
        let of_window = residency.iter().filter(|row| row[1] == *window);
        let run_us: i64 = of_window.map(|row| row[0].unwrap() / 1000).sum();
        assert!(run_us <= 10_000, "nothing was counted in window {window:?}, in which it ran {run_us} us");
    }
    // Two clocks of the same thread, read one after the other; what the hypervisor takes from this machine
    // (steal) is in task-clock and not in run time.
    assert!(run_us <= counted_us + run_us / 50 + 10_000, "task-clock {counted_us}, run {run_us}");
    assert!(counted_us <= long_us + long_us / 100 + 20_000, "task-clock {counted_us} of {long_us}");
    let programs = columns(&run_dir.join("programs"), ["runs"]);
    assert!(programs.iter().any(|row| row[0].is_some_and(|runs| runs > 0)), "some program ran");
}

fn segments(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".parquet"))
        .count()
}
