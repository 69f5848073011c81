//! Which of the processes that look like VMs are taken for VMs, and which of a Xen's domains.
//!
//! Any user of a host may start a program that is called like a VMM, so a name proves nothing. By default a process
//! counts when one of these speaks for it, none of which an ordinary user can bring about:
//! - the kernel: it holds a VM of KVM;
//! - a VM manager: it runs in a control group that only root makes, and that VM managers make for VMs
//!   ([`is_of_vm_manager`]);
//! - its owner: all its user ids are of users that are trusted with VMs.
//!
//! What the user of huddle includes or excludes by pattern comes before all of that, exclusion first.

use std::collections::BTreeSet;
use std::fmt;

use glob::Pattern;
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};

use crate::id::{Owner, Uuid};

/// What is known of a process or domain that may be a VM.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What it is called, by itself.
    pub name: &'a str,
    /// The user it belongs to; `None` where that is not known, and for domains of Xen.
    pub owner: Option<&'a Owner>,
    /// Its real, effective and saved user id; empty where they are not known.
    pub uids: &'a [u32],
    /// Its control groups, one for each hierarchy, as `/proc/PID/cgroup` has them.
    pub cgroups: &'a [String],
    /// The UUID that it claims or has.
    pub uuid: Option<Uuid>,
    /// Whether the kernel or the hypervisor itself says that it holds a VM.
    pub holds_vm: bool,
}

/// Whose processes are taken for VMs, and which are or are not whoever owns them.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Users that are trusted with VMs.
    pub owners: BTreeSet<u32>,
    /// What is taken though nothing else speaks for it.
    pub include: Vec<VmPattern>,
    /// What is never taken.
    pub exclude: Vec<VmPattern>,
}

impl Default for Selection {
    /// Root is trusted.
    fn default() -> Self {
        Self { owners: BTreeSet::from([0]), include: Vec::new(), exclude: Vec::new() }
    }
}

/// Why something that looks like a VM is not taken for one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The user does not want it.
    #[error("it is excluded by {0}")]
    Excluded(String),
    /// Nothing speaks for it.
    #[error(
        "it belongs to {0}, who is not in [discover] owners; it holds no VM of KVM, and no VM manager made its control group"
    )]
    Stranger(String),
}

impl Selection {
    /// Whether it is taken.
    ///
    /// # Errors
    /// Why it is not.
    pub fn judge(&self, facts: &Facts<'_>) -> Result<(), NotTaken> {
        if let Some(why) = self.excludes(facts) {
            return Err(why);
        }
        let is_trusted = !facts.uids.is_empty() && facts.uids.iter().all(|uid| self.owners.contains(uid));
        if self.include.iter().any(|pattern| pattern.matches(facts))
            || facts.holds_vm
            || facts.cgroups.iter().any(|group| is_of_vm_manager(group))
            || is_trusted
        {
            return Ok(());
        }
        let owner = facts.owner.map_or_else(|| "an unknown user".to_owned(), |owner| format!("user {owner}"));
        Err(NotTaken::Stranger(owner))
    }
}

impl Selection {
    /// Why it is not taken whatever speaks for it; `None` where nothing is said against it.
    pub fn excludes(&self, facts: &Facts<'_>) -> Option<NotTaken> {
        let pattern = self.exclude.iter().find(|pattern| pattern.matches(facts))?;
        Some(NotTaken::Excluded(pattern.to_string()))
    }
}

/// Whether a control group is one that a VM manager of the system makes for a VM. Paths are looked at from the
/// root on, where only root makes groups; the group of a user's own manager (`/user.slice/..`) is none.
///
/// - libvirt with systemd: `/machine.slice/machine-qemu\x2dID\x2dNAME.scope`, also in a slice of its own
///   (libvirt.org/cgroups.html, "Systemd cgroups integration");
/// - libvirt without: `/machine/qemu-ID-NAME.libvirt-qemu`, also below a `.partition` (same page);
/// - Proxmox VE: `/qemu.slice/VMID.scope` (qemu-server, PVE/QemuServer.pm; PVE/Systemd.pm).
///
/// Containers (LXC, systemd-nspawn, Kubernetes) have groups of root too, but whoever is in the container starts what
/// runs there; a VM in one counts by its descriptors of KVM.
pub fn is_of_vm_manager(group: &str) -> bool {
    let Some(path) = group.strip_prefix('/') else { return false };
    let parts: Vec<&str> = path.split('/').collect();
    let is_machine_slice =
        |part: &str| part == "machine.slice" || part.starts_with("machine-") && part.ends_with(".slice");
    match parts.as_slice() {
        [first, ..] if is_machine_slice(first) => {
            let scope = parts.iter().find(|part| !is_machine_slice(part));
            scope.is_some_and(|scope| scope.starts_with(r"machine-qemu\x2d") && scope.ends_with(".scope"))
        }
        ["machine", rest @ ..] => {
            let vm = rest.iter().find(|part| !part.ends_with(".partition"));
            vm.is_some_and(|vm| vm.ends_with(".libvirt-qemu"))
        }
        ["qemu.slice", scope, ..] => {
            let id = scope.strip_suffix(".scope");
            id.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
        }
        _ => false,
    }
}

