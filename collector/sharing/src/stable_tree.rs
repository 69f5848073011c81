//! The zero-filled frames among those that KSM merged, found in its own data structures instead of their
//! contents.
//!
//! KSM keeps merged frames in a red-black tree ordered by content (mm/ksm.c, Linux 4.14 to 6.18:
//! `stable_tree_insert` descends by memcmp). Zero is the least content, so if any merged frame is
//! zero-filled, the leftmost node is. A content of more than `max_page_sharing` pages is spread over several
//! frames: its node is then the head of a chain that lists them all. So a walk of a few dozen steps finds all
//! zero-filled merged frames, or that there are none, however many frames were merged; reading each of them
//! would cost several times the rest of a scan.
//!
//! The walk starts at a merged frame, whose `struct page` points to its node, and climbs to the root. The
//! layout of `struct ksm_stable_node` and `struct page` is verified: a node must name the frame it was
//! reached from, a child's parent must have that child, a chain's links must match in both directions. If
//! that fails there is no result, and frames are read one by one.
//!
//! ksmd may run concurrently. Changes to such a tree may hide a part of it from a walk for an instant but
//! never create a loop (lib/rbtree.c, "Notes on lockless lookups"). So two successive walks must agree.

use std::collections::BTreeSet;

use super::kernel_memory::{KernelMemory, WORDS};
use huddle_host::{HostRoot, ksm, numa};

/// Words of `struct page`: the owner of the frame. Both lowest bits are set for KSM.
const PAGE_OWNER: usize = 3;
const OWNER_BITS: u64 = 3;
/// Words of `struct ksm_stable_node` in the tree: parent and colour, right and left child.
const PARENT: usize = 0;
const RIGHT: usize = 1;
const LEFT: usize = 2;
/// In a chain instead of the tree: the next entry, and the address that points here.
const CHAIN_NEXT: usize = 1;
const CHAIN_PREVIOUS: usize = 2;
/// The entries of a chain, for its head; the reverse mappings otherwise.
const FIRST_ENTRY: usize = 5;
/// The frame, unless it is the head of a chain.
const FRAME: usize = 6;
/// Number of pages that map it (32 bits), or a mark of a chain's head.
const LENGTH: usize = 7;
const LENGTH_OF_CHAIN: i32 = -1024;

/// A red-black tree of all possible frames (2^52) is at most twice that deep.
const DEEPEST: usize = 104;
/// Maximum length of a chain: 2^20 frames of 256 pages are a tebibyte of equal pages.
const LONGEST_CHAIN: usize = 1 << 20;
/// Maximum number of skipped nodes at the left end whose frames are gone: ksmd removes them soon.
const MAX_STALE: usize = 64;
/// Maximum number of walks until two successive ones agree.
const MAX_WALKS: usize = 16;

/// The zero-filled ones among all frames that KSM merged; `samples` are frames that are likely merged.
///
/// # Errors
/// Why this method does not work here, as one clause.
pub(super) fn zero_filled(root: &HostRoot, samples: &[u64]) -> Result<BTreeSet<u64>, String> {
    if ksm::merge_across_nodes(root).is_ok_and(|across| !across)
        && numa::online_nodes(root).is_ok_and(|nodes| nodes.to_string() != "0")
    {
        return Err("KSM has a tree for each NUMA node (merge_across_nodes is 0)".into());
    }
    let tree = Tree { memory: KernelMemory::open(root)? };
    let mut last = None;
    for _ in 0..MAX_WALKS {
        let found = tree.walk(samples);
        if found.is_some() && found == last {
            return Ok(found.unwrap_or_default());
        }
        last = found;
    }
    Err("KSM's tree of merged frames could not be walked".into())
}

struct Tree {
    memory: KernelMemory,
}

/// A node with its address.
#[derive(Clone, Copy)]
struct Node {
    at: u64,
    words: [u64; WORDS],
}

impl Node {
    fn parent(self) -> u64 {
        self.words[PARENT] & !OWNER_BITS
    }

    fn is_chain(self) -> bool {
        self.words[LENGTH] as i32 == LENGTH_OF_CHAIN
    }

    /// Address of its link in a chain.
    fn link(self) -> u64 {
        self.at + 8 * CHAIN_NEXT as u64
    }
}

