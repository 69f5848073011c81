//! `/proc/PID/stat` and `/proc/PID/task/TID/stat`: identity, name and last CPU of a task.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use huddle_model::binding::RealTime;
use huddle_model::vm::TaskId;
use procfs_core::FromRead;
use procfs_core::process::Stat;

use super::limits::{TooMuch, count};
use super::{HostError, HostRoot, read_text};

/// What one `stat` file says (proc(5), Linux 6.18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStat {
    /// Id and start time.
    pub id: TaskId,
    /// Field 2, `comm`.
    pub name: String,
    /// Field 3; `Z` and `X` are dead.
    pub state: char,
    /// Field 4, the parent process.
    pub parent: i32,
    /// Whether it is a thread of the kernel, which has no memory of its own: `PF_KTHREAD`
    /// (include/linux/sched.h, Linux 6.18) in field 9.
    pub is_kernel_thread: bool,
    /// Fields 14 and 15 together: user and system time in clock ticks.
    pub cpu_ticks: u64,
    /// Field 39, the CPU it last ran on.
    pub last_cpu: u32,
    /// Field 41, its scheduling policy, where that is a real-time one.
    pub real_time: Option<RealTime>,
}

impl TaskStat {
    /// Whether the task has ended and only its entry is left.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// What one look at a process tells cheaply: whether it is the one that was looked at before, and whether it may have
/// become another kind since. A program that is executed changes the name, and who opens a VM of KVM maps memory for
/// it and starts threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Id and start time.
    pub id: TaskId,
    /// `comm`, in its first 16 bytes.
    pub name: [u8; 16],
    /// Whether it is a thread of the kernel.
    pub is_kernel_thread: bool,
    /// Whether it has ended and only its entry is left.
    pub is_dead: bool,
    /// Field 20, its threads.
    pub threads: u32,
    /// Field 23, the size of its address space in bytes.
    pub address_space_bytes: u64,
}

/// Looks at the process `pid`. It reads the same file as [`process`], but only what is needed to know a process again,
/// since it is done for every process of the host in every round.
pub fn glance(root: &HostRoot, pid: i32) -> Result<Glance, HostError> {
    let path = root.proc(format!("{pid}/stat"));
    let mut line = [0; 1024];
    let read = |source| HostError::Read { path: path.clone(), source };
    // The kernel gives the whole line at once: it is made when it is first read (fs/proc/array.c).
    let length = File::open(&path).and_then(|mut file| file.read(&mut line)).map_err(read)?;
    parse_glance(&line[..length]).ok_or_else(|| {
        HostError::parse(&path, String::from_utf8_lossy(&line[..length]).trim(), "a stat line of proc(5)")
    })
}

fn parse_glance(line: &[u8]) -> Option<Glance> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let id = std::str::from_utf8(line.get(..open)?).ok()?.trim_end().parse().ok()?;
    let mut name = [0; 16];
    let comm = line.get(open + 1..close)?;
    let kept = comm.len().min(name.len());
    name[..kept].copy_from_slice(&comm[..kept]);
    // Fields from 3 on.
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let flags: u32 = fields.nth(9 - 4)?.parse().ok()?;
    let threads = fields.nth(20 - 10)?.parse().ok()?;
    let start_ticks = fields.nth(22 - 21)?.parse().ok()?;
    let address_space_bytes = fields.next()?.parse().ok()?;
    Some(Glance {
        id: TaskId { id, start_ticks },
        name,
        is_kernel_thread: flags & PF_KTHREAD != 0,
        is_dead: matches!(state, "Z" | "X"),
        threads,
        address_space_bytes,
    })
}

/// Reads the process `pid`.
pub fn process(root: &HostRoot, pid: i32) -> Result<TaskStat, HostError> {
    read(&root.proc(format!("{pid}/stat")))
}

/// Reads the thread `tid` of the process `pid`.
pub fn thread(root: &HostRoot, pid: i32, tid: i32) -> Result<TaskStat, HostError> {
    read(&root.proc(format!("{pid}/task/{tid}/stat")))
}

