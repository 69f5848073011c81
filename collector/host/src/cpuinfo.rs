//! What kind of processor this is: `/proc/cpuinfo` (proc(5), Linux 6.18).
//!
//! The parser is our own: procfs-core 0.18 ends a value at its second colon, and a hypervisor may put
//! any text into a CPU's name; it also parses every CPU where the first is asked for
//! (docs/decisions/procfs.md).

use super::arm_core::ArmCore;
use super::{HostError, HostRoot, read_text};

/// The file, as far as it is the same for all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuInfo {
    text: String,
}

/// Vendor, family and model of the first CPU, as x86 has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// `vendor_id`.
    pub vendor: String,
    /// `cpu family`.
    pub family: u32,
    /// `model`.
    pub model: u32,
}

/// Reads it.
pub fn read(root: &HostRoot) -> Result<CpuInfo, HostError> {
    Ok(CpuInfo { text: read_text(&root.proc("cpuinfo"))? })
}

impl CpuInfo {
    /// The value of a field, of the first CPU that has it; `None` where no CPU has it, or an empty one.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.text.lines().filter_map(|line| line.split_once(':'));
        let mut values = fields.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
        values.find(|value| !value.is_empty())
    }

    /// The name of the processor: `model name` on x86, implementer and part of each kind of cores on ARM; other
    /// architectures say less.
    pub fn model_name(&self) -> Option<String> {
        let cores = self.arm_cores();
        if !cores.is_empty() {
            return Some(cores.iter().map(ArmCore::to_string).collect::<Vec<_>>().join(", "));
        }
        ["model name", "cpu model", "cpu"].iter().find_map(|name| self.field(name)).map(str::to_owned)
    }

    /// Each kind of ARM's cores, in the order of their CPUs; none elsewhere.
    pub fn arm_cores(&self) -> Vec<ArmCore> {
        let (mut cores, mut implementer) = (Vec::<ArmCore>::new(), None);
        for (name, value) in self.text.lines().filter_map(|line| line.split_once(':')) {
            let number = || u32::from_str_radix(value.trim().strip_prefix("0x")?, 16).ok();
            match name.trim() {
                "CPU implementer" => implementer = number(),
                "CPU part" => {
                    let core =
                        implementer.zip(number()).map(|(implementer, part)| ArmCore { implementer, part });
                    if let Some(core) = core.filter(|core| !cores.contains(core)) {
                        cores.push(core);
                    }
                }
                _ => {}
            }
        }
        cores
    }

    /// Whether a hypervisor is beneath, by the flag of that name; `None` on architectures without `flags`.
    pub fn is_guest(&self) -> Option<bool> {
        self.field("flags").map(|flags| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
    }

    /// Whether this is ARM, by the field that names who made the core.
    pub fn is_arm(&self) -> bool {
        self.field("CPU implementer").is_some()
    }

    /// Vendor, family and model; `None` where it does not say (other architectures than x86).
    pub fn processor(&self) -> Option<Processor> {
        Some(Processor {
            vendor: self.field("vendor_id")?.to_owned(),
            family: self.field("cpu family")?.parse().ok()?,
            model: self.field("model")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(text: &str) -> CpuInfo {
        CpuInfo { text: text.to_owned() }
    }

    #[test]
    fn cpuinfo_is_read_and_other_architectures_are_unknown() {
        let intel = cpuinfo(
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: x\n",
        );
        let expected = Processor { vendor: "GenuineIntel".into(), family: 6, model: 143 };
        assert_eq!(intel.processor(), Some(expected));
        let arm = cpuinfo("CPU implementer\t: 0x41\n");
        assert_eq!((arm.processor(), arm.model_name(), arm.is_guest()), (None, None, None));
        assert!(arm.is_arm() && !intel.is_arm());
    }

    #[test]
    fn the_first_cpu_that_has_a_field_speaks_for_all() {
        let two = cpuinfo(
            "processor\t: 0\nmodel name\t: Xeon: big\nflags\t\t: fpu hypervisor lm\n\n\
             processor\t: 1\nmodel name\t: other\nflags\t\t: fpu\n",
        );
        assert_eq!((two.model_name().as_deref(), two.is_guest()), (Some("Xeon: big"), Some(true)));
        let power = cpuinfo("model name\t:\ncpu\t: POWER9\nflags: a\n");
        assert_eq!(power.model_name().as_deref(), Some("POWER9"));
        assert_eq!(cpuinfo("flags\t: fpu hypervisors\n").is_guest(), Some(false));
    }

    #[test]
    fn cores_of_arm_are_named_once_for_each_kind() {
        let cpu = |implementer: &str, part: &str| {
            format!(
                "processor\t: 0\nCPU implementer\t: {implementer}\nCPU variant\t: 0x3\nCPU part\t: {part}\n\n"
            )
        };
        let one = cpuinfo(&(cpu("0x41", "0xd0c") + &cpu("0x41", "0xd0c")));
        assert_eq!(one.model_name().as_deref(), Some("Arm Neoverse N1 (part 0xd0c)"));
        let two = cpuinfo(&(cpu("0x41", "0xd03") + &cpu("0x41", "0xd08") + &cpu("0x41", "0xd03")));
        assert_eq!(
            two.model_name().as_deref(),
            Some("Arm Cortex-A53 (part 0xd03), Arm Cortex-A72 (part 0xd08)")
        );
        assert_eq!(two.arm_cores().len(), 2);
        assert_eq!(cpuinfo(&cpu("?", "0xd0c")).arm_cores(), []);
    }

    #[test]
    fn this_host_is_read() {
        let info = read(&HostRoot::real()).unwrap();
        assert_eq!(info.processor().is_some(), cfg!(any(target_arch = "x86", target_arch = "x86_64")));
    }
}
