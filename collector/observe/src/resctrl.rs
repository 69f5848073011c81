//! The processor's own monitoring: cache occupancy and memory traffic per VM and L3 cache, from
//! resctrl (Documentation/filesystems/resctrl.rst, Linux 6.18).
//!
//! Each VM gets its own monitoring group, `mon_groups/huddle-OWNER-START.PID-NAME`, with its vCPU threads;
//! OWNER and START identify the huddle process that made it. Groups are removed with the VM and when this is
//! dropped. After a `kill -9` they stay, and the next huddle removes them: they do not change how VMs run,
//! but each holds one of the processor's few RMIDs, and counters that are assigned to it. So no journal is needed: a
//! group with our prefix whose owner is gone is stale.
//!
//! `mon_L3_NN` has the kernel's id of a cache, which need not be contiguous: AMD's processors have a third-level
//! cache for each complex of cores. Where nodes are a part of a cache (sub-NUMA clusters, Linux 6.11) it has the
//! sum of the directories `mon_sub_L3_NN` in it, which are left alone.

mod assignment;
mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use huddle_model::availability::Availability;
use huddle_model::observation::OccupancyObservation;
use huddle_model::topology::{DomainId, Topology};
use huddle_model::vm::{TaskId, Vcpu, Vm, VmId};

pub use assignment::Assignment;
use groups::{GroupDirectories, Kernel};
pub use groups::{Leftovers, remove_leftovers};
use huddle_host::{HostError, HostRoot, mounts, optional, read_number, read_text, task};

/// Why resctrl is unavailable.
#[derive(Debug, thiserror::Error)]
pub enum ResctrlError {
    /// Not mounted.
    #[error(
        "resctrl is not mounted, so cache occupancy and memory traffic are not measured; as root: \
         mount -t resctrl resctrl /sys/fs/resctrl (where the processor has it)"
    )]
    NotMounted,
    /// Mounted for allocation only.
    #[error(
        "the resctrl at {} monitors nothing: the processor lacks cache monitoring, or it was \
         disabled at boot (on x86 by rdt=)",
        path.display()
    )]
    NoMonitoring {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Which values this processor measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Bytes of a cache that a group occupies.
    pub llc_occupancy: bool,
    /// Traffic to all memory.
    pub total_bytes: bool,
    /// Traffic to the memory of the cache's own node.
    pub local_bytes: bool,
    /// Maximum number of groups.
    pub groups: Option<u64>,
    /// How groups come to counters of traffic.
    pub assignment: Assignment,
}

/// Mount point of resctrl; `None` if it is not mounted.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn mount_point(root: &HostRoot) -> Result<Option<PathBuf>, HostError> {
    mounts::mount_point(root, "resctrl")
}

/// What the resctrl mounted at `mount` measures.
///
/// # Errors
/// It monitors nothing, or a file cannot be read.
pub fn features(mount: &Path) -> Result<Features, ResctrlError> {
    let info = mount.join("info/L3_MON");
    let Some(names) = optional(read_text(&info.join("mon_features")))? else {
        return Err(ResctrlError::NoMonitoring { path: mount.to_owned() });
    };
    let has = |name: &str| names.lines().any(|line| line.trim() == name);
    Ok(Features {
        llc_occupancy: has("llc_occupancy"),
        total_bytes: has("mbm_total_bytes"),
        local_bytes: has("mbm_local_bytes"),
        groups: optional(read_number(&info.join("num_rmids")))?,
        assignment: assignment::mode(&info)?,
    })
}

/// A monitoring group for each VM. Dropping it removes them.
#[derive(Debug)]
pub struct Resctrl {
    root: HostRoot,
    mount: PathBuf,
    features: Features,
    owner: TaskId,
    directories: Box<dyn GroupDirectories>,
    /// The L3 caches, and the cache domain of each.
    caches: BTreeMap<u32, Option<DomainId>>,
    /// In the order of discovery.
    vms: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    vm: String,
    id: VmId,
    /// The group, or why there is none.
    group: Result<Group, String>,
}

