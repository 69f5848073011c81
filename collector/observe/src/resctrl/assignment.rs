//! Counters of memory traffic that are assigned to groups (AMD's ABMC; Documentation/filesystems/resctrl.rst, Linux
//! 6.18): a processor may have fewer of them than groups, and a group without one counts nothing.
//!
//! The kernel assigns them when a group is made, unless `mbm_assign_on_mkdir` is 0 or none is left. What a group of
//! ours lacks is then asked for; groups of others, and the mode, are left as they are. The counters of a group are
//! free again when it is removed, so there is nothing else to undo.

use std::path::Path;

use huddle_model::text::{chosen, first_line};

use super::groups::GroupDirectories;
use huddle_host::{HostError, optional, read_text};

/// How groups come to counters of memory traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignment {
    /// The kernel knows of no assignment: there is a counter for every group.
    #[default]
    None,
    /// The processor could assign counters, and does not: the hardware gives them to groups as it likes, so a value may
    /// be missing, or begin anew.
    ByHardware,
    /// Each group and event has a counter while one is assigned to it.
    ByEvent,
}

/// The mode that is set (`mbm_assign_mode`, Linux 6.18).
///
/// # Errors
/// It cannot be read although the kernel has it.
pub(super) fn mode(info: &Path) -> Result<Assignment, HostError> {
    let text = optional(read_text(&info.join("mbm_assign_mode")))?;
    Ok(match text.as_deref().map(chosen) {
        Some("mbm_event") => Assignment::ByEvent,
        Some(_) => Assignment::ByHardware,
        None => Assignment::None,
    })
}

/// Asks for the counters that a group of ours lacks: why it lacks some after that, one sentence, or `None` if it
/// has all.
pub(super) fn complete(mount: &Path, group: &Path, directories: &dyn GroupDirectories) -> Option<String> {
    let path = group.join("mbm_L3_assignments");
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(error) => return Some(format!("the assignments of counters are not known: {error}")),
    };
    let mut refused = None;
    for (event, cache) in lacking(&text) {
        // One in a write: the kernel stops at the first that it cannot assign.
        if let Err(error) = directories.assign(&path, &format!("{event}:{cache}=e\n")) {
            refused.get_or_insert_with(|| {
                let said = read_text(&mount.join("info/last_cmd_status")).unwrap_or_default();
                let free = read_text(&mount.join("info/L3_MON/available_mbm_cntrs")).unwrap_or_default();
                format!(
                    "the kernel assigns no counter for {event} on cache {cache}: {error} ({}); free by cache: {}",
                    first_line(&said),
                    first_line(&free)
                )
            });
        }
    }
    refused
}

/// Events and caches without a counter, from lines like `mbm_total_bytes:0=e;1=_`.
fn lacking(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    lines.flat_map(|(event, domains)| {
        let states = domains.split(';').filter_map(|domain| domain.split_once('='));
        states.filter(|(_, state)| state.trim() == "_").map(move |(cache, _)| (event, cache.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_a_counter_is_read_from_the_states() {
        let text = "mbm_total_bytes:0=e;1=_\nmbm_local_bytes:0=_;13=_\n\nodd\n";
        let found: Vec<_> = lacking(text).collect();
        assert_eq!(found, [("mbm_total_bytes", "1"), ("mbm_local_bytes", "0"), ("mbm_local_bytes", "13")]);
    }

    #[test]
    fn the_mode_is_the_one_in_brackets() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mode(dir.path()).unwrap(), Assignment::None);
        for (text, expected) in [
            ("[mbm_event]\ndefault\n", Assignment::ByEvent),
            ("mbm_event\n[default]\n", Assignment::ByHardware),
        ] {
            std::fs::write(dir.path().join("mbm_assign_mode"), text).unwrap();
            assert_eq!(mode(dir.path()).unwrap(), expected);
        }
    }
}
