//! Which VM a name in a limit means.
//!
//! A limit names a VM by what it is called, by `OWNER:NAME`, or by its UUID. Names and UUIDs are what VMs say of
//! themselves, so a stranger's VM may bear any; owners are what the kernel says. A loop therefore remembers which VM
//! a name meant first ([`NamedVms`]): as long as that VM is there the name means it and nobody else, and when it is
//! gone only a VM of the same owner can take its place (of several the one with the same UUID).

use std::collections::BTreeMap;

use super::limits::PlanLimits;
use crate::id::{Owner, Uuid, VmId};
use crate::matrix::MatrixVm;

/// The VMs that names of limits meant so far.
#[derive(Clone, Debug, Default)]
pub struct NamedVms {
    known: BTreeMap<String, NamedVm>,
}

#[derive(Clone, Debug)]
struct NamedVm {
    id: VmId,
    owner: Option<Owner>,
    uuid: Option<Uuid>,
}

/// Limits on the VMs there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Pairs that are to be kept apart, as positions among the VMs.
    pub apart: Vec<(usize, usize)>,
    /// Names that mean no VM, or more than one, a sentence each; each once.
    pub problems: Vec<String>,
}

impl NamedVms {
    /// Finds the VMs that `limits` name among `vms`. Where a name means several and none of them bore it before,
    /// all of them are kept apart: a limit is rather kept for too many than for the wrong one.
    pub fn apply(&mut self, limits: &PlanLimits, vms: &[MatrixVm]) -> Applied {
        let mut applied = Applied::default();
        let note = |problem: Option<String>, problems: &mut Vec<String>| {
            problems.extend(problem.filter(|problem| !problems.contains(problem)));
        };
        for group in &limits.apart {
            let mut found: Vec<Vec<usize>> = Vec::new();
            for entry in group {
                let (here, problem) = self.find("apart", entry, vms);
                note(problem, &mut applied.problems);
                found.push(here);
            }
            for (at, first) in found.iter().enumerate() {
                for (later, second) in found.iter().enumerate().skip(at + 1) {
                    if first.len() == 1 && first == second {
                        let twice = format!(
                            "apart names {} twice in one group, as {:?} and as {:?}",
                            vms[first[0]].name, group[at], group[later]
                        );
                        note(Some(twice), &mut applied.problems);
                    }
                    let pairs = first.iter().flat_map(|i| second.iter().map(move |j| (*i, *j)));
                    applied.apart.extend(pairs.filter(|(i, j)| i != j));
                }
            }
        }
        for entry in limits.working_set_kib.keys() {
            let (_, problem) = self.find("working_set_kib", entry, vms);
            note(problem, &mut applied.problems);
        }
        applied
    }

    /// The VMs that `entry` means, and what is wrong if they are not exactly one.
    fn find(&mut self, limit: &str, entry: &str, vms: &[MatrixVm]) -> (Vec<usize>, Option<String>) {
        let all: Vec<usize> = (0..vms.len()).filter(|at| vms[*at].identity().is_meant_by(entry)).collect();
        let mut here = all.clone();
        if let Some(before) = self.known.get(entry) {
            if let Some(at) = vms.iter().position(|vm| vm.id == Some(before.id)) {
                return (vec![at], None);
            }
            here.retain(|at| vms[*at].owner == before.owner);
            let same = |at: &usize| before.uuid.is_some() && vms[*at].uuid == before.uuid;
            if here.iter().any(same) {
                here.retain(same);
            }
        } else {
            here = closest(entry, vms, here);
        }
        match here.as_slice() {
            [at] => {
                let vm = &vms[*at];
                if let Some(id) = vm.id {
                    let bearer = NamedVm { id, owner: vm.owner.clone(), uuid: vm.uuid };
                    self.known.insert(entry.to_owned(), bearer);
                }
                (here, None)
            }
            [] if all.is_empty() => {
                (here, Some(format!("{limit} names {entry:?}, and no VM here is called that")))
            }
            [] => {
                let others = names(vms, &all);
                let why = format!(
                    "{limit} names {entry:?}; the VM that was meant is gone, and {others} does not take its place, \
                     since it belongs to somebody else"
                );
                (here, Some(why))
            }
            several => {
                let why = format!(
                    "{limit} names {entry:?}, and {} VMs here are called that: {}; name one by OWNER:NAME or by its UUID",
                    several.len(),
                    names(vms, several)
                );
                (here, Some(why))
            }
        }
    }
}

/// Of VMs that a name could mean, the one that is called exactly so, if there is one: it bore the name first.
fn closest(entry: &str, vms: &[MatrixVm], here: Vec<usize>) -> Vec<usize> {
    let is_exact = |at: &usize| {
        let name = vms[*at].name.as_str();
        name == entry || entry.strip_suffix(name).is_some_and(|owner| owner.ends_with(':'))
    };
    let exact: Vec<usize> = here.iter().copied().filter(is_exact).collect();
    if exact.len() == 1 { exact } else { here }
}