/// A description of VMs: all that it names must match. In patterns `*` is any text (also with `/` in it), `?` any
/// character, and `[..]` one of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmPattern {
    name: Option<Pattern>,
    owner: Option<Pattern>,
    cgroup: Option<Pattern>,
    uuid: Option<Uuid>,
}

impl VmPattern {
    /// VMs of this name, or with this UUID, where it is one.
    ///
    /// # Errors
    /// It is no pattern.
    pub fn of_text(text: &str) -> Result<Self, glob::PatternError> {
        match Uuid::try_parse(text) {
            Ok(uuid) if text.len() == 36 => Ok(Self { uuid: Some(uuid), ..Self::default() }),
            _ => Ok(Self { name: Some(Pattern::new(text)?), ..Self::default() }),
        }
    }

    /// VMs of exactly this name.
    pub fn of_name(name: &str) -> Self {
        Self { name: Pattern::new(&Pattern::escape(name)).ok(), ..Self::default() }
    }

    /// Whether all that it names is so.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        let owner_is = |pattern: &Pattern| {
            facts.owner.is_some_and(|owner| {
                pattern.matches(&owner.uid.to_string())
                    || owner.name.as_deref().is_some_and(|name| pattern.matches(name))
            })
        };
        let in_group = |pattern: &Pattern| facts.cgroups.iter().any(|group| pattern.matches(group));
        self.name.as_ref().is_none_or(|pattern| pattern.matches(facts.name))
            && self.owner.as_ref().is_none_or(owner_is)
            && self.cgroup.as_ref().is_none_or(in_group)
            && self.uuid.is_none_or(|uuid| facts.uuid == Some(uuid))
    }
}

impl fmt::Display for VmPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uuid = self.uuid.map(|uuid| uuid.to_string());
        let parts = [
            ("name", self.name.as_ref().map(Pattern::as_str)),
            ("owner", self.owner.as_ref().map(Pattern::as_str)),
            ("cgroup", self.cgroup.as_ref().map(Pattern::as_str)),
            ("uuid", uuid.as_deref()),
        ];
        let given: Vec<String> =
            parts.iter().filter_map(|(key, value)| Some(format!("{key} {:?}", (*value)?))).collect();
        f.write_str(&given.join(" and "))
    }
}

impl<'de> Deserialize<'de> for VmPattern {
    /// A text (a name or a UUID), or a table with one or more of `name`, `owner`, `cgroup` and `uuid`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PatternVisitor)
    }
}

struct PatternVisitor;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternTable {
    name: Option<String>,
    owner: Option<String>,
    cgroup: Option<String>,
    uuid: Option<Uuid>,
}

impl<'de> Visitor<'de> for PatternVisitor {
    type Value = VmPattern;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, or a table with name, owner, cgroup or uuid")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<VmPattern, E> {
        if text.is_empty() {
            return Err(E::custom("a pattern is empty"));
        }
        VmPattern::of_text(text).map_err(|error| bad_pattern(text, &error))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<VmPattern, A::Error> {
        let table = PatternTable::deserialize(MapAccessDeserializer::new(map))?;
        let pattern = |text: Option<String>| {
            text.map(|text| Pattern::new(&text).map_err(|error| bad_pattern(&text, &error))).transpose()
        };
        let found = VmPattern {
            name: pattern(table.name)?,
            owner: pattern(table.owner)?,
            cgroup: pattern(table.cgroup)?,
            uuid: table.uuid,
        };
        if found == VmPattern::default() {
            return Err(de::Error::custom("a pattern names none of name, owner, cgroup and uuid"));
        }
        Ok(found)
    }
}

