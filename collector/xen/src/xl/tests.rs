mod real;

use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::toolstack::{CacheMonitor, SocketReading};

const B2: DomainRef = DomainRef {
    id: 2,
    uuid: [0x8b, 0x31, 0xca, 0x9c, 0x5e, 0x34, 0x4a, 0x82, 0xb2, 0x51, 0xd0, 0xd9, 0x08, 0x62, 0x14, 0x30],
};
const B3: DomainRef = DomainRef {
    id: 3,
    uuid: [0x23, 0x2a, 0xbe, 0x3c, 0x69, 0x5f, 0x40, 0x8d, 0x9b, 0xdd, 0xf0, 0xca, 0xe6, 0xf0, 0x5b, 0x6e],
};

/// A fake `xl`, which runs a shell script for each command.
struct Fake(TempDir);

impl Fake {
    /// It answers like the host of the fixtures.
    fn new() -> (Self, Xl) {
        let directory = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fixtures");
        // A link: a freshly written script cannot be run while another test forks.
        std::os::unix::fs::symlink(fixtures.join("fake-xl.sh"), directory.path().join("xl")).unwrap();
        let fake = Self(directory);
        for (command, fixture) in [
            ("info -n", "info-n.txt"),
            ("list -v -c", "list-v-c.txt"),
            ("list -l", "list-l.json"),
            ("vcpu-list", "vcpu-list.txt"),
            ("cpupool-list", "cpupool-list.txt"),
            ("cpupool-list -c", "cpupool-list-c.txt"),
            ("list -v 2", "list-v-c.txt"),
            ("list -v 3", "list-v-c.txt"),
            ("vcpu-list 2", "vcpu-list.txt"),
            ("vcpu-list 3", "vcpu-list.txt"),
        ] {
            fake.on(command, &format!("cat '{}'", fixtures.join(fixture).display()));
        }
        let xl = Xl::at(fake.0.path().join("xl"));
        (fake, xl)
    }

    fn on(&self, command: &str, script: &str) {
        let name = command.replace(' ', "_").replace('/', ":");
        std::fs::write(self.0.path().join(name), script).unwrap();
    }

    fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.0.path().join("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

#[test]
fn domains_of_a_real_host() {
    let (fake, xl) = Fake::new();
    let domains = xl.domains().unwrap();
    let found: Vec<_> =
        domains.iter().map(|domain| (domain.domain.id, domain.name.as_str(), domain.pool)).collect();
    assert_eq!(found, [(0, "Domain-0", 0), (1, "a1", 1), (2, "b 2", 0), (3, "b3", 0)]);
    assert!(
        domains.iter().all(|domain| domain.kind == Some(DomainKind::Pv) && domain.shared_pages.is_none())
    );
    assert_eq!((domains[2].domain, domains[2].pages, domains[2].is_paused), (B2, 32_768, false));
    assert!(domains[3].is_paused);
    // The offline one is missing.
    let vcpus: Vec<u32> = domains[2].vcpus.iter().map(|vcpu| vcpu.index).collect();
    assert_eq!(vcpus, [0]);
    assert_eq!((&domains[2].vcpus[0].hard, &domains[2].vcpus[0].soft), (&set("0-3"), &set("2-3")));
    assert_eq!((&domains[3].vcpus[1].hard, &domains[3].vcpus[1].soft), (&set("0,2"), &set("0-3")));

    // How they are virtualised is requested once.
    assert_eq!(xl.domains().unwrap(), domains);
    assert_eq!(fake.asked().iter().filter(|command| *command == "list -l").count(), 1);
}

#[test]
fn values_that_xl_does_not_print_are_none() {
    let (fake, xl) = Fake::new();
    fake.on("list -l", "echo trouble >&2; exit 1");
    let domains = xl.domains().unwrap();
    assert!(domains.len() == 4 && domains.iter().all(|domain| domain.kind.is_none()));
}

#[test]
fn a_domain_that_ends_meanwhile_is_left_out() {
    let (fake, xl) = Fake::new();
    let all = include_str!("../fixtures/vcpu-list.txt");
    let rest: Vec<&str> = all.lines().filter(|line| !line.starts_with("b3")).collect();
    // And the number of another one was reused.
    let text = rest.join("\n").replace("a1 ", "a2 ");
    fake.on("vcpu-list", &format!("cat <<'END'\n{text}\nEND"));
    let ids: Vec<u16> = xl.domains().unwrap().iter().map(|domain| domain.domain.id).collect();
    assert_eq!(ids, [0, 2]);
}

#[test]
fn the_machine_and_the_order_of_its_pools() {
    let (fake, xl) = Fake::new();
    let machine = xl.machine().unwrap();
    assert_eq!(machine.cpus.len(), 4);
    let pools: Vec<_> = machine.pools.iter().map(|pool| (pool.id, pool.cpus.to_string())).collect();
    assert_eq!(pools, [(0, "0-2".to_owned()), (1, "3".to_owned()), (2, String::new())]);

    // A pool keeps its number when an earlier one is destroyed.
    fake.on(
        "cpupool-list",
        "cat <<'END'\n\
        Name               CPUs   Sched     Active   Domain count\n\
        Pool-0               3   credit2       y          3\n\
        empty                0   credit2       y          0\nEND",
    );
    fake.on(
        "cpupool-list -c",
        "cat <<'END'\nName               CPU list\nPool-0             0,1,2\nempty              \nEND",
    );
    let ids: Vec<u32> = xl.machine().unwrap().pools.iter().map(|pool| pool.id).collect();
    assert_eq!(ids, [0, 2]);
}

#[test]
fn affinities_are_read_and_set() {
    let (fake, xl) = Fake::new();
    assert_eq!(xl.affinity(B3, 0, AffinityKind::Hard).unwrap(), set("0-1"));
    assert_eq!(xl.affinity(B3, 0, AffinityKind::Soft).unwrap(), set("1"));
    // An offline vCPU has them, too.
    assert_eq!(xl.affinity(B2, 1, AffinityKind::Soft).unwrap(), set("2-3"));
    assert!(xl.affinity(B3, 3, AffinityKind::Hard).unwrap_err().is_gone());

    fake.on("vcpu-pin 3 0 0,2 -", "");
    fake.on("vcpu-pin 3 1 - 1-3", "");
    fake.on("vcpu-pin 3 1 all -", "");
    xl.set_affinity(B3, 0, AffinityKind::Hard, &set("0,2")).unwrap();
    xl.set_affinity(B3, 1, AffinityKind::Soft, &set("1-3")).unwrap();
    xl.set_affinity(B3, 1, AffinityKind::Hard, &set("0-7")).unwrap();
    let asked = fake.asked();
    assert_eq!(&asked[asked.len() - 4..], ["info -n", "list -v 3", "vcpu-pin 3 1 all -", "list -v 3"]);
}

#[test]
fn another_domain_with_that_number_is_not_pinned() {
    let (fake, xl) = Fake::new();
    fake.on("vcpu-pin 3 0 0 -", "");
    let other = DomainRef { id: 3, uuid: B2.uuid };
    assert!(xl.set_affinity(other, 0, AffinityKind::Hard, &set("0")).unwrap_err().is_gone());
    assert!(xl.affinity(other, 0, AffinityKind::Hard).unwrap_err().is_gone());
    assert!(fake.asked().iter().all(|command| !command.starts_with("vcpu-pin")));

    // It appears in between.
    fake.on(
        "vcpu-pin 3 0 0 -",
        "echo 'echo \"Error: Domain '\"'3'\"' does not exist.\" >&2; exit 1' >\"$directory/list_-v_3\"",
    );
    assert!(xl.set_affinity(B3, 0, AffinityKind::Hard, &set("0")).unwrap_err().is_gone());
}

#[test]
fn refusals_are_distinguished() {
    let (fake, xl) = Fake::new();
    // As Xen 4.17 answers for a CPU of another cpupool and for a missing vCPU.
    for vcpu in [0, 7] {
        fake.on(&format!("vcpu-pin 3 {vcpu} 3 -"), &format!(
            "echo 'libxl: error: libxl_sched.c:62:libxl__set_vcpuaffinity: Domain 3:Setting vcpu affinity: Invalid argument' >&2\n\
             echo 'Could not set affinity for vcpu `{vcpu}'\"'.\" >&2\nexit 1"
        ));
    }
    let pool = xl.set_affinity(B3, 0, AffinityKind::Hard, &set("3")).unwrap_err();
    assert_eq!(pool.errno(), Some(Errno::EINVAL), "{pool}");
    assert!(xl.set_affinity(B3, 7, AffinityKind::Hard, &set("3")).unwrap_err().is_gone());
    // None of them exists: `xl` is not run.
    let absent = xl.set_affinity(B3, 0, AffinityKind::Soft, &set("9")).unwrap_err();
    assert_eq!(absent.errno(), Some(Errno::EINVAL));
    assert!(xl.set_affinity(B3, 0, AffinityKind::Hard, &CpuSet::new()).is_err());

    fake.on("vcpu-pin 3 0 2 -", "printf 'xencall: error: Could not obtain handle\\033[2J\\n' >&2; exit 1");
    let error = xl.set_affinity(B3, 0, AffinityKind::Hard, &set("2")).unwrap_err().to_string();
    let expected = "`xl vcpu-pin 3 0 2 -` exited with 1: xencall: error: Could not obtain handle\\u{1b}[2J (is this dom0, and is xen-privcmd loaded?)";
    assert_eq!(error, expected);
}

#[test]
fn affinities_that_xl_cuts_short_are_refused() {
    let (fake, xl) = Fake::new();
    let info = include_str!("../fixtures/info-n.txt").replace("  3:       1 ", "  5:       1 ");
    fake.on("info -n", &format!("cat <<'END'\n{info}\nEND"));
    for error in [xl.domains().unwrap_err(), xl.affinity(B3, 0, AffinityKind::Hard).unwrap_err()] {
        assert!(error.to_string().contains("0-2,5"), "{error}");
    }
    assert!(xl.machine().is_ok());
}

#[test]
fn a_silent_xl_is_killed() {
    let (fake, mut xl) = Fake::new();
    xl.limit = Duration::from_millis(300);
    for script in [
        "echo $$ >\"$directory/pid\"; exec sleep 100",
        // It closes its outputs but does not end.
        "echo $$ >\"$directory/pid\"; exec sleep 100 >&- 2>&-",
    ] {
        fake.on("info -n", script);
        let begin = Instant::now();
        let error = xl.machine().unwrap_err();
        assert!(matches!(&error, XenError::TimedOut { what, .. } if what == "`xl info -n`"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5));
        let pid = std::fs::read_to_string(fake.0.path().join("pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }
}

#[test]
fn too_much_output_ends_it() {
    let (fake, xl) = Fake::new();
    fake.on("info -n", "exec cat /dev/zero");
    let error = xl.machine().unwrap_err().to_string();
    assert!(error.contains("prints more than"), "{error}");
    // Messages are cut instead.
    fake.on("info -n", "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 3");
    let error = xl.machine().unwrap_err().to_string();
    assert!(error.contains("exited with 3: xxx") && error.len() < 800, "{error}");
}

#[test]
fn a_missing_xl_is_reported() {
    let error = Xl::at("/nowhere/xl".into()).machine().unwrap_err().to_string();
    assert!(error.contains("/nowhere/xl") && error.contains("No such file"), "{error}");
}

#[test]
fn caches_are_watched() {
    let (fake, mut xl) = Fake::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fixtures/psr-cmt-show-cache-occupancy.txt");
    fake.on("psr-cmt-attach 3", "");
    fake.on("psr-cmt-detach 3", "");
    for id in [2, 3] {
        fake.on(&format!("psr-cmt-show cache-occupancy {id}"), &format!("cat '{}'", fixture.display()));
    }
    xl.attach(B3).unwrap();
    let reading = |socket, kib: u64| SocketReading {
        socket,
        llc_bytes: Some(kib * 1024),
        total_bytes: None,
        local_bytes: None,
    };
    assert_eq!(xl.read(B3).unwrap(), [reading(0, 14_976), reading(1, 0)]);
    xl.detach(B3).unwrap();
    // Not monitored: no line.
    assert_eq!(xl.read(B2).unwrap_err().errno(), Some(Errno::ENOENT));

    // Monitoring by another program goes on.
    fake.on(
        "psr-cmt-attach 2",
        "echo 'libxl: error: CMT is already attached to this domain: File exists' >&2; exit 253",
    );
    xl.attach(B2).unwrap();
    xl.detach(B2).unwrap();
    assert!(!fake.asked().contains(&"psr-cmt-detach 2".to_owned()));
}

#[test]
fn a_host_without_cache_monitoring_is_reported() {
    let (fake, mut xl) = Fake::new();
    // As Xen 4.17 answers on such a host.
    let unsupported = "echo 'libxl: error: libxl_psr.c:71:libxl__psr_cmt_log_err_msg: CMT is not supported in this system: No such device' >&2; exit 253";
    fake.on("psr-cmt-attach 3", unsupported);
    fake.on("psr-cmt-detach 3", unsupported);
    fake.on("psr-cmt-show cache-occupancy 3", "echo 'CMT is disabled in the system' >&2; exit 255");
    assert_eq!(xl.attach(B3).unwrap_err().errno(), Some(Errno::ENODEV));
    assert_eq!(xl.detach(B3).unwrap_err().errno(), Some(Errno::ENODEV));
    assert_eq!(xl.read(B3).unwrap_err().errno(), Some(Errno::ENODEV));

    fake.on(
        "psr-cmt-attach 3",
        "echo 'libxl: error: no free RMID available: Value too large for defined data type' >&2; exit 253",
    );
    assert_eq!(xl.attach(B3).unwrap_err().errno(), Some(Errno::EOVERFLOW));
    fake.on("psr-cmt-attach 3", "echo 'libxl: error: libxl_psr.c:46:libxl__psr_log_err_msg: invalid domain ID: No such process' >&2; exit 253");
    assert!(xl.attach(B3).unwrap_err().is_gone());
    fake.on("psr-cmt-detach 3", "echo 'libxl: error: libxl_psr.c:46:libxl__psr_log_err_msg: invalid domain ID: No such process' >&2; exit 253");
    xl.detach(B3).unwrap();
}

#[test]
fn a_domain_is_created_and_destroyed_by_its_uuid() {
    let (fake, xl) = Fake::new();
    fake.on("create -q -e /tmp/vm.cfg", "exit 0");
    xl.create(Path::new("/tmp/vm.cfg"), LIMIT).unwrap();
    fake.on("create -q -e /tmp/vm.cfg", "echo 'vm.cfg: config parsing error' >&2; exit 1");
    let error = xl.create(Path::new("/tmp/vm.cfg"), LIMIT).unwrap_err().to_string();
    assert!(error.contains("exited with 1: vm.cfg: config parsing error"), "{error}");

    fake.on("destroy 2", "exit 0");
    xl.destroy(B2).unwrap();
    let asked = fake.asked();
    assert_eq!(asked[asked.len() - 2..], ["list -v 2", "destroy 2"]);
    // Another domain has its number: the domain is gone, and the other one is left alone.
    xl.destroy(DomainRef { uuid: [7; 16], ..B2 }).unwrap();
    assert_eq!(fake.asked().last().unwrap(), "list -v 2");
    fake.on("list -v 9", "echo '9 is an invalid domain identifier (rc=-6)' >&2; exit 1");
    xl.destroy(DomainRef { id: 9, ..B2 }).unwrap();
    fake.on("destroy 3", "echo 'libxl: error: cannot' >&2; exit 1");
    assert!(matches!(xl.destroy(B3), Err(XenError::Xl { .. })));
}
