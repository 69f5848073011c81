//! Which threads of a process run vCPUs.
//!
//! By name: QEMU `CPU N/KVM` and `CPU N/TCG` (`debug-threads=on`, accel/*/ in its source) and
//! `ALL CPUs/TCG` where one thread runs them all, Firecracker `fc_vcpu N`, cloud-hypervisor `vcpuN`,
//! crosvm `crosvm_vcpuN`, kvmtool `kvm-vcpu-N`, alioth and vmm-reference `vcpu_N`.

use std::collections::{BTreeMap, BTreeSet};

use huddle_model::text::plain;
use huddle_model::vm::{TaskId, Vcpu, VcpuLimits};

use crate::limits::{Limits, VmTime};
use crate::task::{self, TaskStat};
use crate::{HostError, HostRoot, status};

/// What a thread's name says that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The vCPU of this number.
    Vcpu(u32),
    /// All vCPUs of the VM in turns (QEMU's `-accel tcg,thread=single`).
    AllVcpus,
}

/// What the names of vCPU threads begin with, before the number; the longer one of two that begin alike is first.
const VCPU_PREFIXES: [&str; 5] = ["fc_vcpu ", "crosvm_vcpu", "kvm-vcpu-", "vcpu_", "vcpu"];

pub(crate) fn role(thread_name: &str) -> Option<Role> {
    if thread_name == "ALL CPUs/TCG" {
        return Some(Role::AllVcpus);
    }
    let number = match thread_name.strip_prefix("CPU ") {
        Some(rest) => rest.split_once('/')?.0,
        None => VCPU_PREFIXES.iter().find_map(|prefix| thread_name.strip_prefix(prefix))?,
    };
    // `parse` would take a sign.
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| number.parse().ok().map(Role::Vcpu)).flatten()
}