/// The first few of them with their owners.
fn names(vms: &[MatrixVm], of: &[usize]) -> String {
    const SHOWN: usize = 4;
    let name = |at: &usize| match &vms[*at].owner {
        Some(owner) => format!("{} (user {owner})", vms[*at].name),
        None => vms[*at].name.clone(),
    };
    let more = if of.len() > SHOWN { ", .." } else { "" };
    format!("{}{more}", of.iter().take(SHOWN).map(name).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TaskId;

    fn vm(name: &str, pid: i32, owner: &str) -> MatrixVm {
        let id = TaskId { id: pid, start_ticks: 5 };
        let owner = Owner { uid: owner.len() as u32 + 100, name: Some(owner.into()) };
        MatrixVm { id: Some(id.into()), owner: Some(owner), ..MatrixVm::named(name) }
    }

    fn with_uuid(vm: MatrixVm, uuid: u128) -> MatrixVm {
        MatrixVm { uuid: Some(Uuid::from_u128(uuid)), ..vm }
    }

    fn apart(groups: &[&[&str]]) -> PlanLimits {
        let group = |names: &&[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        PlanLimits { apart: groups.iter().map(group).collect(), ..PlanLimits::default() }
    }

    #[test]
    fn vms_are_meant_by_name_owner_or_uuid() {
        let vms = [with_uuid(vm("web", 1, "qemu"), 7), vm("db", 2, "alice"), vm("a:b", 3, "root")];
        let uuid = Uuid::from_u128(7).to_string();
        for (entry, at) in [
            ("web", Some(0)),
            ("qemu:web", Some(0)),
            ("104:web", Some(0)),
            (uuid.as_str(), Some(0)),
            ("alice:web", None),
            ("alice:db", Some(1)),
            ("a:b", Some(2)),
            ("root:a:b", Some(2)),
            ("we", None),
            ("00000000-0000-0000-0000-000000000008", None),
        ] {
            let (here, problem) = NamedVms::default().find("apart", entry, &vms);
            assert_eq!(here, Vec::from_iter(at), "{entry}");
            assert_eq!(problem.is_none(), at.is_some(), "{entry}: {problem:?}");
        }
    }

    #[test]
    fn a_stranger_never_takes_a_limit_from_who_bore_the_name() {
        let limits = apart(&[&["web", "db"]]);
        let (real, db) = (with_uuid(vm("web", 10, "qemu"), 7), vm("db", 20, "qemu"));
        let mut named = NamedVms::default();
        let first = named.apply(&limits, &[real.clone(), db.clone()]);
        assert_eq!(first, Applied { apart: vec![(0, 1)], problems: vec![] });

        // A stranger comes, first in the list, under the name, and with the same UUID.
        let stranger = with_uuid(vm("web-5", 5, "alice"), 7);
        let beside = named.apply(&limits, &[stranger.clone(), real.clone(), db.clone()]);
        assert_eq!(beside, Applied { apart: vec![(1, 2)], problems: vec![] });

        // The real one is gone: the stranger is not taken for it, and this is said.
        let stranger = MatrixVm { name: "web".into(), ..stranger };
        let gone = named.apply(&limits, &[stranger.clone(), db.clone()]);
        assert_eq!(gone.apart, []);
        assert!(gone.problems[0].contains("belongs to somebody else"), "{gone:?}");
        assert!(gone.problems[0].contains("web (user alice)"), "{gone:?}");

        // It is restarted while the stranger bears the name.
        let again = with_uuid(vm("web-30", 30, "qemu"), 7);
        let restarted = named.apply(&limits, &[stranger, again, db]);
        assert_eq!(restarted, Applied { apart: vec![(1, 2)], problems: vec![] });
    }

    #[test]
    fn of_several_all_are_limited_until_one_is_left() {
        let limits = apart(&[&["web", "db"]]);
        let (one, two, db) = (vm("web-10", 10, "qemu"), vm("web-11", 11, "qemu"), vm("db", 20, "qemu"));
        let mut named = NamedVms::default();
        let both = named.apply(&limits, &[one.clone(), two.clone(), db.clone()]);
        assert_eq!(both.apart, [(0, 2), (1, 2)]);
        assert!(both.problems[0].contains("2 VMs here are called that"), "{both:?}");
        let left = named.apply(&limits, &[two.clone(), db.clone()]);
        assert_eq!(left, Applied { apart: vec![(0, 1)], problems: vec![] });
        // From now on it is the one.
        assert_eq!(named.apply(&limits, &[one, two, db]).apart, [(1, 2)]);
    }

    #[test]
    fn names_that_mean_nobody_or_one_vm_twice_are_problems() {
        let vms = [vm("web", 1, "qemu"), vm("db", 2, "qemu")];
        let mut limits = apart(&[&["web", "gone"], &["gone", "db"], &["web", "qemu:web"]]);
        limits.working_set_kib.insert("none".into(), 5);
        let applied = NamedVms::default().apply(&limits, &vms);
        assert_eq!(applied.apart, []);
        let said = applied.problems.join("\n");
        assert_eq!(applied.problems.len(), 3, "each once: {said}");
        assert!(
            said.contains("apart names \"gone\", and no VM")
                && said.contains("working_set_kib names \"none\"")
        );
        assert!(said.contains("names web twice"), "{said}");
    }
}
