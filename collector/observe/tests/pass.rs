//! Complete passes of ksmd on the real kernel: the probes compared with `full_scans`, and no remains after
//! `kill -9`. Needs root, BTF and KSM; skipped with a message where they are missing.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod observe_support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use huddle_host::stages::PassTrigger;
use huddle_host::{HostRoot, read_number};
use huddle_model::availability::Availability;
use huddle_observe::probes::pass::FullScansTrigger;
use huddle_observe::probes::program::Program;
use huddle_observe::probes::{ProbeConfig, Probes};
use libtest_mimic::Failed;
use observe_support::{KsmLock, MergeableMemory, Test, missing, run};

/// Set in the process that attaches all probes and waits to be killed.
const ROLE: &str = "HUDDLE_TEST_HOLD_PROBES";

fn main() {
    if std::env::var_os(ROLE).is_some() {
        hold_probes();
    }
    let tests: &[Test] = &[
        ("probes_and_full_scans_report_the_same_passes", same_passes),
        ("nothing_is_left_after_kill_9", nothing_left),
        ("events_lost_by_the_ring_are_counted_and_no_pass_is_missed", ring_full),
        ("the_rest_works_without_parts_that_a_host_lacks", parts),
        ("programs_on_kvm_load_with_the_fields_of_arm64", fields_of_arm),
    ];
    run(missing(), false, tests);
}

fn probes(programs: &[Program]) -> Probes {
    Probes::load(&HostRoot::real(), &ProbeConfig::only(programs)).unwrap()
}

fn same_passes() -> Result<(), Failed> {
    let root = HostRoot::real();
    let ksm = KsmLock::take();
    let _memory = MergeableMemory::new(64, |page| page % 4);
    let mut probes = probes(&[Program::KsmStartScan, Program::KsmStopScan]);
    let wanted = probes.programs.status().iter().filter(|status| status.attached.value().is_some());
    assert_eq!(wanted.count(), 2, "{:?}", probes.programs.status());
    let trigger = match &mut probes.passes {
        Availability::Available(trigger) => trigger,
        Availability::Unavailable(reason) => return Err(reason.as_str().into()),
    };
    let mut watched = FullScansTrigger::new(root.clone(), Duration::from_millis(1)).unwrap();
    ksm.set("pages_to_scan", 2000);
    ksm.set("run", 1);

    let mut last: Option<(u64, u64)> = None;
    for _ in 0..5 {
        let pass = trigger.wait(Duration::from_secs(10)).unwrap().expect("a pass within ten seconds");
        let ended_ns = pass.ended_ns.unwrap();
        if let Some((full_scans, ended_before_ns)) = last {
            let began_ns = pass.began_ns.expect("the beginning of a pass that was seen from its start");
            assert_eq!(pass.full_scans, full_scans + 1 + pass.missed);
            assert!(began_ns >= ended_before_ns && ended_ns >= began_ns);
        }
        assert!(pass.rmap_items.unwrap() >= 64);
        last = Some((pass.full_scans, ended_ns));
    }
    let seen = watched.wait(Duration::from_secs(10)).unwrap().expect("full_scans goes up");
    assert_eq!((seen.began_ns, seen.ended_ns), (None, None));

    // With ksmd stopped both agree exactly, and neither reports a pass that did not happen.
    ksm.set("run", 0);
    let mut newest = last.unwrap().0;
    while let Some(pass) = trigger.wait(Duration::from_millis(300)).unwrap() {
        newest = pass.full_scans;
    }
    assert_eq!(read_number::<u64>(&root.sys("kernel/mm/ksm/full_scans")).unwrap(), newest);
    assert_eq!(probes.losses.value().unwrap().read().unwrap().total(), 0);
    Ok(())
}

