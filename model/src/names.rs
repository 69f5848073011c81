//! Names of VMs that stay unique, and stay theirs.
//!
//! VMs name themselves, and two may choose one name. Who bears a name keeps it for as long as it lives, whoever comes
//! later: histories, limits and reports go by names. A VM that comes when its name is taken is called `NAME-NUMBER`,
//! with the number of its process or domain. Of several that come at once nobody knows who was first, so none of them
//! gets the bare name.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Owner, Uuid, VmId};

/// The names that were given so far, to the VMs there are.
#[derive(Clone, Debug, Default)]
pub struct Names {
    of: BTreeMap<VmId, String>,
}

/// A name that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Unique among those given, and none of the reserved ones.
    pub name: String,
    /// Whether the VM is new and wanted a name that it could not have.
    pub is_renamed: bool,
}

impl Names {
    /// The names of the VMs that there are now: each with what it would like to be called. Those that are not among
    /// them are forgotten. `reserved` are names that others have.
    pub fn give(&mut self, found: &[(VmId, String)], reserved: &BTreeSet<String>) -> Vec<Named> {
        let here: BTreeSet<VmId> = found.iter().map(|(id, _)| *id).collect();
        self.of.retain(|id, name| here.contains(id) && !reserved.contains(name));
        let is_new = |id: &VmId| !self.of.contains_key(id);
        let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, name) in found.iter().filter(|(id, _)| is_new(id)) {
            *wanted.entry(name).or_default() += 1;
        }
        let mut taken: BTreeSet<String> = reserved.iter().chain(self.of.values()).cloned().collect();
        // Names that only one wants are given first, so that they stay whatever the others become.
        let is_free = |name: &String| wanted.get(name.as_str()) == Some(&1) && !taken.contains(name);
        let first: Vec<bool> = found.iter().map(|(id, name)| is_new(id) && is_free(name)).collect();
        taken
            .extend(found.iter().zip(&first).filter(|(_, first)| **first).map(|((_, name), _)| name.clone()));
        let mut given = Vec::new();
        for ((id, wanted), first) in found.iter().zip(first) {
            let known = self.of.get(id).cloned();
            let is_renamed = known.is_none() && !first;
            let name =
                known.unwrap_or_else(|| if first { wanted.clone() } else { unused(wanted, *id, &taken) });
            taken.insert(name.clone());
            self.of.insert(*id, name.clone());
            given.push(Named { name, is_renamed });
        }
        given
    }
}

fn unused(wanted: &str, id: VmId, taken: &BTreeSet<String>) -> String {
    let name = format!("{wanted}-{}", id.number());
    if !taken.contains(&name) {
        return name;
    }
    let more = (2u64..).map(|count| format!("{name}-{count}"));
    more.into_iter().find(|name| !taken.contains(name)).unwrap_or(name)
}

/// Whether a VM that is called `name` here called itself `own`: the same, or made unique by its number.
pub fn is_called(own: &str, name: &str, id: Option<VmId>) -> bool {
    let number = || name.strip_prefix(own)?.strip_prefix('-')?.parse().ok();
    name == own || id.is_some_and(|id| number() == Some(id.number()))
}

/// What a VM can be named by.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// What it is called here.
    pub name: &'a str,
    /// Which it is, where that is known.
    pub id: Option<VmId>,
    /// Its UUID, where it has one.
    pub uuid: Option<Uuid>,
    /// Whose it is, where that is known.
    pub owner: Option<&'a Owner>,
}

