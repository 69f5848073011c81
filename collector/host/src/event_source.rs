//! What counts events here: `/sys/bus/event_source/devices`
//! (Documentation/ABI/testing/sysfs-bus-event_source-devices-events and -format, Linux 6.18).
//!
//! Each directory is a PMU. Its `format` has the fields of an event and where their bits belong in `perf_event_attr`,
//! its `events` the names of events, its `type` the number that perf_event_open(2) takes. Files are read when they are
//! asked for: a large server has hundreds of PMUs, nearly all of them outside of the cores.
//!
//! A PMU outside of the cores (an uncore PMU) counts for all of its CPUs together, on the CPUs of its file `cpumask`,
//! and cannot count threads. The PMU of the cores is `cpu` on x86; where cores are of several kinds, and on ARM, each
//! kind has one, with the CPUs in its file `cpus` (`cpu_core` and `cpu_atom`; `armv8_pmuv3_0`).
//!
//! On ARM `events` lists those of the architecture's events that the PMU has (`armv8pmu_event_attr_is_visible`,
//! drivers/perf/arm_pmuv3.c, Linux 6.18). Others can be opened by number as well, and then read 0 for ever.

mod field;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

pub use self::field::{ConfigWord, FieldFormat};
use super::{HostError, HostRoot, optional, read_cpus, read_line, read_number};
use huddle_model::cpuset::CpuSet;

/// One PMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pmu {
    name: String,
    directory: PathBuf,
}

/// All PMUs, by name; none where the kernel has no such directory.
///
/// # Errors
/// The directory cannot be read.
pub fn pmus(root: &HostRoot) -> Result<Vec<Pmu>, HostError> {
    let directory = root.sys("bus/event_source/devices");
    names(directory.clone())
        .map(|names| names.into_iter().map(|name| Pmu { directory: directory.join(&name), name }).collect())
}

/// The PMUs of the cores: one, or one for each kind of cores.
///
/// # Errors
/// The directory cannot be read.
pub fn core_pmus(root: &HostRoot) -> Result<Vec<Pmu>, HostError> {
    Ok(pmus(root)?.into_iter().filter(Pmu::is_core).collect())
}

