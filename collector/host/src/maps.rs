//! `/proc/PID/maps` and `/proc/PID/smaps` (Documentation/filesystems/proc.rst, Linux 6.18).
//!
//! The parser is our own: of the twenty lines that smaps has for every mapping only the first and
//! the flags are wanted, and paths may hold bytes that are not UTF-8.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::limits::{Limits, TooMuch, VmTime, count};
use super::{HostError, HostRoot, read_at_most};

/// A file by its device and inode, whatever its name is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Major and minor number of the device of its file system.
    pub device: (u32, u32),
    /// Its inode there, never 0.
    pub inode: u64,
}

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// `r` in its permissions.
    pub readable: bool,
    /// `w` in its permissions.
    pub writable: bool,
    /// `x` in its permissions.
    pub executable: bool,
    /// `s` in its permissions: writes are seen by others.
    pub shared: bool,
    /// The file that it maps; `None` for anonymous memory.
    pub file: Option<FileId>,
    /// The path or the name in brackets; empty for plain anonymous memory.
    pub name: String,
    /// What `VmFlags` says; `None` in `maps`, which does not have them.
    pub flags: Option<MappingFlags>,
}

/// The flags of `VmFlags` that huddle asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingFlags {
    /// `mg`: KSM looks at it, after madvise(MADV_MERGEABLE) or prctl(PR_SET_MEMORY_MERGE).
    pub mergeable: bool,
    /// `ht`: made of hugetlbfs pages.
    pub huge_tlb: bool,
}

/// Tells the flags of mappings without a walk of page tables, which smaps costs.
pub trait FlagSource: std::fmt::Debug + Send + Sync {
    /// Fills in the flags of all mappings of a process, which are those that its `maps` had just now, in order.
    ///
    /// # Errors
    /// Some were not found, or `time` is over. Flags of the others may be filled in; they are not to be used.
    fn fill(&self, pid: i32, mappings: &mut [Mapping], time: VmTime) -> Result<(), FlagsError>;
}

/// Why there are no flags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagsError {
    /// They cannot be read on this host, for this reason.
    #[error("{0}")]
    Unavailable(String),
    /// The process has ended, or its mappings are others by now.
    #[error("the mappings have changed")]
    Changed,
    /// It takes too long.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

