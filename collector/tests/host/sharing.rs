//! The sharing scan against known truth.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use huddle_host::{HostRoot, task};
use huddle_model::matrix::{MemoryUse, ReadBy};
use huddle_model::vm::{GuestRegion, MemoryKind, Vm};
use huddle_sharing::{MergedScan, frames_visible};
use libtest_mimic::Trial;

use crate::reference::{assert_is_reference, check_reading, measure, memory, reference, scans};
use crate::tenant::Tenant;
use crate::trial;
use huddle_testing::ksm::Ksm;
use huddle_testing::memory::{Fork, huge, huge_page_pages, page_bytes};
use huddle_testing::output::say;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("sharing_two_three_and_four_ways", two_three_and_four_ways),
        trial("sharing_repeats_inside_one_tenant", repeats_inside_one_tenant),
        trial("sharing_zero_pages_of_both_kinds", zero_pages_of_both_kinds),
        trial("sharing_with_use_zero_pages", with_use_zero_pages),
        trial("sharing_beyond_max_page_sharing", beyond_max_page_sharing),
        trial("sharing_measuring_changes_nothing", measuring_changes_nothing),
        trial("sharing_after_pages_were_written", after_pages_were_unmerged),
        trial("sharing_tenant_ends_before_the_scan", tenant_ends_before_the_scan),
        trial("sharing_tenant_ends_during_the_scan", tenant_ends_during_the_scan),
        trial("sharing_of_forks_of_a_merged_process", forks_of_a_merged_process),
        trial("sharing_of_forks_with_huge_pages", forks_with_huge_pages),
        trial("sharing_frames_hidden", frames_hidden),
    ]
}

fn merged(ksm: &Ksm, tenants: &[(&str, String)]) -> (Vec<Tenant>, Vec<Vm>) {
    let tenants: Vec<Tenant> = tenants.iter().map(|(name, spec)| Tenant::start(name, spec)).collect();
    ksm.merge(&tenants.iter().map(Tenant::pid).collect::<Vec<_>>());
    let vms = tenants.iter().map(Tenant::vm).collect();
    (tenants, vms)
}

fn scan() -> MergedScan {
    MergedScan::new(HostRoot::real())
}

fn two_three_and_four_ways() {
    let ksm = Ksm::start();
    // Set 1 in all four, 2 in a b c, 3 in a b, 4 in c d; 10 to 13 in one each.
    let (_tenants, vms) = merged(
        &ksm,
        &[
            ("a", "set:1:400,set:2:300,set:3:200,set:10:150".into()),
            ("b", "set:3:200,hole:0:9,set:1:400,set:2:300,set:11:77".into()),
            ("c", "set:4:123,set:12:1000,set:2:300,set:1:400".into()),
            ("d", "set:1:400,set:4:123,set:13:1".into()),
        ],
    );
    let found = measure(&vms);
    let shared = |i, j| found.matrix.shared_frames(i, j).unwrap();
    assert_eq!([shared(0, 1), shared(0, 2), shared(0, 3)], [900, 700, 400]);
    assert_eq!([shared(1, 2), shared(1, 3), shared(2, 3)], [700, 400, 523]);
    let used = [1050, 977, 1823, 524];
    for (vm, used) in used.into_iter().enumerate() {
        let expected = MemoryUse {
            pages_resident: used,
            pages_used: used,
            frames_used: used,
            pages_file: Some(0),
            ..MemoryUse::default()
        };
        assert_eq!(memory(&found, vm), expected);
    }
    assert_eq!(found.matrix.rate(3, 2), 523.0 / 524.0);
    assert_eq!(found.matrix.coverage(), Some(1.0));
    assert_is_reference(&found, &vms);
}

fn repeats_inside_one_tenant() {
    let ksm = Ksm::start();
    let (_tenants, vms) = merged(
        &ksm,
        &[
            // Content 5 on one frame with 20 + 10 pages; content 6 repeats in a alone; 7 once in each.
            ("a", "copies:5:20,copies:6:15,copies:7:1,set:1:10".into()),
            ("b", "copies:5:10,copies:7:1,set:2:10".into()),
        ],
    );
    let found = measure(&vms);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(2));
    let expected = |pages, frames, repeated| MemoryUse {
        pages_resident: pages,
        pages_used: pages,
        frames_used: frames,
        self_shared_pages: repeated,
        pages_file: Some(0),
        ..MemoryUse::default()
    };
    assert_eq!(memory(&found, 0), expected(46, 13, 35));
    assert_eq!(memory(&found, 1), expected(21, 12, 10));
    assert_is_reference(&found, &vms);
}

fn zero_pages_of_both_kinds() {
    let ksm = Ksm::start();
    let (_tenants, vms) = merged(
        &ksm,
        &[
            ("a", "zeros:0:100,set:1:50,read:0:30,hole:0:20".into()),
            ("b", "read:0:5,zeros:0:700,set:1:50".into()),
        ],
    );
    let found = measure(&vms);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(50));
    for (vm, zero) in [(0, 130), (1, 705)] {
        let expected = MemoryUse {
            pages_resident: zero + 50,
            pages_used: 50,
            frames_used: 50,
            pages_zero: zero,
            pages_file: Some(0),
            ..MemoryUse::default()
        };
        assert_eq!(memory(&found, vm), expected);
    }
    assert_is_reference(&found, &vms);
}

