//! The machine whose caches are simulated.

use std::path::Path;

use huddle_model::cache::{CacheModel, PRESETS};
use huddle_model::cpuset::CpuSet;
use huddle_model::topology::{CacheDomain, DomainId, Topology};

use super::emulated::FOLD;
use crate::frame::run::RunError;
use crate::frame::spec::SpecError;
use crate::host::{Host, HostFailure};

/// Bytes of the lines that are recorded.
const LINE_BYTES: u64 = 64;

/// The name of this host among machines.
const HOST: &str = "host";

/// The largest file that a description is read from.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A machine.
#[derive(Clone, Debug)]
pub(in crate::frame) struct Machine {
    /// Its caches.
    pub(super) model: CacheModel,
    /// Whether its vCPUs take turns on a CPU, since there are too few.
    pub(super) turns: bool,
}

impl Machine {
    /// The machine of this name, preset or file, for so many vCPUs in all, whose accesses are `recorded` or else known;
    /// `topology` has the domains of this host, if it has two.
    ///
    /// # Errors
    /// It is not known, cannot be simulated, or has one cache only.
    pub(in crate::frame) fn open(
        name: &str,
        host: &dyn Host,
        topology: Result<&Topology, &RunError>,
        vcpus: usize,
        recorded: bool,
    ) -> Result<Self, RunError> {
        let machine = Self::of_name(name, host, topology, vcpus)?;
        let model = &machine.model;
        if recorded && (u64::from(model.line_bytes()) != LINE_BYTES || model.largest_fold() < FOLD) {
            return Err(SpecError::Settings(format!(
                "--simulate {name}: of emulated VMs one line of {LINE_BYTES} bytes is recorded of each page, and {} has \
                 lines of {} bytes and {} sets that can be told by it; take stand-ins (--guest process)",
                model.name(),
                model.line_bytes(),
                model.largest_fold()
            ))
            .into());
        }
        Ok(machine)
    }

    fn of_name(
        name: &str,
        host: &dyn Host,
        topology: Result<&Topology, &RunError>,
        vcpus: usize,
    ) -> Result<Self, RunError> {
        if name == HOST {
            let topology = topology.map_err(|error| {
                HostFailure::Cannot(format!(
                    "--simulate host: {error}; a machine with two can be simulated all the same (--simulate paper)"
                ))
            })?;
            let cpus = topology.domains().iter().map(|domain| domain.cpus.len()).min().unwrap_or(0);
            let turns = cpus < vcpus.div_ceil(topology.domains().len());
            return Ok(Self { model: host.cache_model(topology)?, turns });
        }
        let model = CacheModel::preset(name).map_or_else(|| read(Path::new(name)), Ok)?;
        if model.domains() < 2 {
            return Err(SpecError::Settings(format!(
                "the machine {} of --simulate {name} has one last-level cache (domains = {}); placements differ with two or more",
                model.name(),
                model.domains()
            ))
            .into());
        }
        Ok(Self { model, turns: false })
    }

    pub(in crate::frame) fn model(&self) -> &CacheModel {
        &self.model
    }

    /// Two of its domains, with as many CPUs as vCPUs need: for plans on a host that has no two.
    pub(in crate::frame) fn topology(&self, vcpus: usize) -> Result<Topology, RunError> {
        let each = vcpus.div_ceil(2) as u32;
        let domain = |id: u32| CacheDomain {
            id: DomainId(id),
            cpus: (id * each..(id + 1) * each).collect::<CpuSet>(),
            size_bytes: Some(self.model.size_bytes()),
            nodes: Default::default(),
        };
        let topology = Topology::new(None, vec![domain(0), domain(1)]);
        let note = format!("simulated: two caches of the machine {}", self.model.name());
        Ok(topology.map_err(HostFailure::failed)?.with_notes([note]))
    }
}

fn read(path: &Path) -> Result<CacheModel, SpecError> {
    let failed = |why: String| {
        SpecError::Settings(format!(
            "--simulate {}: {why}; give {}, {HOST}, or a file with the description of a cache (TOML)",
            path.display(),
            PRESETS.join(", ")
        ))
    };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !size.is_file() || size.len() > MAX_FILE_BYTES {
        return Err(failed(format!("no file of at most {MAX_FILE_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    toml::from_str(&text).map_err(|error| failed(error.to_string().trim_end().to_owned()))
}