/// The process that the task `tid` is a thread of, `Tgid` of its `status`; of a process itself it is the same number.
pub fn process_of(root: &HostRoot, tid: i32) -> Result<i32, HostError> {
    // The directory of a thread can be opened below /proc, though it is not listed there.
    let path = root.proc(format!("{tid}/status"));
    let text = read_text(&path)?;
    let of = text.lines().find_map(|line| line.strip_prefix("Tgid:")).map(str::trim);
    let parsed = of.and_then(|of| of.parse().ok());
    parsed.ok_or_else(|| HostError::parse(&path, of.unwrap_or_default(), "a status of proc(5) with Tgid"))
}

/// Whether `task` still runs: the id is taken by the very same task and it is not dead.
pub fn is_alive(root: &HostRoot, task: TaskId) -> Result<bool, HostError> {
    match process(root, task.id) {
        Ok(stat) => Ok(stat.id == task && !stat.is_dead()),
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The ids of all processes, in ascending order.
pub fn process_ids(root: &HostRoot) -> Result<Vec<i32>, HostError> {
    let path = root.proc("");
    let read = |source| HostError::Read { path: path.clone(), source };
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(read)? {
        ids.extend(entry.map_err(read)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// The thread ids of a process, in ascending order.
///
/// # Errors
/// They cannot be read, or there are more than `most`; then no more are read.
pub fn thread_ids(root: &HostRoot, pid: i32, most: u32) -> Result<Vec<i32>, HostError> {
    let path: PathBuf = root.proc(format!("{pid}/task"));
    let read = |source| HostError::Read { path: path.clone(), source };
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(read)? {
        let entry = entry.map_err(read)?;
        ids.extend(entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
        if ids.len() > count(most) {
            return Err(TooMuch::Count { of: "threads", most: most.into(), limit: "threads" }.into());
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

fn read(path: &Path) -> Result<TaskStat, HostError> {
    let text = read_text(path)?;
    parse(&text).ok_or_else(|| HostError::parse(path, text.trim(), "a stat line of proc(5)"))
}

const PF_KTHREAD: u32 = 0x0020_0000;

fn parse(text: &str) -> Option<TaskStat> {
    let text = text.trim();
    // The name is in parentheses and may hold spaces and parentheses itself: the last `)` ends it.
    // The shape of the line is checked here: procfs-core takes it for granted, and a damaged line must be an error.
    let (id, rest) = text.split_once(" (")?;
    let (_, fields) = rest.rsplit_once(')')?;
    if !fields.starts_with(' ') || id.bytes().any(|byte| !byte.is_ascii_digit()) {
        return None;
    }
    let stat = Stat::from_read(text.as_bytes()).ok()?;
    Some(TaskStat {
        id: TaskId { id: stat.pid, start_ticks: stat.starttime },
        name: stat.comm,
        state: stat.state,
        parent: stat.ppid,
        is_kernel_thread: stat.flags & PF_KTHREAD != 0,
        cpu_ticks: stat.utime.saturating_add(stat.stime),
        last_cpu: u32::try_from(stat.processor?).ok()?,
        real_time: stat.policy.and_then(RealTime::of),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "4711 (CPU 0/KVM) x) S 1 4711 4711 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 4 0 98765 0 0 \
        18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn names_with_parentheses_are_read() {
        let stat = parse(LINE).unwrap();
        assert_eq!(stat.id, TaskId { id: 4711, start_ticks: 98765 });
        assert_eq!(stat.name, "CPU 0/KVM) x");
        assert_eq!((stat.state, stat.cpu_ticks, stat.last_cpu), ('S', 42, 3));
        assert_eq!((stat.parent, stat.is_kernel_thread), (1, false));
        assert_eq!(stat.real_time, None);
        let fifo = parse(&LINE.replace(" 17 3 0 0 ", " 17 3 50 1 ")).unwrap();
        assert_eq!(fifo.real_time, Some(RealTime::Fifo));
        let kernel = parse(&LINE.replace("4194560", "2129984")).unwrap();
        assert!(kernel.is_kernel_thread);
    }

    #[test]
    fn a_thread_is_of_its_process() {
        let (root, pid) = (HostRoot::real(), std::process::id().cast_signed());
        let of = std::thread::spawn(move || {
            let tid = nix::unistd::gettid().as_raw();
            (tid, process_of(&HostRoot::real(), tid).unwrap())
        });
        let (tid, of) = of.join().unwrap();
        assert!(tid != pid && of == pid, "{tid} of {of}");
        assert_eq!(process_of(&root, pid).unwrap(), pid);
        assert!(process_of(&root, i32::MAX).unwrap_err().is_gone());
    }

    #[test]
    fn this_process_is_alive_and_another_start_is_another_task() {
        let root = HostRoot::real();
        let own = process(&root, std::process::id() as i32).unwrap().id;
        assert!(is_alive(&root, own).unwrap());
        assert!(!is_alive(&root, TaskId { start_ticks: own.start_ticks + 1, ..own }).unwrap());
        assert!(thread_ids(&root, own.id, 10_000).unwrap().contains(&own.id));
    }

    #[test]
    fn a_glance_sees_what_the_whole_line_says() {
        let seen = parse_glance(LINE.replace(" 98765 0 ", " 98765 4096 ").as_bytes()).unwrap();
        assert_eq!(seen.id, parse(LINE).unwrap().id);
        assert_eq!(
            (&seen.name[..], seen.threads, seen.address_space_bytes),
            (&b"CPU 0/KVM) x\0\0\0\0"[..], 4, 4096)
        );
        assert!(!seen.is_dead && !seen.is_kernel_thread);
        let other = LINE.replace(") S ", ") Z ").replace("4194560", "2129984");
        let other = parse_glance(other.as_bytes()).unwrap();
        assert!(other.is_dead && other.is_kernel_thread);
        let (root, pid) = (HostRoot::real(), std::process::id().cast_signed());
        let own = glance(&root, pid).unwrap();
        assert_eq!(own.id, process(&root, pid).unwrap().id);
        assert!(own.threads >= 1 && own.address_space_bytes > 1 << 20);
        assert!(glance(&root, i32::MAX).unwrap_err().is_gone());
    }

    #[test]
    fn more_threads_than_asked_for_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        for tid in 9..12 {
            std::fs::create_dir_all(root.proc(format!("9/task/{tid}"))).unwrap();
        }
        assert_eq!(thread_ids(&root, 9, 3).unwrap(), [9, 10, 11]);
        let error = thread_ids(&root, 9, 2).unwrap_err().to_string();
        assert_eq!(error, "it has more than 2 threads ([limits] threads)");
    }

    #[test]
    fn damage_and_absence_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        assert!(process(&root, 1).unwrap_err().is_gone());
        std::fs::create_dir_all(root.proc("1")).unwrap();
        std::fs::write(root.proc("1/stat"), "1 (x) S 1\n").unwrap();
        let error = process(&root, 1).unwrap_err().to_string();
        assert!(error.contains("proc/1/stat") && error.contains("1 (x) S 1"), "{error}");
    }

    #[test]
    fn names_that_are_not_utf_8_and_fields_of_later_kernels_are_read() {
        let later = LINE.trim_end().replace("CPU 0/KVM) x", "a\n(\u{fffd}") + " 7 8 word\n";
        let stat = parse(&later).unwrap();
        assert_eq!((stat.name.as_str(), stat.last_cpu), ("a\n(\u{fffd}", 3));
        let root = HostRoot::real();
        let pid = std::process::id().cast_signed();
        let thread = std::thread::spawn(move || {
            // Linux keeps 15 bytes of a name, here the first half of the last letter.
            std::fs::write("/proc/thread-self/comm", "12345678901234\u{e9}").unwrap();
            let tid = nix::unistd::gettid().as_raw();
            super::thread(&root, pid, tid).map(|stat| (stat.id.id == tid, stat.name))
        });
        assert_eq!(thread.join().unwrap().unwrap(), (true, "12345678901234\u{fffd}".into()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(4711 )?[ (]{0,3}\\PC{0,9}[ )]{0,3}[ 0-9A-Z-]{0,200}") {
            let _ = (parse(&text), parse_glance(text.as_bytes()));
        }

        #[test]
        fn no_part_of_a_line_makes_it_panic(begin in 0..LINE.len(), end in 0..LINE.len()) {
            let part = LINE.get(begin..end).unwrap_or_default();
            let _ = (parse(part), parse_glance(part.as_bytes()));
        }
    }
}
