//! Where a vCPU may run, what its owner decided about that, and what to restore after it was pinned: the rules, on
//! plain values.
//!
//! A thread runs on the CPUs that are in its cpuset, in its affinity and online. A cpuset is a limit: an affinity can
//! only be set within it. An affinity that is narrower than what the cpuset and the online CPUs allow was set by
//! somebody on purpose, and so was a real-time policy: these are bindings, which are kept unless the user says
//! otherwise.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cpuset::CpuSet;

/// A scheduling policy before which all others wait (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RealTime {
    /// `SCHED_FIFO`.
    Fifo,
    /// `SCHED_RR`.
    RoundRobin,
    /// `SCHED_DEADLINE`.
    Deadline,
}

impl RealTime {
    /// The policy of this number (include/uapi/linux/sched.h, Linux 6.18); `None` where it is not a real-time one.
    pub fn of(policy: u32) -> Option<Self> {
        match policy {
            1 => Some(Self::Fifo),
            2 => Some(Self::RoundRobin),
            6 => Some(Self::Deadline),
            _ => None,
        }
    }
}

impl fmt::Display for RealTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fifo => "SCHED_FIFO",
            Self::RoundRobin => "SCHED_RR",
            Self::Deadline => "SCHED_DEADLINE",
        })
    }
}

/// How an owner bound a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingKind {
    /// By an affinity that is narrower than its cpuset.
    Affinity,
    /// To CPUs that the scheduler does not balance (`isolcpus=`), by affinity or by cpuset.
    IsolatedCpus,
    /// By a real-time policy.
    RealTime(RealTime),
}

/// What an owner decided about a vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// CPUs that it may run on.
    pub cpus: CpuSet,
    /// How it is bound.
    pub kind: BindingKind,
}

impl fmt::Display for Binding {
    /// As the end of a sentence about vCPUs: where they are, and by what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus = &self.cpus;
        match self.kind {
            BindingKind::Affinity => write!(f, "on CPUs {cpus}, with an affinity narrower than the cpuset"),
            BindingKind::IsolatedCpus => write!(f, "on CPUs {cpus}, which are isolated"),
            BindingKind::RealTime(policy) => write!(f, "on CPUs {cpus}, with the real-time policy {policy}"),
        }
    }
}

/// What the host says about the CPUs of one thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadCpus<'a> {
    /// Its affinity, as its owner left it.
    pub affinity: &'a CpuSet,
    /// The CPUs of its cpuset; `None` where that is unknown.
    pub cpuset: Option<&'a CpuSet>,
    /// Online CPUs.
    pub online: &'a CpuSet,
    /// CPUs taken from the scheduler's balancing.
    pub isolated: &'a CpuSet,
    /// Its real-time policy, if it has one.
    pub real_time: Option<RealTime>,
}

impl ThreadCpus<'_> {
    /// The CPUs that an affinity may be set to: those of its cpuset that are online. Where the cpuset is unknown, those
    /// of its affinity, which the kernel keeps within the cpuset.
    pub fn allowed(&self) -> CpuSet {
        let known = self.cpuset.map(|cpuset| self.usable(cpuset)).filter(|cpus| !cpus.is_empty());
        known.unwrap_or_else(|| self.usable(self.affinity))
    }

    /// What its owner decided about it; `None` where it runs wherever its cpuset allows. Isolated CPUs may be missing
    /// from its affinity: the kernel leaves them out of the affinity that all processes begin with.
    pub fn binding(&self) -> Option<Binding> {
        let cpus = self.usable(self.affinity);
        let balanced = self.allowed().difference(self.isolated);
        let kind = if let Some(policy) = self.real_time {
            BindingKind::RealTime(policy)
        } else if !cpus.is_empty() && cpus.is_subset(self.isolated) {
            BindingKind::IsolatedCpus
        } else if !balanced.is_subset(&cpus) {
            BindingKind::Affinity
        } else {
            return None;
        };
        Some(Binding { cpus, kind })
    }

    /// Whether its affinity is all that its cpuset and the online CPUs allow: then no CPU was asked for, and after a
    /// change all CPUs are asked for again, so that a cpuset that grew and a CPU that came back are used. Where the
    /// cpuset is unknown that is not known, and so it is not.
    pub fn is_whole(&self) -> bool {
        self.cpuset.is_some_and(|cpuset| {
            let allowed = self.usable(cpuset);
            !allowed.is_empty() && allowed.is_subset(&self.usable(self.affinity))
        })
    }

    /// Those that are online; all of them where none is, since then the list of the online ones is wrong (lxcfs).
    fn usable(&self, cpus: &CpuSet) -> CpuSet {
        let online = cpus.intersection(self.online);
        if online.is_empty() { cpus.clone() } else { online }
    }
}

