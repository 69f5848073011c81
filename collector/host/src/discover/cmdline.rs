//! What a VMM's command line says: the name, the UUID and the VMID of its VM, and its QMP sockets. Pure.

use std::path::{Path, PathBuf};

use super::config_file::MAX_FILES;
use huddle_model::text::plain_short;
use huddle_model::vm::{Uuid, VmmKind};

/// The arguments in the text of `/proc/PID/cmdline`: each ends with a NUL (proc_pid_cmdline(5)).
pub fn args(text: &str) -> Vec<String> {
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// What is kept of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The name of the VM.
    pub name: Option<String>,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// Its number in Proxmox VE.
    pub vmid: Option<u32>,
    /// QMP sockets that the process listens on, as paths in its own view.
    pub monitors: Vec<PathBuf>,
    /// Configuration files, which may name further ones.
    pub configs: ConfigFiles,
    /// Whether it makes no machine, and so no VM.
    pub is_without_machine: bool,
}

impl CommandLine {
    /// What these arguments of a VMM say.
    pub fn of(kind: VmmKind, args: &[String]) -> Self {
        Self {
            name: vm_name(kind, args),
            uuid: vm_uuid(kind, args),
            vmid: vm_vmid(kind, args),
            monitors: if is_qemu(kind) { qmp_sockets(args) } else { Vec::new() },
            configs: if is_qemu(kind) { ConfigFiles::of(args) } else { ConfigFiles::default() },
            is_without_machine: is_qemu(kind) && is_without_machine(args),
        }
    }
}

/// Configuration files of QEMU, and the options that they complete or that complete them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFiles {
    /// `-readconfig FILE` (qemu(1)), as paths in the process's own view.
    pub paths: Vec<PathBuf>,
    /// The options about monitors on the command line; none without a file.
    pub args: Vec<String>,
}

impl ConfigFiles {
    fn of(args: &[String]) -> Self {
        let paths: Vec<PathBuf> = values(args, "-readconfig").take(MAX_FILES).map(PathBuf::from).collect();
        if paths.is_empty() {
            return Self::default();
        }
        let option = |name: &'static str| {
            values(args, name).flat_map(move |value| [name.to_owned(), value.to_owned()])
        };
        let args = ["-qmp", "-qmp-pretty", "-mon", "-chardev"].into_iter().flat_map(option).collect();
        Self { paths, args }
    }
}

/// Longest name that is kept, in bytes; huddle's own limit is lower.
const MAX_NAME_BYTES: usize = 4096;

/// Whether QEMU is only asked what it can do: `-machine none` (or `-M none`) makes a machine without CPUs and without
/// memory, as libvirt and others start it to probe (qemu(1)). Of several `-machine` the last type counts.
pub fn is_without_machine(args: &[String]) -> bool {
    let types = values_of(args, &["-machine", "-M"]).filter_map(|machine| option(machine, "type", true));
    types.last().as_deref() == Some("none")
}

fn is_qemu(kind: VmmKind) -> bool {
    matches!(kind, VmmKind::QemuKvm | VmmKind::QemuTcg)
}

/// The name that the command line gives to the VM; `None` where it gives none.
///
/// QEMU: `-name guest=NAME,..` or `-name NAME,..` (qemu(1)); Firecracker: `--id`; cloud-hypervisor:
/// the file name of `--api-socket`; crosvm: `--name`. It is plain text ([`plain_short`]).
pub fn vm_name(kind: VmmKind, args: &[String]) -> Option<String> {
    let name = match kind {
        VmmKind::QemuKvm | VmmKind::QemuTcg => {
            let value = values(args, "-name").last()?;
            Some(option(value, "guest", true)?)
        }
        VmmKind::Firecracker => values(args, "--id").last().map(str::to_owned),
        VmmKind::CloudHypervisor => {
            let value = values(args, "--api-socket").last()?;
            let path = option(value, "path", true)?;
            Some(Path::new(&path).file_stem()?.to_str()?.to_owned())
        }
        VmmKind::Crosvm => values(args, "--name").last().map(str::to_owned),
        VmmKind::OtherKvm | VmmKind::Process | VmmKind::Cgroup => None,
        // Not found by its command line.
        VmmKind::XenPv | VmmKind::XenPvh | VmmKind::XenHvm | VmmKind::Xen | VmmKind::Unknown => None,
    }?;
    let name = plain_short(&name, MAX_NAME_BYTES);
    (!name.trim().is_empty()).then_some(name)
}