#[derive(Debug)]
struct Group {
    path: PathBuf,
    threads: BTreeSet<TaskId>,
    /// Why some threads are missing from it.
    trouble: Option<String>,
    /// Why it lacks counters of traffic.
    unassigned: Option<String>,
    /// Traffic counters at the last reading, by cache: all memory, own node.
    moved: BTreeMap<u32, [Availability<u64>; 2]>,
}

impl Resctrl {
    /// Finds resctrl and removes groups of ended huddle processes; no VM is watched yet.
    ///
    /// # Errors
    /// resctrl is missing or monitors nothing; the reason applies to all its values.
    pub fn open(root: &HostRoot) -> Result<Self, ResctrlError> {
        Self::with(root, Box::new(Kernel))
    }

    fn with(root: &HostRoot, directories: Box<dyn GroupDirectories>) -> Result<Self, ResctrlError> {
        let mount = mount_point(root)?.ok_or(ResctrlError::NotMounted)?;
        let features = features(&mount)?;
        let left = groups::remove_left(root, &mount, &*directories);
        for line in left.notes.iter().chain(&left.failures) {
            tracing::warn!("{line}");
        }
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let owner = task::process(root, own)?.id;
        let caches = caches(&mount)?.into_iter().map(|cache| (cache, None)).collect();
        Ok(Self { root: root.clone(), mount, features, owner, directories, caches, vms: Vec::new() })
    }

    /// What this processor measures.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Sets the cache domain of each L3 cache; there are none without domains at level 3.
    pub fn set_domains(&mut self, topology: &Topology) {
        let mut domain_of = BTreeMap::new();
        if topology.level() == Some(3) {
            for domain in topology.domains() {
                for cpu in domain.cpus.iter() {
                    if let Some(cache) = l3_of(&self.root, cpu) {
                        domain_of.insert(cache, domain.id);
                    }
                }
            }
        }
        for (cache, domain) in &mut self.caches {
            *domain = domain_of.get(cache).copied();
        }
    }

    /// Watches the VMs `vms`: makes a group for each new VM, adds new threads to it, removes the groups of
    /// VMs that are gone. A VM without a group is tried again.
    pub fn sync(&mut self, vms: &[Vm]) {
        let mut earlier = std::mem::take(&mut self.vms);
        for vm in vms {
            let place = earlier.iter().position(|watched| watched.id == vm.id && watched.vm == vm.name);
            let known = place.map(|place| earlier.swap_remove(place));
            let group = match known.map(|watched| watched.group) {
                Some(Ok(group)) => Ok(group),
                _ => self.make(vm),
            };
            let mut watched = Watched { vm: vm.name.clone(), id: vm.id, group };
            if let Ok(group) = &mut watched.group {
                group.add(vm);
                // Another group may have given some back.
                if group.unassigned.is_some() {
                    group.unassigned = assignment::complete(&self.mount, &group.path, &*self.directories);
                }
            }
            self.vms.push(watched);
        }
        for gone in earlier {
            self.remove(gone);
        }
    }

    /// The current occupancy of each L3 cache by each VM, and its traffic since the last reading (at the
    /// first one: since its group was made), in the order of the last [`Self::sync`].
    pub fn read(&mut self) -> Vec<OccupancyObservation> {
        let mut rows = Vec::new();
        for watched in &mut self.vms {
            for (&cache, &domain) in &self.caches {
                let [llc_bytes, total_bytes, local_bytes] = match &mut watched.group {
                    Ok(group) => group.read(cache, self.features),
                    Err(reason) => [(); 3].map(|()| Availability::Unavailable(reason.clone())),
                };
                let vm = watched.vm.clone();
                rows.push(OccupancyObservation { vm, cache, domain, llc_bytes, total_bytes, local_bytes });
            }
        }
        rows
    }