/// The names in a directory, sorted; none where it is not there.
fn names(directory: PathBuf) -> Result<Vec<String>, HostError> {
    let read = |source| HostError::Read { path: directory.clone(), source };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(error)),
    };
    let names = entries.map(|entry| Ok(entry.map_err(read)?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>, HostError>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Whether a text can be the name of a file of a PMU: it may come from a user.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(allowed)
}

impl Pmu {
    /// Its name, such as `cpu` or `armv8_pmuv3_0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it counts outside of the cores, so that it cannot count threads.
    pub fn is_uncore(&self) -> bool {
        self.directory.join("cpumask").exists()
    }

    /// Whether it counts in the cores.
    pub fn is_core(&self) -> bool {
        let is_named = self.name == "cpu" || self.is_arm();
        !self.is_uncore() && (is_named || self.directory.join("cpus").exists())
    }

    /// Whether it is the PMU of ARM's cores (PMUv3), of which the kernel lists the events that it has.
    pub fn is_arm(&self) -> bool {
        self.name.starts_with("armv8_") || self.name.starts_with("armv9_")
    }

    /// The CPUs whose events it counts; `None` for all.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn cpus(&self) -> Result<Option<CpuSet>, HostError> {
        optional(read_cpus(&self.directory.join("cpus")))
    }

    /// The number by which perf_event_open(2) knows it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn type_id(&self) -> Result<u32, HostError> {
        read_number(&self.directory.join("type"))
    }

    /// Names of the fields of its events, sorted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn fields(&self) -> Result<Vec<String>, HostError> {
        names(self.directory.join("format"))
    }

    /// Where the bits of a field belong; `None` if it has no such field.
    ///
    /// # Errors
    /// The file cannot be read, or is not understood.
    pub fn field(&self, name: &str) -> Result<Option<FieldFormat>, HostError> {
        let Some((path, line)) = self.read("format", name)? else { return Ok(None) };
        match FieldFormat::parse(&line) {
            Some(format) => Ok(Some(format)),
            None => {
                Err(HostError::parse(&path, &line, "bits of config, config1 or config2, like config:0-7"))
            }
        }
    }

    /// The fields of an event that it lists, as `event=0x2e,umask=0x41`; `None` if it lists no such event.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn event(&self, name: &str) -> Result<Option<String>, HostError> {
        Ok(self.read("events", name)?.map(|(_, line)| line))
    }

    /// The numbers of the events of ARM's architecture that it has; `None` if it lists no events.
    ///
    /// # Errors
    /// A file that cannot be read, or is not the number of an event.
    pub fn event_numbers(&self) -> Result<Option<BTreeSet<u64>>, HostError> {
        let mut numbers = BTreeSet::new();
        for name in names(self.directory.join("events"))? {
            let Some((path, line)) = self.read("events", &name)? else { continue };
            let number =
                line.strip_prefix("event=0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
            numbers.insert(number.ok_or_else(|| HostError::parse(&path, &line, "event= and a number"))?);
        }
        Ok((!numbers.is_empty()).then_some(numbers))
    }

    fn read(&self, kind: &str, name: &str) -> Result<Option<(PathBuf, String)>, HostError> {
        if !is_name(name) {
            return Ok(None);
        }
        let path = self.directory.join(kind).join(name);
        Ok(optional(read_line(&path))?.map(|line| (path, line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &HostRoot, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.sys("bus/event_source/devices").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn pmus_of_cores_and_others_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        assert_eq!(pmus(&root).unwrap(), []);
        write(
            &root,
            &[
                ("cpu_core/type", "4\n"),
                ("cpu_core/cpus", "0-15\n"),
                ("cpu_atom/cpus", "16-23\n"),
                ("uncore_imc_0/cpumask", "0\n"),
                ("arm_dsu_0/cpumask", "0\n"),
                ("software/type", "1\n"),
            ],
        );
        let found: Vec<String> = core_pmus(&root).unwrap().iter().map(|pmu| pmu.name().to_owned()).collect();
        assert_eq!(found, ["cpu_atom", "cpu_core"]);
        let all = pmus(&root).unwrap();
        let of = |name: &str| all.iter().find(|pmu| pmu.name() == name).unwrap();
        assert!(of("uncore_imc_0").is_uncore() && !of("software").is_core());
        assert_eq!((of("cpu_core").type_id().unwrap(), of("software").cpus().unwrap()), (4, None));
        assert_eq!(of("cpu_atom").cpus().unwrap(), Some("16-23".parse().unwrap()));
        assert!(of("cpu_atom").type_id().unwrap_err().is_gone());
    }

    #[test]
    fn fields_and_events_are_read_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        write(
            &root,
            &[
                ("armv8_pmuv3_0/format/event", "config:0-15\n"),
                ("armv8_pmuv3_0/format/odd", "config3:0-3\n"),
                ("armv8_pmuv3_0/events/ll_cache_rd", "event=0x0036\n"),
                ("armv8_pmuv3_0/events/inst_retired", "event=0x0008\n"),
            ],
        );
        let [pmu] = core_pmus(&root).unwrap().try_into().unwrap();
        assert_eq!(pmu.field("event").unwrap().unwrap().largest(), 0xffff);
        assert!(pmu.field("odd").unwrap_err().to_string().contains("config3:0-3"));
        assert_eq!(pmu.fields().unwrap(), ["event", "odd"]);
        assert_eq!(pmu.event("ll_cache_rd").unwrap().as_deref(), Some("event=0x0036"));
        assert_eq!((pmu.event("ll_cache").unwrap(), pmu.field("umask").unwrap()), (None, None));
        // What a user writes is no path.
        assert_eq!((pmu.event("../format/event").unwrap(), pmu.event("..").unwrap()), (None, None));
        assert_eq!(pmu.event_numbers().unwrap(), Some([0x08, 0x36].into()));
        write(&root, &[("armv8_pmuv3_0/events/ll_cache_rd", "event=36\n")]);
        assert!(pmu.event_numbers().unwrap_err().to_string().contains("event=36"));
        let none = Pmu { name: "cpu".into(), directory: dir.path().join("none") };
        assert_eq!((none.event_numbers().unwrap(), none.fields().unwrap().len()), (None, 0));
    }
}
