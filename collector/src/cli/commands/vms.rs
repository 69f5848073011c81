//! `huddle vms`.

use huddle_engine::backend::Terms;
use huddle_host::HostRoot;
use huddle_host::discover::LeftOut;
use huddle_model::text::bytes;
use huddle_model::vm::{MemoryKind, Vcpu, VcpuId, Vm};
use serde::Serialize;

use crate::cli::args::{Common, Format};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::table::{print, print_json, print_table, right, table};

pub(crate) fn run(common: &Common) -> Result<(), Failure> {
    let context = Context::new(common)?;
    let (vms, left_out) = context.discover()?;
    let hidden: Vec<&str> =
        vms.iter().filter(|vm| is_hidden(&context.root, vm)).map(|vm| vm.name.as_str()).collect();
    match common.format {
        Format::Json => {
            #[derive(Serialize)]
            struct Out<'a> {
                schema: &'static str,
                vms: &'a [Vm],
                left_out: &'a [LeftOut],
                /// VMs whose memory this process may not look into, so that `memory` is not known.
                memory_hidden: &'a [&'a str],
            }
            print_json(&Out {
                schema: "huddle/vms/1",
                vms: &vms,
                left_out: &left_out,
                memory_hidden: &hidden,
            })
        }
        _ => {
            match vms.as_slice() {
                [] => print(context.backend.terms().no_vms)?,
                vms => print_vms(vms, &hidden, context.backend.terms())?,
            }
            print_left_out(&left_out, context.backend.terms())
        }
    }
}

/// Processes that look like VMs and are left out.
fn print_left_out(left_out: &[LeftOut], terms: Terms) -> Result<(), Failure> {
    if left_out.is_empty() {
        return Ok(());
    }
    let mut table = table(&["left out", terms.vm_id, "VMM", "user", "reason"]);
    right(&mut table, [1]);
    for left in left_out {
        table.add_row([
            left.name.clone(),
            left.id.number().to_string(),
            left.vmm.to_string(),
            left.owner.as_ref().map_or_else(|| "?".into(), ToString::to_string),
            left.reason.clone(),
        ]);
    }
    print("")?;
    print_table(&table)
}

fn print_vms(vms: &[Vm], hidden: &[&str], terms: Terms) -> Result<(), Failure> {
    let mut overview = table(&["VM", terms.vm_id, "user", "VMM", "vCPUs", "guest memory", "allowed CPUs"]);
    right(&mut overview, [1, 4]);
    for vm in vms {
        overview.add_row([
            vm.name.clone(),
            vm.id.number().to_string(),
            vm.owner.as_ref().map_or_else(|| "?".into(), ToString::to_string),
            vm.vmm.to_string(),
            vm.vcpus.len().to_string(),
            if hidden.contains(&vm.name.as_str()) { "cannot be read".into() } else { memory(vm) },
            vm.allowed_cpus.to_string(),
        ]);
    }
    print_table(&overview)?;

    let mut threads = table(&["VM", "vCPU", terms.vcpu_id, "name", "allowed CPUs", "affinity", "last CPU"]);
    right(&mut threads, [1, 2, 6]);
    for (vm, vcpu) in vms.iter().flat_map(|vm| vm.vcpus.iter().map(move |vcpu| (vm, vcpu))) {
        threads.add_row([
            vm.name.clone(),
            vcpu.index.to_string(),
            number(vcpu.id),
            thread_name(vcpu),
            vm.allowed_cpus_of(vcpu).to_string(),
            vcpu.affinity.to_string(),
            vcpu.last_cpu.map_or_else(|| "?".into(), |cpu| cpu.to_string()),
        ]);
    }
    print("")?;
    print_table(&threads)?;
    for vm in vms {
        for note in vm.binding_notes() {
            print(format!("\n{note}"))?;
        }
        for reason in &vm.cannot_merge {
            print(format!("\n{}: {reason}", vm.name))?;
        }
        if !vm.left_out.is_empty() {
            print(format!("\n{}: not taken for guest memory: {}", vm.name, vm.left_out.join(", ")))?;
        }
    }
    Ok(())
}

/// The thread, or the number within the Xen domain.
fn number(id: VcpuId) -> String {
    match id {
        VcpuId::Thread(thread) => thread.to_string(),
        VcpuId::Xen { vcpu, .. } => vcpu.to_string(),
    }
}

/// The name of the thread; on Xen, where there is none, how Xen names vCPUs in its own messages.
fn thread_name(vcpu: &Vcpu) -> String {
    match vcpu.id {
        VcpuId::Thread(_) => vcpu.thread_name.clone().unwrap_or_else(|| "?".into()),
        VcpuId::Xen { domain, vcpu } => format!("d{domain}v{vcpu}"),
    }
}

/// Whether no memory of a VM was found because this process may not look into it.
fn is_hidden(root: &HostRoot, vm: &Vm) -> bool {
    let Some(process) = vm.process().filter(|_| vm.memory.is_empty()) else { return false };
    let pagemap = std::fs::File::open(root.proc(format!("{}/pagemap", process.id)));
    pagemap.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Each kind of guest memory that the VM has, with its size.
fn memory(vm: &Vm) -> String {
    let parts: Vec<String> = MemoryKind::ALL
        .into_iter()
        .map(|kind| (kind, vm.memory_bytes(kind)))
        .filter(|(_, size)| *size > 0)
        .map(|(kind, size)| format!("{} {kind}", bytes(size)))
        .collect();
    if parts.is_empty() { "none found".into() } else { parts.join(", ") }
}