fn bad_pattern<E: de::Error>(text: &str, error: &glob::PatternError) -> E {
    E::custom(format!("{text:?} is no pattern: {} at character {}", error.msg, error.pos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIBVIRT: &str = r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator";

    fn owner(uid: u32, name: &str) -> Owner {
        Owner { uid, name: Some(name.into()) }
    }

    fn patterns(text: &str) -> Vec<VmPattern> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn groups_of_vm_managers_are_known_and_a_users_own_are_not() {
        for (group, expected) in [
            (LIBVIRT, true),
            (r"/machine.slice/machine-qemu\x2d12\x2dinstance\x2d0000000c.scope", true),
            (r"/machine-production.slice/machine-qemu\x2d1\x2dweb.scope/vcpu0", true),
            (r"/machine.slice/machine-production.slice/machine-qemu\x2d1\x2dweb.scope", true),
            ("/machine/qemu-1-web.libvirt-qemu/emulator", true),
            ("/machine/production.partition/web.libvirt-qemu", true),
            ("/qemu.slice/100.scope", true),
            // Containers, and the managers of users.
            ("/machine.slice/machine-tenant.scope/payload", false),
            ("/machine.slice/systemd-nspawn@tenant.service", false),
            (r"/machine.slice/machine-lxc\x2d1\x2dc.scope", false),
            (
                r"/user.slice/user-1000.slice/user@1000.service/machine.slice/machine-qemu\x2d1\x2dx.scope",
                false,
            ),
            ("/user.slice/qemu.slice/100.scope", false),
            (r"/machine.slice/machine-tenant.scope/machine-qemu\x2d1\x2dx.scope", false),
            ("/machine/tenant/web.libvirt-qemu", false),
            ("/lxc.payload.tenant/qemu.slice/100.scope", false),
            ("/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope", false),
            ("/qemu.slice/web.scope", false),
            ("/qemu.slice/.scope", false),
            ("/qemu.slice", false),
            ("/machine.slice", false),
            ("/", false),
            ("", false),
            (r"/../machine.slice/machine-qemu\x2d1\x2dweb.scope", false),
        ] {
            assert_eq!(is_of_vm_manager(group), expected, "{group}");
        }
    }

    #[test]
    fn a_process_counts_when_somebody_speaks_for_it() {
        let (root, alice) = (owner(0, "root"), owner(1000, "alice"));
        let groups = |group: &str| vec![group.to_owned()];
        let (plain, of_libvirt) = (groups("/user.slice/user-1000.slice/session-1.scope"), groups(LIBVIRT));
        let selection = Selection { owners: BTreeSet::from([0, 64055]), ..Selection::default() };
        for (owner, uids, cgroups, holds_vm, taken) in [
            (Some(&root), &[0, 0, 0][..], &plain, false, true),
            (Some(&alice), &[1000, 1000, 1000], &plain, false, false),
            (Some(&alice), &[64055, 64055, 64055], &plain, false, true),
            (Some(&alice), &[1000, 1000, 1000], &plain, true, true),
            (Some(&alice), &[1000, 1000, 1000], &of_libvirt, false, true),
            // A program of root with the set-user-id bit, which alice starts under any name.
            (Some(&alice), &[1000, 0, 0], &plain, false, false),
            (None, &[], &plain, false, false),
        ] {
            let facts = Facts { name: "web", owner, uids, cgroups, uuid: None, holds_vm };
            assert_eq!(selection.judge(&facts).is_ok(), taken, "{facts:?}");
        }
    }

    #[test]
    fn what_is_named_decides_and_exclusion_comes_first() {
        let uuid: Uuid = "6a8c3a1e-6e1c-4c0e-9c3c-1f0e5a6b7c8d".parse().unwrap();
        let alice = owner(1000, "alice");
        let groups = ["/user.slice/user-1000.slice/session-1.scope".to_owned()];
        let facts = Facts {
            name: "lab-1",
            owner: Some(&alice),
            uids: &[1000; 3],
            cgroups: &groups,
            uuid: Some(uuid),
            holds_vm: false,
        };
        for (text, matches) in [
            (r#"["lab-*"]"#, true),
            (r#"["lab"]"#, false),
            (r#"["lab-[2-9]"]"#, false),
            (r#"["6a8c3a1e-6e1c-4c0e-9c3c-1f0e5a6b7c8d"]"#, true),
            (r#"[{"owner":"alice"}]"#, true),
            (r#"[{"owner":"1000"}]"#, true),
            (r#"[{"owner":"alice","name":"web"}]"#, false),
            (r#"[{"cgroup":"/user.slice/*"}]"#, true),
            (r#"[{"cgroup":"/machine.slice/*"}]"#, false),
            (r#"[{"uuid":"00000000-0000-0000-0000-000000000001"}]"#, false),
        ] {
            let included = Selection { include: patterns(text), ..Selection::default() };
            assert_eq!(included.judge(&facts).is_ok(), matches, "{text}");
            let both = Selection { exclude: patterns(text), ..included };
            let why = both.judge(&facts);
            assert_eq!(matches!(why, Err(NotTaken::Excluded(_))), matches, "{text}: {why:?}");
        }
        let stranger = Selection::default().judge(&facts).unwrap_err().to_string();
        assert!(stranger.contains("user alice") && stranger.contains("[discover] owners"), "{stranger}");
    }

    #[test]
    fn patterns_that_cannot_be_are_refused_in_words() {
        for (text, word) in [
            (r#"["a["]"#, "is no pattern"),
            (r#"[""]"#, "empty"),
            ("[{}]", "none of name"),
            (r#"[{"nmae":"a"}]"#, "nmae"),
            (r#"[{"uuid":"x"}]"#, "UUID"),
            ("[7]", "a name, or a table"),
        ] {
            let error = serde_json::from_str::<Vec<VmPattern>>(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_group_below_a_users_slice_is_a_managers(below in "[a-z/.\\\\x2d-]{0,60}") {
            let group = format!("/user.slice/{below}");
            prop_assert!(!is_of_vm_manager(&group));
            // Any text is survived.
            let _ = is_of_vm_manager(&below);
        }
    }
}
