//! Changing the host and putting it back: affinities of vCPU threads and of vCPUs of Xen's domains, and
//! settings of KSM.
//!
//! Every change goes through one [`journal::Journal`] that is on disk before the change: written,
//! synced, its directory synced. [`pinner::HostPinner`] makes the changes and undoes them when it is
//! dropped (normal end, an error, a panic that unwinds); after any other end, such as kill -9, the
//! journal is still there for [`undo::restore`].
//!
//! # What undoing promises
//! - Each thread and setting returns to what it was before huddle first changed it.
//! - A thread that is gone, or whose number another task has now, is skipped with a note.
//! - What somebody else changed after huddle is left as they set it, with a note that gives the value
//!   from before huddle. A thread that the kernel confined further (a cpuset that shrank, a CPU that
//!   went offline) is not that: it is put back.
//! - What cannot be put back is a failure and stays in the journal.
//! - It needs no room on the disk, and no leave to write: only the journal then still holds what is undone.
//! - A line of the journal that is damaged is named, and sets nothing; all others are undone.
//!
//! One huddle at a time changes a host: [`StateDir::lock`] takes a lock of the host beside that of the directory.
//!
//! # What threads start while they are pinned
//! A thread or process inherits the affinity of the thread that starts it (sched_setaffinity(2)). Those that began after
//! the pinning and have what was set get back what their parent had before, when that is undone: threads of the same
//! process, processes below it, and processes of a control group that is a VM. Not found are processes that left the
//! process which started them (its parent ended) and are in no such group.
//!
//! # What it cannot promise
//! - An affinity that somebody else sets to exactly what huddle set is not seen to be theirs, unless they set a cpuset
//!   too, as libvirt does.
//! - Since Linux 6.2 the kernel remembers an affinity that was asked for, and does not show it. Where an affinity was all
//!   that the cpuset and the online CPUs allowed, all CPUs are asked for again, so that a cpuset that grew and a CPU that
//!   came back are used; that the owner had asked for just these is not seen.

mod affinity;
mod host_lock;
pub mod journal;
pub mod ksm;
pub mod mask;
mod own_pins;
pub mod pinner;
mod started;
pub mod state;
pub mod undo;

pub use affinity::{Affinities, AffinityKind, Presence, Scheduler, ThreadAffinities, VcpuRef};
pub use host_lock::HOST_LOCK_VARIABLE;
pub use journal::{Change, Journal, JournalError, Key, Origin, Subject};
pub use own_pins::{Before, OwnPins};
pub use pinner::{HostPinner, PinError, PinReport, ThreadPin};
pub use state::{StateDir, StateError, StateLock};
pub use undo::{UndoMerging, UndoReport, Undoers, Undone, recover, restore};
