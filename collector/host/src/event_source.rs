//! Counters of ARM's cores: `/sys/bus/event_source/devices/PMU/events`
//! (Documentation/ABI/testing/sysfs-bus-event_source-devices-events, Linux 6.18).
//!
//! A PMU lists there which of the architecture's events it has (`armv8pmu_event_attr_is_visible`,
//! drivers/perf/arm_pmuv3.c). Others can be opened by number as well, and then read 0 for ever.

use std::collections::BTreeMap;
use std::io;

use super::{HostError, HostRoot, read_line};

/// The PMU of the cores of one kind; a machine with several kinds of cores has several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorePmu {
    /// Its name, such as `armv8_pmuv3_0`.
    pub name: String,
    /// Number of each event that it has, by name.
    pub events: BTreeMap<String, u64>,
}

/// The PMUs of ARM's cores by name, with which of these events each has; none elsewhere. They are called `armv8_...` or
/// `armv9_...`.
///
/// # Errors
/// A file that cannot be read, or is not the number of an event.
pub fn arm(root: &HostRoot, events: &[&str]) -> Result<Vec<CorePmu>, HostError> {
    let directory = root.sys("bus/event_source/devices");
    let read = |source| HostError::Read { path: directory.clone(), source };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(error)),
    };
    let mut pmus = Vec::new();
    for entry in entries {
        let entry = entry.map_err(read)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("armv8_") && !name.starts_with("armv9_") {
            continue;
        }
        let mut pmu = CorePmu { name, events: BTreeMap::new() };
        for event in events {
            let path = entry.path().join("events").join(event);
            let line = match read_line(&path) {
                Ok(line) => line,
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error),
            };
            let number =
                line.strip_prefix("event=0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let number = number.ok_or_else(|| HostError::parse(&path, &line, "event= and a number"))?;
            pmu.events.insert((*event).to_owned(), number);
        }
        pmus.push(pmu);
    }
    pmus.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pmus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_a_pmu_lists_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        assert_eq!(arm(&root, &["ll_cache_rd"]).unwrap(), []);
        let events = root.sys("bus/event_source/devices/armv8_pmuv3_0/events");
        std::fs::create_dir_all(&events).unwrap();
        std::fs::create_dir_all(root.sys("bus/event_source/devices/arm_cmn_0/events")).unwrap();
        std::fs::write(events.join("ll_cache_rd"), "event=0x0036\n").unwrap();
        let found = arm(&root, &["ll_cache_rd", "ll_cache_miss_rd"]).unwrap();
        let events_of = [("ll_cache_rd".to_owned(), 0x36)].into();
        assert_eq!(found, [CorePmu { name: "armv8_pmuv3_0".into(), events: events_of }]);
        std::fs::write(events.join("ll_cache_rd"), "event=36\n").unwrap();
        assert!(arm(&root, &["ll_cache_rd"]).unwrap_err().to_string().contains("event=36"));
    }
}
