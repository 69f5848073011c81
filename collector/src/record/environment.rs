//! What the manifest says of the host: facts, and what can disturb a measurement.

use std::collections::BTreeMap;
use std::path::PathBuf;

use huddle_model::availability::Availability;
use huddle_model::schema::{EndState, Fact, Manifest, SCHEMA_VERSION};
use huddle_model::topology::Topology;

use crate::engine::HostClock;
use crate::engine::stages::Clock;
use crate::host::{HostRoot, ksm, read_text};

/// What the caller knows for the manifest.
#[derive(Clone, Debug)]
pub struct ManifestInput {
    /// Name of the run.
    pub run: String,
    /// Name of the host.
    pub host: String,
    /// The command line.
    pub command: Vec<String>,
    /// The cache domains, where known.
    pub topology: Option<Topology>,
}

impl ManifestInput {
    /// Of this process on this host; the run is named after its begin and process.
    pub fn from_process(topology: Option<Topology>) -> Self {
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        Self {
            run: format!("{}-{}", HostClock.now_unix_us() / 1_000_000, std::process::id()),
            host: host.unwrap_or_else(|_| "unknown".into()),
            command: std::env::args().collect(),
            topology,
        }
    }
}

/// The manifest of a recording that begins now.
pub fn manifest(root: &HostRoot, input: ManifestInput) -> Manifest {
    Manifest {
        schema: "huddle/manifest/1".into(),
        schema_version: SCHEMA_VERSION,
        run: input.run,
        host: input.host,
        begin_unix_us: HostClock.now_unix_us(),
        end_unix_us: None,
        ended: EndState::Open,
        huddle_version: env!("CARGO_PKG_VERSION").into(),
        git_revision: option_env!("HUDDLE_GIT_REVISION").map(str::to_owned),
        command: input.command,
        cache_level: input.topology.as_ref().and_then(Topology::level),
        cache_domains: input.topology.map(|topology| topology.domains().to_vec()).unwrap_or_default(),
        ksm: ksm::state(root).into(),
        environment: facts(root),
        tables: BTreeMap::new(),
        rounds_lost: 0,
    }
}

/// Facts by name; what this host does not tell is unavailable with its reason.
fn facts(root: &HostRoot) -> Vec<Fact> {
    let files: [(&str, PathBuf); 12] = [
        ("kernel", root.proc("sys/kernel/osrelease")),
        ("kernel_command_line", root.proc("cmdline")),
        ("transparent_hugepage", root.sys("kernel/mm/transparent_hugepage/enabled")),
        ("khugepaged_defrag", root.sys("kernel/mm/transparent_hugepage/khugepaged/defrag")),
        ("numa_balancing", root.proc("sys/kernel/numa_balancing")),
        ("nmi_watchdog", root.proc("sys/kernel/nmi_watchdog")),
        ("smt_active", root.sys("devices/system/cpu/smt/active")),
        ("isolated_cpus", root.sys("devices/system/cpu/isolated")),
        ("cpu_governor", root.sys("devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        ("swappiness", root.proc("sys/vm/swappiness")),
        ("perf_event_paranoid", root.proc("sys/kernel/perf_event_paranoid")),
        ("load_average", root.proc("loadavg")),
    ];
    let mut facts: Vec<Fact> = files
        .into_iter()
        .map(|(name, path)| {
            let value: Availability<String> = read_text(&path).into();
            Fact { name: name.into(), value: value.map(|text| text.trim().to_owned()) }
        })
        .collect();
    let fields = [("cpu_model", "cpuinfo", "model name"), ("memory_total", "meminfo", "MemTotal")];
    for (name, file, key) in fields {
        let value = read_text(&root.proc(file)).map_err(|error| error.to_string()).and_then(|text| {
            let found =
                text.lines().find_map(|line| line.split_once(':').filter(|(left, _)| left.trim() == key));
            found.map(|(_, right)| right.trim().to_owned()).ok_or(format!("/proc/{file} has no {key:?}"))
        });
        facts.push(Fact { name: name.into(), value: value.into() });
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_does_not_tell_is_unavailable_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("sys/kernel")).unwrap();
        std::fs::write(root.proc("sys/kernel/osrelease"), "6.18.0\n").unwrap();
        std::fs::write(root.proc("cpuinfo"), "processor\t: 0\nmodel name\t: A CPU: fast\n").unwrap();
        let facts = facts(&root);
        let value = |name: &str| facts.iter().find(|fact| fact.name == name).unwrap().value.clone();
        assert_eq!(value("kernel"), Availability::Available("6.18.0".into()));
        assert_eq!(value("cpu_model"), Availability::Available("A CPU: fast".into()));
        assert!(value("numa_balancing").reason().unwrap().contains("numa_balancing"));
        assert!(value("memory_total").reason().is_some());
    }
}
