//! What huddle says of libvirt's domains, what it pins within their cpusets, and what makes that permanent.

use std::process::Stdio;

use huddle_model::cpuset::CpuSet;
use huddle_testing::ksm::Ksm;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{DOMAINS, Host, allowed_list, host, ran, set, wait_until};

#[test]
fn domains_are_found_measured_and_pinned_within_the_cpusets_of_their_vcpus() {
    let Some(host) = host(true) else { return };
    let [first, last] = ends(&host);
    for definition in &DOMAINS {
        let vm = host.vm(definition.uuid);
        assert_eq!((&vm["name"], &vm["vmm"]), (&definition.name.into(), &"qemu_tcg".into()), "{vm}");
        assert_eq!(vm["owner"]["uid"], 64055, "accepted for its cgroup, not for its owner: {vm}");
        let process = vm["process"]["id"].as_i64().unwrap();
        for vcpu in vm["vcpus"].as_array().unwrap() {
            assert_eq!(vcpu["allowed_cpus"], serde_json::to_value(&host.all).unwrap(), "{vm}");
            let groups =
                std::fs::read_to_string(format!("/proc/{process}/task/{}/cgroup", vcpu["thread"]["id"]));
            let group = format!("/vcpu{}", vcpu["index"]);
            let groups = groups.unwrap();
            assert!(groups.lines().any(|line| line.contains("cpuset") && line.ends_with(&group)), "{groups}");
        }
        assert_eq!(host.agreed(definition.uuid).len(), 2);
    }
    let matrix = host.json(&["matrix"]);
    for vm in matrix["vms"].as_array().unwrap() {
        assert!(vm["pages_resident"].as_u64().unwrap() > 0, "{matrix}");
    }
    assert_eq!(matrix["vms"].as_array().unwrap().len(), DOMAINS.len(), "{matrix}");

    // The emulator on one CPU, a vCPU on the other.
    let [a, b] = DOMAINS.map(|definition| definition.uuid);
    host.libvirt.virsh(&["emulatorpin", a, &first.to_string()]);
    host.libvirt.virsh(&["vcpupin", b, "0", &last.to_string()]);
    let emulator = host.vm(a)["process"]["id"].as_i64().unwrap();
    assert_eq!(allowed_list(emulator, emulator), set(&[first]));
    let before = [a, b].map(|uuid| host.agreed(uuid));
    assert_eq!(before[1][&0], set(&[last]));
    let bound = host.vm(b)["vcpus"][0].clone();
    assert_eq!(bound["allowed_cpus"], serde_json::json!([last]), "{bound}");
    assert!(bound.get("binding").is_none(), "a cpuset is a limit and no binding: {bound}");

    for policy in ["spread", "random"] {
        let plan = host.json(&["plan", "--policy", policy]);
        let pinned = host.json(&["pin", "--policy", policy]);
        assert_eq!(pinned["skipped"], 0, "{pinned}");
        let now = [a, b].map(|uuid| host.agreed(uuid));
        for (uuid, (now, before)) in [a, b].into_iter().zip(now.iter().zip(&before)) {
            for (vcpu, cpus) in now {
                let expected: CpuSet = planned(&plan, uuid, *vcpu).intersection(&before[vcpu]);
                assert_eq!(*cpus, expected, "{policy}: vCPU {vcpu} of {uuid}: {plan}");
            }
        }
        assert_eq!(allowed_list(emulator, emulator), set(&[first]));
        assert_eq!(host.libvirt.pins(a).len(), 3, "libvirt's own word does not change");
        ran(&mut host.command(&["restore"]));
        assert_eq!([a, b].map(|uuid| host.agreed(uuid)), before, "after {policy}");
    }
}

