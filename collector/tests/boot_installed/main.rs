//! The package of `huddle` in a clean Debian with systemd: installed, run as a service, reloaded, killed, stopped, removed.
//! And `huddle` in a container as `packaging/Containerfile` says.
#![allow(clippy::unwrap_used, reason = "tests")]

mod analysis;
mod container;
mod debian;

use std::collections::BTreeSet;

use debian::Debian;
use huddle_testing::output::say;
use huddle_testing::privileges;

/// Both VMs, each a process that sleeps, with these settings.
fn config(settings: &str) -> String {
    let vm = |name| format!("[[vm]]\nname = \"{name}\"\nprocess = \"vm-{name}\"\n");
    format!("{settings}{}{}", vm("a"), vm("b"))
}

const CONFIG: &str = "/etc/huddle/huddle.toml";
const TEXTFILE: &str = "/var/lib/prometheus/node-exporter/huddle.prom";
/// Puts one VM on each cache domain. Where the host has only one, huddle pins nothing else.
const SPREAD: &str = "policy = \"spread\"\n";

/// The CPUs that each VM may use.
fn affinities(debian: &Debian) -> Vec<String> {
    ["a", "b"]
        .map(|name| debian.done(&format!("taskset -pc $(cat /tmp/vm-{name}.pid) | sed 's/.*: //'")))
        .to_vec()
}

/// Every file but what the package manager, the journal and programs at work keep for themselves.
fn files(debian: &Debian) -> BTreeSet<String> {
    let kept = ["/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/apt/", "/var/log/", "/etc/.pwd.lock", "/mnt/"];
    let all = debian.done("find / /run -xdev | sort -u");
    let is_own = |path: &str| path.contains("huddle") || !kept.iter().any(|place| path.starts_with(place));
    let is_of_systemd = |path: &str| path.starts_with("/run/") && !path.contains("huddle");
    all.lines()
        .filter(|path| is_own(path) && !is_of_systemd(path) && !is_of_dpkg(path))
        .map(str::to_owned)
        .collect()
}

/// What dpkg knows of a package while it is installed.
fn is_of_dpkg(path: &str) -> bool {
    path.starts_with("/var/lib/dpkg/") || path.starts_with("/mnt/")
}

#[test]
fn a_package_is_installed_runs_as_a_service_and_leaves_nothing() {
    if debian::is_skipped() {
        return;
    }
    let begun = std::time::Instant::now();
    let mut debian = Debian::boot();
    say(&format!("booted after {:.1} s", begun.elapsed().as_secs_f64()));
    for name in ["a", "b"] {
        debian.done(&format!("cp /bin/sleep /tmp/vm-{name}; setsid /tmp/vm-{name} 600 >/dev/null 2>&1 & echo $! >/tmp/vm-{name}.pid"));
    }
    let (before, everywhere) = (files(&debian), affinities(&debian));
    analysis::is_installed(&debian, &before);

    debian.install("huddle");
    assert_eq!(debian.done("systemctl is-enabled huddle || true").trim(), "disabled");
    assert_eq!(
        debian.done("systemctl is-active huddle || true").trim(),
        "inactive",
        "it pins nothing unasked"
    );
    debian.has_help("huddle", &["huddle", "huddle-run", "huddle-top", "huddle-restore"]);
    unit_is_valid(&debian);

    // As the package of node_exporter makes it.
    debian.done("mkdir -p /var/lib/prometheus/node-exporter");
    let metrics = format!("[metrics]\nlisten = \"127.0.0.1:9188\"\ntextfile = {TEXTFILE:?}\n");
    debian.write(CONFIG, &config(&format!("{SPREAD}{metrics}")));
    counts_filters(&debian);
    // It returns when the first round is done.
    debian.done("systemctl start huddle");
    let status = debian.done("systemctl show huddle --property StatusText --property ActiveState");
    assert!(
        status.contains("ActiveState=active") && status.contains("StatusText=2 VMs; policy spread; "),
        "{status}"
    );
    let pinned = affinities(&debian);
    assert_ne!(pinned, everywhere, "{}", debian.logged());
    assert_eq!(
        debian.done("stat -c '%a %U' /run/huddle /var/lib/huddle /var/log/huddle"),
        "700 root\n".repeat(3)
    );
    debian.done("test -s /run/huddle/journal && test -S /run/huddle/attach.sock");
    log_is_for_the_journal(&debian);
    is_scraped(&mut debian);
    debian.wait("the text file", |debian| {
        debian.run(&format!("grep -q ^huddle_vms {TEXTFILE}")).status.success()
    });
    is_confined(&debian);
    reloads(&mut debian, &pinned, &everywhere);
    survives_a_kill(&mut debian, &everywhere);
    has_a_watchdog(&mut debian, &everywhere);

    debian.done("systemctl start huddle");
    assert_ne!(affinities(&debian), everywhere);
    debian.done("systemctl stop huddle");
    assert_eq!(affinities(&debian), everywhere);
    assert_eq!(debian.done("systemctl show huddle --property Result").trim(), "Result=success");
    debian.done("test ! -e /run/huddle/journal && test ! -e /run/huddle/attach.sock");

    // Removed while it runs.
    debian.done("systemctl start huddle");
    debian.done("apt-get purge --yes huddle");
    assert_eq!(affinities(&debian), everywhere);
    debian.done("rm -r /var/lib/prometheus");
    let left: Vec<_> = files(&debian).difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(
        debian
            .done("ps --version >/dev/null 2>&1; ls /proc/*/exe -l 2>/dev/null | grep -c bin/huddle || true")
            .trim(),
        "0"
    );
    say(&format!("done after {:.1} s", begun.elapsed().as_secs_f64()));
}