/// The threads of a process in ascending order of id; those that end meanwhile are left out. There is an error where
/// there are too many, or `time` is over.
pub(crate) fn threads(
    root: &HostRoot,
    pid: i32,
    limits: &Limits,
    time: Option<VmTime>,
) -> Result<Vec<TaskStat>, HostError> {
    let mut threads = Vec::new();
    for tid in task::thread_ids(root, pid, limits.threads)? {
        time.map_or(Ok(()), |time| time.check())?;
        match task::thread(root, pid, tid) {
            Ok(stat) if !stat.is_dead() => threads.push(stat),
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(threads)
}

/// The threads with a vCPU's name, numbered by it. Where two have one number (two VMs in one
/// process), they are renumbered from 0 in ascending (number, thread).
pub(crate) fn by_name(threads: &[TaskStat]) -> Vec<(u32, TaskStat)> {
    let mut named: Vec<(u32, TaskStat)> = threads
        .iter()
        .filter_map(|thread| match role(&thread.name)? {
            Role::Vcpu(number) => Some((number, thread.clone())),
            Role::AllVcpus => Some((0, thread.clone())),
        })
        .collect();
    named.sort_by_key(|(number, thread)| (*number, thread.id));
    let distinct: BTreeSet<u32> = named.iter().map(|(number, _)| *number).collect();
    if distinct.len() < named.len() {
        named = (0..).zip(named.into_iter().map(|(_, thread)| thread)).collect();
    }
    named
}

/// All threads, numbered in ascending order of id.
pub(crate) fn all(threads: &[TaskStat]) -> Vec<(u32, TaskStat)> {
    (0..).zip(threads.iter().cloned()).collect()
}

/// The threads that QMP named: ids as the process counts them in its own pid namespace. One thread
/// may run several vCPUs; it is given once, with the lowest number.
pub(crate) fn by_own_id(
    root: &HostRoot,
    pid: i32,
    threads: &[TaskStat],
    answer: &[(u32, i32)],
) -> Vec<(u32, TaskStat)> {
    let own_id = |thread: &TaskStat| {
        let status = status::thread(root, pid, thread.id.id).ok();
        status.and_then(|status| status.own_id).unwrap_or(thread.id.id)
    };
    let ids: BTreeMap<i32, &TaskStat> = threads.iter().map(|thread| (own_id(thread), thread)).collect();
    let mut answer = answer.to_vec();
    answer.sort_unstable();
    let mut taken = BTreeSet::new();
    let mut found = Vec::new();
    for (number, own_id) in answer {
        if let Some(thread) = ids.get(&own_id).filter(|thread| taken.insert(thread.id)) {
            found.push((number, (*thread).clone()));
        }
    }
    found
}

/// Completes vCPUs with the affinity of their threads; threads that end meanwhile are left out.
pub(crate) fn complete(
    root: &HostRoot,
    process: TaskId,
    threads: Vec<(u32, TaskStat)>,
) -> Result<Vec<Vcpu>, HostError> {
    let mut vcpus = Vec::new();
    for (index, thread) in threads {
        match status::thread(root, process.id, thread.id.id) {
            Ok(status) => vcpus.push(Vcpu {
                index,
                id: thread.id.into(),
                process: Some(process),
                thread_name: Some(plain(&thread.name).into_owned()),
                affinity: status.cpus_allowed,
                last_cpu: Some(thread.last_cpu),
                limits: VcpuLimits { real_time: thread.real_time, ..VcpuLimits::default() },
            }),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(vcpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(tid: i32, name: &str) -> TaskStat {
        TaskStat {
            id: TaskId { id: tid, start_ticks: 5 },
            name: name.into(),
            state: 'S',
            parent: 1,
            is_kernel_thread: false,
            cpu_ticks: 0,
            last_cpu: 0,
            real_time: None,
        }
    }

    fn numbers(vcpus: &[(u32, TaskStat)]) -> Vec<(u32, i32)> {
        vcpus.iter().map(|(number, thread)| (*number, thread.id.id)).collect()
    }

    #[test]
    fn names_of_vcpu_threads_are_known() {
        for (name, expected) in [
            ("CPU 0/KVM", Some(Role::Vcpu(0))),
            ("CPU 12/TCG", Some(Role::Vcpu(12))),
            ("ALL CPUs/TCG", Some(Role::AllVcpus)),
            ("fc_vcpu 3", Some(Role::Vcpu(3))),
            ("vcpu7", Some(Role::Vcpu(7))),
            ("crosvm_vcpu2", Some(Role::Vcpu(2))),
            ("CPU 0", None),
            ("CPU /KVM", None),
            ("vcpu", None),
            ("vcpu+1", None),
            ("vcpu1-worker", None),
            ("qemu-system-x86", None),
            ("IO mon_iothread", None),
        ] {
            assert_eq!(role(name), expected, "{name}");
        }
    }

    #[test]
    fn numbers_come_from_names_and_stay_unique() {
        let threads = [thread(10, "main"), thread(11, "vcpu1"), thread(12, "vcpu0")];
        assert_eq!(numbers(&by_name(&threads)), [(0, 12), (1, 11)]);
        let two_vms = [thread(11, "vcpu0"), thread(12, "vcpu0"), thread(13, "vcpu1")];
        assert_eq!(numbers(&by_name(&two_vms)), [(0, 11), (1, 12), (2, 13)]);
        assert_eq!(numbers(&all(&threads)), [(0, 10), (1, 11), (2, 12)]);
    }

    #[test]
    fn qmps_thread_ids_are_those_of_its_own_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        for (tid, own) in [(100, 1), (101, 7), (102, 8)] {
            std::fs::create_dir_all(root.proc(format!("100/task/{tid}"))).unwrap();
            let text = format!("NSpid:\t{tid}\t{own}\nCapEff:\t0\nCpus_allowed_list:\t0-1\n");
            std::fs::write(root.proc(format!("100/task/{tid}/status")), text).unwrap();
        }
        let threads = [thread(100, "q"), thread(101, "q"), thread(102, "q")];
        let found = by_own_id(&root, 100, &threads, &[(1, 7), (0, 8), (2, 7), (3, 99)]);
        assert_eq!(numbers(&found), [(0, 102), (1, 101)]);
        std::fs::remove_dir_all(root.proc("100/task/102")).unwrap();
        let vcpus = complete(&root, TaskId { id: 100, start_ticks: 5 }, found).unwrap();
        assert_eq!(vcpus.len(), 1);
        assert_eq!((vcpus[0].index, vcpus[0].affinity.to_string()), (1, "0-1".into()));
    }
}
