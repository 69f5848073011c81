//! How much memory there is: `/proc/meminfo`; and how much this process uses: `/proc/self/statm` (proc(5), Linux 6.18).

use procfs_core::Meminfo;

use super::{HostError, HostRoot, parsed, read_line};

fn meminfo(root: &HostRoot) -> Result<Meminfo, HostError> {
    parsed(&root.proc("meminfo"), "a table like /proc/meminfo of proc(5)")
}

/// Memory that the kernel manages, in bytes (`MemTotal`).
pub fn total_bytes(root: &HostRoot) -> Result<u64, HostError> {
    Ok(meminfo(root)?.mem_total)
}

/// Memory that can be given without swapping, in bytes, as the kernel estimates it (`MemAvailable`); `None` on kernels
/// before 3.14.
pub fn available_bytes(root: &HostRoot) -> Result<Option<u64>, HostError> {
    Ok(meminfo(root)?.mem_available)
}

/// Pages of this process in physical memory: the second number of `statm`.
pub fn own_resident_pages(root: &HostRoot) -> Result<u64, HostError> {
    let path = root.proc("self/statm");
    let line = read_line(&path)?;
    let pages = line.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.ok_or_else(|| HostError::parse(&path, &line, "the sizes of proc(5) in pages, such as 1230 530 .."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kib_become_bytes_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("")).unwrap();
        let real = std::fs::read_to_string("/proc/meminfo").unwrap();
        let (first, rest) = real.split_once('\n').unwrap();
        assert!(first.starts_with("MemTotal:"));
        std::fs::write(root.proc("meminfo"), format!("MemTotal:       24684092 kB\n{rest}")).unwrap();
        assert_eq!(total_bytes(&root).unwrap(), 24_684_092 * 1024);
        std::fs::write(root.proc("meminfo"), format!("MemTotal: lots\n{rest}")).unwrap();
        let error = total_bytes(&root).unwrap_err().to_string();
        assert!(error.contains("proc/meminfo") && error.contains("lots"), "{error}");
        assert!(available_bytes(&root).is_err());
        let real = HostRoot::real();
        assert!(available_bytes(&real).unwrap().unwrap() <= total_bytes(&real).unwrap());
    }

    #[test]
    fn own_pages_are_the_second_number() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("self")).unwrap();
        std::fs::write(root.proc("self/statm"), "1230 530 200 10 0 99 0\n").unwrap();
        assert_eq!(own_resident_pages(&root).unwrap(), 530);
        std::fs::write(root.proc("self/statm"), "1230\n").unwrap();
        assert!(own_resident_pages(&root).unwrap_err().to_string().contains("1230"));
        assert!(own_resident_pages(&HostRoot::real()).unwrap() > 100);
    }
}
