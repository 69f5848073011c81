//! The order in which arms are measured: blocks with every arm once, in a random order within each block.
//!
//! Arms that alternate meet the same drift of the machine; a random order within the block keeps a
//! disturbance with a period from always hitting the same arm. Equal seeds give equal orders.

use huddle_model::rng::Rng;
use huddle_model::summary::Arm;

/// The random stream of orders (see [`Rng::of_part`]).
const ORDER: u64 = 1;

/// `blocks` orders of `arms`.
pub(super) fn orders(arms: &[Arm], blocks: usize, seed: u64) -> Vec<Vec<Arm>> {
    let mut rng = Rng::of_part(seed, ORDER);
    (0..blocks)
        .map(|_| {
            let mut order = arms.to_vec();
            rng.shuffle(&mut order);
            order
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_has_every_arm_once() {
        for block in orders(&Arm::ALL, 50, 3) {
            let mut arms = block.clone();
            arms.sort();
            assert_eq!(arms, Arm::ALL);
        }
    }

    #[test]
    fn equal_seeds_give_equal_orders_and_a_longer_run_begins_like_a_shorter_one() {
        assert_eq!(orders(&Arm::ALL, 40, 8), orders(&Arm::ALL, 40, 8));
        assert_eq!(orders(&Arm::ALL, 40, 8)[..10], orders(&Arm::ALL, 10, 8));
        assert_ne!(orders(&Arm::ALL, 40, 8), orders(&Arm::ALL, 40, 9));
    }

    #[test]
    fn both_orders_occur() {
        let arms = [Arm::Recommended, Arm::Opposed];
        let first = orders(&arms, 100, 1).iter().filter(|block| block[0] == Arm::Opposed).count();
        assert!((30..=70).contains(&first), "{first} of 100 blocks begin with opposed");
    }
}
