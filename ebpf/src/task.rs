//! Fields of the kernel's `task_struct`, at the offsets user space found in BTF.

use aya_ebpf::Global;

#[unsafe(no_mangle)]
pub static TASK_PID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_TGID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_GROUP_LEADER: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_START_BOOTTIME: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_CPU_TIME: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_CPU: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static MM_OWNER: Global<u32> = Global::new(0);

/// A `task_struct` that a BTF tracepoint handed over: the verifier lets a program read it directly, and
/// turns a read that faults into zero.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    pub fn trusted(task: *const u8) -> Self {
        Self(task)
    }

    pub fn tid(self) -> u32 {
        self.read(TASK_PID.load())
    }

    pub fn cpu(self) -> u32 {
        self.read(TASK_CPU.load())
    }

    pub fn cpu_time_ns(self) -> u64 {
        self.read(TASK_CPU_TIME.load())
    }

    pub fn start_boottime_ns(self) -> u64 {
        self.read(TASK_START_BOOTTIME.load())
    }

    fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier has checked type and offset; see above.
        unsafe { *self.0.add(offset as usize).cast::<T>() }
    }
}
