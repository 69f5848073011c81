//! vCPUs of VMs whose threads have no telling names, from what KVM's own tracepoints saw.

use std::collections::{BTreeMap, BTreeSet};

use huddle_model::vm::{Vcpu, Vm};

use super::vcpus;
use crate::{HostRoot, task};

/// A thread that runs a vCPU of KVM, whatever the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestThread {
    /// The thread.
    pub tid: i32,
    /// Its process.
    pub pid: i32,
    /// KVM's number of the vCPU within its VM; `None` where the kernel does not tell it with the entry (ARM64).
    pub vcpu_id: Option<u32>,
}

/// [`complete_vcpus`] with the threads of this host.
pub fn complete_vcpus_on_host(root: &HostRoot, vms: &mut [Vm], seen: &[GuestThread]) -> Vec<String> {
    complete_vcpus(vms, seen, |vm, number, tid| {
        // A thread that ended meanwhile, or may not be seen, is left out.
        let process = vm.process()?;
        let stat = task::thread(root, process.id, tid).ok().filter(|stat| !stat.is_dead())?;
        vcpus::complete(root, process, vec![(number, stat)]).ok()?.pop()
    })
}

/// Fills in the vCPUs of each VM whose vCPU threads are not known, from the threads that were seen to
/// enter guest mode (the tracepoint `kvm_entry`), and reports what it did, one sentence each.
///
/// Not known are those of a VM without any, and of one for which all threads of the process had to
/// stand: its main thread, which no VMM names a vCPU, is among them. VMs whose VMM told its vCPUs keep
/// them. `thread` makes the vCPU of a number from a thread, or `None` where that thread has ended since.
/// Where two threads of a VM have one number (two KVM VMs in one process), or the number of one is not known, they
/// are numbered from 0 in ascending (number, thread), and the note says so for the latter. A thread that has not
/// entered the guest yet is not known yet, so numbers may be missing.
pub fn complete_vcpus(
    vms: &mut [Vm],
    seen: &[GuestThread],
    mut thread: impl FnMut(&Vm, u32, i32) -> Option<Vcpu>,
) -> Vec<String> {
    let mut of_process: BTreeMap<i32, BTreeSet<(Option<u32>, i32)>> = BTreeMap::new();
    for guest in seen {
        of_process.entry(guest.pid).or_default().insert((guest.vcpu_id, guest.tid));
    }
    let mut notes = Vec::new();
    for vm in vms.iter_mut().filter(|vm| !vcpus_are_known(vm)) {
        let Some(process) = vm.process() else { continue };
        let Some(threads) = of_process.get(&process.id) else { continue };
        let are_told = threads.iter().all(|(number, _)| number.is_some());
        // A number that is not told is replaced below.
        let mut vcpus: Vec<Vcpu> =
            threads.iter().filter_map(|(number, tid)| thread(vm, number.unwrap_or(u32::MAX), *tid)).collect();
        let numbers: BTreeSet<u32> = vcpus.iter().map(|vcpu| vcpu.index).collect();
        if numbers.len() < vcpus.len() || !are_told {
            for (number, vcpu) in (0..).zip(&mut vcpus) {
                vcpu.index = number;
            }
        }
        if !vcpus.is_empty() {
            notes.push(format!(
                "VM {} ({}): {} vCPU threads are known from their entries into the guest{}",
                vm.name,
                process,
                vcpus.len(),
                if are_told {
                    ""
                } else {
                    "; this kernel does not tell their numbers, so they have those of their order"
                }
            ));
            vm.vcpus = vcpus;
        }
    }
    notes
}

fn vcpus_are_known(vm: &Vm) -> bool {
    let is_main = |vcpu: &Vcpu| vcpu.thread().is_some_and(|(process, thread)| thread.id == process.id);
    let stands_for_all =
        |vcpu: &Vcpu| is_main(vcpu) && vcpu.thread_name.as_deref().and_then(vcpus::role).is_none();
    !vm.vcpus.is_empty() && !vm.vcpus.iter().any(stands_for_all)
}

#[cfg(test)]
mod tests {
    use huddle_model::cpuset::CpuSet;
    use huddle_model::vm::{TaskId, VmmKind};

    use super::*;

    fn task(id: i32) -> TaskId {
        TaskId { id, start_ticks: 7 }
    }

    fn vcpu(vm: &Vm, index: u32, tid: i32) -> Vcpu {
        Vcpu {
            index,
            id: task(tid).into(),
            process: vm.process(),
            thread_name: Some("worker".into()),
            affinity: CpuSet::new(),
            last_cpu: None,
            limits: Default::default(),
        }
    }

