//! The machine as a summary describes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::availability::Availability;
use crate::page_size::PageSize;
use crate::schedulers::{CacheAware, SchedExt};
use crate::schema;
use crate::text::chosen;

/// The machine before the run: a short form of the host in manifests of recordings ([`schema::Environment`],
/// from which it is made), with facts that only a run's result needs. Unknown facts are null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Its name.
    pub hostname: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// The CPU's name.
    pub cpu_model: Option<String>,
    /// Whether it is a virtual machine itself (the CPU flag `hypervisor`; x86 only).
    pub is_virtual: Option<bool>,
    /// Version of the Xen below it, if any: then CPUs and load are those of dom0, or of a domain.
    pub xen: Option<String>,
    /// CPUs that are online, as a list of ranges.
    pub cpus_online: Option<String>,
    /// Frequency governor of the CPUs; several, separated by commas, if they differ.
    pub governor: Option<String>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub transparent_hugepage: Option<String>,
    /// `/proc/sys/kernel/numa_balancing`.
    pub numa_balancing: Option<String>,
    /// Settings of the kernel's cache-aware scheduling.
    pub cache_aware_scheduling: Option<CacheAware>,
    /// The scheduler that a BPF program brings along.
    pub sched_ext: Option<SchedExt>,
    /// Whether KVM hands the counters of the processor to its guests.
    pub mediated_vpmu: Option<bool>,
    /// Bytes of a page; null in older summaries, which were made with 4096.
    pub page_bytes: Option<PageSize>,
    /// Mean number of runnable tasks over the last minute.
    pub load_1min: Option<f64>,
    /// Every file of `/sys/kernel/mm/ksm`.
    pub ksm: BTreeMap<String, String>,
    /// Processes that had pages merged by KSM, as far as they may be read.
    pub ksm_users: Option<usize>,
    /// Version of the program that wrote the summary.
    pub huddle_version: Option<String>,
    /// Git revision of that program; null if it was built from a source archive.
    pub git_revision: Option<String>,
}

/// Facts of a machine in a summary but not in a manifest of a recording.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// See [`Environment::hostname`].
    pub hostname: Option<String>,
    /// See [`Environment::xen`].
    pub xen: Option<String>,
    /// See [`Environment::load_1min`].
    pub load_1min: Option<f64>,
    /// See [`Environment::ksm_users`].
    pub ksm_users: Option<usize>,
    /// See [`Environment::huddle_version`].
    pub huddle_version: Option<String>,
    /// See [`Environment::git_revision`].
    pub git_revision: Option<String>,
}

impl Environment {
    /// From facts read from the host.
    pub fn of(host: &schema::Environment, extra: Extra) -> Self {
        let ksm = host.ksm.value().into_iter().flatten();
        let governors = host.governors.value().map(|found| found.keys().cloned().collect::<Vec<_>>());
        Self {
            hostname: extra.hostname,
            kernel: host.kernel_release.value().cloned(),
            cpu_model: host.cpu_model.value().cloned(),
            is_virtual: host.is_guest.value().copied(),
            xen: extra.xen,
            cpus_online: host.cpus_online.value().cloned(),
            governor: governors.map(|names| names.join(", ")),
            transparent_hugepage: host.transparent_hugepage.value().map(|text| chosen(text).to_owned()),
            numa_balancing: host.numa_balancing.value().map(u64::to_string),
            cache_aware_scheduling: known(host.cache_aware_scheduling.as_ref()),
            sched_ext: known(host.sched_ext.as_ref()),
            mediated_vpmu: known(host.mediated_vpmu.as_ref()),
            page_bytes: host.page_bytes,
            load_1min: extra.load_1min,
            ksm: ksm.filter_map(|(file, text)| Some((file.clone(), setting(text)?))).collect(),
            ksm_users: extra.ksm_users,
            huddle_version: extra.huddle_version,
            git_revision: extra.git_revision,
        }
    }
}

fn known<T: Clone>(value: Option<&Availability<T>>) -> Option<T> {
    value.and_then(Availability::value).cloned()
}

fn setting(text: &Availability<String>) -> Option<String> {
    Some(chosen(text.value()?).to_owned())
}