impl Mapping {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// The text of `/proc/PID/maps`: cheap, and different whenever mappings come, go, split or join.
///
/// # Errors
/// It cannot be read, or there are more mappings than `limits` has.
pub fn maps_text(root: &HostRoot, pid: i32, limits: &Limits) -> Result<String, HostError> {
    let bytes = match read_at_most(&root.proc(format!("{pid}/maps")), limits.mappings_bytes()) {
        Err(HostError::TooLong { .. }) => return Err(too_many(limits).into()),
        other => other?,
    };
    if bytes.iter().filter(|byte| **byte == b'\n').count() > count(limits.mappings) {
        return Err(too_many(limits).into());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses the text of `/proc/PID/maps`; the flags of all mappings are `None`.
pub fn parse_maps(root: &HostRoot, pid: i32, text: &str) -> Result<Vec<Mapping>, HostError> {
    let path = root.proc(format!("{pid}/maps"));
    let mut mappings = Vec::new();
    text.lines().try_for_each(|line| take_line(&path, line, &mut mappings))?;
    Ok(mappings)
}

/// Reads `/proc/PID/smaps`, a line at a time. The kernel walks the page tables of the whole process for it, which
/// costs as much as reading its pagemap: it takes as long as the memory that is there is large, however much address
/// space is reserved.
///
/// # Errors
/// It cannot be read or understood, or there are more mappings than `limits` has.
pub fn smaps(root: &HostRoot, pid: i32, limits: &Limits) -> Result<Vec<Mapping>, HostError> {
    let path = root.proc(format!("{pid}/smaps"));
    let read = |source| HostError::Read { path: path.clone(), source };
    let mut lines = BufReader::with_capacity(1 << 16, File::open(&path).map_err(read)?);
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(read)?;
        if line.is_empty() {
            return Ok(mappings);
        }
        take_line(&path, String::from_utf8_lossy(&line).trim_end_matches('\n'), &mut mappings)?;
        if mappings.len() > count(limits.mappings) {
            return Err(too_many(limits).into());
        }
    }
}

/// Longest line of smaps: a path of 4,096 bytes, each written as four where it is an unusual one, and what stands
/// before it.
const LONGEST_LINE: u64 = 4 * 4096 + 200;

fn too_many(limits: &Limits) -> TooMuch {
    TooMuch::Count { of: "mappings", most: limits.mappings.into(), limit: "mappings" }
}

fn take_line(path: &Path, line: &str, mappings: &mut Vec<Mapping>) -> Result<(), HostError> {
    // Fields of smaps begin with a capital letter, mappings with a hexadecimal digit in lower case.
    if line.starts_with(|first: char| first.is_ascii_uppercase()) {
        if let (Some(flags), Some(mapping)) = (line.strip_prefix("VmFlags:"), mappings.last_mut()) {
            let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
            mapping.flags = Some(MappingFlags { mergeable: has("mg"), huge_tlb: has("ht") });
        }
    } else {
        let mapping =
            parse_line(line).ok_or_else(|| HostError::parse(path, line, "a line of /proc/PID/maps"))?;
        mappings.push(mapping);
    }
    Ok(())
}

/// `START-END PERMS OFFSET DEV INODE   NAME`, where the name may be missing and may hold spaces.
fn parse_line(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        rest = rest.trim_start_matches(' ');
        let (field, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after;
        (!field.is_empty()).then_some(field)
    };
    let (start, end) = field()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let permissions = field()?.as_bytes();
    let [read, write, execute, share] = permissions else { return None };
    let (_offset, device, inode) = (field()?, field()?, field()?.parse::<u64>().ok()?);
    let (major, minor) = device.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    (start < end).then(|| Mapping {
        start,
        end,
        readable: *read == b'r',
        writable: *write == b'w',
        executable: *execute == b'x',
        shared: *share == b's',
        file: (inode != 0).then_some(FileId { device, inode }),
        name: rest.trim_start_matches(' ').to_owned(),
        flags: None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0004000000 rw-p 00000000 00:00 0 
Size:              65536 kB
KernelPageSize:        4 kB
THPeligible:           1
VmFlags: rd wr mr mw me ac sd mg 
7f0010000000-7f0020000000 rw-s 00000000 00:01 2056                       /memfd:my ram (deleted)
VmFlags: rd wr sh mr mw me ms de ht sd 
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    fn parse(path: &Path, text: &str) -> Result<Vec<Mapping>, HostError> {
        let mut mappings = Vec::new();
        text.lines().try_for_each(|line| take_line(path, line, &mut mappings))?;
        Ok(mappings)
    }

    #[test]
    fn smaps_is_read_with_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("9")).unwrap();
        std::fs::write(root.proc("9/smaps"), SMAPS).unwrap();
        let mappings = smaps(&root, 9, &Limits::default()).unwrap();
        assert_eq!(mappings.len(), 3);
        assert_eq!(mappings[0].len_bytes(), 64 << 20);
        assert_eq!(mappings[0].flags, Some(MappingFlags { mergeable: true, huge_tlb: false }));
        assert!(!mappings[0].shared && mappings[0].writable && mappings[0].name.is_empty());
        assert_eq!(mappings[1].name, "/memfd:my ram (deleted)");
        assert!(mappings[1].shared && mappings[1].flags.unwrap().huge_tlb);
        let files: Vec<_> = mappings.iter().map(|mapping| mapping.file).collect();
        assert_eq!(files, [None, Some(FileId { device: (0, 1), inode: 2056 }), None]);
        assert_eq!((mappings[2].executable, mappings[2].readable, mappings[2].flags), (true, false, None));
    }

    #[test]
    fn damage_is_named_with_its_line() {
        for line in [
            "7f-6f rw-p 0 0:0 0",
            "7f-8f rw-p 0",
            "xx-8f rw-p 0 0:0 0",
            "7f-8f rw 0 0:0 0",
            "7f-8f rw-p 0 0 0",
            "7f-8f rw-p 0 0:0 x",
            "",
        ] {
            let error = parse(Path::new("/proc/9/maps"), &format!("{line}\n")).unwrap_err().to_string();
            assert!(error.contains("/proc/9/maps") && error.contains(line), "{error}");
        }
    }

    #[test]
    fn more_mappings_than_the_limit_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("9")).unwrap();
        let maps: String =
            SMAPS.lines().filter(|line| !line.starts_with('V')).map(|l| format!("{l}\n")).collect();
        let maps =
            maps.lines().filter(|line| line.contains('-')).map(|l| format!("{l}\n")).collect::<String>();
        std::fs::write(root.proc("9/maps"), &maps).unwrap();
        std::fs::write(root.proc("9/smaps"), SMAPS).unwrap();
        let most = |mappings| Limits { mappings, ..Limits::default() };
        assert_eq!(maps_text(&root, 9, &most(3)).unwrap(), maps);
        for error in [maps_text(&root, 9, &most(2)).err(), smaps(&root, 9, &most(2)).err()] {
            assert_eq!(error.unwrap().to_string(), "it has more than 2 mappings ([limits] mappings)");
        }
        let long = format!("{}\n", "7f".repeat(10_000));
        std::fs::write(root.proc("9/maps"), &long).unwrap();
        assert!(matches!(maps_text(&root, 9, &most(2)), Err(HostError::TooMuch(_))));
        std::fs::write(root.proc("9/smaps"), &long).unwrap();
        assert!(smaps(&root, 9, &most(2)).is_err());
    }

