//! How much memory there is: `/proc/meminfo` (proc(5), Linux 6.18).

use procfs_core::Meminfo;

use super::{HostError, HostRoot, parsed};

/// Memory that the kernel manages, in bytes (`MemTotal`).
pub fn total_bytes(root: &HostRoot) -> Result<u64, HostError> {
    Ok(parsed::<Meminfo>(&root.proc("meminfo"), "a table like /proc/meminfo of proc(5)")?.mem_total)
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
    }
}
