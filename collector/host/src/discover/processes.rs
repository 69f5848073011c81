//! The processes of the host, each of which is looked into once.
//!
//! To look into a process means to read where all its descriptors lead, of which a host has tens of thousands. So
//! what was found is kept, and in each round only one line is read of each process ([`Glance`]). It is looked into
//! again when that line says that it may have become another kind of process: another start, another name, other
//! sizes. Since sizes change all the time in some, and a process can change its name as often as it likes, looks that
//! find nothing new become rarer, up to once a minute. Another program is another process in this: it is looked into
//! at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use huddle_model::vm::TaskId;

use super::scan::{self, Inspected};
use crate::limits::{Budget, Limits};
use crate::task::{self, Glance};
use crate::{HostError, HostRoot};

/// Longest time between a change and the look that it leads to.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

/// A process is looked into again after this time though nothing seems to have changed.
const MAX_AGE: Duration = Duration::from_secs(300);

/// A process that could not be looked into is looked into again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// What is known of the processes of the host.
#[derive(Debug, Default)]
pub(super) struct Processes {
    seen: BTreeMap<i32, Seen>,
    looks: u64,
}

#[derive(Debug)]
struct Seen {
    /// As it was when it was looked into.
    glance: Glance,
    /// Its program then.
    program: Option<String>,
    found: Found,
    looked_at: Instant,
    /// How long a change waits for the next look.
    patience: Duration,
}

#[derive(Debug)]
enum Found {
    /// No VMM.
    Nothing,
    Vmm(Arc<Inspected>),
    /// It cannot be looked into, with the reason.
    Failed(String),
    /// It may not be looked into, and is no VMM by its name.
    Hidden,
}

/// What a round found out.
#[derive(Debug, Default)]
pub(super) struct Refreshed {
    /// Processes that hold a VM, ascending.
    pub(super) vmms: Vec<Arc<Inspected>>,
    /// Processes whose descriptors may not be seen.
    pub(super) hidden: BTreeSet<i32>,
    pub(super) notes: Vec<String>,
    /// Processes that were not reached in time.
    pub(super) postponed: usize,
}

impl Processes {
    /// Looks at every process that is not in `skip`, and into those that are new or changed.
    pub(super) fn refresh(
        &mut self,
        root: &HostRoot,
        skip: &BTreeSet<i32>,
        limits: &Limits,
        budget: &Budget,
    ) -> Result<Refreshed, HostError> {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut here = BTreeMap::new();
        for pid in task::process_ids(root)?.into_iter().filter(|pid| !skip.contains(pid)) {
            let known = self.seen.remove(&pid);
            match task::glance(root, pid) {
                Ok(glance) if glance.is_dead => {}
                Ok(glance) => match known {
                    Some(seen) if seen.glance.id == glance.id && !seen.is_due(root, &glance, now) => {
                        here.insert(pid, seen);
                    }
                    known => due.push((open_files(root, pid), pid, glance, known)),
                },
                Err(error) if error.is_gone() => {}
                // It says nothing about the process.
                Err(error) if error.is_exhausted() => {
                    self.seen.extend(here);
                    return Err(error);
                }
                Err(error) => {
                    let why = format!("process {pid} is ignored: {error}");
                    here.insert(pid, without_glance(pid, why, now));
                }
            }
        }
        self.seen = here;
        // Those with few descriptors first: nobody can hide a VM behind processes with many.
        due.sort_unstable_by_key(|(files, pid, ..)| (*files, *pid));
        let mut refreshed = Refreshed::default();
        for (_, pid, glance, known) in due {
            if budget.is_over() {
                refreshed.postponed += 1;
                // What is known of it is better than nothing.
                self.seen
                    .extend(known.filter(|known| known.glance.id == glance.id).map(|known| (pid, known)));
                continue;
            }
            self.looks += 1;
            if let Some(seen) = look(root, glance, known, limits, budget) {
                self.seen.insert(pid, seen);
            }
        }
        for (pid, seen) in &self.seen {
            match &seen.found {
                Found::Nothing => {}
                Found::Hidden => _ = refreshed.hidden.insert(*pid),
                Found::Failed(why) => refreshed.notes.push(why.clone()),
                Found::Vmm(vmm) => {
                    if vmm.is_hidden {
                        refreshed.hidden.insert(*pid);
                    }
                    refreshed.vmms.push(Arc::clone(vmm));
                }
            }
        }
        Ok(refreshed)
    }