fn unit_is_valid(debian: &Debian) {
    debian.done("systemd-analyze verify --man=no huddle.service");
    // In tenths: it fails above 4.0.
    let exposure = debian.done("systemd-analyze security --no-pager --threshold=40 huddle.service");
    say(exposure.lines().last().unwrap_or_default());
}

fn log_is_for_the_journal(debian: &Debian) {
    let logged = debian.done("journalctl --unit huddle --no-pager --output cat --priority info");
    let round = logged.lines().find(|line| line.contains("round 1: ")).unwrap();
    assert!(round.starts_with("round 1: 2 VMs, "), "neither time nor level: {round}");
    let warnings = debian.done("journalctl --unit huddle --no-pager --output cat --priority warning");
    assert!(!warnings.contains("round 1: "), "{warnings}");
}

/// By a client of the same host, through what the unit allows of the network.
fn is_scraped(debian: &mut Debian) {
    let scrape = "exec 3<>/dev/tcp/127.0.0.1/9188; \
                  printf 'GET /metrics HTTP/1.1\\r\\nHost: huddle\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3";
    let scrape = format!("bash -c \"{scrape}\"");
    let answer = debian.done(&scrape);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // The manager and the metrics are told of the first round each on its own.
    for vm in ["a", "b"] {
        debian.wait(&format!("VM {vm} in a scrape"), |debian| {
            debian.done(&scrape).contains(&format!("huddle_vm_info{{vm=\"{vm}\""))
        });
    }
}

/// From the next start on, the service first writes down how many filters of system calls it has by its unit alone.
fn counts_filters(debian: &Debian) {
    debian.done("mkdir -p /run/systemd/system/huddle.service.d");
    debian.write(
        "/run/systemd/system/huddle.service.d/filters.conf",
        "[Service]\nExecStartPre=/bin/sh -c 'grep ^Seccomp_filters: /proc/self/status >/run/huddle/filters'\n",
    );
    debian.done("systemctl daemon-reload");
}

/// The program installs filters of its own besides those of the unit, and has the capabilities of the table.
fn is_confined(debian: &Debian) {
    let status = debian.done("cat /proc/$(systemctl show huddle --property MainPID --value)/status");
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    let filters = |text: &str| text.trim().parse::<u32>().unwrap();
    let of_unit = debian.done("sed s/Seccomp_filters:// /run/huddle/filters");
    assert!(filters(&of_unit) > 0, "{of_unit}");
    // One against clone3, and one for everything else.
    assert_eq!(filters(&field("Seccomp_filters:")), filters(&of_unit) + 2);
    let bits = |names: BTreeSet<&str>| {
        names.iter().fold(0, |bits, name| bits | name.parse::<caps::Capability>().unwrap().bitmask())
    };
    let expected = bits(privileges::of_a_loop());
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), expected, "{set}");
    }
    debian.done("rm -r /run/huddle/filters /run/systemd/system/huddle.service.d && systemctl daemon-reload");
}

fn reloads(debian: &mut Debian, pinned: &[String], everywhere: &[String]) {
    debian.write(CONFIG, &config("policy = \"none\"\nobjective = \"ipc\"\n[plan]\nload_per_cpu = 0.5\n"));
    debian.done("systemctl reload huddle");
    debian.wait("the reload", |debian| affinities(debian) == everywhere);
    for line in [
        "configuration: policy: \"spread\" → \"none\"\n",
        "configuration: plan.load_per_cpu: default → 0.5\n",
        "configuration: objective: default → \"ipc\"; takes effect after a restart\n",
        "some changes of the configuration need a restart",
    ] {
        debian.wait_for_log(line);
    }
    // A mistake changes nothing, and is one line.
    debian.write(CONFIG, &config("policy = \"papre\"\n"));
    debian.done("systemctl reload huddle");
    debian.wait_for_log("the configuration is not reloaded, and what was in force stays: config /etc/huddle/huddle.toml: line 1: ");
    debian.write(CONFIG, &config(SPREAD));
    debian.done("systemctl reload huddle");
    debian.wait("the second reload", |debian| affinities(debian) == pinned);
    assert_eq!(debian.done("systemctl is-active huddle").trim(), "active");
}

/// What the journal holds is undone by the unit, also when the program could not, and whatever the configuration is then.
fn survives_a_kill(debian: &mut Debian, everywhere: &[String]) {
    debian.write(CONFIG, "policy = ");
    debian.done("systemctl kill --signal KILL --kill-who main huddle");
    debian.wait("the undo", |debian| affinities(debian) == everywhere);
    debian.wait_for_log("2 changes undone");
    debian.write(CONFIG, &config(SPREAD));
    // It is started again by itself.
    debian.wait("the restart", |debian| affinities(debian) != everywhere);
}

/// A loop that hangs is ended, and what it pinned is undone.
fn has_a_watchdog(debian: &mut Debian, everywhere: &[String]) {
    debian.done("mkdir -p /run/systemd/system/huddle.service.d");
    debian.write(
        "/run/systemd/system/huddle.service.d/test.conf",
        "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\nRestart=no\n",
    );
    debian.done("systemctl daemon-reload && systemctl restart huddle");
    // Longer than the watchdog's time-out: the loop keeps it.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(debian.done("systemctl is-active huddle").trim(), "active");
    debian.done("systemctl kill --signal STOP --kill-who main huddle");
    debian.wait("the watchdog", |debian| {
        let result = debian.done("systemctl show huddle --property Result --property ActiveState");
        result.contains("Result=watchdog") && result.contains("ActiveState=failed")
    });
    assert_eq!(affinities(debian), everywhere);
    debian.done("rm -r /run/systemd/system/huddle.service.d && systemctl daemon-reload && systemctl reset-failed huddle");
}
