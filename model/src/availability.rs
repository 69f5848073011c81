//! "Not available" as a value with a reason, so that it can never be mistaken for zero.

use serde::{Deserialize, Serialize};

/// A measured value, or why this host cannot measure it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability<T> {
    /// The measured value.
    Available(T),
    /// Why it could not be measured, as one sentence for the user.
    Unavailable(String),
}

impl<T> Availability<T> {
    /// The same by reference.
    pub fn as_ref(&self) -> Availability<&T> {
        match self {
            Self::Available(value) => Availability::Available(value),
            Self::Unavailable(reason) => Availability::Unavailable(reason.clone()),
        }
    }

    /// The value, if available.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Available(value) => Some(value),
            Self::Unavailable(_) => None,
        }
    }

    /// The reason, if unavailable.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Available(_) => None,
            Self::Unavailable(reason) => Some(reason),
        }
    }

    /// Applies `f` to the value and keeps the reason.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Availability<U> {
        match self {
            Self::Available(value) => Availability::Available(f(value)),
            Self::Unavailable(reason) => Availability::Unavailable(reason),
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Availability<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Available(value),
            Err(error) => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_map_and_is_never_a_value() {
        let unavailable: Availability<u64> = Availability::Unavailable("no PMU".into());
        let mapped = unavailable.map(|misses| misses * 2);
        assert_eq!(mapped.value(), None);
        assert_eq!(mapped.reason(), Some("no PMU"));
        assert_eq!(Availability::Available(2).map(|n| n * 2).value(), Some(&4));
    }
}
