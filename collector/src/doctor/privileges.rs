//! What this process may do.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Finding, Item};
use huddle_host::status::{self, Capability};
use huddle_host::{HostRoot, page};

const AREA: &str = "privileges";

pub(super) fn examine(root: &HostRoot) -> Vec<Finding> {
    // A page that is surely in memory: it was just written.
    let page = vec![1u8; 4096];
    let mut findings = vec![frames(root, page.as_ptr() as u64)];
    std::hint::black_box(page);
    let capabilities = [
        (
            Item { area: AREA, item: "privilege.ptrace" },
            Capability::SysPtrace,
            "memory and descriptors of other users' VMs are not seen, so such VMs are not found",
        ),
        (
            Item { area: AREA, item: "privilege.files" },
            Capability::DacReadSearch,
            "memory and descriptors of other users' VMs cannot be opened, so such VMs are not found",
        ),
        (
            Item { area: AREA, item: "privilege.nice" },
            Capability::SysNice,
            "vCPUs of other users' VMs cannot be pinned",
        ),
    ];
    let own = status::own(root);
    let remedy = match nix::unistd::geteuid().is_root() {
        true => "grant it to the service or container of huddle (a dry run needs none, and gives it up)",
        false => "run huddle as root",
    };
    findings.extend(capabilities.map(|(item, capability, without)| match &own {
        Ok(status) if status.has(capability) => {
            item.good(capability.name(), "VMs of all users are within reach")
        }
        Ok(_) => item.missing(format!("no {}", capability.name()), without, Some(remedy)),
        Err(error) => item.unknown(error),
    }));
    findings
}

/// Whether the kernel reports the frames of pages: without CAP_SYS_ADMIN it shows frame 0 everywhere
/// (Documentation/admin-guide/mm/pagemap.rst, Linux 6.18). Tried on a page of this process.
fn frames(root: &HostRoot, address: u64) -> Finding {
    let item = Item { area: AREA, item: "privilege.frames" };
    const REMEDY: &str = "run huddle as root (or with CAP_SYS_ADMIN in the initial user namespace)";
    const MEANING: &str =
        "which pages VMs share cannot be measured; matrix, plan, pin and run refuse to work";
    let path = root.proc("self/pagemap");
    match pagemap_entry(&path, address) {
        Ok(entry) if entry >> 63 == 0 => {
            item.missing("the kernel says that a page just written is not in memory", MEANING, None)
        }
        // Bits 0 to 54 are the frame.
        Ok(entry) if entry & ((1 << 55) - 1) == 0 => {
            item.missing("no CAP_SYS_ADMIN: the kernel shows frame 0 for every page", MEANING, Some(REMEDY))
        }
        Ok(_) => item.good("CAP_SYS_ADMIN, frames are shown", "what VMs share can be measured"),
        Err(error) => item.missing(format!("cannot read {}: {error}", path.display()), MEANING, Some(REMEDY)),
    }
}

fn pagemap_entry(path: &std::path::Path, address: u64) -> io::Result<u64> {
    let page_size = page::size().bytes();
    let mut entry = [0; 8];
    File::open(path)?.read_exact_at(&mut entry, address / page_size * 8)?;
    Ok(u64::from_ne_bytes(entry))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::fixture::{Tree, find};
    use super::*;

    #[test]
    fn frames_are_good_only_when_one_is_seen() {
        for (entry, state, word) in [
            (1 << 63 | 0x1234, State::Good, "shown"),
            (1 << 63, State::Missing, "frame 0"),
            (0u64, State::Missing, "not in memory"),
        ] {
            let tree = Tree::new(&[]);
            tree.write("proc/self/pagemap", [[0; 8], entry.to_ne_bytes()].concat());
            let finding = frames(&tree.root, 4096);
            assert_eq!(finding.state, state);
            assert!(finding.value.contains(word), "{finding:?}");
        }
        let finding = frames(&Tree::new(&[]).root, 4096);
        assert!(finding.state == State::Missing && finding.value.contains("self/pagemap"), "{finding:?}");
    }

    #[test]
    fn capabilities_are_read_one_by_one() {
        for (capabilities, ptrace, nice) in [
            ("000001ffffffffff", State::Good, State::Good),
            ("0000000000080000", State::Good, State::Missing),
            ("0000000000000000", State::Missing, State::Missing),
            ("damage", State::Missing, State::Missing),
        ] {
            let text = format!("CapEff:\t{capabilities}\nCpus_allowed_list:\t0\n");
            let tree = Tree::new(&[("proc/self/status", &text)]);
            assert_eq!(find(examine(&tree.root), "privilege.ptrace").state, ptrace, "{capabilities}");
            assert_eq!(find(examine(&tree.root), "privilege.nice").state, nice, "{capabilities}");
        }
    }
}