    #[test]
    fn this_process_has_a_stack_and_smaps_agrees_with_maps() {
        let (root, pid) = (HostRoot::real(), std::process::id() as i32);
        let maps = parse_maps(&root, pid, &maps_text(&root, pid, &Limits::default()).unwrap()).unwrap();
        let smaps = smaps(&root, pid, &Limits::default()).unwrap();
        for mappings in [&maps, &smaps] {
            assert!(mappings.iter().any(|mapping| mapping.name == "[stack]" && mapping.writable));
        }
        assert!(smaps.iter().all(|mapping| mapping.flags.is_some()));
    }

    proptest! {
        #[test]
        fn lines_as_the_kernel_prints_them_are_read_back(
            start in 0u64..u64::MAX - 1, len in 1u64..1 << 40,
            bits in any::<[bool; 4]>(), name in "(|\\[heap\\]|/[a-zA-Z:() /.-]{0,20}[a-z)])",
        ) {
            let end = start.saturating_add(len);
            let mark = |on: bool, letter: char| if on { letter } else { '-' };
            let permissions: String = [
                mark(bits[0], 'r'), mark(bits[1], 'w'), mark(bits[2], 'x'), if bits[3] { 's' } else { 'p' },
            ].into_iter().collect();
            // seq_put_hex_ll with width 8, then padding to column 73 before a name (fs/proc/task_mmu.c).
            let head = format!("{start:08x}-{end:08x} {permissions} 00000000 00:01 2056 ");
            let line = if name.is_empty() { head } else { format!("{head:<73}{name}") };
            let mapping = parse_line(&line).unwrap();
            let file = Some(FileId { device: (0, 1), inode: 2056 });
            prop_assert_eq!((mapping.start, mapping.end, mapping.name, mapping.file), (start, end, name, file));
            prop_assert_eq!(
                [mapping.readable, mapping.writable, mapping.executable, mapping.shared], bits);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = parse(Path::new("x"), &text);
        }
    }
}
