//! Schedulers of the kernel that decide where threads run, besides affinities: cache-aware scheduling and sched_ext.

use std::collections::BTreeMap;
use std::path::Path;

use huddle_model::schedulers::{CacheAware, SchedExt};

use super::{HostError, HostRoot, optional, read_line, read_number, read_text};

/// The settings of cache-aware scheduling below `/sys/kernel/debug/sched`: the directory `llc_balancing` of Linux 7.2
/// (kernel/sched/debug.c; `enabled` and the tolerances), the files `llc_*` of its earlier versions, and the scheduler's
/// feature `SCHED_CACHE`. `None` if this kernel has none of them (no CONFIG_SCHED_CACHE).
///
/// # Errors
/// [`HostError::is_gone`] is true if debugfs is not mounted.
pub fn cache_aware(root: &HostRoot) -> Result<Option<CacheAware>, HostError> {
    let directory = root.sys("kernel/debug/sched");
    let names = names(&directory)?;
    // An empty directory is a debugfs that is not mounted.
    if names.is_empty() {
        return Err(HostError::Read { path: directory, source: std::io::ErrorKind::NotFound.into() });
    }
    let mut settings = BTreeMap::new();
    for name in names.iter().filter(|name| name.starts_with("llc_")) {
        let path = directory.join(name);
        if path.is_dir() {
            for file in self::names(&path)? {
                settings.insert(format!("{name}/{file}"), read_line(&path.join(file))?);
            }
        } else {
            settings.insert(name.clone(), read_line(&path)?);
        }
    }
    let features = optional(read_text(&directory.join("features")))?.unwrap_or_default();
    for word in features.split_ascii_whitespace() {
        match word {
            "SCHED_CACHE" => settings.insert(word.to_owned(), "1".to_owned()),
            "NO_SCHED_CACHE" => settings.insert("SCHED_CACHE".to_owned(), "0".to_owned()),
            _ => None,
        };
    }
    Ok((!settings.is_empty()).then_some(CacheAware(settings)))
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Result<Vec<String>, HostError> {
    let read = |source| HostError::Read { path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(read)? {
        names.extend(entry.map_err(read)?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// The scheduler that a BPF program brings along, `/sys/kernel/sched_ext` (Documentation/scheduler/sched-ext.rst,
/// Linux 6.18).
///
/// # Errors
/// [`HostError::is_gone`] is true if this kernel has no sched_ext.
pub fn sched_ext(root: &HostRoot) -> Result<SchedExt, HostError> {
    let directory = root.sys("kernel/sched_ext");
    Ok(SchedExt {
        state: read_line(&directory.join("state"))?,
        // There while one is loaded.
        scheduler: optional(read_line(&directory.join("root/ops")))?.filter(|name| !name.is_empty()),
        switches_all: optional(read_number::<u64>(&directory.join("switch_all")))?.map(|all| all != 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        for (path, text) in files {
            let path = root.sys(format!("kernel/{path}"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn the_switch_of_cache_aware_scheduling_is_read_as_text_and_as_number() {
        for (text, is_on) in [
            ("always advise [never]\n", false),
            ("[always] advise never\n", true),
            ("always [advise] never\n", true),
            ("0\n", false),
            ("1\n", true),
        ] {
            let (_dir, root) = tree(&[
                ("debug/sched/features", "PLACE_LAG\n"),
                ("debug/sched/llc_balancing/enabled", text),
                ("debug/sched/llc_balancing/aggr_tolerance", "1\n"),
                ("debug/sched/llc_balancing/overaggr_pct", "50\n"),
            ]);
            let found = cache_aware(&root).unwrap().unwrap();
            assert_eq!(found.is_on(), is_on, "{text}");
            assert_eq!(found.0["llc_balancing/enabled"], text.trim(), "recorded as the kernel writes it");
            assert_eq!(
                (&*found.0["llc_balancing/aggr_tolerance"], &*found.0["llc_balancing/overaggr_pct"]),
                ("1", "50")
            );
        }
    }

    #[test]
    fn kernels_without_it_and_debugfs_that_is_not_mounted_differ() {
        let (_dir, root) = tree(&[("debug/sched/features", "PLACE_LAG NO_HRTICK\n")]);
        assert_eq!(cache_aware(&root).unwrap(), None);
        let (_dir, root) = tree(&[("debug/other", "")]);
        assert!(cache_aware(&root).unwrap_err().is_gone());
        std::fs::create_dir_all(root.sys("kernel/debug/sched")).unwrap();
        assert!(cache_aware(&root).unwrap_err().is_gone());
        let (_dir, root) =
            tree(&[("debug/sched/features", "NO_SCHED_CACHE\n"), ("debug/sched/llc_enabled", "0\n")]);
        assert!(!cache_aware(&root).unwrap().unwrap().is_on());
        let (_dir, root) = tree(&[("debug/sched/features", "SCHED_CACHE\n")]);
        assert!(cache_aware(&root).unwrap().unwrap().is_on());
    }

    #[test]
    fn a_scheduler_of_sched_ext_has_a_name_while_it_runs() {
        let (_dir, root) = tree(&[("sched_ext/state", "disabled\n")]);
        let off = SchedExt { state: "disabled".into(), scheduler: None, switches_all: None };
        assert_eq!(sched_ext(&root).unwrap(), off);
        assert!(!off.is_active());
        let (_dir, root) = tree(&[
            ("sched_ext/state", "enabled\n"),
            ("sched_ext/root/ops", "layered_1.0.9\n"),
            ("sched_ext/switch_all", "1\n"),
        ]);
        let on = sched_ext(&root).unwrap();
        assert!(on.is_active());
        assert_eq!((on.scheduler.as_deref(), on.switches_all), (Some("layered_1.0.9"), Some(true)));
        let (_dir, root) = tree(&[]);
        assert!(sched_ext(&root).unwrap_err().is_gone());
    }
}
