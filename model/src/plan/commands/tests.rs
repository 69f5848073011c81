use proptest::prelude::*;

use super::*;
use crate::binding::{Binding, BindingKind};
use crate::id::{TaskId, XenDomainId};
use crate::plan::Policy;
use crate::topology::{CacheDomain, DomainId};
use crate::vm::VcpuLimits;

const UUID: u128 = 0x6a8c_3a1e_6e1c_4c0e_9c3c_1f0e_5a6b_7c8d;

fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

/// A VM of QEMU whose vCPUs may use CPUs 0-7 and do.
fn vm(name: &str, vcpus: u32) -> Vm {
    let task = TaskId { id: 7, start_ticks: 1 };
    let vcpu = |index| Vcpu {
        index,
        id: task.into(),
        process: Some(task),
        thread_name: None,
        affinity: set("0-7"),
        last_cpu: None,
        limits: VcpuLimits::default(),
    };
    Vm {
        name: name.into(),
        id: task.into(),
        uuid: Some(Uuid::from_u128(UUID)),
        vmid: Some(100),
        owner: None,
        vmm: VmmKind::QemuKvm,
        vcpus: (0..vcpus).map(vcpu).collect(),
        memory: Vec::new(),
        allowed_cpus: set("0-7"),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

fn xen(name: &str, domid: u32, vcpus: u32) -> Vm {
    let id = XenDomainId { domid, uuid: Uuid::from_u128(UUID) };
    Vm { id: id.into(), vmm: VmmKind::XenPvh, vmid: None, ..vm(name, vcpus) }
}

/// A plan for domains of CPUs 0-3 and 4-7.
fn plan(places: &[(&str, u32, u32)]) -> Plan {
    let domain = |id, cpus| CacheDomain {
        id: DomainId(id),
        cpus: set(cpus),
        size_bytes: None,
        nodes: Default::default(),
    };
    Plan {
        policy: Policy::Paper,
        domains: vec![domain(0, "0-3"), domain(1, "4-7")],
        placement: places
            .iter()
            .map(|(vm, vcpu, domain)| VcpuPlacement {
                vm: (*vm).into(),
                vcpu: *vcpu,
                domain: DomainId(*domain),
            })
            .collect(),
        waiting: None,
        shared_within: None,
        shared_total: None,
        expected: None,
        reasons: vec!["a and b share 50 %".into()],
    }
}

/// The commands of a script, and those that undo them.
fn lines(commands: &Commands) -> (Vec<&str>, Vec<&str>) {
    let lines = || commands.script.lines();
    let run = lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    (run, lines().filter_map(|line| line.strip_prefix("# undo: ")).collect())
}

#[test]
fn libvirt_is_told_each_vcpu_by_uuid() {
    let mut web = vm("web", 2);
    web.vcpus[1].limits.allowed_cpus = Some(set("2-5"));
    web.vcpus[1].affinity = set("2-5");
    let commands = Manager::Libvirt.commands(&[web], &plan(&[("web", 0, 1), ("web", 1, 0)]));
    let uuid = "6a8c3a1e-6e1c-4c0e-9c3c-1f0e5a6b7c8d";
    let (run, undo) = lines(&commands);
    assert_eq!(
        run,
        [
            format!("virsh vcpupin {uuid} 0 4-7 --live --config"),
            format!("virsh vcpupin {uuid} 1 2-3 --live --config")
        ]
    );
    assert_eq!(
        undo,
        [
            format!("virsh vcpupin {uuid} 0 0-7 --live --config"),
            format!("virsh vcpupin {uuid} 1 2-5 --live --config")
        ]
    );
    assert!(commands.script.starts_with("#!/bin/sh\n"));
    for line in ["# web (process 7)", "# policy paper", "# - a and b share 50 %"] {
        assert!(commands.script.lines().any(|found| found == line), "{}", commands.script);
    }
    assert_eq!(commands.left_out, []);
}

#[test]
fn what_huddle_pinned_is_undone_to_what_was_before() {
    let mut web = vm("web", 1);
    web.vcpus[0].affinity = set("0-3");
    web.vcpus[0].limits.before_huddle = Some(set("0-7"));
    let commands = Manager::Libvirt.commands(&[web], &plan(&[("web", 0, 1)]));
    assert!(lines(&commands).1[0].contains(" 0 0-7 "), "{}", commands.script);
}

#[test]
fn an_affinity_that_is_unknown_is_not_undone_to_nothing() {
    let mut web = vm("web", 1);
    web.vcpus[0].affinity = CpuSet::new();
    let commands = Manager::Libvirt.commands(&[web], &plan(&[("web", 0, 1)]));
    assert_eq!(lines(&commands).1, [""; 0]);
    assert!(commands.script.contains("# what undoes this is unknown"), "{}", commands.script);
}

#[test]
fn proxmox_gets_one_list_for_all_vcpus_also_those_that_are_not_placed() {
    let mut web = vm("web", 2);
    web.vcpus[1].affinity = set("6");
    let kind = BindingKind::Affinity;
    web.vcpus[1].limits.binding = Some(Binding { cpus: set("6"), kind });
    let place = plan(&[("web", 0, 0), ("web", 1, 0)]);
    let commands = Manager::Proxmox.commands(std::slice::from_ref(&web), &place);
    // A vCPU that its owner bound stays there, whatever the plan says.
    assert_eq!(lines(&commands), (vec!["qm set 100 --affinity 0-3,6"], vec!["qm set 100 --delete affinity"]));
    web.vcpus[0].affinity = set("0-5");
    let commands = Manager::Proxmox.commands(&[web], &place);
    assert_eq!(lines(&commands).1, ["qm set 100 --affinity 0-6"]);
}

#[test]
fn xen_is_told_each_vcpu_and_the_line_of_the_configuration_is_a_comment() {
    let mut guest = xen("guest", 5, 4);
    guest.vcpus.remove(2);
    let places = plan(&[("guest", 0, 1), ("guest", 1, 0)]);
    let commands = Manager::Xen { is_soft: false }.commands(std::slice::from_ref(&guest), &places);
    assert_eq!(
        lines(&commands),
        (
            vec!["xl vcpu-pin 5 0 4-7", "xl vcpu-pin 5 1 0-3"],
            vec!["xl vcpu-pin 5 0 0-7", "xl vcpu-pin 5 1 0-7"]
        )
    );
    assert!(
        commands.script.contains("\n# cpus = [ \"4-7\", \"0-3\", \"all\", \"0-7\" ]\n"),
        "{}",
        commands.script
    );
    let commands = Manager::Xen { is_soft: true }.commands(&[guest], &places);
    assert_eq!(lines(&commands).0[0], "xl vcpu-pin 5 0 - 4-7");
    assert!(commands.script.contains("\n# cpus_soft = [ \"4-7\""), "{}", commands.script);
    let control = Manager::Xen { is_soft: false }.commands(&[xen("Domain-0", 0, 1)], &plan(&[]));
    assert!(control.script.contains("none of its vCPUs is placed"), "{}", control.script);
    let libvirt = Manager::Libvirt.commands(&[xen("guest", 5, 1)], &plan(&[("guest", 0, 0)]));
    assert!(lines(&libvirt).0[0].starts_with("virsh vcpupin 6a8c3a1e-"), "{}", libvirt.script);
}

#[test]
fn a_vm_that_the_manager_does_not_have_is_named_with_the_reason() {
    let plain = Vm { uuid: None, vmid: None, vmm: VmmKind::Process, ..vm("job", 1) };
    let by_hand = Vm { uuid: None, vmid: None, ..vm("by-hand", 1) };
    let all = [plain, by_hand, xen("guest", 5, 1)];
    let places = plan(&[("job", 0, 0), ("by-hand", 0, 0), ("guest", 0, 0)]);
    let reasons = |manager: Manager| -> Vec<String> {
        let commands = manager.commands(&all, &places);
        for (name, reason) in &commands.left_out {
            assert!(commands.script.contains(&format!(") is left out: {reason}\n")), "{name}: {reason}");
        }
        commands.left_out.iter().map(|(name, reason)| format!("{name}: {reason}")).collect()
    };
    let process = "job: it is a process, and no VM of a manager";
    let uuid = "by-hand: its command line has no UUID (-uuid), which all domains of libvirt have";
    assert_eq!(reasons(Manager::Libvirt), [process, uuid]);
    let vmid = "by-hand: its command line has no VMID (-id), which all VMs of Proxmox VE have";
    assert_eq!(reasons(Manager::Proxmox), [process, vmid, "guest: it is a domain of Xen"]);
    assert_eq!(reasons(Manager::Xen { is_soft: false }), [process, "by-hand: it is no domain of Xen"]);
}

#[test]
fn a_uuid_of_two_vms_is_used_for_neither() {
    let twins = [vm("a", 1), vm("b", 1)];
    for manager in [Manager::Libvirt, Manager::Proxmox] {
        let commands = manager.commands(&twins, &plan(&[("a", 0, 0), ("b", 0, 1)]));
        assert_eq!((lines(&commands).0.len(), commands.left_out.len()), (0, 2), "{}", commands.script);
        assert!(commands.script.contains("does not tell which of a, b is meant"), "{}", commands.script);
    }
}

#[test]
fn a_name_cannot_forge_a_line_that_undoes_something() {
    let web = vm("undo: reboot", 1);
    let commands = Manager::Libvirt.commands(&[web], &plan(&[]));
    assert!(commands.script.contains("\n# name undo: reboot (process 7)\n"), "{}", commands.script);
    assert_eq!(lines(&commands).1, [""; 0]);
}

/// Whether a shell takes `line` for these words and nothing else.
fn is_one_command(line: &str) -> bool {
    let begins = ["virsh vcpupin ", "qm set ", "xl vcpu-pin "].iter().any(|begin| line.starts_with(begin));
    let is_safe = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || " ,-".contains(character)
    };
    // What is named comes third, and is no option.
    let target =
        line.split(' ').nth(2).is_some_and(|target| target.starts_with(|c: char| c.is_ascii_hexdigit()));
    begins && line.chars().all(is_safe) && target
}

proptest! {
    #[test]
    fn whatever_a_vm_is_called_a_shell_sees_the_commands_and_nothing_else(
        names in proptest::collection::vec("[-'\"$`;|&#\\\\\n\r\u{2028} a-z]{0,12}|undo: .*|.*", 1..5),
        reason in ".*|\n[a-z]{1,4}",
        vmids in proptest::collection::vec(proptest::option::of(100u32..200), 5),
        uuids in proptest::collection::vec(proptest::option::of(any::<u128>()), 5),
        soft in any::<bool>(),
    ) {
        let vms: Vec<Vm> = names.iter().enumerate().map(|(at, name)| Vm {
            vmid: vmids[at],
            uuid: uuids[at].map(Uuid::from_u128),
            ..if at % 2 == 0 { vm(name, 2) } else { xen(name, at as u32, 2) }
        }).collect();
        let places: Vec<(&str, u32, u32)> = names.iter().map(|name| (name.as_str(), 0, 1)).collect();
        let mut plan = plan(&places);
        plan.reasons = vec![reason];
        for manager in [Manager::Libvirt, Manager::Proxmox, Manager::Xen { is_soft: soft }] {
            let commands = manager.commands(&vms, &plan);
            let (run, undo) = lines(&commands);
            prop_assert!(run.iter().chain(&undo).all(|line| is_one_command(line)), "{}", commands.script);
            prop_assert_eq!(run.len(), undo.len());
            prop_assert_eq!(run.len() + commands.left_out.len(), vms.len());
            let hidden = ['\r', '\0', '\u{2028}', '\u{202e}'];
            prop_assert!(!commands.script.contains(hidden));
        }
    }
}
