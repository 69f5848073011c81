//! Numbers of things, as a sentence has them.

use std::fmt::Display;

/// `1 vCPU`, `2 vCPUs`, `0 changes`: the number, and the noun as it goes with it. The plural is regular: `process` gets
/// `es`.
pub fn counted(number: impl Display, noun: &str) -> String {
    let number = number.to_string();
    let ending = match number.as_str() {
        "1" => "",
        _ if noun.ends_with(['s', 'x']) => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_everything_else_is_not() {
        let all = [0_u64, 1, 2, 11].map(|number| counted(number, "vCPU"));
        assert_eq!(all, ["0 vCPUs", "1 vCPU", "2 vCPUs", "11 vCPUs"]);
        assert_eq!(counted(2, "process"), "2 processes");
        assert_eq!(counted("no", "change"), "no changes");
    }
}
