//! Data that VMs hold and never read: shared, it is much of what VMs share, and no placement gains by it.

use huddle_model::rng::Rng;

use super::expected::Expected;
use crate::guest::{ColdData, GuestData};

/// The random stream of cold data (see [`Rng::of_part`]).
const COLD: u64 = 4000;

/// The cold data of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cold {
    /// For each VM a name of what it holds: equal names, equal data; an empty one for none.
    pub names: Vec<String>,
    /// KiB of what each holds, whole pages.
    pub kib: u64,
}

impl Cold {
    /// What a VM is given, in a run of this seed.
    pub(super) fn of_guest(&self, seed: u64, guest: usize) -> Option<ColdData> {
        let name = self.names.get(guest).filter(|name| !name.is_empty())?;
        let first = self.names.iter().position(|other| other == name).unwrap_or(guest);
        Some(ColdData { seed: Rng::of_part(seed, COLD + first as u64).next_u64(), kib: self.kib })
    }

    /// What each VM was given, to look for; a VM without any has nothing of a seed of its own.
    pub(super) fn data(&self, seed: u64) -> Vec<GuestData> {
        let of = |guest: usize| {
            let none = || ColdData { seed: Rng::of_part(seed, COLD + guest as u64).next_u64(), kib: 0 };
            let ColdData { seed, kib } = self.of_guest(seed, guest).unwrap_or_else(none);
            GuestData { seed, own_seed: !seed, kib, cold: None }
        };
        (0..self.names.len()).map(of).collect()
    }

    /// Which VMs hold the same, and whether it is to be merged.
    pub(super) fn expected(&self, merges: bool) -> Expected {
        Expected::new(&self.names, self.kib * 1024, merges).called("cold data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_equal_data_and_an_empty_one_is_none() {
        let cold = Cold { names: ["X", "", "X", "Y", ""].map(str::to_owned).to_vec(), kib: 8 };
        let of = |guest| cold.of_guest(1, guest);
        assert!(of(0).is_some() && of(0) == of(2) && of(0) != of(3));
        assert_eq!((of(1), of(9)), (None, None));
        let data = cold.data(1);
        assert_eq!(data.iter().map(|data| data.kib).collect::<Vec<_>>(), [8, 0, 8, 8, 0]);
        assert_ne!(data[1].seed, data[4].seed);
        let expected = cold.expected(true);
        assert!(expected.same_data(0, 2) && !expected.same_data(1, 4));
        let mut shared = vec![vec![0; 5]; 5];
        let error = expected.verify(&shared).unwrap_err().to_string();
        assert!(error.contains("vm1 and vm3 hold the same 2 pages of cold data and 0"), "{error}");
        shared[0][2] = 2;
        assert_eq!(expected.verify(&shared), Ok(()));
    }
}
