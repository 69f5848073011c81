//! Commands by which a manager of VMs makes a placement permanent, and those that undo it, as a script for sh(1). They
//! are only written, never run.
//!
//! Who starts a VM chooses its name. So no name is an argument: VMs are named by UUID (libvirt), VMID (Proxmox VE) or
//! domid (Xen), which consist of digits, hexadecimal letters and hyphens, and do not begin with a hyphen. Names and
//! reasons are in comments only, as plain text of one line.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};

use super::{Plan, VcpuPlacement};
use crate::cpuset::CpuSet;
use crate::id::Uuid;
use crate::text::plain;
use crate::vm::{Vcpu, Vm, VmId, VmmKind};

/// What manages the VMs of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// libvirt: `virsh vcpupin` (virsh(1)).
    Libvirt,
    /// Proxmox VE: `qm set --affinity` (qm(1)), one list of CPUs for all of a VM.
    Proxmox,
    /// Xen: `xl vcpu-pin` (xl(1)).
    Xen {
        /// The soft affinity instead of the hard one.
        is_soft: bool,
    },
}

/// A script, and the VMs that are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// The script: commands, and comments that name the VMs, the reasons of the plan, and how to undo each command.
    pub script: String,
    /// VMs that the manager does not have: their names, and why.
    pub left_out: Vec<(String, String)>,
}

/// How the manager names a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Target {
    Uuid(Uuid),
    Vmid(u32),
    Domid(u32),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "{uuid}"),
            Self::Vmid(number) | Self::Domid(number) => write!(f, "{number}"),
        }
    }
}

/// A vCPU that is placed, and the CPUs of its domain that it may use.
struct Placed<'a> {
    vcpu: &'a Vcpu,
    cpus: CpuSet,
}

impl Manager {
    /// The commands that give the vCPUs of `vms` their places of `plan`.
    pub fn commands(self, vms: &[Vm], plan: &Plan) -> Commands {
        let mut script = String::from("#!/bin/sh\n");
        for line in self.head() {
            comment(&mut script, line);
        }
        comment(&mut script, &format!("policy {}", plan.policy));
        for reason in &plan.reasons {
            comment(&mut script, &format!("- {reason}"));
        }
        let mut left_out = Vec::new();
        let mut vms_of: HashMap<Target, Vec<&str>> = HashMap::new();
        for vm in vms {
            if let Ok(target) = self.target(vm) {
                vms_of.entry(target).or_default().push(&vm.name);
            }
        }
        let mut places: HashMap<&str, Vec<&VcpuPlacement>> = HashMap::new();
        for placed in &plan.placement {
            places.entry(&placed.vm).or_default().push(placed);
        }
        for vm in vms {
            script.push('\n');
            let target = self.target(vm).and_then(|target| match vms_of[&target].as_slice() {
                [_] => Ok(target),
                several => Err(format!("{target} does not tell which of {} is meant", several.join(", "))),
            });
            match target {
                Ok(target) => {
                    comment(&mut script, &format!("{} ({})", vm.name, vm.id));
                    let placed = placed(vm, plan, places.get(vm.name.as_str()).map_or(&[], Vec::as_slice));
                    self.write(&mut script, target, vm, &placed);
                }
                Err(reason) => {
                    comment(&mut script, &format!("{} ({}) is left out: {reason}", vm.name, vm.id));
                    left_out.push((vm.name.clone(), reason));
                }
            }
        }
        Commands { script, left_out }
    }

    /// What a reader of the script has to know.
    fn head(self) -> [&'static str; 3] {
        const UNDO: &str = "Each line after \"# undo: \" brings back what was in force before; to undo all: \
                            sed -n 's/^# undo: //p' FILE | sh";
        match self {
            Self::Libvirt => [
                "Written by huddle plan, which ran none of this. libvirt applies it now and keeps it in the \
                 configuration (persistent domains).",
                UNDO,
                "Undone, the configuration has the affinity that was in force, also where it had none.",
            ],
            Self::Proxmox => [
                "Written by huddle plan, which ran none of this. Proxmox VE keeps it in the configuration and applies \
                 it when the VM starts.",
                UNDO,
                "A VM has one list of CPUs for all of its threads: the CPUs of all of its vCPUs together.",
            ],
            Self::Xen { .. } => [
                "Written by huddle plan, which ran none of this. Xen applies it now and forgets it when the domain \
                 ends.",
                UNDO,
                "What is permanent is in the configuration file of a domain: the lines that begin with cpus.",
            ],
        }
    }

    /// How the manager names `vm`, or why it does not know it.
    fn target(self, vm: &Vm) -> Result<Target, String> {
        let plainly = |what: &str| Err(format!("it is {what}"));
        match (self, vm.id, vm.vmm) {
            (_, VmId::Process(_), VmmKind::Process) => plainly("a process, and no VM of a manager"),
            (_, VmId::Process(_), VmmKind::Cgroup) => plainly("a control group, and no VM of a manager"),
            (Self::Xen { .. }, VmId::XenDomain(domain), _) => Ok(Target::Domid(domain.domid)),
            (Self::Xen { .. }, VmId::Process(_), _) => plainly("no domain of Xen"),
            (Self::Libvirt, VmId::XenDomain(domain), _) if domain.is_partly_known() => {
                Err("only half of its UUID is known".into())
            }
            (Self::Libvirt, VmId::XenDomain(domain), _) => Ok(Target::Uuid(domain.uuid)),
            (Self::Libvirt, VmId::Process(_), _) => vm.uuid.map(Target::Uuid).ok_or_else(|| {
                "its command line has no UUID (-uuid), which all domains of libvirt have".into()
            }),
            (Self::Proxmox, VmId::XenDomain(_), _) => plainly("a domain of Xen"),
            (Self::Proxmox, VmId::Process(_), _) => vm
                .vmid
                .map(Target::Vmid)
                .ok_or_else(|| "its command line has no VMID (-id), which all VMs of Proxmox VE have".into()),
        }
    }