fn with_use_zero_pages() {
    let ksm = Ksm::start();
    ksm.set("use_zero_pages", "1");
    let (_tenants, vms) = merged(
        &ksm,
        &[("a", "zeros:0:100,set:1:50,read:0:30".into()), ("b", "zeros:0:600,set:1:50,copies:3:4".into())],
    );
    let found = measure(&vms);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(50));
    assert_eq!((memory(&found, 0).pages_zero, memory(&found, 1).pages_zero), (130, 600));
    assert_eq!((memory(&found, 1).frames_used, memory(&found, 1).self_shared_pages), (51, 4));
    assert_is_reference(&found, &vms);
}

/// VMs that were forked from one that KSM had merged: the kernel counts no merged page for them.
fn forks_of_a_merged_process() {
    let ksm = Ksm::start();
    let (mut tenants, _) = merged(&ksm, &[("template", "zeros:0:2000,set:1:300,copies:1:50".into())]);
    let vms = ["a", "b"].map(|name| tenants[0].fork(name));
    for vm in &vms {
        let merging = std::fs::read_to_string(format!("/proc/{}/ksm_merging_pages", vm.process().unwrap()));
        assert_eq!(merging.unwrap().trim(), "0", "otherwise this tests nothing");
    }
    let found = measure(&vms);
    assert_is_reference(&found, &vms);
    let zero = [0, 1].map(|vm| memory(&found, vm).pages_zero);
    assert_eq!(zero, [2000, 2000]);
    assert_eq!(found.matrix.shared_file_frames(0, 1), Some(0));
}

/// A fork that writes to the first page of a huge page: the entries of its parent say then that all of its pages are alone.
fn forks_with_huge_pages() {
    let Some(words) = huge(4) else { return say("skipped: this kernel gives no huge pages") };
    let (start, bytes) = (words.as_ptr() as u64, words.len() as u64 * 8);
    let (border, huge) = (100 * page_bytes() as u64, huge_page_pages());
    let all = 4 * huge as u64;
    let vm = |name: &str, pid: i32| {
        let process = task::process(&HostRoot::real(), pid).unwrap().id;
        let region = |from: u64, to: u64| GuestRegion {
            process: Some(process),
            start: start + from,
            end: start + to,
            kind: MemoryKind::Anonymous,
        };
        // Two regions, with a border within the first huge page.
        Vm::of_process(name, process, vec![region(0, border), region(border, bytes)])
    };
    for (written, shared) in
        [(&[][..], all), (&[0], all - 1), (&[5], all - 1), (&[0, huge, huge + 1, 4 * huge - 1], all - 4)]
    {
        let fork = Fork::that_writes(words, written);
        let vms = [vm("parent", std::process::id() as i32), vm("fork", fork.pid())];
        let found = measure(&vms);
        assert_eq!(found.matrix.shared_frames(0, 1), Some(shared), "{written:?}");
        for vm in [0, 1] {
            let memory = memory(&found, vm);
            assert_eq!((memory.pages_resident, memory.frames_used), (all, all), "{written:?}");
            assert_eq!((memory.self_shared_pages, memory.pages_zero), (0, 0), "{written:?}");
        }
        assert_is_reference(&found, &vms);
    }
}

fn beyond_max_page_sharing() {
    let ksm = Ksm::start();
    let limit = ksm.number("max_page_sharing");
    assert_eq!(limit, 256, "the sizes below are made for the kernel's default");
    let (_tenants, vms) = merged(
        &ksm,
        &[
            ("a", "copies:1:600,set:1:20".into()),
            ("b", "copies:1:500,set:1:20".into()),
            ("c", "copies:1:3,zeros:0:900".into()),
        ],
    );
    let found = measure(&vms);
    // 1,103 pages of one content need at least 5 frames of 256; how KSM spreads them is not specified,
    // so the rest is checked against the reference.
    let frames: u64 = reference(&vms).frames.iter().flatten().collect::<BTreeSet<_>>().len() as u64;
    assert!(frames >= 20 + 5, "{frames}");
    assert!(memory(&found, 0).frames_used >= 20 + 3, "{:?}", memory(&found, 0));
    assert_eq!(memory(&found, 0).pages_used, 620);
    assert_eq!(memory(&found, 2).pages_zero, 900);
    assert_is_reference(&found, &vms);
}

/// Reading a merged page must not split it (`process_vm_readv` would).
fn measuring_changes_nothing() {
    let ksm = Ksm::start();
    let (_tenants, vms) =
        merged(&ksm, &[("a", "set:1:500,zeros:0:50".into()), ("b", "set:1:500,zeros:0:50".into())]);
    let before = reference(&vms).frames;
    for scan in scans() {
        let first = scan.measure(&vms).unwrap();
        let second = scan.measure(&vms).unwrap();
        assert_eq!(reference(&vms).frames, before);
        assert_eq!(first.matrix.shared_frames(0, 1), Some(500));
        assert_eq!(second.matrix.shared_frames(0, 1), Some(500));
        assert_eq!(memory(&first, 0), memory(&second, 0));
    }
}

