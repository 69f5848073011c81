//! `/sys/kernel/mm/ksm` (Documentation/admin-guide/mm/ksm.rst, Linux 6.18).

use std::collections::BTreeMap;
use std::path::PathBuf;

use huddle_model::ksm::KsmState;
use huddle_model::text::chosen;

use super::{HostError, HostRoot, optional, page, read_line, read_number, read_text};

/// KSM's counters and settings. Files that this kernel does not have are `None`.
///
/// # Errors
/// [`HostError::is_gone`] is true where the kernel has no KSM at all.
pub fn state(root: &HostRoot) -> Result<KsmState, HostError> {
    let number = |name: &str| read_number::<u64>(&file(root, name));
    let maybe = |name: &str| optional(number(name));
    let maybe_signed = |name: &str| optional(read_number::<i64>(&file(root, name)));
    Ok(KsmState {
        run: number("run")?,
        full_scans: number("full_scans")?,
        pages_shared: number("pages_shared")?,
        pages_sharing: number("pages_sharing")?,
        pages_unshared: number("pages_unshared")?,
        pages_volatile: number("pages_volatile")?,
        pages_skipped: maybe("pages_skipped")?,
        ksm_zero_pages: maybe_signed("ksm_zero_pages")?,
        general_profit_bytes: maybe_signed("general_profit")?,
        pages_to_scan: number("pages_to_scan")?,
        sleep_millisecs: number("sleep_millisecs")?,
        smart_scan: maybe("smart_scan")?,
        max_page_sharing: maybe("max_page_sharing")?,
        merge_across_nodes: maybe("merge_across_nodes")?,
        use_zero_pages: maybe("use_zero_pages")?,
        advisor_mode: optional(setting(root, "advisor_mode"))?,
        page_size: page::size(),
    })
}

/// How many passes over all memory were completed.
pub fn full_scans(root: &HostRoot) -> Result<u64, HostError> {
    read_number(&file(root, "full_scans"))
}

/// How many pages ksmd has looked at since boot; `None` before Linux 6.6, which came with it.
///
/// # Errors
/// Its file cannot be read or understood although the kernel has it.
pub fn pages_scanned(root: &HostRoot) -> Result<Option<u64>, HostError> {
    optional(read_number(&file(root, "pages_scanned")))
}

/// Whether any page of this host is merged; false where the kernel has no KSM.
///
/// # Errors
/// Its file cannot be read or understood although the kernel has it.
pub fn has_merged(root: &HostRoot) -> Result<bool, HostError> {
    Ok(optional(read_number::<u64>(&file(root, "pages_shared")))?.is_some_and(|pages| pages > 0))
}

/// Whether KSM merges pages of different NUMA nodes.
///
/// # Errors
/// [`HostError::is_gone`] is true where the kernel has no such setting.
pub fn merge_across_nodes(root: &HostRoot) -> Result<bool, HostError> {
    Ok(read_number::<u64>(&file(root, "merge_across_nodes"))? != 0)
}

/// One setting as it would be written: of several choices the chosen one.
pub fn setting(root: &HostRoot, name: &str) -> Result<String, HostError> {
    Ok(chosen(&read_text(&file(root, name))?).to_owned())
}

/// Every file as it is, so that those of later kernels are there too: its line, or why it cannot be read.
pub fn files(root: &HostRoot) -> Result<BTreeMap<String, Result<String, HostError>>, HostError> {
    let directory = file(root, "");
    let read = |source| HostError::Read { path: directory.clone(), source };
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&directory).map_err(read)? {
        let entry = entry.map_err(read)?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), read_line(&entry.path()));
    }
    Ok(files)
}

/// Where a file of KSM is.
pub(crate) fn file(root: &HostRoot, name: &str) -> PathBuf {
    root.sys("kernel/mm/ksm").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old_kernel() -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.sys("kernel/mm/ksm")).unwrap();
        for (name, value) in [
            ("run", "1"),
            ("full_scans", "7"),
            ("pages_shared", "10"),
            ("pages_sharing", "30"),
            ("pages_unshared", "5"),
            ("pages_volatile", "2"),
            ("pages_to_scan", "100"),
            ("sleep_millisecs", "20"),
        ] {
            std::fs::write(root.sys("kernel/mm/ksm").join(name), format!("{value}\n")).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn what_a_kernel_lacks_is_none_and_what_it_has_is_read() {
        let (_dir, root) = old_kernel();
        let state = super::state(&root).unwrap();
        assert_eq!((state.run, state.full_scans, state.pages_sharing), (1, 7, 30));
        assert_eq!((state.smart_scan, state.general_profit_bytes, &state.advisor_mode), (None, None, &None));
        std::fs::write(root.sys("kernel/mm/ksm/advisor_mode"), "none [scan-time]\n").unwrap();
        std::fs::write(root.sys("kernel/mm/ksm/general_profit"), "-640\n").unwrap();
        let state = super::state(&root).unwrap();
        assert_eq!(
            (state.advisor_mode.as_deref(), state.general_profit_bytes),
            (Some("scan-time"), Some(-640))
        );
    }

    #[test]
    fn absence_and_damage_differ() {
        let (_dir, root) = old_kernel();
        std::fs::write(root.sys("kernel/mm/ksm/run"), "yes\n").unwrap();
        let error = super::state(&root).unwrap_err();
        assert!(!error.is_gone() && error.to_string().contains("\"yes\""), "{error}");
        std::fs::remove_dir_all(root.sys("kernel/mm/ksm")).unwrap();
        assert!(super::state(&root).unwrap_err().is_gone());
    }

    #[test]
    fn this_host_is_read_where_it_has_ksm() {
        match super::state(&HostRoot::real()) {
            Ok(state) => assert!(state.pages_to_scan > 0, "{state:?}"),
            Err(error) => assert!(error.is_gone(), "{error}"),
        }
    }
}
