//! One colour for each arm in all figures of a comparison.

use huddle_model::summary::{Arm, by_order_of_arms};

/// The arms of a comparison, in their order.
pub(super) struct Colours(Vec<String>);

impl Colours {
    /// Of these arms. Where all are those of experiments, an arm has the same colour in every experiment.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        if names.iter().all(|name| Arm::ALL.iter().any(|arm| arm.name() == name)) {
            names = Arm::ALL.map(|arm| arm.name().to_owned()).to_vec();
        }
        names.sort_by(|one, other| by_order_of_arms(one, other));
        names.dedup();
        Self(names)
    }

    /// The number of an arm's colour.
    pub(super) fn number(&self, name: &str) -> usize {
        self.0.iter().position(|known| known == name).unwrap_or(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_has_its_colour_whatever_else_there_is() {
        let (few, all) = (["opposed", "kernel"], Arm::ALL.map(Arm::name));
        let (few, all) = (Colours::of(few.into_iter()), Colours::of(all.into_iter()));
        assert_eq!((few.number("kernel"), few.number("opposed")), (all.number("kernel"), 1));
        let trials = Colours::of(["paper", "before", "paper", "before"].into_iter());
        assert_eq!((trials.number("before"), trials.number("paper"), trials.number("else")), (0, 1, 2));
    }
}