/// Cached facts of a scan must not be used for frames that have changed.
fn after_pages_were_unmerged() {
    let ksm = Ksm::start();
    let (tenants, vms) = merged(&ksm, &[("a", "set:1:300".into()), ("b", "set:1:300".into())]);
    let scans = scans();
    let assert_shared = |frames| {
        for scan in &scans {
            assert_eq!(scan.measure(&vms).unwrap().matrix.shared_frames(0, 1), Some(frames));
        }
    };
    assert_shared(300);
    // Everything unmerged: the old frames are free, and may become merged frames of other content.
    ksm.set("run", "2");
    assert_shared(0);
    drop(tenants);
    ksm.set("run", "1");
    let (_tenants, vms) = merged(&ksm, &[("c", "zeros:0:300".into()), ("d", "zeros:0:300".into())]);
    for scan in &scans {
        let found = scan.measure(&vms).unwrap();
        assert_eq!(found.matrix.shared_frames(0, 1), Some(0));
        assert_eq!(memory(&found, 0).pages_zero, 300);
        assert_is_reference(&found, &vms);
    }
}

fn tenant_ends_before_the_scan() {
    let ksm = Ksm::start();
    let spec = || "set:1:100".to_owned();
    let (mut tenants, vms) = merged(&ksm, &[("a", spec()), ("b", spec()), ("c", spec())]);
    tenants[1].end();
    for scan in scans() {
        let found = scan.measure(&vms).unwrap();
        assert_eq!(found.unmeasured.len(), 1);
        assert_eq!(found.unmeasured[0].vm, "b");
        assert_eq!(found.matrix.len(), 2);
        assert_eq!(found.matrix.shared_frames(0, 1), Some(100));
    }
}

/// Whenever it ends, it is either measured or named, and the others are right.
fn tenant_ends_during_the_scan() {
    let ksm = Ksm::start();
    let spec = || "set:1:100".to_owned();
    let (_tenants, vms) = merged(&ksm, &[("a", spec()), ("b", spec())]);
    let scans = [ReadBy::PageTables, ReadBy::Pagemap].into_iter().zip(scans());
    for (by, scan) in scans {
        tenant_ends_during(&scan, by, &vms);
    }
}

fn tenant_ends_during(scan: &MergedScan, by: ReadBy, vms: &[Vm]) {
    let mut vanished = 0;
    // The first scan finds out how to read page tables.
    check_reading(&scan.measure(vms).unwrap(), by);
    for round in 0..40 {
        let mut short = Tenant::start("short", "set:2:60000,read:0:60000");
        let all = [vms.to_vec(), vec![short.vm()]].concat();
        short.begin_end();
        std::thread::sleep(Duration::from_micros(round * 50));
        let found = scan.measure(&all).unwrap();
        check_reading(&found, by);
        assert_eq!(found.matrix.shared_frames(0, 1), Some(100));
        if found.unmeasured.is_empty() {
            let memory = memory(&found, 2);
            assert_eq!((memory.pages_resident, memory.pages_zero), (120_000, 60_000));
        } else {
            assert_eq!((found.unmeasured[0].vm.as_str(), found.matrix.len()), ("short", 2));
            vanished += 1;
        }
    }
    assert!(vanished > 0, "it never ended in time, by {by}");
}

fn frames_hidden() {
    for mode in ["hidden", "hidden-root"] {
        let out = Command::new("/proc/self/exe").arg(mode).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{mode}: {text} {}", String::from_utf8_lossy(&out.stderr));
        assert!(text.contains("FramesHidden") && text.contains("CAP_SYS_ADMIN"), "{mode}: {text}");
    }
    frames_visible(&HostRoot::real()).unwrap();
}

/// Tries to measure as another user, who has no capabilities.
pub fn run_hidden() -> ! {
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setgid(65534.into()).unwrap();
        nix::unistd::setuid(65534.into()).unwrap();
    }
    report_hidden()
}

/// Tries to measure as root without CAP_SYS_ADMIN: the kernel opens the pagemap and shows frame 0.
pub fn run_hidden_root() -> ! {
    const CAP_SYS_ADMIN: nix::libc::c_ulong = 21;
    if std::env::args().nth(2).is_some() {
        report_hidden();
    }
    // SAFETY: takes a capability out of this process's bounding set; no memory is involved.
    let dropped = unsafe { nix::libc::prctl(nix::libc::PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) };
    assert_eq!(dropped, 0, "{}", std::io::Error::last_os_error());
    // It takes effect with the next program.
    let status = Command::new("/proc/self/exe").args(["hidden-root", "dropped"]).status().unwrap();
    std::process::exit(status.code().unwrap_or(1))
}

fn report_hidden() -> ! {
    match scan().measure(&[]) {
        Ok(_) => println!("measured without CAP_SYS_ADMIN"),
        Err(error) => println!("{error:?}: {error}"),
    }
    std::process::exit(0)
}
