//! Sketches of what the VMs of this host hold, as rows of a recording: once (`huddle sketch`), and in a loop.

use std::sync::Arc;

use huddle_engine::backend::{Backend, BackendError};
use huddle_host::clock::unix_us;
use huddle_model::fleet::Scale;
use huddle_model::schema::{HostRow, Rows, SketchFact, SketchRow, VmColumns};
use huddle_model::vm::{GuestRegion, Vm};
use huddle_sharing::content::{SKETCH_HASH, Share, SketchKey, SketchSettings, Sketches, VmSketch};

use super::context::Context;
use super::recorder::Settings;

/// Makes sketches of the VMs of a host.
#[derive(Clone)]
pub(crate) struct Sketcher {
    backend: Arc<dyn Backend>,
    settings: SketchSettings,
    seed_name: String,
}

/// Sketches of VMs, and the rows of a recording that they are.
pub(crate) struct Sketched {
    pub(crate) sketches: Sketches,
    pub(crate) rows: Rows,
}

impl Sketcher {
    /// By a seed and its name.
    pub(crate) fn new(
        context: &Context,
        (key, seed_name): (SketchKey, String),
        scale: Scale,
        cpu_share: Share,
    ) -> Self {
        Self {
            backend: Arc::clone(&context.backend),
            settings: SketchSettings { key, scale, cpu_share },
            seed_name,
        }
    }

    /// How they are made, for manifests.
    pub(crate) fn fact(&self) -> SketchFact {
        SketchFact {
            one_in: self.settings.scale.one_in(),
            hash: SKETCH_HASH.to_owned(),
            seed: self.seed_name.clone(),
            seed_check: self.settings.key.check(),
            page_bytes: self.backend.page_bytes(),
        }
    }

    /// Reads all memory of these VMs once. `in_force` has the cache domains and the groups to record.
    ///
    /// # Errors
    /// A privilege is missing.
    pub(crate) fn sketch(&self, vms: &[Vm], in_force: &Settings) -> Result<Sketched, BackendError> {
        let begin_us = unix_us();
        let sketches = self.backend.sketch(&self.settings, vms)?;
        let time = (begin_us, unix_us());
        let rows = Rows {
            sketches: sketch_rows(time, vms, &sketches),
            hosts: self.host_rows(time, vms, &sketches, in_force),
            ..Rows::default()
        };
        Ok(Sketched { sketches, rows })
    }

    fn host_rows(
        &self,
        (begin_us, end_us): (i64, i64),
        vms: &[Vm],
        sketches: &Sketches,
        in_force: &Settings,
    ) -> Vec<HostRow> {
        let topology = in_force.topology.value();
        let caches = topology.map(|topology| topology.domains());
        let sizes = self.backend.caches();
        let last_level = sizes.value().and_then(|sizes| {
            let level =
                sizes.iter().filter(|cache| !cache.instruction_only).map(|cache| cache.level).max()?;
            sizes.iter().filter(|cache| cache.level == level).filter_map(|cache| cache.size_bytes).min()
        });
        let host = HostRow {
            begin_us,
            end_us,
            host_cpus: caches.map(|caches| caches.iter().map(|cache| count(cache.cpus.len())).sum()),
            host_cores: topology.map(|topology| count(topology.cores().len())).filter(|cores| *cores > 0),
            host_caches: caches.map(|caches| count(caches.len())),
            host_cache_bytes: last_level,
            host_memory_bytes: self.backend.memory_bytes().value().copied(),
            vm: None,
            vm_kind: None,
            uuid: None,
            vm_vmid: None,
            vm_owner: None,
            vm_vcpus: None,
            vm_memory_bytes: None,
            vm_apart: None,
            vm_pages_read: None,
            vm_pages_zero: None,
            vm_not_sketched: None,
        };
        if vms.is_empty() {
            return vec![host];
        }
        let rows = vms.iter().enumerate().map(|(position, vm)| {
            let columns = VmColumns::new(Some(vm.id), vm.uuid);
            let owner = vm.owner.as_ref();
            let owner = owner.map(|owner| owner.name.clone().unwrap_or_else(|| owner.uid.to_string()));
            let why_not = sketches.unmeasured.iter().find(|left_out| left_out.vm == position);
            let sketch = sketches.vms.get(position).filter(|_| why_not.is_none());
            HostRow {
                vm: Some(vm.name.clone()),
                vm_kind: columns.vm_kind,
                uuid: columns.uuid,
                vm_vmid: vm.vmid,
                vm_owner: owner,
                vm_vcpus: Some(count(vm.vcpus.len())),
                vm_memory_bytes: (!vm.memory.is_empty())
                    .then(|| vm.memory.iter().map(GuestRegion::len_bytes).sum()),
                vm_apart: apart_groups(&in_force.apart, vm),
                vm_pages_read: sketch.map(|sketch| sketch.pages_read),
                vm_pages_zero: sketch.map(|sketch| sketch.pages_zero),
                vm_not_sketched: why_not.map(|left_out| left_out.reason.clone()),
                ..host.clone()
            }
        });
        rows.collect()
    }
}