    /// How often a process was looked into so far.
    pub(super) fn looks(&self) -> u64 {
        self.looks
    }
}

impl Seen {
    fn is_due(&self, root: &HostRoot, now_seen: &Glance, now: Instant) -> bool {
        if now_seen.is_kernel_thread {
            return false;
        }
        let age = now.saturating_duration_since(self.looked_at);
        if matches!(self.found, Found::Failed(_)) && age >= RETRY {
            return true;
        }
        if self.glance == *now_seen {
            return age >= MAX_AGE;
        }
        // Only who executes something has another program, and a name is cheap to compare.
        let is_other =
            || self.glance.name != now_seen.name && scan::program(root, now_seen.id.id) != self.program;
        age >= self.patience || is_other()
    }
}

/// A process whose line cannot be understood. It is read again in each round, since it equals no other.
fn without_glance(pid: i32, why: String, now: Instant) -> Seen {
    let glance = Glance {
        id: TaskId { id: pid, start_ticks: u64::MAX },
        name: [0; 16],
        is_kernel_thread: false,
        is_dead: false,
        threads: 0,
        address_space_bytes: 0,
    };
    Seen { glance, program: None, found: Found::Failed(why), looked_at: now, patience: Duration::ZERO }
}

/// Looks into a process; `None` where it has ended.
fn look(
    root: &HostRoot,
    glance: Glance,
    known: Option<Seen>,
    limits: &Limits,
    budget: &Budget,
) -> Option<Seen> {
    let pid = glance.id.id;
    let program = if glance.is_kernel_thread { None } else { scan::program(root, pid) };
    let found = if glance.is_kernel_thread {
        Found::Nothing
    } else {
        let looked =
            task::process(root, pid).and_then(|stat| scan::process(root, &stat, limits, budget.vm()));
        match looked {
            Ok(inspected) if inspected.kind.is_some() => Found::Vmm(Arc::new(inspected)),
            Ok(inspected) if inspected.is_hidden => Found::Hidden,
            Ok(_) => Found::Nothing,
            Err(error) if error.is_gone() => return None,
            Err(error) => Found::Failed(format!("process {pid} is ignored: {error}")),
        }
    };
    let patience = match &known {
        Some(known)
            if known.glance.id == glance.id && known.program == program && same(&known.found, &found) =>
        {
            (known.patience * 2).clamp(Duration::from_secs(1), MAX_PATIENCE)
        }
        // The first change after a start or a discovery is looked at at once.
        _ => Duration::ZERO,
    };
    Some(Seen { glance, program, found, looked_at: Instant::now(), patience })
}

/// Whether a look found what was known.
fn same(known: &Found, found: &Found) -> bool {
    match (known, found) {
        (Found::Vmm(known), Found::Vmm(found)) => known.kind == found.kind && known.kvm == found.kvm,
        (Found::Failed(known), Found::Failed(found)) => known == found,
        (Found::Nothing, Found::Nothing) | (Found::Hidden, Found::Hidden) => true,
        _ => false,
    }
}

