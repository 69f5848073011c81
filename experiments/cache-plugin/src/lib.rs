//! The accesses of a guest that QEMU emulates, on their way to a simulated cache.
//!
//! [`plugin`] is loaded into QEMU (TCG) and writes what the guest's vCPUs read, write and fetch into a file in shared
//! memory; the runner of an experiment makes the file and reads it. Both use [`stream`]. Only one line of each page is
//! recorded, the *kept line*: enough for a cache of which one of 64 sets is simulated, and cheap, since the low bits of
//! a virtual address already tell whether it is in that line.

pub mod plugin;
pub mod stream;
