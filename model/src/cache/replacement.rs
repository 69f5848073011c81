//! Names of replacement policies, and where each is documented.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::CacheError;

/// How a set chooses the line that leaves. Empty ways are filled first.
///
/// Processors' policies are not in their manuals. Those here were found by measurement: Abel and Reineke,
/// "Reverse Engineering of Cache Replacement Policies in Intel Microprocessors and Their Evaluation", ISPASS 2014;
/// the same, "nanoBench: A Low-Overhead Tool for Running Microbenchmarks on x86 Systems", ISPASS 2020; Abel, "Automatic
/// Generation of Models of Microarchitectures", 2020; <https://uops.info/cache.html>. Names are those of the last three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Replacement {
    /// `lru`: the line that was used least recently. No large cache is known to do exactly this; it is what other
    /// simulators have, and what is assumed where nothing is documented.
    Lru,
    /// `tree_plru`: a binary tree of bits over the ways, each of which points to the half that was not used last. Levels 1
    /// and 2 of Intel from Nehalem to Broadwell (nanoBench, 2020).
    TreePlru,
    /// `mru`: a bit for each way that was used since all had one; the first way without it leaves. Level 3 of Nehalem
    /// (nanoBench, 2020; Hennessy and Patterson, "Computer Architecture", 5th edition, 2.6).
    Mru,
    /// `mru_n`: as `mru`, and no bit is set while the set has an empty way. Level 3 of Sandy Bridge (nanoBench, 2020, and
    /// the policy `MRU_N` of its simulator).
    MruN,
    /// `qlru_hXY_mZ_rV_uW`, optionally with `_umo`: an age of 0 to 3 for each way.
    Qlru(Qlru),
}

/// A quad-age LRU policy, by the scheme of nanoBench (2020): ages of 0 to 3 for each way, and 3 leaves first. Among them
/// are `qlru_h11_m1_r0_u0` (level 3 of Skylake, Kaby Lake and Coffee Lake), `qlru_h00_m1_r2_u1` (level 2 of Skylake),
/// `qlru_h00_m1_r0_u1` (level 2 of Cannon Lake and Ice Lake; level 3 of Ice Lake in its leading sets),
/// `qlru_h11_m1_r1_u2` (level 3 of Ivy Bridge in its leading sets), and `qlru_h00_m2_r0_u0_umo`, which is SRRIP-HP with two
/// bits (Jaleel et al., "High Performance Cache Replacement Using Re-Reference Interval Prediction", ISCA 2010).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Qlru {
    /// The age after a hit, by the age before: of 3, of 2. After 1 and 0 it is 0.
    hit: [u8; 2],
    /// The age of a new line.
    pub(super) insert: u8,
    pub(super) choice: QlruChoice,
    pub(super) aging: QlruAging,
    /// Whether lines age before a miss only, instead of after each access.
    pub(super) only_on_miss: bool,
}

/// Which way a missing line takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum QlruChoice {
    /// The first empty one, or the first of age 3.
    R0,
    /// The same, or way 0 if none has age 3.
    R1,
    /// The last empty one, or the first of age 3.
    R2,
}

/// How lines age if none has age 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum QlruAging {
    /// All by what the oldest one lacks to 3.
    U0,
    /// All but the one just used by what the oldest of them lacks to 3.
    U1,
    /// All by one.
    U2,
    /// All but the one just used by one.
    U3,
}

impl Qlru {
    /// The age after a hit.
    pub(super) fn after_hit(self, age: u8) -> u8 {
        match age {
            3 => self.hit[0],
            2 => self.hit[1],
            _ => 0,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let hit = match parts.next()? {
            "h00" => [0, 0],
            "h10" => [1, 0],
            "h11" => [1, 1],
            "h20" => [2, 0],
            "h21" => [2, 1],
            _ => return None,
        };
        let insert = match parts.next()? {
            "m0" => 0,
            "m1" => 1,
            "m2" => 2,
            "m3" => 3,
            _ => return None,
        };
        let choice = match parts.next()? {
            "r0" => QlruChoice::R0,
            "r1" => QlruChoice::R1,
            "r2" => QlruChoice::R2,
            _ => return None,
        };
        let aging = match parts.next()? {
            "u0" => QlruAging::U0,
            "u1" => QlruAging::U1,
            "u2" => QlruAging::U2,
            "u3" => QlruAging::U3,
            _ => return None,
        };
        let only_on_miss = match (parts.next(), parts.next()) {
            (None, None) => false,
            (Some("umo"), None) => true,
            _ => return None,
        };
        // With these there need not be a way of age 3 when one has to leave.
        let by_one = matches!(aging, QlruAging::U2 | QlruAging::U3);
        let is_complete = !by_one || choice == QlruChoice::R1;
        is_complete.then_some(Self { hit, insert, choice, aging, only_on_miss })
    }
}

impl fmt::Display for Qlru {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hit: [three, two], insert, choice, aging, only_on_miss } = self;
        let suffix = if *only_on_miss { "_umo" } else { "" };
        let (choice, aging) = (*choice as u8, *aging as u8);
        write!(f, "qlru_h{three}{two}_m{insert}_r{choice}_u{aging}{suffix}")
    }
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lru => f.write_str("lru"),
            Self::TreePlru => f.write_str("tree_plru"),
            Self::Mru => f.write_str("mru"),
            Self::MruN => f.write_str("mru_n"),
            Self::Qlru(qlru) => qlru.fmt(f),
        }
    }
}

impl FromStr for Replacement {
    type Err = CacheError;

    fn from_str(name: &str) -> Result<Self, CacheError> {
        match name {
            "lru" => Ok(Self::Lru),
            "tree_plru" => Ok(Self::TreePlru),
            "mru" => Ok(Self::Mru),
            "mru_n" => Ok(Self::MruN),
            _ => name
                .strip_prefix("qlru_")
                .and_then(Qlru::parse)
                .map(Self::Qlru)
                .ok_or_else(|| CacheError::Replacement(name.to_owned())),
        }
    }
}

impl TryFrom<String> for Replacement {
    type Error = CacheError;

    fn try_from(name: String) -> Result<Self, CacheError> {
        name.parse()
    }
}

impl From<Replacement> for String {
    fn from(policy: Replacement) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let fixed = ["lru", "tree_plru", "mru", "mru_n", "qlru_h21_m3_r1_u3_umo"];
        let documented = [
            "qlru_h11_m1_r0_u0",
            "qlru_h00_m1_r2_u1",
            "qlru_h00_m1_r0_u1",
            "qlru_h11_m1_r1_u2",
            "qlru_h00_m2_r0_u0_umo",
        ];
        for name in fixed.into_iter().chain(documented) {
            assert_eq!(name.parse::<Replacement>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_are_refused() {
        // The last two: nothing need be of age 3 when a line has to leave.
        let names = [
            "",
            "LRU",
            "qlru",
            "qlru_h11",
            "qlru_h12_m1_r0_u0",
            "qlru_h11_m1_r0_u0_umo_x",
            "qlru_h11_m1_r0_u2",
            "qlru_h11_m1_r2_u3",
        ];
        for name in names {
            let error = name.parse::<Replacement>().unwrap_err();
            assert_eq!(error, CacheError::Replacement(name.to_owned()));
        }
    }
}
