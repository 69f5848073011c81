//! Guest RAM in files, as of guests restored from one snapshot: each kind is found, and what VMs share through the page
//! cache is measured without KSM, and told apart.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::memory::page_bytes;
use serde_json::Value;

use super::{GUEST_BYTES, Qemu, has_two_vcpus, memory, skipped, vm};

/// What a PC maps over its RAM below 1 MiB (video memory and ROM), and what QEMU writes into it for its tables.
const OTHER_BYTES: u64 = 2 << 20;

fn guest_pages() -> u64 {
    GUEST_BYTES / page_bytes() as u64
}

/// Those that the guest has for sure.
fn least_pages() -> u64 {
    (GUEST_BYTES - OTHER_BYTES) / page_bytes() as u64
}

/// A file of guest RAM in which all pages differ.
fn ram(path: &Path) {
    let file = File::create(path).unwrap();
    for page in 0..guest_pages() {
        file.write_all_at(&(page + 1).to_le_bytes(), page * page_bytes() as u64).unwrap();
    }
    file.set_len(GUEST_BYTES).unwrap();
}

/// A stopped guest with this RAM, all of which was read once.
fn guest(name: &str, ram: &Path, share: &str) -> Qemu {
    let backend = format!("memory-backend-file,id=m,size=64M,mem-path={},share={share}", ram.display());
    let named = format!("guest={name},debug-threads=on");
    let machine = ["-S", "-accel", "tcg", "-name", &named, "-object", &backend];
    let mut qemu =
        Qemu::with_stdin(&[&machine[..], &["-machine", "pc,memory-backend=m", "-monitor", "stdio"]].concat());
    vm(name, has_two_vcpus);
    let monitor = qemu.0.stdin.as_mut().unwrap();
    // In quotes: the monitor takes a slash after a number for a division.
    writeln!(monitor, "pmemsave 0 {GUEST_BYTES} \"/dev/null\"").unwrap();
    qemu
}

/// The matrix of these VMs, once both have all their RAM in memory.
fn matrix(names: [&str; 2], method: &str) -> Value {
    let begin = Instant::now();
    loop {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        let output =
            command.args(["matrix", "--format", "json", "--method", method]).stderr(Stdio::inherit());
        let matrix: Value = serde_json::from_slice(&output.output().unwrap().stdout).unwrap();
        let vms = matrix["vms"].as_array().unwrap();
        let resident = |name: &&str| {
            vms.iter()
                .any(|vm| vm["name"] == **name && vm["pages_resident"].as_u64().unwrap() >= least_pages())
        };
        if names.iter().all(resident) {
            return matrix;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "waited 60 s for {names:?}: {matrix}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A cell of a matrix by names, of this member of its JSON.
fn cell(matrix: &Value, what: &str, names: [&str; 2]) -> f64 {
    let vms = matrix["vms"].as_array().unwrap();
    let [i, j] = names.map(|name| vms.iter().position(|vm| vm["name"] == name).unwrap());
    matrix[what][i][j].as_f64().unwrap()
}

#[test]
fn clones_of_one_template_share_its_page_cache() {
    if skipped(false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let template = dir.path().join("template");
    ram(&template);
    let names = ["huddle-clone-a", "huddle-clone-b"];
    let _guests = names.map(|name| guest(name, &template, "off"));
    for name in names {
        let found = vm(name, has_two_vcpus);
        assert_eq!(memory(&found, "private_file"), GUEST_BYTES, "{found}");
        assert!(found["cannot_merge"].to_string().contains("private mapping of a file"), "{found}");
    }
    let found = matrix(names, "merged");
    let of_files = cell(&found, "shared_file_frames", names);
    assert!(of_files >= (least_pages()) as f64 && of_files <= guest_pages() as f64, "{found}");
    assert!(of_files <= cell(&found, "shared_frames", names), "{found}");
    assert!(cell(&found, "rate", names) > 0.95, "{found}");
    let table = Command::new(env!("CARGO_BIN_EXE_huddle")).arg("matrix").output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("shares by files with") && table.contains("file pages"), "{table}");
}

#[test]
fn ram_in_files_of_their_own_is_all_found_and_could_be_shared() {
    if skipped(false) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let names = ["huddle-file-a", "huddle-file-b"];
    let _guests = names.map(|name| {
        let path = dir.path().join(name);
        ram(&path);
        guest(name, &path, "on")
    });
    for name in names {
        let found = vm(name, has_two_vcpus);
        assert_eq!(memory(&found, "shared_file"), GUEST_BYTES, "{found}");
        assert!(found["cannot_merge"].to_string().contains("shared mapping of a file"), "{found}");
    }
    // Two files hold the same data on frames of their own: nothing is shared, and all could be.
    let found = matrix(names, "merged");
    assert_eq!(cell(&found, "shared_file_frames", names), 0.0, "{found}");
    assert!(cell(&matrix(names, "content"), "rate", names) > 0.95);
}

#[test]
fn unmarked_ram_is_found_beside_memory_that_two_vms_share() {
    if skipped(false) {
        return;
    }
    let shared = tempfile::Builder::new().prefix("huddle-ivshmem-").tempfile_in("/dev/shm").unwrap();
    let backend = format!("memory-backend-file,id=iv,size=32M,mem-path={},share=on", shared.path().display());
    let machine = ["-accel", "tcg", "-machine", "pc,mem-merge=off", "-m", "256", "-object", &backend];
    let device = ["-device", "ivshmem-plain,memdev=iv", "-name", "guest=huddle-ivshmem,debug-threads=on"];
    let _qemu = Qemu::start(&[&machine[..], &device[..]].concat());
    let found = vm("huddle-ivshmem", has_two_vcpus);
    assert_eq!(memory(&found, "anonymous"), 256 << 20, "{found}");
    assert_eq!(memory(&found, "shared_memory"), 32 << 20, "{found}");
    assert!(found["left_out"].to_string().contains("translated code"), "{found}");
}

#[test]
fn two_backends_of_different_kinds_are_both_guest_memory() {
    if skipped(false) {
        return;
    }
    let backends = [
        "-object",
        "memory-backend-ram,id=a,size=64M",
        "-numa",
        "node,nodeid=0,cpus=0,memdev=a",
        "-object",
        "memory-backend-memfd,id=b,size=64M,share=on",
        "-numa",
        "node,nodeid=1,cpus=1,memdev=b",
    ];
    for (merge, kind) in [("on", "mergeable"), ("off", "anonymous")] {
        let (name, machine) = (format!("huddle-two-{merge}"), format!("pc,mem-merge={merge}"));
        let named = format!("guest={name},debug-threads=on");
        let common = ["-accel", "tcg", "-m", "128", "-machine", &machine, "-name", &named];
        let _qemu = Qemu::start(&[&common[..], &backends[..]].concat());
        let found = vm(&name, has_two_vcpus);
        assert_eq!(memory(&found, kind), GUEST_BYTES, "{found}");
        assert_eq!(memory(&found, "shared_memory"), GUEST_BYTES, "{found}");
    }
}