    fn vm(pid: i32, threads: &[i32]) -> Vm {
        let mut vm = Vm {
            name: format!("vm{pid}"),
            id: task(pid).into(),
            uuid: None,
            vmid: None,
            owner: None,
            vmm: VmmKind::OtherKvm,
            vcpus: Vec::new(),
            memory: Vec::new(),
            allowed_cpus: CpuSet::new(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        };
        vm.vcpus = (0..).zip(threads).map(|(index, tid)| vcpu(&vm, index, *tid)).collect();
        vm
    }

    fn seen(rows: &[(i32, i32, u32)]) -> Vec<GuestThread> {
        let row = |&(pid, tid, id): &(i32, i32, u32)| GuestThread { tid, pid, vcpu_id: Some(id) };
        rows.iter().map(row).collect()
    }

    fn numbers(vm: &Vm) -> Vec<(u32, i32)> {
        vm.vcpus.iter().map(|vcpu| (vcpu.index, vcpu.id.thread().unwrap().id)).collect()
    }

    #[test]
    fn a_vm_without_vcpus_gets_those_that_entered_the_guest() {
        let mut vms = [vm(10, &[]), vm(20, &[]), vm(30, &[])];
        let seen = seen(&[(10, 13, 1), (10, 12, 0), (20, 24, 5), (99, 100, 0)]);
        let notes = complete_vcpus(&mut vms, &seen, |vm, number, tid| Some(vcpu(vm, number, tid)));
        assert_eq!(numbers(&vms[0]), [(0, 12), (1, 13)]);
        assert_eq!(numbers(&vms[1]), [(5, 24)]);
        assert_eq!(numbers(&vms[2]), []);
        assert_eq!(notes.len(), 2);
        assert!(notes[0].contains("vm10 (10): 2 vCPU"), "{notes:?}");
    }

    #[test]
    fn what_the_vmm_told_stays_and_what_stood_for_it_goes() {
        // Threads 11 and 12 by QMP; the second VM was named by the user, so all its threads stood in.
        let mut vms = [vm(10, &[11, 12]), vm(20, &[20, 21, 22])];
        let seen = seen(&[(10, 12, 1), (20, 22, 0)]);
        complete_vcpus(&mut vms, &seen, |vm, number, tid| Some(vcpu(vm, number, tid)));
        assert_eq!(numbers(&vms[0]), [(0, 11), (1, 12)]);
        assert_eq!(numbers(&vms[1]), [(0, 22)]);
    }

    #[test]
    fn equal_numbers_are_told_apart_and_ended_threads_are_left_out() {
        let mut vms = [vm(10, &[])];
        let rows = seen(&[(10, 14, 1), (10, 13, 0), (10, 12, 0), (10, 11, 2)]);
        let alive = |vm: &Vm, number, tid| (tid != 11).then(|| vcpu(vm, number, tid));
        complete_vcpus(&mut vms, &rows, alive);
        assert_eq!(numbers(&vms[0]), [(0, 12), (1, 13), (2, 14)]);
        let mut vms = [vm(10, &[])];
        let notes = complete_vcpus(&mut vms, &rows, |_, _, _| None);
        assert!(notes.is_empty() && vms[0].vcpus.is_empty());
    }

    #[test]
    fn threads_without_a_number_have_that_of_their_order() {
        let mut vms = [vm(10, &[]), vm(20, &[])];
        let rows = [(10, 14), (10, 12), (20, 21)];
        let rows = rows.map(|(pid, tid)| GuestThread { tid, pid, vcpu_id: None });
        let notes = complete_vcpus(&mut vms, &rows, |vm, number, tid| Some(vcpu(vm, number, tid)));
        assert_eq!(numbers(&vms[0]), [(0, 12), (1, 14)]);
        assert_eq!(numbers(&vms[1]), [(0, 21)], "not the number that stands for none");
        assert!(notes.iter().all(|note| note.contains("does not tell their numbers")), "{notes:?}");
    }

    #[test]
    fn a_thread_of_this_host_is_completed() {
        let root = HostRoot::real();
        let pid = std::process::id().cast_signed();
        let mut own = [vm(pid, &[])];
        own[0].id = task::process(&root, pid).unwrap().id.into();
        let rows = seen(&[(pid, pid, 3), (pid, i32::MAX, 4)]);
        assert_eq!(complete_vcpus_on_host(&root, &mut own, &rows).len(), 1);
        assert_eq!(numbers(&own[0]), [(3, pid)]);
        assert!(!own[0].vcpus[0].affinity.is_empty());
    }
}
