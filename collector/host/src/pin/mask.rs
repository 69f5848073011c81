//! Affinities of threads, as the kernel has them: masks of any length. The types of libc end at 1,024 CPUs
//! (CPU_SET(3)), those of the kernel do not.

use huddle_model::cpuset::CpuSet;
use nix::errno::Errno;
use nix::libc;

/// Words of the longest mask: a kernel has no more than 65,536 CPUs, which is more than any `NR_CPUS`.
const MAX_WORDS: usize = 1024;

/// CPUs that a thread may run on and that are online (sched_getaffinity(2)); of the thread that asks where `tid` is 0.
///
/// # Errors
/// `ESRCH` where the thread is gone.
pub fn get(tid: i32) -> Result<CpuSet, Errno> {
    let mut words = [0u64; MAX_WORDS];
    // SAFETY: the kernel writes at most as many bytes as it is told that `words` has, and any bytes are valid words.
    let written =
        unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, size_of_val(&words), words.as_mut_ptr()) };
    Errno::result(written)?;
    Ok(cpus(&words))
}

/// Asks for an affinity (sched_setaffinity(2)); of the thread that asks where `tid` is 0. Nothing is written to a journal:
/// vCPUs are pinned by [`super::HostPinner`].
///
/// CPUs beyond those that the kernel can have are left out by it.
///
/// # Errors
/// `ESRCH` where the thread is gone, `EINVAL` where none of the CPUs can be used.
pub fn set(tid: i32, cpus: &CpuSet) -> Result<(), Errno> {
    let words = words(cpus);
    // SAFETY: the kernel reads at most as many bytes as it is told that `words` has.
    let done = unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, tid, size_of_val(words.as_slice()), words.as_ptr())
    };
    Errno::result(done).map(drop)
}

/// The CPUs of a mask, whose words begin with the lowest bit.
fn cpus(words: &[u64]) -> CpuSet {
    let of_word = |(first, word): (u32, u64)| {
        (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
    };
    (0u32..).step_by(64).zip(words.iter().copied()).filter(|(_, word)| *word != 0).flat_map(of_word).collect()
}

/// The mask of these CPUs, as short as it can be, of one word at least.
fn words(cpus: &CpuSet) -> Vec<u64> {
    let mut words = vec![0u64];
    for cpu in cpus.iter() {
        let (word, bit) = (cpu as usize / 64, cpu % 64);
        if word >= MAX_WORDS {
            break;
        }
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        words[word] |= 1 << bit;
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpus_beyond_1024_are_asked_for_and_the_kernel_leaves_out_what_it_has_not() {
        let asked: CpuSet = "0-1,1024-1151,65535".parse().unwrap();
        assert_eq!(cpus(&words(&asked)), asked);
        let answer = std::thread::spawn(move || {
            let before = get(0).unwrap();
            let first = before.first().unwrap();
            set(0, &[first, 1151].into_iter().collect()).unwrap();
            let one = get(0).unwrap();
            let none = set(0, &"60000-60001".parse().unwrap());
            set(0, &(0..65_536).collect()).unwrap();
            (before.clone(), one == [first].into_iter().collect(), none, get(0).unwrap())
        });
        let (before, is_one, none, after) = answer.join().unwrap();
        assert!(is_one && none == Err(Errno::EINVAL), "{none:?}");
        assert!(before.is_subset(&after), "{before}, {after}");
        assert_eq!(get(i32::MAX), Err(Errno::ESRCH));
        assert_eq!(set(i32::MAX, &before), Err(Errno::ESRCH));
    }

    proptest! {
        #[test]
        fn masks_and_sets_are_the_same(list in proptest::collection::btree_set(0u32..65_536, 0..40)) {
            let set: CpuSet = list.into_iter().collect();
            prop_assert_eq!(cpus(&words(&set)), set);
        }
    }
}
