//! Affinities of threads with masks as long as the kernel's. The masks of libc have 1,024 CPUs; a kernel with more
//! refuses to write its mask into a shorter one, and a CPU beyond could never be named (sched_setaffinity(2)).

use huddle_model::cpuset::CpuSet;
use nix::errno::Errno;
use nix::libc;

/// CPUs in a word of a mask.
const WORD_CPUS: usize = usize::BITS as usize;

/// Words of a mask for 1,024 CPUs, which is enough for most hosts.
const FIRST_WORDS: usize = 1024 / WORD_CPUS;

/// Words beyond which no kernel is asked: 65,536 CPUs.
const MOST_WORDS: usize = 65_536 / WORD_CPUS;

/// CPUs that a thread may run on, without those that are offline.
///
/// # Errors
/// `ESRCH` if it is gone.
pub fn of_thread(tid: i32) -> Result<CpuSet, Errno> {
    let mut words = FIRST_WORDS;
    loop {
        let mut mask: Vec<usize> = vec![0; words];
        // SAFETY: the kernel writes at most as many bytes as it is given the length of, which is that of `mask`.
        let written = unsafe {
            libc::syscall(libc::SYS_sched_getaffinity, tid, size_of_val(mask.as_slice()), mask.as_mut_ptr())
        };
        match Errno::result(written) {
            Ok(_) => return Ok(cpus_of(&mask)),
            // A mask shorter than the kernel's (kernel/sched/syscalls.c, Linux 6.18).
            Err(Errno::EINVAL) if words < MOST_WORDS => words *= 2,
            Err(errno) => return Err(errno),
        }
    }
}

/// Sets the CPUs that a thread may run on; the kernel narrows them silently to its cpuset.
///
/// # Errors
/// `ESRCH` if it is gone, `EINVAL` if none of the CPUs can be used.
pub fn set_of_thread(tid: i32, cpus: &CpuSet) -> Result<(), Errno> {
    let mask = mask_of(cpus);
    // SAFETY: the kernel reads as many bytes as it is given the length of, which is that of `mask`.
    let done = unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, tid, size_of_val(mask.as_slice()), mask.as_ptr())
    };
    Errno::result(done).map(drop)
}

/// As short as it can be: the kernel takes what is missing for zeros.
fn mask_of(cpus: &CpuSet) -> Vec<usize> {
    let words = cpus.iter().last().map_or(1, |last| last as usize / WORD_CPUS + 1);
    let mut mask = vec![0usize; words];
    for cpu in cpus.iter() {
        mask[cpu as usize / WORD_CPUS] |= 1 << (cpu as usize % WORD_CPUS);
    }
    mask
}

fn cpus_of(mask: &[usize]) -> CpuSet {
    let of_word = |(at, word): (usize, &usize)| {
        let word = *word;
        (0..WORD_CPUS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * WORD_CPUS + bit)
    };
    mask.iter().enumerate().flat_map(of_word).filter_map(|cpu| u32::try_from(cpu).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_as_long_as_their_last_cpu_needs() {
        for (list, bytes) in
            [("0", 8), ("0-63", 8), ("64", 16), ("0-1,1024-1151", 144), ("1919", 240), ("", 8)]
        {
            let cpus: CpuSet = list.parse().unwrap();
            let mask = mask_of(&cpus);
            assert_eq!(
                (cpus_of(&mask), size_of_val(mask.as_slice()) * 64 / WORD_CPUS),
                (cpus, bytes),
                "{list}"
            );
        }
    }

    #[test]
    fn this_thread_has_an_affinity_that_can_be_set() {
        let before = of_thread(0).unwrap();
        assert!(!before.is_empty());
        let one: CpuSet = before.first().into_iter().collect();
        // CPUs beyond those there are do no harm beside one that is there.
        let beyond: CpuSet = one.iter().chain([1919]).collect();
        let seen = std::thread::spawn(move || {
            set_of_thread(0, &beyond).unwrap();
            of_thread(0).unwrap()
        });
        assert_eq!(seen.join().unwrap(), one);
        assert_eq!(set_of_thread(0, &CpuSet::new()), Err(Errno::EINVAL));
        assert_eq!(of_thread(i32::MAX), Err(Errno::ESRCH));
    }
}
