//! Names of ARM's cores by implementer and part number, as `MIDR_EL1` and `/proc/cpuinfo` have them
//! (arch/arm64/include/asm/cputype.h, Linux 6.18; tools/perf/pmu-events/arch/arm64/mapfile.csv for the kinds that are
//! only there). ARM's cores have no name of their own that software can read.

use std::fmt;

/// A kind of cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArmCore {
    /// Who made it: `CPU implementer`.
    pub implementer: u32,
    /// What it is, among those of its implementer: `CPU part`.
    pub part: u32,
}

/// Implementers.
const IMPLEMENTERS: [(u32, &str); 10] = [
    (0x41, "Arm"),
    (0x42, "Broadcom"),
    (0x43, "Cavium"),
    (0x46, "Fujitsu"),
    (0x48, "HiSilicon"),
    (0x4e, "NVIDIA"),
    (0x51, "Qualcomm"),
    (0x61, "Apple"),
    (0x6d, "Microsoft"),
    (0xc0, "Ampere"),
];

/// Cores, by implementer and part. Graviton 2 and Ampere Altra have Neoverse N1, Graviton 3 Neoverse V1, Graviton 4 and
/// NVIDIA Grace Neoverse V2.
const CORES: [(u32, u32, &str); 27] = [
    (0x41, 0xd03, "Cortex-A53"),
    (0x41, 0xd04, "Cortex-A35"),
    (0x41, 0xd05, "Cortex-A55"),
    (0x41, 0xd07, "Cortex-A57"),
    (0x41, 0xd08, "Cortex-A72"),
    (0x41, 0xd09, "Cortex-A73"),
    (0x41, 0xd0a, "Cortex-A75"),
    (0x41, 0xd0b, "Cortex-A76"),
    (0x41, 0xd0c, "Neoverse N1"),
    (0x41, 0xd0d, "Cortex-A77"),
    (0x41, 0xd40, "Neoverse V1"),
    (0x41, 0xd41, "Cortex-A78"),
    (0x41, 0xd44, "Cortex-X1"),
    (0x41, 0xd46, "Cortex-A510"),
    (0x41, 0xd47, "Cortex-A710"),
    (0x41, 0xd48, "Cortex-X2"),
    (0x41, 0xd49, "Neoverse N2"),
    (0x41, 0xd4a, "Neoverse E1"),
    (0x41, 0xd4f, "Neoverse V2"),
    (0x41, 0xd84, "Neoverse V3"),
    (0x41, 0xd8e, "Neoverse N3"),
    (0x43, 0x0af, "ThunderX2"),
    (0x46, 0x001, "A64FX"),
    (0x48, 0xd01, "TSV110"),
    (0x6d, 0xd49, "Azure Cobalt 100"),
    (0xc0, 0xac3, "Ampere-1"),
    (0xc0, 0xac4, "Ampere-1A"),
];

impl ArmCore {
    /// Its name; `None` if it is not in the table.
    pub fn name(self) -> Option<&'static str> {
        let found = CORES.iter().find(|(by, part, _)| (*by, *part) == (self.implementer, self.part));
        found.map(|(.., name)| *name)
    }

    /// Name of its implementer; `None` if it is not in the table.
    pub fn implementer_name(self) -> Option<&'static str> {
        IMPLEMENTERS.iter().find(|(by, _)| *by == self.implementer).map(|(_, name)| *name)
    }
}

/// `Arm Neoverse N1 (part 0xd0c)`; without what is not known.
impl fmt::Display for ArmCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { implementer, part } = self;
        match (self.implementer_name(), self.name()) {
            (Some(by), Some(name)) => write!(f, "{by} {name} (part {part:#05x})"),
            (Some(by), None) => write!(f, "{by} part {part:#05x}"),
            (None, _) => write!(f, "ARM implementer {implementer:#04x}, part {part:#05x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_named_and_unknown_ones_have_their_numbers() {
        let shown = |implementer, part| ArmCore { implementer, part }.to_string();
        assert_eq!(shown(0x41, 0xd0c), "Arm Neoverse N1 (part 0xd0c)");
        assert_eq!(shown(0xc0, 0xac3), "Ampere Ampere-1 (part 0xac3)");
        assert_eq!(shown(0x6d, 0xd49), "Microsoft Azure Cobalt 100 (part 0xd49)");
        assert_eq!(shown(0x41, 0xfff), "Arm part 0xfff");
        assert_eq!(shown(0x00, 0x1), "ARM implementer 0x00, part 0x001");
    }

    #[test]
    fn every_core_is_of_a_named_implementer_and_named_once() {
        for (index, (implementer, part, _)) in CORES.iter().enumerate() {
            let core = ArmCore { implementer: *implementer, part: *part };
            assert!(core.implementer_name().is_some(), "{core}");
            assert!(CORES[..index].iter().all(|other| (other.0, other.1) != (*implementer, *part)), "{core}");
        }
    }
}