    fn write(self, script: &mut String, target: Target, vm: &Vm, placed: &[Placed<'_>]) {
        if placed.is_empty() {
            return comment(script, "none of its vCPUs is placed: nothing to set");
        }
        match self {
            Self::Libvirt => {
                each(script, placed, |vcpu, cpus| {
                    format!("virsh vcpupin {target} {vcpu} {cpus} --live --config")
                });
            }
            Self::Proxmox => {
                let now = union(vm.vcpus.iter().map(|vcpu| match of(placed, vcpu) {
                    Some(placed) => &placed.cpus,
                    None => vcpu.affinity_before_huddle(),
                }));
                let before = union(vm.vcpus.iter().map(Vcpu::affinity_before_huddle));
                command(script, &format!("qm set {target} --affinity {now}"));
                undo(
                    script,
                    &match vm.allowed_cpus.is_subset(&before) {
                        // It had all: Proxmox VE sets no affinity then.
                        true => format!("qm set {target} --delete affinity"),
                        false => format!("qm set {target} --affinity {before}"),
                    },
                );
            }
            Self::Xen { is_soft } => {
                let keep_hard = if is_soft { "- " } else { "" };
                each(script, placed, |vcpu, cpus| format!("xl vcpu-pin {target} {vcpu} {keep_hard}{cpus}"));
                if target == Target::Domid(0) {
                    return comment(script, "domain 0 has no configuration file: repeat it after each boot");
                }
                let name = if is_soft { "cpus_soft" } else { "cpus" };
                comment(script, &format!("{name} = [ {} ]", configured(vm, placed)));
            }
        }
    }
}

/// The vCPUs of `vm` that have a place, in order of vCPU.
fn placed<'a>(vm: &'a Vm, plan: &Plan, places: &[&VcpuPlacement]) -> Vec<Placed<'a>> {
    let found = vm.vcpus.iter().filter_map(|vcpu| {
        let place = places.iter().find(|place| place.vcpu == vcpu.index)?;
        let domain = plan.domains.iter().find(|domain| domain.id == place.domain)?;
        let cpus = domain.cpus.intersection(vm.allowed_cpus_of(vcpu));
        (!cpus.is_empty() && vcpu.limits.binding.is_none()).then_some(Placed { vcpu, cpus })
    });
    found.collect()
}

fn of<'a, 'b>(placed: &'a [Placed<'b>], vcpu: &Vcpu) -> Option<&'a Placed<'b>> {
    placed.iter().find(|placed| placed.vcpu.index == vcpu.index)
}

fn union<'a>(sets: impl Iterator<Item = &'a CpuSet>) -> CpuSet {
    sets.flat_map(CpuSet::iter).collect()
}

/// The list `cpus` of a configuration file (xl.cfg(5)): one string for each vCPU from 0 on.
fn configured(vm: &Vm, placed: &[Placed<'_>]) -> String {
    let lists: BTreeMap<u32, &CpuSet> = vm
        .vcpus
        .iter()
        .map(|vcpu| {
            let placed = of(placed, vcpu);
            (vcpu.index, placed.map_or(vcpu.affinity_before_huddle(), |placed| &placed.cpus))
        })
        .collect();
    let last = lists.last_key_value().map_or(0, |(index, _)| *index);
    let list = |index| match lists.get(&index) {
        Some(cpus) if !cpus.is_empty() => format!("\"{cpus}\""),
        _ => "\"all\"".to_owned(),
    };
    (0..=last).map(list).collect::<Vec<_>>().join(", ")
}

/// A command for each vCPU, with what undoes it.
fn each(script: &mut String, placed: &[Placed<'_>], text: impl Fn(u32, &CpuSet) -> String) {
    for Placed { vcpu, cpus } in placed {
        command(script, &text(vcpu.index, cpus));
        match vcpu.affinity_before_huddle() {
            before if before.is_empty() => {
                comment(script, "what undoes this is unknown: no CPU was in its affinity");
            }
            before => undo(script, &text(vcpu.index, before)),
        }
    }
}

fn command(script: &mut String, text: &str) {
    let _ = writeln!(script, "{text}");
}

fn undo(script: &mut String, text: &str) {
    let _ = writeln!(script, "# undo: {text}");
}

/// A comment, whatever is in it. It does not look like one that undoes a command.
fn comment(script: &mut String, text: &str) {
    let text = plain(text);
    let of_name = if text.starts_with("undo:") { "name " } else { "" };
    let _ = writeln!(script, "# {of_name}{text}");
}

#[cfg(test)]
mod tests;
