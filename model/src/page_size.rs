//! The size of a page, and so of a frame: a power of two that the kernel is built with, 4 KiB on x86, and 4, 16 or
//! 64 KiB on ARM64 (`config ARM64_PAGE_SHIFT`, arch/arm64/Kconfig, Linux 6.18).

use serde::{Deserialize, Serialize};

/// Bytes of a page of the host. In files a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct PageSize(u64);

/// Not the size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a page of {0} bytes, expected a power of two of 4096 to {LARGEST}")]
pub struct BadPageSize(u64);

/// No kernel has larger ones: 256 KiB on PowerPC 440 (`PPC_256K_PAGES`, arch/powerpc/Kconfig, Linux 6.18).
const LARGEST: u64 = 256 << 10;

impl PageSize {
    /// 4 KiB: that of x86, of Xen's frames, and of files from before it was recorded, which are of x86.
    pub const X86: Self = Self(4096);

    /// Pages of so many bytes.
    ///
    /// # Errors
    /// It is no power of two of 4 to 256 KiB.
    pub fn new(bytes: u64) -> Result<Self, BadPageSize> {
        let is_one = bytes.is_power_of_two() && (Self::X86.0..=LARGEST).contains(&bytes);
        if is_one { Ok(Self(bytes)) } else { Err(BadPageSize(bytes)) }
    }

    /// Bytes of one page.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Bytes of so many pages; the largest number where they are more.
    pub fn bytes_of(self, pages: u64) -> u64 {
        pages.saturating_mul(self.0)
    }

    /// Whole pages in so many bytes.
    pub fn pages_in(self, bytes: u64) -> u64 {
        bytes / self.0
    }
}

impl Default for PageSize {
    /// [`Self::X86`].
    fn default() -> Self {
        Self::X86
    }
}

impl TryFrom<u64> for PageSize {
    type Error = BadPageSize;

    fn try_from(bytes: u64) -> Result<Self, BadPageSize> {
        Self::new(bytes)
    }
}

impl From<PageSize> for u64 {
    fn from(size: PageSize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_that_a_kernel_has_are_sizes() {
        for bytes in [4096, 16_384, 65_536, 262_144] {
            assert_eq!(PageSize::new(bytes).map(PageSize::bytes), Ok(bytes));
        }
        for bytes in [0, 1, 2048, 4097, 12_288, 524_288, u64::MAX] {
            assert_eq!(PageSize::new(bytes), Err(BadPageSize(bytes)));
        }
        assert_eq!(serde_json::from_str::<PageSize>("16384").unwrap(), PageSize::new(16_384).unwrap());
        assert!(serde_json::from_str::<PageSize>("5").unwrap_err().to_string().contains("of 5 bytes"));
    }

    #[test]
    fn bytes_and_pages_are_converted_by_the_size() {
        let large = PageSize::new(65_536).unwrap();
        assert_eq!((large.bytes_of(3), PageSize::X86.bytes_of(3)), (196_608, 12_288));
        assert_eq!((large.pages_in(200_000), PageSize::default().pages_in(200_000)), (3, 48));
        assert_eq!(large.bytes_of(u64::MAX), u64::MAX);
    }
}