/// The UUID that the command line gives to the VM; `None` where it gives none.
///
/// QEMU alone: `-uuid UUID`, with one dash or two (qemu(1)); libvirt always passes it. QEMU knows no `-uuid=UUID`
/// (`lookup_opt`, system/vl.c), takes the last of several, and no other form than 36 characters with hyphens
/// (`qemu_uuid_parse`, util/uuid.c; both QEMU 10).
pub fn vm_uuid(kind: VmmKind, args: &[String]) -> Option<Uuid> {
    let last = last_of(kind, args, "uuid")?;
    Uuid::try_parse(last).ok().filter(|_| last.len() == uuid_length())
}

/// The number that Proxmox VE gives to its VMs (VMID): `-id NUMBER`, an option that only its QEMU has. It starts VMs
/// with numbers from 100 to 999,999,999, without leading zeros (`pve-vmid`, PVE::JSONSchema).
pub fn vm_vmid(kind: VmmKind, args: &[String]) -> Option<u32> {
    let last = last_of(kind, args, "id")?;
    let number: u32 = last.parse().ok().filter(|number| VMIDS.contains(number))?;
    (number.to_string() == *last).then_some(number)
}

/// VMIDs of Proxmox VE.
const VMIDS: std::ops::RangeInclusive<u32> = 100..=999_999_999;

/// The value of the last `-OPTION VALUE` of QEMU, with one dash or two.
fn last_of<'a>(kind: VmmKind, args: &'a [String], option: &str) -> Option<&'a String> {
    let is_option = |arg: &str| {
        let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'));
        name == Some(option)
    };
    let pair = args.windows(2).rev().find(|pair| is_option(&pair[0])).filter(|_| is_qemu(kind))?;
    Some(&pair[1])
}

/// Characters of a UUID with its hyphens.
const fn uuid_length() -> usize {
    "00000000-0000-0000-0000-000000000000".len()
}

/// The unix sockets on which QEMU listens for QMP, as paths in its own view: `-qmp unix:PATH,server=on,..`, and
/// `-chardev socket,id=ID,path=PATH,server=on,..` that a `-mon ..,mode=control` names. Without `server` QEMU is a
/// client of another program's socket (qemu(1)).
pub fn qmp_sockets(args: &[String]) -> Vec<PathBuf> {
    let mut sockets = Vec::new();
    for value in values(args, "-qmp").chain(values(args, "-qmp-pretty")) {
        if let Some(path) = value.strip_prefix("unix:").filter(|path| is_on(path, "server")) {
            sockets.extend(option(path, "path", true));
        }
    }
    for monitor in values(args, "-mon") {
        if option(monitor, "mode", false).as_deref() != Some("control") {
            continue;
        }
        let Some(id) = option(monitor, "chardev", true) else { continue };
        let chardev = values(args, "-chardev").find(|chardev| {
            option(chardev, "backend", true).as_deref() == Some("socket")
                && option(chardev, "id", false).as_deref() == Some(id.as_str())
        });
        let chardev = chardev.filter(|chardev| is_on(chardev, "server"));
        sockets.extend(chardev.and_then(|chardev| option(chardev, "path", false)));
    }
    sockets.into_iter().map(PathBuf::from).collect()
}

/// The values of an option, given as `-x VALUE` or `-x=VALUE`, with one dash or two.
fn values<'a>(args: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    args.iter().enumerate().filter_map(move |(at, _)| value_at(args, at, option))
}

/// The values of any of these options, in the order of the command line.
fn values_of<'a>(args: &'a [String], options: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    (0..args.len()).filter_map(move |at| options.iter().find_map(|option| value_at(args, at, option)))
}

fn value_at<'a>(args: &'a [String], at: usize, option: &str) -> Option<&'a str> {
    let arg = &args[at];
    let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    match name.strip_prefix(option.trim_start_matches('-'))? {
        "" => args.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    }
}

/// The value of `key` in QEMU's `a,b=c,..`, where `,,` stands for a comma; with `implied`, a first
/// part without a key is the value.
fn option(text: &str, key: &str, implied: bool) -> Option<String> {
    // No argument can hold a NUL, so it can stand for the doubled comma.
    let text = text.replace(",,", "\0");
    let mut parts = text.split(',');
    let value = |part: &str| {
        let (name, value) = part.split_once('=')?;
        (name == key).then(|| value.replace('\0', ","))
    };
    if implied
        && let Some(first) = text.split(',').next()
        && !first.contains('=')
        && !first.is_empty()
    {
        return Some(first.replace('\0', ","));
    }
    parts.find_map(value)
}