/// Positions of vCPUs that get no CPU of their own, of those that must each have one: `cpus` are the CPUs that each
/// may use. As many as possible get one; the first ones in case of doubt.
pub fn without_own_cpu(cpus: &[CpuSet]) -> Vec<usize> {
    /// Finds a CPU for `vcpu`, and moves others for that (augmenting path of a bipartite matching).
    fn find(
        vcpu: usize,
        cpus: &[CpuSet],
        holder: &mut std::collections::BTreeMap<u32, usize>,
        tried: &mut CpuSet,
    ) -> bool {
        for cpu in cpus[vcpu].iter() {
            if tried.contains(cpu) {
                continue;
            }
            tried.insert(cpu);
            let other = holder.get(&cpu).copied();
            if other.is_none_or(|other| find(other, cpus, holder, tried)) {
                holder.insert(cpu, vcpu);
                return true;
            }
        }
        false
    }
    let mut holder = std::collections::BTreeMap::new();
    (0..cpus.len()).filter(|vcpu| !find(*vcpu, cpus, &mut holder, &mut CpuSet::new())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    /// What is allowed, how it is bound, and whether the affinity is whole.
    fn rules(
        affinity: &str,
        cpuset: Option<&str>,
        isolated: &str,
        real_time: Option<RealTime>,
    ) -> (String, Option<BindingKind>, bool) {
        let (affinity, online, isolated) = (set(affinity), set("0-3"), set(isolated));
        let cpuset = cpuset.map(set);
        let cpus = ThreadCpus {
            affinity: &affinity,
            cpuset: cpuset.as_ref(),
            online: &online,
            isolated: &isolated,
            real_time,
        };
        (cpus.allowed().to_string(), cpus.binding().map(|binding| binding.kind), cpus.is_whole())
    }

    #[test]
    fn an_affinity_that_is_narrower_than_the_cpuset_is_a_binding() {
        let affinity = Some(BindingKind::Affinity);
        for (affinity, cpuset, expected) in [
            ("0-3", Some("0-3"), ("0-3", None, true)),
            ("1", Some("1"), ("1", None, true)),
            ("1", Some("0-3"), ("0-3", affinity, false)),
            ("0-1", Some("0-2"), ("0-2", affinity, false)),
            // CPU 4 is offline: neither list is narrower for that.
            ("0-3", Some("0-4"), ("0-3", None, true)),
            ("0-4", Some("0-3"), ("0-3", None, true)),
            // Of an unknown cpuset the affinity tells as much as is known.
            ("1-2", None, ("1-2", None, false)),
        ] {
            let (allowed, binding, whole) = expected;
            assert_eq!(rules(affinity, cpuset, "", None), (allowed.into(), binding, whole), "{affinity}");
        }
    }

    #[test]
    fn isolated_cpus_bind_and_their_absence_does_not() {
        assert_eq!(rules("0-2", Some("0-3"), "3", None).1, None, "as every process begins");
        assert_eq!(rules("0-3", Some("0-3"), "3", None).1, None);
        assert_eq!(rules("3", Some("0-3"), "3", None).1, Some(BindingKind::IsolatedCpus));
        assert_eq!(rules("3", Some("3"), "3", None).1, Some(BindingKind::IsolatedCpus));
        assert_eq!(rules("2-3", Some("0-3"), "3", None).1, Some(BindingKind::Affinity));
    }

    #[test]
    fn a_real_time_policy_is_a_binding_whatever_the_affinity() {
        let fifo = RealTime::of(1).unwrap();
        assert_eq!(rules("0-3", Some("0-3"), "", Some(fifo)).1, Some(BindingKind::RealTime(RealTime::Fifo)));
        assert_eq!((RealTime::of(0), RealTime::of(3), RealTime::of(7)), (None, None, None));
        assert_eq!(
            (RealTime::of(2), RealTime::of(6)),
            (Some(RealTime::RoundRobin), Some(RealTime::Deadline))
        );
    }

    #[test]
    fn a_wrong_list_of_online_cpus_gives_way_to_the_affinity() {
        let (online, none) = (set("0"), CpuSet::new());
        let (affinity, cpuset) = (set("1"), set("1"));
        let cpus = ThreadCpus {
            affinity: &affinity,
            cpuset: Some(&cpuset),
            online: &online,
            isolated: &none,
            real_time: None,
        };
        assert_eq!((cpus.allowed().to_string(), cpus.binding()), ("1".into(), None));
    }

    #[test]
    fn each_gets_a_cpu_of_its_own_where_there_is_one() {
        let left = |lists: &[&str]| without_own_cpu(&lists.iter().map(|list| set(list)).collect::<Vec<_>>());
        assert_eq!(left(&["0-1", "0"]), [0usize; 0]);
        assert_eq!(left(&["0-1", "0-1", "0-1", "2"]), [2]);
        assert_eq!(left(&["", "0"]), [0]);
        assert_eq!(left(&["0-2", "0-1", "0"]), [0usize; 0]);
    }
}