impl Identity<'_> {
    /// Whether `entry` may mean this VM: it is what the VM called itself, that after `OWNER:`, or its UUID.
    pub fn is_meant_by(&self, entry: &str) -> bool {
        // 36 characters: what else `Uuid` would read may as well be a name.
        if let Some(uuid) = Uuid::try_parse(entry).ok().filter(|_| entry.len() == 36) {
            let of_domain = self.id.and_then(|id| id.xen_domain()).map(|domain| domain.uuid);
            return self.uuid.or(of_domain) == Some(uuid);
        }
        let is_owners = |(at, _): (usize, &str)| {
            // Who owns a VM of a file, or of Xen, is not known.
            let is_theirs = self.owner.is_none_or(|owner| owner.is(&entry[..at]));
            is_theirs && is_called(&entry[at + 1..], self.name, self.id)
        };
        is_called(entry, self.name, self.id) || entry.match_indices(':').any(is_owners)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::TaskId;

    fn process(id: i32) -> VmId {
        TaskId { id, start_ticks: 7 }.into()
    }

    fn give(names: &mut Names, found: &[(i32, &str)], reserved: &[&str]) -> Vec<String> {
        let found: Vec<_> = found.iter().map(|(id, name)| (process(*id), (*name).to_owned())).collect();
        let reserved = reserved.iter().map(|name| (*name).to_owned()).collect();
        names.give(&found, &reserved).into_iter().map(|named| named.name).collect()
    }

    #[test]
    fn the_bearer_of_a_name_keeps_it_and_others_get_another() {
        let mut names = Names::default();
        assert_eq!(give(&mut names, &[(20, "web")], &[]), ["web"]);
        // A second one, whose process has the lower number.
        assert_eq!(give(&mut names, &[(10, "web"), (20, "web")], &[]), ["web-10", "web"]);
        // The first is gone: who was renamed is not renamed again.
        assert_eq!(give(&mut names, &[(10, "web")], &[]), ["web-10"]);
        assert_eq!(give(&mut names, &[(10, "web"), (30, "web")], &[]), ["web-10", "web"]);
        // A later process of the same number is another.
        let later = VmId::from(TaskId { id: 30, start_ticks: 8 });
        let named = names.give(&[(later, "db".into())], &BTreeSet::new());
        assert_eq!(named, [Named { name: "db".into(), is_renamed: false }]);
    }

    #[test]
    fn of_several_at_once_none_gets_the_bare_name() {
        let mut names = Names::default();
        assert_eq!(
            give(&mut names, &[(1, "web"), (2, "web"), (3, "web-1")], &[]),
            ["web-1-2", "web-2", "web-1"]
        );
        assert_eq!(give(&mut Names::default(), &[(1, "web")], &["web"]), ["web-1"]);
        let named = Names::default().give(&[(process(1), "web".into())], &BTreeSet::from(["web".into()]));
        assert!(named[0].is_renamed);
    }

    #[test]
    fn what_a_vm_called_itself_is_known_by_its_number() {
        let id = Some(process(71));
        for (own, name, expected) in [
            ("web", "web", true),
            ("web", "web-71", true),
            ("web", "web-72", false),
            ("web", "web71", false),
            ("we", "web-71", false),
            ("web-71", "web-71", true),
        ] {
            assert_eq!(is_called(own, name, id), expected, "{own} {name}");
        }
        assert!(!is_called("web", "web-71", None));
    }

    proptest! {
        #[test]
        fn names_are_unique_and_stay(
            rounds in proptest::collection::vec(
                proptest::collection::btree_map(1..9i32, "[ab](-[1-9])?", 0..8), 1..5),
            reserved in proptest::collection::btree_set("[ab](-[1-9])?", 0..3),
        ) {
            let mut names = Names::default();
            let mut before: BTreeMap<i32, String> = BTreeMap::new();
            for round in rounds {
                let found: Vec<_> = round.iter().map(|(id, name)| (process(*id), name.clone())).collect();
                let given = names.give(&found, &reserved);
                let unique: BTreeSet<&String> = given.iter().map(|named| &named.name).collect();
                prop_assert_eq!(unique.len(), found.len());
                prop_assert!(given.iter().all(|named| !reserved.contains(&named.name)));
                let now: BTreeMap<i32, String> =
                    round.keys().zip(&given).map(|(id, named)| (*id, named.name.clone())).collect();
                for (id, name) in &now {
                    prop_assert!(before.get(id).is_none_or(|before| before == name));
                }
                before = now;
            }
        }
    }
}
