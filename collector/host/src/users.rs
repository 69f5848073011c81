//! Names of users, from `/etc/passwd` and nothing else: the name service may ask a network for each name, and runs
//! code that others configured. Users that are not in the file are known by their numbers.

use std::collections::BTreeMap;

use huddle_model::vm::Owner;

use super::{HostError, HostRoot, optional, read_at_most};

/// Longest file that is read: tens of thousands of users.
const MAX_BYTES: usize = 4 << 20;

/// Users under which VM managers run VMs, where the host has them: libvirt's on Debian (libvirt-qemu) and elsewhere
/// (qemu), OpenStack's (nova), OpenNebula's (oneadmin), oVirt's (vdsm), those that LXD and Incus drop to.
pub const VM_USERS: [&str; 7] = ["libvirt-qemu", "qemu", "nova", "oneadmin", "vdsm", "lxd", "incus"];

/// The users of a host.
#[derive(Clone, Debug, Default)]
pub struct Users {
    names: BTreeMap<u32, String>,
    numbers: BTreeMap<String, u32>,
}

impl Users {
    /// Reads the host's users; there are none where there is no file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(root: &HostRoot) -> Result<Self, HostError> {
        let bytes = optional(read_at_most(&root.etc("passwd"), MAX_BYTES))?.unwrap_or_default();
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// `NAME:PASSWORD:UID:..` (passwd(5)); of several lines with one name or number the first counts, as for
    /// getpwnam(3). Lines that are none are passed over.
    fn parse(text: &str) -> Self {
        let mut users = Self::default();
        for line in text.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else { continue };
            let Ok(uid) = uid.parse::<u32>() else { continue };
            if !name.is_empty() {
                users.names.entry(uid).or_insert_with(|| name.to_owned());
                users.numbers.entry(name.to_owned()).or_insert(uid);
            }
        }
        users
    }

    /// The user of a number.
    pub fn owner(&self, uid: u32) -> Owner {
        Owner { uid, name: self.names.get(&uid).cloned() }
    }

    /// The number of a user that is given by name or number.
    pub fn uid(&self, user: &str) -> Option<u32> {
        self.numbers.get(user).copied().or_else(|| user.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_and_others_are_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        assert_eq!(Users::read(&root).unwrap().owner(0), Owner { uid: 0, name: None });
        std::fs::create_dir_all(root.etc("")).unwrap();
        let text = "root:x:0:0::/root:/bin/sh\ntoor:x:0:0\nqemu:x:107:107::/:/nologin\n+::::\nx:y\n:x:5:5\nb:x:-1:\n";
        std::fs::write(root.etc("passwd"), text).unwrap();
        let users = Users::read(&root).unwrap();
        assert_eq!(users.owner(0).to_string(), "root");
        assert_eq!((users.uid("toor"), users.uid("qemu"), users.uid("107")), (Some(0), Some(107), Some(107)));
        assert_eq!((users.uid("nobody"), users.uid(""), users.uid("-1")), (None, None, None));
        assert_eq!(users.owner(5), Owner { uid: 5, name: None });
    }
}
