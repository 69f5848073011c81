//! Moves as commands of libvirt and of Proxmox, to be read before they are run. Names of VMs and hosts are written by
//! others, so a command has only what was checked; what cannot be a command is a comment that says why.

use super::propose::{ProposedMove, ProposedMoves};
use crate::text::clean;

impl ProposedMoves {
    /// A script of `virsh`: one live migration a line, in order.
    pub(super) fn virsh(&self) -> String {
        self.script("Live migrations by libvirt, in an order in which each has room.", |one| {
            let uuid = domain(one)?;
            let [from, to] = [address(&one.from)?, address(&one.to)?];
            Ok(format!(
                "virsh --connect qemu+ssh://{from}/system migrate --live --persistent --undefinesource -- {uuid} \
                 qemu+ssh://{to}/system"
            ))
        })
    }

    /// A list of Proxmox's `qm`: one live migration a line, in order, each for the host that the line above it names.
    pub(super) fn qm(&self) -> String {
        self.script(
            "Live migrations by Proxmox, in an order in which each has room; each on the host above it.",
            |one| {
                let id = vmid(one)?;
                let [from, to] = [node(&one.from)?, node(&one.to)?];
                Ok(format!("# on {from}:\nqm migrate {id} {to} --online"))
            },
        )
    }

    fn script(&self, title: &str, command: impl Fn(&ProposedMove) -> Result<String, String>) -> String {
        let mut script = format!("#!/bin/sh\n# {title} Read it before you run it.\nset -e\n");
        for sentence in &self.left_out {
            script += &format!("# left out: {}\n", clean(sentence));
        }
        let mut is_whole = true;
        for (number, one) in self.moves.iter().enumerate() {
            match command(one) {
                Ok(line) => script += &format!("{line}\n"),
                Err(why) => {
                    is_whole = false;
                    let (vm, from, to) = (clean(&one.vm), clean(&one.from), clean(&one.to));
                    let number = number + 1;
                    script +=
                        &format!("# left out: move {number}, VM {vm:?} from {from:?} to {to:?}: {why}\n");
                }
            }
        }
        if !is_whole {
            script +=
                "# Without what is left out, other moves may lack room, and bring less than was said.\n";
        }
        script
    }
}

/// The UUID by which libvirt knows a VM.
fn domain(one: &ProposedMove) -> Result<&str, String> {
    if one.vm_kind.as_deref() == Some("xen_domain") {
        return Err("it is a domain of Xen, which its own toolstack migrates (`xl migrate`)".to_owned());
    }
    let uuid = one.uuid.as_deref().ok_or("it has no UUID, so it is not known to be a domain of libvirt")?;
    let is_uuid = uuid.len() == 36 && uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if is_uuid { Ok(uuid) } else { Err("its UUID is none".to_owned()) }
}

/// The number by which Proxmox knows a VM.
fn vmid(one: &ProposedMove) -> Result<u32, String> {
    one.vmid.ok_or_else(|| "it has no number of Proxmox VE".to_owned())
}

/// A host's name as an address of SSH: letters, digits and `.-_:`, no sign before.
fn address(host: &str) -> Result<&str, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    let is_address = !host.is_empty() && !host.starts_with('-') && host.bytes().all(is_plain);
    if is_address { Ok(host) } else { Err(format!("{:?} is no name of a host", clean(host))) }
}

/// A host's name as a node of Proxmox: letters, digits and `-`.
fn node(host: &str) -> Result<&str, String> {
    let is_node = !host.contains(['.', '_', ':']);
    address(host).ok().filter(|_| is_node).ok_or_else(|| format!("{:?} is no name of a node", clean(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_address_or_refused() {
        for (name, is_address, is_node) in [
            ("host-1", true, true),
            ("host.example.org", true, false),
            ("", false, false),
            ("-oProxyCommand=reboot", false, false),
            ("a b", false, false),
            ("h;reboot", false, false),
            ("h'", false, false),
            ("h/../x", false, false),
            ("user@h", false, false),
        ] {
            assert_eq!((address(name).is_ok(), node(name).is_ok()), (is_address, is_node), "{name:?}");
        }
    }
}
