//! One access to memory, in eight bytes.

/// Addresses are kept to so many bytes: no smaller line can be modelled.
pub const GRANULE_BYTES: u64 = 32;

/// The largest host-physical address: x86-64 and ARM64 have at most 52 bits (Intel SDM volume 3, 4.1.4; Arm ARM, D8.1.6
/// without FEAT_D128).
pub const MAX_ADDRESS: u64 = (1 << 52) - 1;

/// The largest number of a vCPU.
pub const MAX_VCPU: u16 = (1 << VCPU_BITS) - 1;

const KIND_BITS: u32 = 2;
const VCPU_BITS: u32 = 15;
const GRANULE_SHIFT: u32 = GRANULE_BYTES.trailing_zeros();

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data. A line that is missing is read first (write-allocate).
    Write,
    /// Fetches instructions.
    Fetch,
}

/// An access of a vCPU to a line of memory. Its bits, from the lowest: 2 of kind (0 read, 1 write, 2 fetch), 15 of the
/// number of the vCPU, 47 of the host-physical address in units of [`GRANULE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Access(u64);

impl Access {
    /// `None` if the number of the vCPU is above [`MAX_VCPU`] or the address above [`MAX_ADDRESS`].
    pub fn new(vcpu: u16, address: u64, kind: AccessKind) -> Option<Self> {
        let granule = address >> GRANULE_SHIFT;
        let kind = match kind {
            AccessKind::Read => 0,
            AccessKind::Write => 1,
            AccessKind::Fetch => 2,
        };
        let fits = vcpu <= MAX_VCPU && address <= MAX_ADDRESS;
        fits.then_some(Self((granule << VCPU_BITS | u64::from(vcpu)) << KIND_BITS | kind))
    }

    /// From its bits, as another process wrote them; `None` for a kind that there is not.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits & 3 != 3).then_some(Self(bits))
    }

    /// Its bits.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The number of the vCPU.
    pub fn vcpu(self) -> u16 {
        (self.0 >> KIND_BITS) as u16 & MAX_VCPU
    }

    /// The host-physical address, rounded down to [`GRANULE_BYTES`].
    pub fn address(self) -> u64 {
        self.granule() << GRANULE_SHIFT
    }

    /// What it does.
    pub fn kind(self) -> AccessKind {
        match self.kind_number() {
            0 => AccessKind::Read,
            1 => AccessKind::Write,
            _ => AccessKind::Fetch,
        }
    }

    /// The address in units of [`GRANULE_BYTES`].
    pub(super) fn granule(self) -> u64 {
        self.0 >> (KIND_BITS + VCPU_BITS)
    }

    /// 0 to 2, in the order of [`AccessKind`].
    pub(super) fn kind_number(self) -> usize {
        (self.0 & 3) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(vcpu in 0..=MAX_VCPU, address in 0..=MAX_ADDRESS, kind in 0..3usize) {
            let kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][kind];
            let access = Access::new(vcpu, address, kind).unwrap();
            prop_assert_eq!((access.vcpu(), access.kind()), (vcpu, kind));
            prop_assert_eq!(access.address(), address / GRANULE_BYTES * GRANULE_BYTES);
            prop_assert_eq!(Access::from_bits(access.to_bits()), Some(access));
        }

        #[test]
        fn any_bits_are_an_access_or_none(bits: u64) {
            let access = Access::from_bits(bits);
            prop_assert_eq!(access.is_none(), bits & 3 == 3);
            if let Some(access) = access {
                prop_assert_eq!(Access::new(access.vcpu(), access.address(), access.kind()), Some(access));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(Access::new(MAX_VCPU + 1, 0, AccessKind::Read), None);
        assert_eq!(Access::new(0, MAX_ADDRESS + 1, AccessKind::Read), None);
    }
}