/// The groups that a VM is in, a line each, sorted. Hosts that list the members of a group in another order mean the
/// same group.
fn apart_groups(apart: &[Vec<String>], vm: &Vm) -> Option<String> {
    let of_vm = apart.iter().filter(|group| group.iter().any(|name| vm.identity().is_meant_by(name)));
    let mut groups: Vec<String> = of_vm.map(|group| name_of_group(group)).collect();
    groups.sort();
    groups.dedup();
    (!groups.is_empty()).then(|| groups.join("\n"))
}

/// The members, sorted, as a JSON list: names may have any character.
fn name_of_group(members: &[String]) -> String {
    let mut members: Vec<&String> = members.iter().collect();
    members.sort();
    members.dedup();
    serde_json::json!(members).to_string()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn sketch_rows((begin_us, end_us): (i64, i64), vms: &[Vm], sketches: &Sketches) -> Vec<SketchRow> {
    let mut rows = Vec::new();
    for (vm, sketch) in measured(vms, sketches) {
        let columns = VmColumns::new(Some(vm.id), vm.uuid);
        rows.extend(sketch.hashes.iter().map(|hash| SketchRow {
            begin_us,
            end_us,
            vm: vm.name.clone(),
            vm_kind: columns.vm_kind,
            uuid: columns.uuid,
            // At least every second content is left out (`--one-in`), so it is below 2^63.
            hash: i64::try_from(*hash).unwrap_or(i64::MAX),
        }));
    }
    rows
}

/// The VMs that were read completely, with their sketches.
pub(crate) fn measured<'a>(
    vms: &'a [Vm],
    sketches: &'a Sketches,
) -> impl Iterator<Item = (&'a Vm, &'a VmSketch)> {
    let is_measured = |vm: &usize| sketches.unmeasured.iter().all(|left_out| left_out.vm != *vm);
    (0..vms.len()).filter(is_measured).filter_map(|vm| Some((&vms[vm], sketches.vms.get(vm)?)))
}

#[cfg(test)]
mod tests {
    use huddle_testing::sample;

    use super::*;

    fn group(members: &[&str]) -> Vec<String> {
        members.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_group_has_one_name_whatever_the_order_of_its_members() {
        let view = sample::view(1, 2);
        let vm = &view.round.vms[0];
        let name = vm.name.as_str();
        let one = apart_groups(&[group(&[name, "z"]), group(&["other"])], vm);
        assert_eq!(one, apart_groups(&[group(&["z", name, "z"])], vm));
        assert_eq!(one.as_deref(), Some(serde_json::json!([name, "z"]).to_string().as_str()));
        assert_eq!(apart_groups(&[group(&["other"])], vm), None);
        // Neither commas nor line breaks in names make two groups alike.
        assert_ne!(name_of_group(&group(&["a,b", "c"])), name_of_group(&group(&["a", "b,c"])));
        assert_eq!(name_of_group(&group(&["a\nb"])).lines().count(), 1);
    }
}
