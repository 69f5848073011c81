//! How the loop measures what VMs share: `[sharing]`.

use std::num::NonZeroU32;

use huddle_engine::backend::SharingChoice;
use huddle_model::matrix::{Method, ReadBy, Weigh};
use huddle_sharing::ReadSettings;
use huddle_sharing::content::{ContentSettings, Share};
use serde::Deserialize;

/// How the loop (`run`, `top`) measures what VMs share.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SharingSettings {
    /// `merged` reads all page tables in each round. `content` compares the contents of pages; on Xen it is the only
    /// one. [default: `merged`; on Xen `content`]
    pub(super) method: Option<LoopMethod>,
    /// What tells which frames VMs map: `auto` reads the page tables themselves where the kernel allows it (x86-64, BPF),
    /// and else `/proc/PID/pagemap`; `pagemap` reads always that, which takes 2 to 12 times as long. [default: `auto`]
    read_by: Option<FramesBy>,
    /// With `content`: compare this share of the contents, drawn by their hashes; every page is read anyway, once.
    /// [default: all contents]
    pub(super) sample: Option<Share>,
    /// Which shared frames count when VMs are placed, as `--weigh`: `all`, or with `merged` `read`, those that both VMs of a
    /// pair read within a window. Accessed bits of their page tables are cleared for that in each round, so the kernel takes
    /// their memory for unused until it is used again. Not seen are reads of guests in KVM, where all shared frames count.
    /// [default: `all`]
    weigh: Option<Weigh>,
    /// With `weigh = "read"`: least time between clearing an accessed bit and reading it again, in milliseconds, up to 60000.
    /// [default: 1000]
    read_window_ms: Option<ReadWindow>,
    /// Most processor time, as a share of one CPU: with `content`; and with `weigh = "read"` for clearing accessed bits, for
    /// which rounds wait. [default: 0.5, and 0.05 for clearing]
    pub(super) cpu_share: Option<Share>,
    /// With `content`: most memory to remember pages in, in MiB. [default: 256]
    pub(super) memory_mib: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LoopMethod {
    Merged,
    Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FramesBy {
    Auto,
    Pagemap,
}

/// Milliseconds, from 1 to a minute.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u32")]
struct ReadWindow(u32);

impl TryFrom<u32> for ReadWindow {
    type Error = String;

    fn try_from(window_ms: u32) -> Result<Self, String> {
        match window_ms {
            1..=60_000 => Ok(Self(window_ms)),
            _ => Err(format!("a window of {window_ms} ms; expected 1 to 60000 ms")),
        }
    }
}

impl SharingSettings {
    /// The settings, with defaults for the rest.
    pub(crate) fn choice(&self) -> SharingChoice {
        let (default, reads) = (ContentSettings::default(), ReadSettings::default());
        SharingChoice {
            method: self.method.map(|method| match method {
                LoopMethod::Merged => Method::Merged,
                LoopMethod::Content => Method::Content,
            }),
            read_by: match self.read_by {
                None | Some(FramesBy::Auto) => None,
                Some(FramesBy::Pagemap) => Some(ReadBy::Pagemap),
            },
            weigh: self.weigh.unwrap_or_default(),
            reads: ReadSettings {
                window_ms: self.read_window_ms.map_or(reads.window_ms, |window| window.0),
                cpu_share: self.cpu_share.unwrap_or(reads.cpu_share),
            },
            content: ContentSettings {
                cpu_share: self.cpu_share.unwrap_or(default.cpu_share),
                memory_mib: self.memory_mib.map_or(default.memory_mib, NonZeroU32::get),
                sample: self.sample,
                ..default
            },
        }
    }
}
