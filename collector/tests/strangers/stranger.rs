//! A process of another user under the name of QEMU, with any command line. The variable `STRANGER` sets what it
//! does, as `KEY=VALUE`:
//! - `threads`: the number of sleeping threads with names of vCPUs;
//! - `mappings`: the number of mappings of one page;
//! - `reserve_gib`: the size of a mapping that is never touched;
//! - `mute`: the path of a socket at which it listens and never answers;
//! - `line`: the length of its command line in bytes.

use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use huddle_testing::memory::page_bytes;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};

/// The user that strangers run as.
pub(crate) const NOBODY: u32 = 65534;

/// In two parts: tests that contain the complete name boot guests, and this one does not.
const PROGRAM: &str = concat!("qemu-", "system-x86_64");

const TASK: &str = "STRANGER";

/// A running one; it ends with this value.
pub(crate) struct Stranger(Child);

impl Stranger {
    /// Starts one from a program in `dir`, which the user has to reach.
    pub(crate) fn start(dir: &Path, args: &[&str], task: &str) -> Self {
        Self::start_as(NOBODY, dir, args, task)
    }

    /// The same as any user; one of root is no stranger.
    pub(crate) fn start_as(user: u32, dir: &Path, args: &[&str], task: &str) -> Self {
        let program = dir.join(PROGRAM);
        if !program.exists() {
            huddle_testing::copy_program(&std::env::current_exe().unwrap(), &program);
        }
        // It makes its sockets there.
        std::os::unix::fs::chown(dir, Some(NOBODY), None).unwrap();
        let mut child = Command::new(program)
            .args(args)
            .env(TASK, task)
            .uid(user)
            .gid(user)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{task}");
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Never returns where this process was started as one.
pub(crate) fn run_if_one() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (key, value) = task.split_once('=').unwrap_or((&task, ""));
    let number = || value.parse::<usize>().unwrap();
    let mut listener = None;
    match key {
        "" => {}
        "threads" => (0..number()).for_each(thread),
        "mappings" => mappings(number()),
        "reserve_gib" => reserve(number() << 30),
        "mute" => listener = Some(UnixListener::bind(value).unwrap()),
        "line" => long_line(number()),
        _ => panic!("{task:?} is no task"),
    }
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    drop(listener);
    std::process::exit(0)
}

fn thread(number: usize) {
    let sleeper = std::thread::Builder::new().name(format!("CPU {number}/TCG")).stack_size(16 << 10);
    sleeper.spawn(|| std::thread::sleep(std::time::Duration::from_secs(3600))).unwrap();
}

/// Reserves address space of which nothing is touched.
fn reserve(bytes: usize) {
    map(bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
}

fn map(bytes: usize, protection: ProtFlags) -> std::ptr::NonNull<libc::c_void> {
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
    unsafe { mmap_anonymous(None, NonZeroUsize::new(bytes).unwrap(), protection, flags) }.unwrap()
}

/// Every second page of a range may not be written, so that the kernel cannot join them.
fn mappings(count: usize) {
    let start = map(count * page_bytes(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
    for page in (0..count).step_by(2) {
        // SAFETY: within the mapping above, which nothing refers to.
        unsafe { mprotect(start.byte_add(page * page_bytes()), page_bytes(), ProtFlags::PROT_READ) }.unwrap();
    }
}

/// Makes a large mapping its command line, as any process may (prctl(2), PR_SET_MM_MAP).
fn long_line(bytes: usize) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    // The first is field 3 of proc(5).
    let fields: Vec<u64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields[number - 3];
    let start = map(bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).as_ptr() as u64;
    // SAFETY: it asks where the heap ends, and changes nothing.
    let heap_end = unsafe { libc::sbrk(0) } as u64;
    /// `struct prctl_mm_map` (include/uapi/linux/prctl.h, Linux 6.18).
    #[repr(C)]
    struct Map {
        start_code: u64,
        end_code: u64,
        start_data: u64,
        end_data: u64,
        start_brk: u64,
        brk: u64,
        start_stack: u64,
        arg_start: u64,
        arg_end: u64,
        env_start: u64,
        env_end: u64,
        auxv: *const u64,
        auxv_size: u32,
        exe_fd: u32,
    }
    let map = Map {
        start_code: field(26),
        end_code: field(27),
        start_data: field(45),
        end_data: field(46),
        start_brk: field(47),
        brk: heap_end,
        start_stack: field(28),
        arg_start: start,
        arg_end: start + bytes as u64,
        env_start: start + bytes as u64 - 1,
        env_end: start + bytes as u64,
        auxv: std::ptr::null(),
        auxv_size: 0,
        exe_fd: u32::MAX,
    };
    let size = size_of::<Map>();
    // SAFETY: the kernel reads the structure, which lives, and checks each of its addresses.
    let done = unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const map, size, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