/// How many files a process has open: the size of its directory of descriptors (Linux 6.2); 0 where the kernel does
/// not tell.
fn open_files(root: &HostRoot, pid: i32) -> u64 {
    std::fs::metadata(root.proc(format!("{pid}/fd"))).map_or(0, |directory| directory.len())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Host, Process};
    use super::*;

    fn refresh(processes: &mut Processes, host: &Host) -> Refreshed {
        let limits = Limits::default();
        let budget = Budget::of_round(&limits);
        processes.refresh(&host.root, &BTreeSet::new(), &limits, &budget).unwrap()
    }

    fn vmms(processes: &mut Processes, host: &Host) -> Vec<i32> {
        refresh(processes, host).vmms.iter().map(|vmm| vmm.id.id).collect()
    }

    fn change(host: &Host, pid: i32, from: &str, to: &str) {
        let path = format!("proc/{pid}/stat");
        let stat = std::fs::read_to_string(host.dir.path().join(&path)).unwrap();
        assert!(stat.contains(from), "{stat}");
        host.write(&path, &stat.replace(from, to));
    }

    #[test]
    fn a_process_is_looked_into_once_and_again_when_it_changed() {
        let host = Host::new();
        host.add(&Process { program: "/opt/own-vmm", ..Process::default() });
        host.add(&Process { pid: 200, ..Process::default() });
        let mut processes = Processes::default();
        assert_eq!(vmms(&mut processes, &host), [0; 0]);
        assert_eq!(vmms(&mut processes, &host), [0; 0]);
        assert_eq!(processes.looks(), 2, "once each");

        // It opens a VM of KVM: threads and memory come with that.
        std::os::unix::fs::symlink("anon_inode:kvm-vm", host.root.proc("100/fd/7")).unwrap();
        change(&host, 100, " 20 0 4 0 ", " 20 0 6 0 ");
        assert_eq!(vmms(&mut processes, &host), [100]);
        assert_eq!(processes.looks(), 3);

        // Looks that find nothing new become rarer.
        for threads in 7..20 {
            change(&host, 100, &format!(" 20 0 {} 0 ", threads - 1), &format!(" 20 0 {threads} 0 "));
            assert_eq!(vmms(&mut processes, &host), [100]);
        }
        assert!(processes.looks() <= 5, "{}", processes.looks());

        // Another process of the same number is another one.
        change(&host, 200, " 2000 ", " 2001 ");
        let before = processes.looks();
        vmms(&mut processes, &host);
        assert_eq!(processes.looks(), before + 1);
        host.remove("proc/100");
        assert_eq!(vmms(&mut processes, &host), [0; 0]);
    }

    #[test]
    fn a_program_that_becomes_qemu_is_found_at_once() {
        let host = Host::new();
        host.add(&Process { program: "/bin/sh", ..Process::default() });
        let mut processes = Processes::default();
        for threads in 5..12 {
            assert_eq!(vmms(&mut processes, &host), [0; 0]);
            change(&host, 100, &format!(" 20 0 {} 0 ", threads - 1), &format!(" 20 0 {threads} 0 "));
        }
        change(&host, 100, "(sh)", "(qemu-system-x86)");
        std::fs::remove_file(host.root.proc("100/exe")).unwrap();
        std::os::unix::fs::symlink("/usr/bin/qemu-system-x86_64", host.root.proc("100/exe")).unwrap();
        assert_eq!(vmms(&mut processes, &host), [100]);
    }

    #[test]
    fn what_is_not_reached_in_time_is_left_for_the_next_round() {
        let host = Host::new();
        for pid in [100, 200, 300] {
            host.add(&Process { pid, program: "/usr/bin/qemu-system-x86_64", ..Process::default() });
        }
        let limits = Limits::default();
        let mut processes = Processes::default();
        let over = Budget::of_round(&Limits { round_ms: 0, ..Limits::default() });
        let none = processes.refresh(&host.root, &BTreeSet::new(), &limits, &over).unwrap();
        assert_eq!((none.vmms.len(), none.postponed), (0, 3));
        assert_eq!(vmms(&mut processes, &host), [100, 200, 300]);
        // What is known stays known.
        for pid in [100, 200, 300] {
            change(&host, pid, " 20 0 4 0 ", " 20 0 5 0 ");
        }
        let late = processes.refresh(&host.root, &BTreeSet::new(), &limits, &over).unwrap();
        assert_eq!((late.vmms.len(), late.postponed), (3, 3));
    }
}
