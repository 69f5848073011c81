//! What is no VM, or no directory, is refused before anything is done.

use super::*;

#[test]
fn processes_that_are_no_vm_are_refused() {
    let huddle = Huddle::new();
    let line = huddle.refusal(1, &["vms", "--vm", "a=4194303"]);
    assert!(line.contains("no process 4194303 for VM a;"), "{line}");
    let line = huddle.refusal(1, &["vms", "--vm", "a=2"]);
    assert!(line.contains("kernel thread"), "{line}");
    let process = Process::start();
    let (first, second) = (format!("a={}", process.pid()), format!("b={}", process.pid()));
    let line = huddle.refusal(2, &["vms", "--vm", &first, "--vm", &second]);
    assert!(line.contains(&process.pid().to_string()), "{line}");
    let line = huddle.refusal(2, &["vms", "--vm", &first, "--vm", "a=1"]);
    assert!(line.contains("two VMs are called \"a\""), "{line}");
    // A thread is not counted as a VM beside its own process.
    let (pid, own) = (std::process::id(), nix::unistd::gettid());
    let line = huddle.refusal(2, &["vms", "--vm", &format!("a={pid}"), "--vm", &format!("b={own}")]);
    assert!(line.contains(&format!("{own}, named as VM b, is a thread of process {pid}")), "{line}");
    let config = huddle.file("large.toml", "[record]\ntotal_max_mib = 17592186044416\n");
    let line = huddle.refusal(2, &["vms", "--config", &config]);
    assert!(line.contains("total_max_mib is 17592186044416, expected at most"), "{line}");
    for usage in [
        &["vms", "--vm", "a"][..],
        &["plan", "--policy", "papre"],
        &["matrix", "--method", "x"],
        &["bogus"],
        &["matrix", "--sample", "0.5"],
        &["matrix", "--method", "content", "--sample", "1.5"],
        &["matrix", "--method", "content", "--memory-mib", "0"],
    ] {
        assert_eq!(huddle.output(usage).status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn a_limit_that_names_no_vm_or_several_is_refused() {
    let huddle = Huddle::new();
    let (matrix, topology) = (huddle.file("m.csv", TABLE_1), huddle.file("t.json", TWO_SOCKETS));
    for (plan, word) in [
        ("apart = [[\"VM1\", \"VM7\"]]", "apart names \"VM7\", and no VM here is called that"),
        ("apart = [[\"VM1\", \"any:VM1\"]]", "names VM1 twice"),
        ("working_set_kib = { VM8 = 5 }", "working_set_kib names \"VM8\""),
    ] {
        let config = huddle.file("c.toml", &format!("[plan]\n{plan}\n"));
        let args = ["plan", "--matrix", &matrix, "--topology", &topology, "--config", &config];
        let line = huddle.refusal(2, &args);
        assert!(line.contains(word), "{line}");
    }
    let config = huddle.file("c.toml", "[plan]\napart = [[\"VM1\", \"VM2\"]]\n");
    let plan = huddle.json(&["plan", "--matrix", &matrix, "--topology", &topology, "--config", &config]);
    let domains: Vec<_> = plan["placement"].as_array().unwrap().iter().map(|vcpu| &vcpu["domain"]).collect();
    assert_ne!(domains[0], domains[1]);

    // A VM that runs has to be there too, before anything is measured or changed.
    let process = Process::start();
    let config = huddle.file("c.toml", "[plan]\napart = [[\"web\", \"gone\"]]\n");
    let vm = format!("web={}", process.pid());
    if is_root() {
        let line = huddle.refusal(2, &["pin", "--vm", &vm, "--config", &config]);
        assert!(line.contains("gone"), "{line}");
    }
}

#[test]
fn the_number_of_a_thread_is_no_vm_beside_its_process() {
    let huddle = Huddle::new();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        sender.send(nix::unistd::gettid()).unwrap();
        let _ = stopped.recv();
    });
    let (pid, tid) = (std::process::id(), receiver.recv().unwrap());
    let line = huddle.refusal(2, &["vms", "--vm", &format!("a={pid}"), "--vm", &format!("b={tid}")]);
    assert!(line.contains(&format!("{tid}, named as VM b, is a thread of process {pid}")), "{line}");
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn a_state_directory_that_cannot_be_used_is_refused_and_nothing_is_pinned() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let process = Process::start();
    let before = process.cpus();
    let file = huddle.file("state-file", "");
    let line = huddle.refusal(1, &["pin", "--vm", &format!("a={}", process.pid()), "--state-dir", &file]);
    assert!(line.contains(&file), "{line}");
    assert_eq!(process.cpus(), before);
}