#[test]
fn the_commands_of_a_plan_do_what_it_says_and_their_undo_undoes_them() {
    let Some(host) = host(true) else { return };
    let [a, b] = DOMAINS.map(|definition| definition.uuid);
    let before = [a, b].map(|uuid| host.agreed(uuid));
    // Also while huddle has pinned them otherwise: what was before huddle is what is undone to.
    host.json(&["pin", "--policy", "random"]);
    let plan = host.json(&["plan", "--policy", "spread"]);
    let output = ran(&mut host.placing(&["plan", "--policy", "spread", "--format", "virsh"]));
    let script = String::from_utf8(output.stdout).unwrap();
    ran(&mut host.command(&["restore"]));

    let done = host.libvirt.sh(&script);
    assert!(done.status.success() && done.stderr.is_empty(), "{script}\n{done:?}");
    for uuid in [a, b] {
        let configured = host.libvirt.virsh(&["dumpxml", uuid, "--inactive"]);
        for (vcpu, cpus) in host.agreed(uuid) {
            assert_eq!(cpus, planned(&plan, uuid, vcpu), "vCPU {vcpu} of {uuid}: {script}");
            assert_eq!(host.libvirt.pins(uuid)[&vcpu], cpus);
            let pin = format!("<vcpupin vcpu='{vcpu}' cpuset='{cpus}'/>");
            assert!(configured.contains(&pin), "{configured}");
        }
    }
    // It is in place after a new start, too.
    host.libvirt.virsh(&["destroy", a]);
    host.libvirt.virsh(&["start", a]);
    assert_eq!(host.agreed(a)[&0], planned(&plan, a, 0));

    let undo: Vec<&str> = script.lines().filter_map(|line| line.strip_prefix("# undo: ")).collect();
    let done = host.libvirt.sh(&(undo.join("\n") + "\n"));
    assert!(done.status.success() && done.stderr.is_empty(), "{undo:?}\n{done:?}");
    assert_eq!([a, b].map(|uuid| host.agreed(uuid)), before);
    assert_eq!(host.libvirt.pins(b)[&1], before[1][&1]);
}

#[test]
fn what_libvirt_sets_while_a_loop_runs_is_noticed_and_stays() {
    set_while_a_loop_runs(true);
}

#[test]
fn what_libvirt_sets_while_a_loop_runs_stays_also_where_it_has_no_cpusets() {
    set_while_a_loop_runs(false);
}

fn set_while_a_loop_runs(has_cpusets: bool) {
    let Some(host) = host(has_cpusets) else { return };
    let allowed = |uuid: &str| host.vm(uuid)["vcpus"][0]["allowed_cpus"].clone();
    let [a, b] = DOMAINS.map(|definition| definition.uuid);
    let [first, last] = ends(&host);
    let _ksm = Ksm::start();
    let before = host.agreed(b);
    let log = std::fs::File::create(host.path("run.log")).unwrap();
    let mut command = host.placing(&["run", "--policy", "spread", "--min-interval", "0"]);
    let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let log = || std::fs::read_to_string(host.path("run.log")).unwrap();
    let is_pinned = |cpus: &CpuSet| *cpus != host.all;
    wait_until("all vCPUs are pinned", log, || {
        [a, b].iter().all(|uuid| host.kernel(uuid).values().all(is_pinned))
    });
    // To the CPU on which huddle did not put it.
    let pinned = host.kernel(a)[&0].clone();
    let other = if pinned.contains(first) { last } else { first };
    host.libvirt.virsh(&["vcpupin", a, "0", &other.to_string()]);
    // To the very CPUs on which huddle put it: only the cpuset tells that they are libvirt's word now.
    let same = host.kernel(b)[&1].clone();
    if has_cpusets {
        host.libvirt.virsh(&["vcpupin", b, "1", &same.to_string()]);
    }
    host.libvirt.virsh(&["setvcpus", a, "3", "--live"]);
    wait_until("the new vCPU is pinned", log, || host.kernel(a).get(&2).is_some_and(is_pinned));
    // For some more rounds.
    let rounds = || log().matches("round ").count();
    let then = rounds();
    wait_until("five more rounds", log, || rounds() >= then + 5);
    assert_eq!(host.agreed(a)[&0], set(&[other]), "{}", log());
    let limit = if has_cpusets { set(&[other]) } else { host.all.clone() };
    assert_eq!(allowed(a), serde_json::to_value(limit).unwrap(), "whether libvirt has a cpuset for it");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", log());
    let after = host.agreed(a);
    assert_eq!((&after[&0], &after[&1]), (&set(&[other]), &host.all), "{}", log());
    assert_eq!(after[&2], host.libvirt.pins(a)[&2], "{}", log());
    let mut before = before;
    if has_cpusets {
        before.insert(1, same);
    }
    assert_eq!(host.agreed(b), before, "{}", log());
}

/// The first and the last CPU, which are under different caches.
fn ends(host: &Host) -> [u32; 2] {
    [host.all.first().unwrap(), host.all.iter().last().unwrap()]
}

/// The CPUs of the domain in which a plan places a vCPU.
fn planned(plan: &Value, uuid: &str, vcpu: u32) -> CpuSet {
    let placement = plan["placement"].as_array().unwrap();
    let place = placement.iter().find(|place| place["uuid"] == uuid && place["vcpu"] == vcpu).unwrap();
    let domains = plan["domains"].as_array().unwrap();
    let domain = domains.iter().find(|domain| domain["id"] == place["domain"]).unwrap();
    serde_json::from_value(domain["cpus"].clone()).unwrap()
}
