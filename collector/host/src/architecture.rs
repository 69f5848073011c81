//! What kind of processor the host has, and what differs with it: whether KVM is a module, what monitors its
//! caches, how exits from guests are numbered. The one place that knows; what is read of a processor is in the
//! readers.

use huddle_model::exits::ExitNumbering;

use super::{HostRoot, cpuinfo};

/// The architecture of a host, by what its `/proc/cpuinfo` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86, of 32 or 64 bits.
    X86,
    /// ARM.
    Arm64,
    /// Another one, or `/proc/cpuinfo` cannot be read.
    Unknown,
}

impl Architecture {
    /// That of this host. x86 has `flags` and a `vendor_id` with a family (arch/x86/kernel/cpu/proc.c), ARM a `CPU
    /// implementer` (arch/arm64/kernel/cpuinfo.c, Linux 6.18).
    pub fn of(root: &HostRoot) -> Self {
        match cpuinfo::read(root) {
            Ok(info) if info.is_arm() => Self::Arm64,
            Ok(info) if info.processor().is_some() || info.field("flags").is_some() => Self::X86,
            Ok(_) | Err(_) => Self::Unknown,
        }
    }

    /// How this host numbers the reasons of exits from guests; `None` where that is not known.
    pub fn exit_numbering(root: &HostRoot) -> Option<ExitNumbering> {
        match Self::of(root) {
            Self::Arm64 => Some(ExitNumbering::Arm64),
            Self::Unknown => None,
            // KVM takes the one that the processor has (arch/x86/kvm/vmx/vmx.c and svm/svm.c, Linux 6.18).
            Self::X86 => {
                let info = cpuinfo::read(root).ok()?;
                let has =
                    |flag: &str| info.field("flags")?.split_ascii_whitespace().find(|word| *word == flag);
                match (has("vmx"), has("svm")) {
                    (Some(_), None) => Some(ExitNumbering::Vmx),
                    (None, Some(_)) => Some(ExitNumbering::Svm),
                    _ => None,
                }
            }
        }
    }

    /// Why there is no KVM, and what to do, as one clause. On ARM64 it is a part of the kernel and no module (`config
    /// KVM` is a bool in arch/arm64/kvm/Kconfig, Linux 6.18), and works only where the kernel was started at EL2.
    pub fn without_kvm(self) -> &'static str {
        match self {
            Self::X86 => {
                "KVM is not loaded; run `modprobe kvm_intel` or `modprobe kvm_amd`, or there are no KVM VMs on this host"
            }
            Self::Arm64 => {
                "KVM is not loaded: the kernel lacks CONFIG_KVM, or was not started at EL2 (as in a VM without nested \
                 virtualisation); there are no KVM VMs on this host"
            }
            Self::Unknown => "KVM is not loaded; load it, or there are no KVM VMs on this host",
        }
    }

    /// How to get KVM.
    pub fn kvm_remedy(self) -> &'static str {
        match self {
            Self::X86 => "load kvm_intel or kvm_amd; in a cloud VM choose a type with nested virtualisation",
            Self::Arm64 => {
                "boot a kernel with CONFIG_KVM=y at EL2: on bare metal, or in a VM with nested virtualisation; it is no \
                 module"
            }
            Self::Unknown => "use a kernel with KVM; in a cloud VM choose a type with nested virtualisation",
        }
    }

    /// How to get KVM's tracepoints.
    pub fn kvm_tracepoints_remedy(self) -> &'static str {
        match self {
            Self::X86 => {
                "run huddle as root, with KVM loaded (modprobe kvm_intel or kvm_amd) and tracefs mounted"
            }
            Self::Arm64 => {
                "run huddle as root, on a kernel with CONFIG_KVM=y started at EL2, and with tracefs mounted"
            }
            Self::Unknown => "run huddle as root, with KVM loaded and tracefs mounted",
        }
    }

    /// How to get resctrl, which has other names with each maker: RDT and PQoS on x86 (`X86_CPU_RESCTRL`,
    /// arch/x86/Kconfig), MPAM on ARM (`ARM64_MPAM_RESCTRL_FS`, drivers/resctrl/Kconfig).
    pub fn resctrl_remedy(self) -> &'static str {
        match self {
            Self::X86 => {
                "use bare metal with RDT (Intel) or PQoS (AMD), and a kernel with CONFIG_X86_CPU_RESCTRL=y"
            }
            Self::Arm64 => {
                "use bare metal with MPAM, and a kernel with CONFIG_ARM64_MPAM=y and CONFIG_RESCTRL_FS=y \
                 (CONFIG_ARM64_MPAM_RESCTRL_FS)"
            }
            Self::Unknown => "use bare metal whose processor monitors its caches, and a kernel with resctrl",
        }
    }

    /// What a processor needs so that resctrl monitors something.
    pub fn monitoring_remedy(self) -> &'static str {
        match self {
            Self::X86 => "run huddle as root, on a processor with RDT or PQoS",
            Self::Arm64 => "run huddle as root, on a processor whose caches have MPAM's monitors",
            Self::Unknown => "run huddle as root, on a processor that monitors its caches",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: &str = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nflags\t\t: fpu vmx lm\n";
    const AMD: &str = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nflags\t\t: fpu svm lm\n";
    const GUEST: &str =
        "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nflags\t\t: fpu hypervisor\n";
    const NEOVERSE: &str = "processor\t: 0\nBogoMIPS\t: 125.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n\
        CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0c\nCPU revision\t: 1\n";
    const S390: &str = "vendor_id       : IBM/S390\n# processors    : 2\nfeatures\t: esan3 zarch\n";

    fn host(cpuinfo: &str) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("")).unwrap();
        std::fs::write(root.proc("cpuinfo"), cpuinfo).unwrap();
        (dir, root)
    }

    #[test]
    fn each_architecture_is_known_by_its_own_fields() {
        for (cpuinfo, architecture, numbering) in [
            (INTEL, Architecture::X86, Some(ExitNumbering::Vmx)),
            (AMD, Architecture::X86, Some(ExitNumbering::Svm)),
            (GUEST, Architecture::X86, None),
            (NEOVERSE, Architecture::Arm64, Some(ExitNumbering::Arm64)),
            (S390, Architecture::Unknown, None),
            ("", Architecture::Unknown, None),
        ] {
            let (_dir, root) = host(cpuinfo);
            assert_eq!(Architecture::of(&root), architecture, "{cpuinfo}");
            assert_eq!(Architecture::exit_numbering(&root), numbering, "{cpuinfo}");
        }
        assert_eq!(Architecture::of(&HostRoot::at(std::path::Path::new("/nowhere"))), Architecture::Unknown);
    }

    #[test]
    fn remedies_of_arm_name_nothing_of_x86() {
        let arm = Architecture::Arm64;
        let all = [
            arm.without_kvm(),
            arm.kvm_remedy(),
            arm.kvm_tracepoints_remedy(),
            arm.resctrl_remedy(),
            arm.monitoring_remedy(),
        ];
        for text in all {
            for word in ["modprobe", "kvm_intel", "kvm_amd", "X86", "RDT", "PQoS"] {
                assert!(!text.contains(word), "{word}: {text}");
            }
        }
        assert!(arm.resctrl_remedy().contains("MPAM"));
    }

    #[test]
    fn this_host_has_the_architecture_it_was_built_for() {
        let expected = match std::env::consts::ARCH {
            "x86_64" => Architecture::X86,
            "aarch64" => Architecture::Arm64,
            _ => Architecture::Unknown,
        };
        assert_eq!(Architecture::of(&HostRoot::real()), expected);
    }
}