    /// VMs with missing values or missing threads, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let of = |watched: &Watched| match &watched.group {
            Ok(group) => {
                let lacks = |why: &String| {
                    format!("VM {}: memory traffic is not measured everywhere: {why}", watched.vm)
                };
                group.trouble.clone().or_else(|| group.unassigned.as_ref().map(lacks))
            }
            Err(reason) => Some(reason.clone()),
        };
        self.vms.iter().filter_map(of).collect()
    }

    fn make(&self, vm: &Vm) -> Result<Group, String> {
        let parent = control_group(&self.root, &self.mount, vm)?;
        let path = parent.join("mon_groups").join(groups::name(self.owner, vm));
        self.directories.make(&path).map_err(|error| {
            let advice = match error.raw_os_error().map(nix::errno::Errno::from_raw) {
                Some(nix::errno::Errno::ENOSPC) => ": the processor has no RMID left",
                Some(nix::errno::Errno::EACCES | nix::errno::Errno::EPERM) => ": run huddle as root",
                _ => "",
            };
            format!("VM {}: no monitoring group {} could be made: {error}{advice}", vm.name, path.display())
        })?;
        let by_event = self.features.assignment == Assignment::ByEvent;
        let unassigned =
            by_event.then(|| assignment::complete(&self.mount, &path, &*self.directories)).flatten();
        let mut group =
            Group { path, threads: BTreeSet::new(), trouble: None, unassigned, moved: BTreeMap::new() };
        // Earlier counts do not count: the RMID may have belonged to another group.
        for &cache in self.caches.keys() {
            group.read(cache, self.features);
        }
        Ok(group)
    }

    fn remove(&self, watched: Watched) {
        let Ok(group) = watched.group else { return };
        if let Err(error) = self.directories.remove(&group.path) {
            tracing::warn!(
                "the monitoring group {} cannot be removed: {error}; huddle restore tries again",
                group.path.display()
            );
        }
    }
}

impl Drop for Resctrl {
    fn drop(&mut self) {
        for watched in std::mem::take(&mut self.vms) {
            self.remove(watched);
        }
    }
}

impl Group {
    /// Adds the VM's threads. Ended threads need no work: the kernel removes them.
    fn add(&mut self, vm: &Vm) {
        let threads: BTreeSet<TaskId> = vm.vcpus.iter().filter_map(|vcpu| vcpu.id.thread()).collect();
        self.threads.retain(|thread| threads.contains(thread));
        self.trouble = None;
        for &thread in &threads {
            if self.threads.contains(&thread) {
                continue;
            }
            match groups::add_task(&self.path, thread.id) {
                Ok(()) => {
                    self.threads.insert(thread);
                }
                // Gone: the next discovery will not list it.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => {}
                Err(error) => {
                    self.trouble = Some(format!(
                        "VM {}: thread {thread} cannot be put into {}: {error}",
                        vm.name,
                        self.path.display()
                    ));
                }
            }
        }
    }

    /// Occupancy, and the traffic since the last reading.
    fn read(&mut self, cache: u32, features: Features) -> [Availability<u64>; 3] {
        let directory = self.path.join(format!("mon_data/mon_L3_{cache:02}"));
        let value = |name: &str, there: bool| {
            let reason = || format!("this processor does not measure {name}");
            if there {
                number(&directory.join(name), self.unassigned.as_deref())
            } else {
                Availability::Unavailable(reason())
            }
        };
        let occupied = value("llc_occupancy", features.llc_occupancy);
        let now =
            [value("mbm_total_bytes", features.total_bytes), value("mbm_local_bytes", features.local_bytes)];
        let before = self.moved.insert(cache, now.clone());
        let [total, local] = match before {
            Some([total, local]) => {
                let [total_now, local_now] = now;
                [since(total, total_now), since(local, local_now)]
            }
            None => [(); 2].map(|()| Availability::Unavailable("no earlier reading".into())),
        };
        match (&self.trouble, self.threads.is_empty()) {
            // Values of only some threads are not values of the VM.
            (Some(trouble), _) => [(); 3].map(|()| Availability::Unavailable(trouble.clone())),
            (None, true) => {
                [(); 3].map(|()| Availability::Unavailable("no vCPU thread of the VM is known".into()))
            }
            (None, false) => [occupied, total, local],
        }
    }
}