/// Whether a switch is on, as `KEY`, `KEY=on` and what else QEMU takes for that (`qapi_bool_parse`, QEMU 10).
fn is_on(text: &str, key: &str) -> bool {
    let text = text.replace(",,", "\0");
    // A first part without a key is a path or a backend, whatever it is called.
    let is_implied = |at: usize, part: &str| at == 0 && !part.contains('=');
    let parts = text.split(',').enumerate().filter(|(at, part)| !is_implied(*at, part));
    let given = parts.filter_map(|(_, part)| match part.split_once('=') {
        Some((name, value)) => (name == key).then_some(matches!(value, "on" | "yes" | "true" | "y")),
        None => (part == key).then_some(true),
    });
    given.last().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use huddle_model::text::is_plain;
    use proptest::prelude::*;

    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn names_are_read_as_each_vmm_gives_them() {
        for (kind, line, name) in [
            (VmmKind::QemuKvm, "qemu -name guest=web,debug-threads=on -m 1", Some("web")),
            (VmmKind::QemuTcg, "qemu -m 1 -name web,debug-threads=on", Some("web")),
            (VmmKind::QemuTcg, "qemu -name debug-threads=on,guest=a,,b", Some("a,b")),
            (VmmKind::QemuTcg, "qemu --name web", Some("web")),
            (VmmKind::QemuTcg, "qemu -name", None),
            (VmmKind::QemuTcg, "qemu -name guest=", None),
            (VmmKind::QemuTcg, "qemu -named x", None),
            (VmmKind::QemuTcg, "qemu -name a\x1b[2J", Some("a\\u{1b}[2J")),
            (VmmKind::Firecracker, "firecracker --id web --api-sock /x", Some("web")),
            (VmmKind::Firecracker, "firecracker --id=web", Some("web")),
            (VmmKind::Firecracker, "firecracker --api-sock /x", None),
            (VmmKind::CloudHypervisor, "cloud-hypervisor --api-socket path=/run/web.sock", Some("web")),
            (VmmKind::CloudHypervisor, "cloud-hypervisor --api-socket /run/web.sock", Some("web")),
            (VmmKind::CloudHypervisor, "cloud-hypervisor --api-socket fd=3", None),
            (VmmKind::Crosvm, "crosvm run --name web bzImage", Some("web")),
            (VmmKind::OtherKvm, "lkvm run --name web", None),
        ] {
            assert_eq!(vm_name(kind, &args(line)).as_deref(), name, "{line:?}");
        }
    }

    #[test]
    fn qmp_sockets_are_found_and_other_monitors_are_not() {
        for (line, paths) in [
            ("qemu -qmp unix:/run/q.sock,server=on,wait=off", &["/run/q.sock"][..]),
            ("qemu -qmp unix:path=q,,1.sock,server", &["q,1.sock"]),
            // As a client of somebody else's socket.
            ("qemu -qmp unix:/run/q.sock", &[]),
            ("qemu -qmp unix:/run/q.sock,server=off", &[]),
            ("qemu -qmp unix:server", &[]),
            ("qemu -chardev socket,id=x,path=/q -mon chardev=x,mode=control", &[]),
            ("qemu -chardev socket,id=x,path=/q,server=off -mon chardev=x,mode=control", &[]),
            ("qemu -chardev socket,id=x,path=/q,server,nowait -mon chardev=x,mode=control", &["/q"]),
            ("qemu -qmp tcp:localhost:4444,server", &[]),
            ("qemu -qmp stdio", &[]),
            ("qemu -chardev socket,id=m,path=/q,server=on -mon chardev=m,id=x,mode=control", &["/q"]),
            ("qemu -chardev socket,id=m,path=/q,server=on -mon chardev=m,mode=readline", &[]),
            ("qemu -chardev socket,id=m,path=/q,server=yes -mon m,mode=control", &["/q"]),
            ("qemu -chardev socket,id=m,fd=3 -mon chardev=m,mode=control", &[]),
            ("qemu -chardev stdio,id=m -mon chardev=m,mode=control", &[]),
        ] {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            assert_eq!(qmp_sockets(&args(line)), paths, "{line:?}");
        }
    }

    #[test]
    fn configuration_files_are_known_with_the_options_about_monitors() {
        let files = |line: &str| CommandLine::of(VmmKind::QemuKvm, &args(line)).configs;
        let found = files("qemu -m 1 -readconfig /etc/vm.cfg -mon chardev=m,mode=control --readconfig b.cfg");
        assert_eq!(found.paths, ["/etc/vm.cfg", "b.cfg"].map(PathBuf::from));
        assert_eq!(found.args, ["-mon", "chardev=m,mode=control"]);
        assert_eq!(files("qemu -mon chardev=m -readconfig"), ConfigFiles::default());
        assert_eq!(files(&"-readconfig x ".repeat(99)).paths.len(), MAX_FILES);
    }

    #[test]
    fn a_machine_that_is_none_is_known() {
        for (line, expected) in [
            ("qemu -machine none", true),
            ("qemu -M none,accel=kvm:tcg -qmp stdio", true),
            ("qemu -machine type=none", true),
            ("qemu -machine accel=tcg,type=none", true),
            ("qemu -machine none -machine pc", false),
            ("qemu -M none -machine pc", false),
            ("qemu -machine pc -M none", true),
            ("qemu -machine none -machine accel=tcg", true),
            ("qemu -machine pc,usb=none", false),
            ("qemu -m 1", false),
            ("qemu -name none", false),
        ] {
            assert_eq!(is_without_machine(&args(line)), expected, "{line:?}");
            assert_eq!(CommandLine::of(VmmKind::QemuTcg, &args(line)).is_without_machine, expected);
            assert!(!CommandLine::of(VmmKind::Firecracker, &args(line)).is_without_machine);
        }
    }

    #[test]
    fn uuids_are_read_as_qemu_reads_them() {
        let uuid = "6a8c3a1e-6e1c-4c0e-9c3c-1f0e5a6b7c8d";
        let other = "00000000-0000-0000-0000-000000000001";
        for (line, found) in [
            (format!("qemu -name guest=web -uuid {uuid} -m 1"), Some(uuid)),
            (format!("qemu --uuid {}", uuid.to_uppercase()), Some(uuid)),
            (format!("qemu -uuid {other} -uuid {uuid}"), Some(uuid)),
            // What QEMU does not start with.
            (format!("qemu -uuid={uuid}"), None),
            (format!("qemu -uuid {}", uuid.replace('-', "")), None),
            (format!("qemu -uuid {{{uuid}}}"), None),
            (format!("qemu -uuid urn:uuid:{uuid}"), None),
            ("qemu -uuid web".to_owned(), None),
            ("qemu -uuid".to_owned(), None),
            ("qemu -m 1".to_owned(), None),
        ] {
            let expected = found.map(|found| found.parse().unwrap());
            assert_eq!(vm_uuid(VmmKind::QemuKvm, &args(&line)), expected, "{line:?}");
            assert_eq!(vm_uuid(VmmKind::Firecracker, &args(&line)), None);
        }
    }

    #[test]
    fn vmids_are_read_as_proxmox_gives_them() {
        for (line, found) in [
            ("kvm -id 100 -name web,debug-threads=on", Some(100)),
            ("kvm -id 999999999", Some(999_999_999)),
            ("kvm -id 100 -id 101", Some(101)),
            ("kvm -id 99", None),
            ("kvm -id 1000000000", None),
            ("kvm -id 0100", None),
            ("kvm -id +100", None),
            ("kvm -id -100", None),
            ("kvm -id 100;reboot", None),
            ("kvm -id=100", None),
            ("kvm -device x,id=100", None),
            ("kvm -id", None),
        ] {
            assert_eq!(vm_vmid(VmmKind::QemuKvm, &args(line)), found, "{line:?}");
            assert_eq!(vm_vmid(VmmKind::Firecracker, &args(line)), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(
            text in "(-name|-uuid|-id|-qmp|-mon|-chardev|--id|--api-socket|[a-z=:,\\-\\x00]|.){0,30}",
        ) {
            let args = super::args(&text);
            for kind in [
                VmmKind::QemuKvm, VmmKind::Firecracker, VmmKind::CloudHypervisor, VmmKind::Crosvm,
            ] {
                let name = vm_name(kind, &args);
                prop_assert!(name.is_none_or(|name| name.chars().all(is_plain) && !name.trim().is_empty()));
                let _ = vm_uuid(kind, &args);
                prop_assert!(vm_vmid(kind, &args).is_none_or(|vmid| VMIDS.contains(&vmid)));
            }
            prop_assert!(qmp_sockets(&args).len() <= args.len());
        }

        #[test]
        fn any_uuid_is_read(uuid in any::<u128>()) {
            let uuid = Uuid::from_u128(uuid);
            let args = ["qemu".to_owned(), "-uuid".into(), uuid.to_string()];
            prop_assert_eq!(vm_uuid(VmmKind::QemuTcg, &args), Some(uuid));
        }

        #[test]
        fn any_name_survives_qemus_escaping(name in "[^\\x00-\\x20,=\u{7f}-\u{a0}][^\\x00-\\x1f\u{7f}-\u{9f}]{0,30}[a-z]") {
            prop_assume!(name.chars().all(is_plain));
            let value = format!("guest={},debug-threads=on", name.replace(',', ",,"));
            let args = ["qemu".to_owned(), "-name".into(), value];
            prop_assert_eq!(vm_name(VmmKind::QemuTcg, &args), Some(name));
        }
    }
}
