//! huddle beside a real libvirt, whose domains are emulated and run their firmware only.
//!
//! Where cgroups of version 1 are mounted, as on the machines that test this, libvirt gives each vCPU a cpuset
//! (`/machine/qemu-ID-NAME.libvirt-qemu/vcpuN`), and sets it together with the affinity. That it did is asserted, so
//! that a machine on which it cannot is noticed. Where libvirt has no cpusets it has affinities alone, which is
//! tested too.
#![allow(clippy::unwrap_used, reason = "tests")]

mod day;
mod libvirt;
mod pinning;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use huddle_model::cpuset::CpuSet;
use huddle_testing::output::say;
use huddle_testing::own_state;
use serde_json::Value;

use libvirt::{Definition, Libvirt};

/// Two domains; the name of the second means something to a shell and to XML.
const DOMAINS: [Definition; 2] = [
    Definition { name: "huddle-a", uuid: "5f1b7a52-7a0c-4f0e-8d3e-0a6f6f3c1d01" },
    Definition { name: "huddle-b'; false & <b>", uuid: "5f1b7a52-7a0c-4f0e-8d3e-0a6f6f3c1d02" },
];

/// A host with both domains running, and a `huddle` that knows none but libvirt's.
struct Host {
    libvirt: Libvirt,
    level: &'static str,
    /// All CPUs that can be used here.
    all: CpuSet,
}

/// `None`, with the reason, where it cannot be: in CI that is a failure, except that a machine has one cache domain.
fn host(has_cpusets: bool) -> Option<Host> {
    if let Some(missing) = libvirt::missing() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this: {missing}");
        say(&format!("skipped: {missing}"));
        return None;
    }
    let libvirt = Libvirt::start(has_cpusets);
    // Emulators of other tests belong to root. Those of libvirt are taken for their cgroups.
    std::fs::write(libvirt.dir().join("huddle.toml"), "[discover]\nexclude = [{ owner = \"root\" }]\n")
        .unwrap();
    let mut host = Host { libvirt, level: "3", all: CpuSet::new() };
    let matrix = host.path("matrix.csv");
    std::fs::write(&matrix, "vm,a,b\na,-,0\nb,0,-\n").unwrap();
    let domains = |host: &Host, level: &str| -> Vec<CpuSet> {
        let args = ["plan", "--format", "json", "--cache-level", level, "--matrix", matrix.to_str().unwrap()];
        let output = host.command(&args).output().unwrap();
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let of = |domain: &Value| serde_json::from_value(domain["cpus"].clone()).unwrap();
        plan["domains"].as_array().into_iter().flatten().map(of).collect()
    };
    let found = ["3", "2", "1"].into_iter().map(|level| (level, domains(&host, level)));
    let Some((level, domains)) = found.into_iter().find(|(_, domains)| domains.len() > 1) else {
        say("skipped: this host has one cache domain at every level");
        return None;
    };
    host.level = level;
    host.all = domains.iter().flat_map(CpuSet::iter).collect();
    for definition in &DOMAINS {
        host.libvirt.define(definition);
        host.libvirt.virsh(&["start", definition.uuid]);
    }
    Some(host)
}

impl Host {
    fn path(&self, name: &str) -> PathBuf {
        self.libvirt.dir().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command.args(args).arg("--config").arg(self.path("huddle.toml"));
        command.envs(own_state(self.libvirt.dir())).env_remove("HUDDLE_LOG");
        command
    }

    /// The same for commands that place VMs.
    fn placing(&self, args: &[&str]) -> Command {
        self.command(&[args, &["--cache-level", self.level]].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = ran(self.placing(args).args(["--format", "json"]));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The domain of this UUID in the answer of `huddle vms`.
    fn vm(&self, uuid: &str) -> Value {
        let vms = self.json(&["vms"]);
        let all = vms["vms"].as_array().unwrap();
        all.iter().find(|vm| vm["uuid"] == uuid).unwrap_or_else(|| panic!("{uuid}: {vms}")).clone()
    }

    /// What the kernel says about the vCPUs of a domain: `Cpus_allowed_list` of their threads.
    fn kernel(&self, uuid: &str) -> BTreeMap<u32, CpuSet> {
        let vm = self.vm(uuid);
        let process = vm["process"]["id"].as_i64().unwrap();
        let cpus = |vcpu: &Value| {
            let thread = vcpu["thread"]["id"].as_i64().unwrap();
            let number = u32::try_from(vcpu["index"].as_u64().unwrap()).unwrap();
            (number, allowed_list(process, thread))
        };
        vm["vcpus"].as_array().unwrap().iter().map(cpus).collect()
    }

    /// The kernel's and libvirt's word, which have to be the same.
    fn agreed(&self, uuid: &str) -> BTreeMap<u32, CpuSet> {
        let kernel = self.kernel(uuid);
        assert_eq!(kernel, self.libvirt.affinities(uuid), "{uuid}");
        kernel
    }
}

fn ran(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// CPUs that a thread may run on (proc_pid_status(5)).
fn allowed_list(process: i64, thread: i64) -> CpuSet {
    let status = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    line.parse().unwrap()
}

fn set(cpus: &[u32]) -> CpuSet {
    cpus.iter().copied().collect()
}

/// Waits for at most 30 s; `log` is shown if that is not enough.
fn wait_until(what: &str, log: impl Fn() -> String, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(30), "waited 30 s until {what}: {}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
}
