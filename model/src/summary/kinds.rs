//! Sentences that differ only in what they are about, told once: the reasons of invalid blocks, and disturbances.
//!
//! Two sentences are of one kind if they are equal but for their words with digits (numbers, `vm1`) and the names of
//! arms. That needs nothing but the sentences, which is all that files of experiments have.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::Arm;

/// How many blocks are named; the others are counted.
const NAMED: usize = 8;

/// One sentence for each kind, the first of it, with the number of the others; in the order given.
pub fn one_a_kind(sentences: &[String]) -> Vec<String> {
    let of_kind = |alike: Vec<&String>| {
        let mut text = alike[0].clone();
        if alike.len() > 1 {
            // Writing to a string cannot fail.
            let _ = write!(text, " (and {} more like it)", alike.len() - 1);
        }
        text
    };
    grouped(sentences, |sentence| sentence).into_iter().map(of_kind).collect()
}

/// One sentence for each kind of reason, with the number of a block and the reason; `of` is how many blocks there are.
pub(super) fn of_blocks(invalid: &[(usize, &str)], of: usize) -> Vec<String> {
    let mut kinds = grouped(invalid, |(_, why)| *why);
    kinds.sort_by_key(|alike| Reverse(alike.len()));
    let of_kind = |alike: Vec<&(usize, &str)>| {
        let (first, why) = alike[0];
        if alike.len() == 1 {
            return format!("block {first}: {why}");
        }
        let mut numbers: Vec<String> =
            alike.iter().take(NAMED).map(|(number, _)| number.to_string()).collect();
        if alike.len() > NAMED {
            numbers.push(format!("{} more", alike.len() - NAMED));
        }
        format!("{} of {of} blocks ({}), block {first}: {why}", alike.len(), numbers.join(", "))
    };
    kinds.into_iter().map(of_kind).collect()
}

/// The items by kind of their sentence, kinds in the order of their first.
fn grouped<T>(items: &[T], sentence: impl Fn(&T) -> &str) -> Vec<Vec<&T>> {
    let mut kinds: Vec<(String, Vec<&T>)> = Vec::new();
    for item in items {
        let kind = kind(sentence(item));
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, alike)) => alike.push(item),
            None => kinds.push((kind, vec![item])),
        }
    }
    kinds.into_iter().map(|(_, alike)| alike).collect()
}

fn kind(sentence: &str) -> String {
    let is_name = |word: &str| Arm::ALL.into_iter().any(|arm| arm.name() == word);
    let general = |word| {
        let bare = str::trim_matches(word, |letter: char| letter.is_ascii_punctuation() && letter != '_');
        if is_name(bare) || bare.contains(|letter: char| letter.is_ascii_digit()) { "#" } else { word }
    };
    sentence.split_whitespace().map(general).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_of_one_kind_are_told_once() {
        let all = [
            "other programs took CPU time: in arm opposed the guests got 62 % of their CPUs",
            "NUMA balancing is on",
            "other programs took CPU time: in arm not_merged the guests got 71 % of their CPUs",
            "other programs took CPU time: in arm kernel, the guests got 8 % of their CPUs",
        ];
        let told = one_a_kind(&all.map(str::to_owned));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("opposed") && told[0].ends_with("(and 2 more like it)"), "{told:?}");
        assert_eq!(told[1], "NUMA balancing is on");
    }

    #[test]
    fn reasons_of_blocks_have_their_numbers_and_the_most_frequent_is_first() {
        let merged = |shared: u64| {
            format!("vm1 and vm2 hold the same 4096 pages of data and {shared} of them are merged")
        };
        let texts: Vec<String> = (1..=10).map(merged).collect();
        let mut blocks = vec![(1, "in arm kernel vm3 answered 0 of 12 requests within 3 s")];
        blocks.extend((2..).zip(texts.iter().map(String::as_str)));
        let told = of_blocks(&blocks, 20);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(
            told[0],
            format!("10 of 20 blocks (2, 3, 4, 5, 6, 7, 8, 9, 2 more), block 2: {}", texts[0])
        );
        assert!(told[1].starts_with("block 1: in arm kernel vm3"), "{told:?}");
        assert!(of_blocks(&[], 3).is_empty() && one_a_kind(&[]).is_empty());
    }
}