fn hold_probes() -> ! {
    let probes = probes(&Program::ALL);
    for program in probes.programs.status() {
        eprintln!("{}: {:?}", program.program.name(), program.attached);
    }
    let ids: Vec<String> = probes.programs.ids().iter().map(u32::to_string).collect();
    println!("{}", ids.join(" "));
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn nothing_left() -> Result<(), Failed> {
    let mut child =
        Command::new(std::env::current_exe()?).env(ROLE, "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let left = || -> Vec<u32> {
        // Programs of others may disappear while the kernel lists them.
        let loaded: Vec<u32> = aya::programs::loaded_programs().flatten().map(|info| info.id()).collect();
        ids.iter().copied().filter(|id| loaded.contains(id)).collect()
    };
    let before = left();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ids.len() >= 2 && before == ids, "the programs were loaded: {ids:?}, {before:?}");
    // The kernel frees programs after a grace period.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "programs left: {:?}", left());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn ring_full() -> Result<(), Failed> {
    let root = HostRoot::real();
    let ksm = KsmLock::take();
    let _memory = MergeableMemory::new(64, |page| page);
    let mut probes = probes(&[Program::KsmStartScan, Program::KsmStopScan]);
    let Availability::Available(trigger) = &mut probes.passes else {
        return Err(format!("{:?}", probes.programs.status()).into());
    };
    let losses = || probes.losses.value().unwrap().read().unwrap().pass_events;
    let full_scans = || read_number::<u64>(&root.sys("kernel/mm/ksm/full_scans")).unwrap();
    let first = full_scans();
    ksm.set("pages_to_scan", 100_000);
    ksm.set("sleep_millisecs", 0);
    ksm.set("run", 1);
    let deadline = Instant::now() + Duration::from_secs(60);
    while losses() < 100 {
        assert!(Instant::now() < deadline, "timed out: the ring is full");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The ring holds the oldest events; the newest pass among them is reported first.
    let mut reported = trigger.wait(Duration::from_secs(1)).unwrap().expect("passes in the ring");
    assert_eq!(reported.full_scans - reported.missed - 1, first);
    ksm.set("sleep_millisecs", 20);
    while let Some(pass) = trigger.wait(Duration::from_secs(5)).unwrap() {
        // Lost or not: each pass is either reported or counted as skipped.
        assert_eq!(pass.full_scans - pass.missed - 1, reported.full_scans);
        reported = pass;
        if pass.missed == 0 {
            break;
        }
    }
    assert_eq!(reported.missed, 0, "the ring works again");
    Ok(())
}

fn parts() -> Result<(), Failed> {
    // A host without KSM's sysfs and without tracefs.
    let directory = tempfile::tempdir()?;
    let root = HostRoot::at(directory.path());
    for path in ["sys/kernel/btf", "proc/sys/kernel"] {
        std::fs::create_dir_all(directory.path().join(path))?;
    }
    std::os::unix::fs::symlink("/sys/kernel/btf/vmlinux", root.sys("kernel/btf/vmlinux"))?;
    std::fs::copy("/proc/sys/kernel/pid_max", root.proc("sys/kernel/pid_max"))?;
    std::fs::copy("/proc/cpuinfo", root.proc("cpuinfo"))?;
    let programs = [Program::KsmStopScan, Program::SchedSwitch, Program::KvmExit];
    let probes = Probes::load(&root, &ProbeConfig::only(&programs)).unwrap();
    assert!(probes.passes.reason().unwrap().contains("full_scans"), "{:?}", probes.passes.reason());
    assert!(probes.threads.value().is_some());
    let reason = |program| {
        let status = probes.programs.status().iter().find(|status| status.program == program).unwrap();
        status.attached.reason().map(str::to_owned)
    };
    assert_eq!(reason(Program::SchedSwitch), None);
    assert!(reason(Program::KvmExit).unwrap().contains("mount -t tracefs"));
    assert!(reason(Program::KvmEntry).unwrap().contains("not requested"));

    std::fs::remove_file(root.sys("kernel/btf/vmlinux"))?;
    let Err(error) = Probes::load(&root, &ProbeConfig::default()) else {
        return Err("loaded without the kernel's types".into());
    };
    assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    Ok(())
}

/// The kernel verifies the programs anew for each set of offsets, whatever architecture they are of.
fn fields_of_arm() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let root = HostRoot::at(directory.path());
    let events = "sys/kernel/tracing/events/kvm";
    for path in
        ["sys/kernel/btf", "proc/sys/kernel", &format!("{events}/kvm_entry"), &format!("{events}/kvm_exit")]
    {
        std::fs::create_dir_all(directory.path().join(path))?;
    }
    let pc = |at: u32| format!("\tfield:unsigned long vcpu_pc;\toffset:{at};\tsize:8;\tsigned:0;\n");
    let exit = "\tfield:int ret;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:unsigned int esr_ec;\toffset:12;\tsize:4;\tsigned:0;\n";
    std::fs::write(directory.path().join(events).join("kvm_entry/format"), pc(8))?;
    std::fs::write(directory.path().join(events).join("kvm_exit/format"), format!("{exit}{}", pc(16)))?;
    std::os::unix::fs::symlink("/sys/kernel/btf/vmlinux", root.sys("kernel/btf/vmlinux"))?;
    std::fs::copy("/proc/sys/kernel/pid_max", root.proc("sys/kernel/pid_max"))?;
    std::fs::copy("/proc/cpuinfo", root.proc("cpuinfo"))?;
    let programs = [Program::KvmEntry, Program::KvmExit];
    let probes = Probes::load(&root, &ProbeConfig::only(&programs)).unwrap();
    for program in programs {
        let status = probes.programs.status().iter().find(|status| status.program == program).unwrap();
        // Attaching needs this kernel's tracefs, loading does not.
        let reason = status.attached.reason().unwrap_or_default();
        assert!(!reason.contains("BPF_PROG_LOAD") && !reason.contains("cannot run"), "{program:?}: {reason}");
        let has_tracefs = std::path::Path::new("/sys/kernel/tracing/events/kvm").is_dir();
        assert_eq!(status.attached.value().is_some(), has_tracefs, "{program:?}: {reason}");
    }
    Ok(())
}
