//! A loop of which every instruction is known.

use std::arch::asm;

/// Instructions of one turn.
pub const INSTRUCTIONS_PER_TURN: u64 = 2;

/// Runs the loop: `turns` times [`INSTRUCTIONS_PER_TURN`] instructions, which read and write no memory. 0 turns are
/// none.
pub fn run(turns: u64) {
    if turns == 0 {
        return;
    }
    // SAFETY: it changes one register and the flags, and no memory.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("2:", "subs {left}, {left}, #1", "b.ne 2b", left = inout(reg) turns => _, options(nomem, nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("2:", "dec {left}", "jnz 2b", left = inout(reg) turns => _, options(nomem, nostack));
    }
}
