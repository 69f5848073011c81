//! What KSM has to do with one process: `/proc/PID/ksm_stat` (Documentation/admin-guide/mm/ksm.rst,
//! Linux 6.18).

use huddle_model::plan::MergingState;
use huddle_model::vm::Vm;

use super::{HostError, HostRoot, ksm, optional, read_number, read_text};

/// What of a process KSM may look at, as the kernel reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KsmMarks {
    /// `ksm_merge_any`: the whole process, after prctl(PR_SET_MEMORY_MERGE); `None` where it is not told.
    pub merge_any: Option<bool>,
    /// `ksm_mergeable`: some mapping; `None` where it is not told.
    pub mergeable: Option<bool>,
}

impl KsmMarks {
    /// Whether the kernel says that KSM looks at nothing of the process.
    pub fn nothing_marked(&self) -> bool {
        self.merge_any == Some(false) && self.mergeable == Some(false)
    }
}

/// What of a process KSM may look at; kernels before 6.1 tell nothing.
pub fn marks(root: &HostRoot, pid: i32) -> Result<KsmMarks, HostError> {
    let text = optional(read_text(&root.proc(format!("{pid}/ksm_stat"))))?.unwrap_or_default();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim() == "yes")
    };
    Ok(KsmMarks { merge_any: field("ksm_merge_any"), mergeable: field("ksm_mergeable") })
}

/// Pages of a process that are merged now, without those on the zero page: `ksm_merging_pages` of
/// `/proc/PID/ksm_stat` (Linux 6.1), or `/proc/PID/ksm_merging_pages` (5.19).
///
/// # Errors
/// Neither is there (see [`HostError::is_gone`]), or it holds something else.
pub fn merging_pages(root: &HostRoot, pid: i32) -> Result<u64, HostError> {
    let path = root.proc(format!("{pid}/ksm_stat"));
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(error) if error.is_gone() => return read_number(&root.proc(format!("{pid}/ksm_merging_pages"))),
        Err(error) => return Err(error),
    };
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(|c: char| c == ':' || c.is_ascii_whitespace())?;
        (name == "ksm_merging_pages").then_some(value.trim())
    });
    match value {
        Some(value) => value.parse().map_err(|_| HostError::parse(&path, value, "a number of pages")),
        // Linux 6.1 to 6.3 have a `ksm_stat` without this line.
        None => read_number(&root.proc(format!("{pid}/ksm_merging_pages"))),
    }
}

/// Whether KSM keeps books of any page of the process: `ksm_rmap_items` of `/proc/PID/ksm_stat` (Linux 6.1). It has an
/// entry for each page that ksmd came to (`get_next_rmap_item`, mm/ksm.c, Linux 6.18), merged or not. `None` where the
/// kernel does not report it.
pub fn is_seen(root: &HostRoot, pid: i32) -> Result<Option<bool>, HostError> {
    let path = root.proc(format!("{pid}/ksm_stat"));
    let Some(text) = optional(read_text(&path))? else { return Ok(None) };
    let value =
        text.lines().find_map(|line| line.strip_prefix("ksm_rmap_items")?.split_ascii_whitespace().last());
    let is_seen = |value: &str| {
        let items: Result<u64, _> = value.parse();
        items.map(|items| items > 0).map_err(|_| HostError::parse(&path, value, "a number of pages"))
    };
    value.map(is_seen).transpose()
}

/// What is known about why no two of these VMs share a page.
pub fn merging(root: &HostRoot, vms: &[Vm]) -> MergingState {
    MergingState::of(vms, ksm::state(root).into(), |vm| {
        let processes = vm.processes().into_iter();
        let seen: Vec<Option<bool>> =
            processes.map(|process| is_seen(root, process.id).ok().flatten()).collect();
        // One process that was seen is enough; where one is unknown, so is the VM.
        if seen.contains(&Some(true)) {
            return Some(true);
        }
        seen.iter().all(Option::is_some).then_some(false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_pages_are_read_from_either_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("7")).unwrap();
        assert!(merging_pages(&root, 7).unwrap_err().is_gone());
        std::fs::write(root.proc("7/ksm_merging_pages"), "12\n").unwrap();
        assert_eq!(merging_pages(&root, 7).unwrap(), 12);
        std::fs::write(root.proc("7/ksm_stat"), "ksm_rmap_items 5\n").unwrap();
        assert_eq!(merging_pages(&root, 7).unwrap(), 12);
        std::fs::write(root.proc("7/ksm_stat"), "ksm_rmap_items 5\nksm_merging_pages 3\n").unwrap();
        assert_eq!(merging_pages(&root, 7).unwrap(), 3);
        std::fs::write(root.proc("7/ksm_stat"), "ksm_merging_pages -3\n").unwrap();
        assert!(merging_pages(&root, 7).unwrap_err().to_string().contains("-3"));
    }

    #[test]
    fn whether_ksm_came_to_a_process_is_told_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("7")).unwrap();
        assert_eq!(is_seen(&root, 7).unwrap(), None);
        for (text, seen) in [("ksm_rmap_items 0\n", false), ("ksm_rmap_items 5\nksm_merging_pages 0\n", true)]
        {
            std::fs::write(root.proc("7/ksm_stat"), text).unwrap();
            assert_eq!(is_seen(&root, 7).unwrap(), Some(seen));
        }
        std::fs::write(root.proc("7/ksm_stat"), "ksm_rmap_items many\n").unwrap();
        assert!(is_seen(&root, 7).unwrap_err().to_string().contains("many"));
    }

    #[test]
    fn marks_are_told_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("7")).unwrap();
        assert_eq!(marks(&root, 7).unwrap(), KsmMarks::default());
        std::fs::write(root.proc("7/ksm_stat"), "ksm_merge_any: no\nksm_mergeable: yes\n").unwrap();
        assert!(!marks(&root, 7).unwrap().nothing_marked());
        std::fs::write(root.proc("7/ksm_stat"), "ksm_merge_any: no\nksm_mergeable: no\n").unwrap();
        assert!(marks(&root, 7).unwrap().nothing_marked());
    }
}
