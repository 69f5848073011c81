//! What hashing the pages of Xen's domains costs, against a plain C loop that maps and reads the same pages in the
//! same batches.
//!
//! `cargo bench --profile dev -p huddle --bench xen [-- --rounds N]`, after `cargo xtask host xen
//! --make-only`: boots that host with this program in its dom0, where it measures itself in turns with the loop
//! (`collector/testing/src/xen/plain.c`) on three domains that are paused. Ratios are of one round, as speeds: 1 is as fast as the plain
//! loop. Median [min to max] over the rounds, of elapsed time, and of CPU time of dom0.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark: what fails, panics")]

use std::process::Command;
use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_sharing::content::{ContentScan, ContentSettings, Share};
use huddle_testing::emulated::host::{self, EmulatedHost, File};
use huddle_testing::figures::spread;
use huddle_testing::xen::plain;
use huddle_xen::vms::{DomainChoice, XenVms};
use huddle_xen::{self as xen, contents::hash_domains};
use nix::time::ClockId;

const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "in-dom0") {
        return in_dom0();
    }
    let at = args.iter().position(|arg| arg == "--rounds");
    let rounds: usize = at.and_then(|at| args.get(at + 1)).map_or(7, |text| text.parse().unwrap());
    let image = host::image("xen", std::path::Path::new(env!("CARGO_BIN_EXE_huddle")))
        .unwrap_or_else(|reason| panic!("{reason}"));
    let own = tempfile::NamedTempFile::new().unwrap();
    let own_path = std::env::current_exe().unwrap();
    let stripped = Command::new("strip").arg("-o").args([own.path(), &own_path]).status();
    assert!(stripped.unwrap().success());
    let program = |path, content| File { path, mode: 0o755, content };
    let files = [
        program("usr/bin/measured", std::fs::read(own.path()).unwrap()),
        program("usr/bin/plain", plain::compiled(&image)),
    ];
    let mut dom0 = EmulatedHost::boot(&image, &files);
    for domain in ["a1 1 11 8192", "a2 1 12 8192", "b1 2 13 8192"] {
        dom0.run(&format!("guest {domain} && xl pause {}", &domain[..2]), LIMIT).success();
    }
    let (mut elapsed, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let plain = dom0.run("plain read 1 2 3", LIMIT).success();
        let hashed = dom0.run("measured in-dom0", LIMIT).success();
        let (plain, hashed) = (figures_of(&plain), figures_of(&hashed));
        assert_eq!(plain[0], hashed[0], "the same pages");
        println!(
            "{} pages: plain {:.0} pages/s, hashing {:.0} pages/s",
            plain[0],
            plain[0] / plain[1] * 1e9,
            hashed[0] / hashed[1] * 1e9
        );
        elapsed.push(plain[1] / hashed[1]);
        cpu.push(plain[2] / hashed[2]);
    }
    println!("\nhash / plain: elapsed {}, CPU time {}", spread(&elapsed, 2), spread(&cpu, 2));
}

/// `PAGES pages NS ns NS cpu_ns`.
fn figures_of(line: &str) -> [f64; 3] {
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{line:?}"))
}

fn in_dom0() {
    let root = HostRoot::real();
    let toolstack = xen::open(&root).unwrap();
    let mut vms = XenVms::new(xen::open(&root).unwrap(), DomainChoice::default());
    let vms = vms.discover().unwrap().vms;
    let mut memory = xen::open_memory(&root).unwrap();
    let settings = ContentSettings { cpu_share: Share::ALL, ..ContentSettings::default() };
    let scan = ContentScan::new(root, settings);
    let cpu = || Duration::from(nix::time::clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
    // As in the plain loop, which pages there are is known before.
    let mut begun = (cpu(), Instant::now());
    let listed = || begun = (cpu(), Instant::now());
    let hashed = hash_domains(&scan, &mut *memory, &mut || toolstack.domains(), &vms, listed).unwrap();
    let (took, used) = (begun.1.elapsed(), cpu() - begun.0);
    println!("{} pages {} ns {} cpu_ns", hashed.pages, took.as_nanos(), used.as_nanos());
}
