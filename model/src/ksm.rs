//! The state of KSM as the kernel reports it.

use serde::{Deserialize, Serialize};

use crate::page_size::PageSize;

/// `/sys/kernel/mm/ksm` at one moment (Documentation/admin-guide/mm/ksm.rst, Linux 6.18). Files that a kernel
/// lacks are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KsmState {
    /// 0 stopped (merged pages stay merged), 1 running, 2 stopped and everything unmerged.
    pub run: u64,
    /// Complete passes over all mergeable memory.
    pub full_scans: u64,
    /// Merged frames.
    pub pages_shared: u64,
    /// Pages beyond the first on those frames: the savings.
    pub pages_sharing: u64,
    /// Pages that were scanned and are unique.
    pub pages_unshared: u64,
    /// Pages that change too fast to be merged.
    pub pages_volatile: u64,
    /// Pages that `smart_scan` skipped.
    pub pages_skipped: Option<u64>,
    /// Pages merged with the kernel's zero page by `use_zero_pages`.
    pub ksm_zero_pages: Option<i64>,
    /// Memory saved less its bookkeeping, in bytes.
    pub general_profit_bytes: Option<i64>,
    /// Pages that ksmd scans before it sleeps.
    pub pages_to_scan: u64,
    /// How long it sleeps, in milliseconds.
    pub sleep_millisecs: u64,
    /// 1 if pages that did not merge before are scanned less often.
    pub smart_scan: Option<u64>,
    /// Maximum number of pages on one merged frame.
    pub max_page_sharing: Option<u64>,
    /// 0 if pages of different NUMA nodes are never merged.
    pub merge_across_nodes: Option<u64>,
    /// 1 if zero-filled pages are merged with the kernel's zero page.
    pub use_zero_pages: Option<u64>,
    /// `none` or `scan-time`.
    pub advisor_mode: Option<String>,
    /// The size of the pages that all of this counts.
    #[serde(default, rename = "page_bytes")]
    pub page_size: PageSize,
}