impl Tree {
    fn walk(&self, samples: &[u64]) -> Option<BTreeSet<u64>> {
        let root = samples.iter().find_map(|frame| self.root_above(self.node_of(*frame)?))?;
        let mut node = self.leftmost(root)?;
        for _ in 0..MAX_STALE {
            let frames = self.live_frames(node)?;
            let Some(first) = frames.first() else {
                node = self.next(node)?;
                continue;
            };
            return match self.memory.is_zero_filled(*first)? {
                true => Some(frames),
                false => Some(BTreeSet::new()),
            };
        }
        None
    }

    fn node(&self, at: u64) -> Option<Node> {
        Some(Node { at, words: self.memory.read(at)? })
    }

    /// The node of a merged frame; `None` for any other frame.
    fn node_of(&self, frame: u64) -> Option<Node> {
        let owner = self.memory.frame_record(frame)?[PAGE_OWNER];
        let node = (owner & OWNER_BITS == OWNER_BITS).then(|| self.node(owner & !OWNER_BITS))??;
        (node.words[FRAME] == frame).then_some(node)
    }

    /// Climbs from a node, in the tree or in a chain, to the root of the tree.
    fn root_above(&self, node: Node) -> Option<Node> {
        let mut node = match self.climb(node) {
            Some(root) => return Some(root),
            None => self.head_of_chain(node)?,
        };
        node = self.climb(node)?;
        Some(node)
    }

    fn climb(&self, mut node: Node) -> Option<Node> {
        for _ in 0..DEEPEST {
            if node.parent() == 0 {
                return Some(node);
            }
            let parent = self.node(node.parent())?;
            if parent.words[LEFT] != node.at && parent.words[RIGHT] != node.at {
                return None;
            }
            node = parent;
        }
        None
    }

    fn head_of_chain(&self, mut node: Node) -> Option<Node> {
        for _ in 0..LONGEST_CHAIN {
            let points_here = node.words[CHAIN_PREVIOUS];
            let head = self.node(points_here.checked_sub(8 * FIRST_ENTRY as u64)?);
            let is_head = |head: &Node| head.is_chain() && head.words[FIRST_ENTRY] == node.link();
            if let Some(head) = head.filter(is_head) {
                return Some(head);
            }
            let previous = self.node(points_here.checked_sub(8 * CHAIN_NEXT as u64)?)?;
            if previous.words[CHAIN_NEXT] != node.link() {
                return None;
            }
            node = previous;
        }
        None
    }

    /// Descends on one side and verifies each step from the child.
    fn child(&self, node: Node, side: usize) -> Option<Node> {
        let child = self.node(node.words[side])?;
        (child.parent() == node.at).then_some(child)
    }

    fn leftmost(&self, mut node: Node) -> Option<Node> {
        for _ in 0..DEEPEST {
            if node.words[LEFT] == 0 {
                return Some(node);
            }
            node = self.child(node, LEFT)?;
        }
        None
    }

    /// The node with the next greater content.
    fn next(&self, mut node: Node) -> Option<Node> {
        if node.words[RIGHT] != 0 {
            return self.leftmost(self.child(node, RIGHT)?);
        }
        for _ in 0..DEEPEST {
            let parent = self.node(node.parent())?;
            if parent.words[LEFT] == node.at {
                return Some(parent);
            }
            node = parent;
        }
        None
    }

    /// The frames of a node of the tree, without those that were freed since.
    fn live_frames(&self, node: Node) -> Option<BTreeSet<u64>> {
        let mut frames = BTreeSet::new();
        let mut keep = |node: Node| {
            let frame = node.words[FRAME];
            let owner = self.memory.frame_record(frame).map(|record| record[PAGE_OWNER]);
            if owner == Some(node.at | OWNER_BITS) {
                frames.insert(frame);
            }
        };
        if !node.is_chain() {
            keep(node);
            return Some(frames);
        }
        let mut link = node.words[FIRST_ENTRY];
        for _ in 0..LONGEST_CHAIN {
            if link == 0 {
                return Some(frames);
            }
            let entry = self.node(link.checked_sub(8 * CHAIN_NEXT as u64)?)?;
            keep(entry);
            link = entry.words[CHAIN_NEXT];
        }
        None
    }
}