/// The kernel has a word for each reason of a missing value: `Unavailable` (no reading yet, or the RMID is not
/// tracked), `Error`, `Unassigned` (no hardware counter is assigned to the group, where known for the reason
/// `unassigned`).
fn number(path: &Path, unassigned: Option<&str>) -> Availability<u64> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => return Availability::Unavailable(error.to_string()),
    };
    match text.trim() {
        word @ ("Unavailable" | "Error" | "Unassigned") => {
            let why = match word {
                "Unavailable" => "the processor does not track this group at the moment",
                "Error" => "the processor cannot count it",
                _ => unassigned.unwrap_or("no counter is assigned to the group"),
            };
            Availability::Unavailable(format!("{} says {word:?}: {why}", path.display()))
        }
        digits => {
            let number = digits.parse().map_err(|_| HostError::parse(path, digits, "a number of bytes"));
            Availability::from(number)
        }
    }
}

fn since(before: Availability<u64>, now: Availability<u64>) -> Availability<u64> {
    match (before, now) {
        (Availability::Available(before), Availability::Available(now)) => Availability::from(
            now.checked_sub(before).ok_or("the counter of memory traffic was reset between the readings"),
        ),
        (_, Availability::Unavailable(reason)) => Availability::Unavailable(reason),
        (Availability::Unavailable(reason), _) => {
            Availability::Unavailable(format!("the earlier reading has no value: {reason}"))
        }
    }
}

/// The caches for which the group at `group` is measured: the directories `mon_L3_NN`.
fn caches(group: &Path) -> Result<BTreeSet<u32>, HostError> {
    let path = group.join("mon_data");
    let failed = |source: io::Error| HostError::Read { path: path.clone(), source };
    let mut caches = BTreeSet::new();
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number: Option<u32> = name.to_str().and_then(|name| name.strip_prefix("mon_L3_")?.parse().ok());
        caches.extend(number);
    }
    Ok(caches)
}

/// The kernel's id of the L3 cache of a CPU.
fn l3_of(root: &HostRoot, cpu: u32) -> Option<u32> {
    let caches = std::fs::read_dir(root.sys(format!("devices/system/cpu/cpu{cpu}/cache"))).ok()?;
    let mut levels = caches.flatten().map(|entry| entry.path());
    let l3 = levels.find(|path| read_number::<u8>(&path.join("level")).is_ok_and(|level| level == 3))?;
    read_number(&l3.join("id")).ok()
}

/// The control group of the VM's threads: a monitoring group can only contain threads of its own control
/// group. `cpu_resctrl_groups` has a line `res:/NAME` and a line `mon:NAME`.
fn control_group(root: &HostRoot, mount: &Path, vm: &Vm) -> Result<PathBuf, String> {
    let Some((process, thread)) = vm.vcpus.iter().find_map(Vcpu::thread) else { return Ok(mount.to_owned()) };
    let path = root.proc(format!("{}/task/{}/cpu_resctrl_groups", process.id, thread.id));
    let text = match optional(read_text(&path)) {
        Ok(Some(text)) => text,
        // A kernel without CONFIG_PROC_CPU_RESCTRL: most VMs are in the default control group.
        Ok(None) => return Ok(mount.to_owned()),
        Err(error) => return Err(format!("VM {}: {error}", vm.name)),
    };
    let value = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key));
        value.unwrap_or_default().trim().trim_matches('/').to_owned()
    };
    let (control, monitored) = (value("res:"), value("mon:"));
    if !monitored.is_empty() && !groups::is_ours(&monitored) {
        return Err(format!(
            "VM {}: its threads are in the monitoring group {monitored} of another program, which huddle leaves \
             as it is",
            vm.name
        ));
    }
    Ok(if control.is_empty() { mount.to_owned() } else { mount.join(control) })
}

#[cfg(test)]
mod tests;
