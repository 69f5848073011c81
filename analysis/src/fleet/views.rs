//! The questions to a fleet as SQL: `analysis/fleet/sql` has one view a file, which Polars runs here and any server that
//! speaks Spark Connect elsewhere, with equal answers.

use polars::prelude::*;
use polars::sql::SQLContext;

use crate::AnalysisError;
use crate::frame::collect;

/// Each question with its views, in order.
const ORDER: &str = include_str!("../../fleet/sql/order.txt");

macro_rules! views {
    ($($name:literal)*) => {
        /// The text of each view, by name.
        const VIEWS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../fleet/sql/", $name, ".sql")))),*];
    };
}

views! {
    "candidates" "common" "compared" "families" "family_hosts" "family_vms" "followers" "grouped" "held" "holders"
    "host_words" "kept" "leaders" "led" "led_candidates" "members" "near" "near_common" "near_hosts"
    "near_hosts_common" "newest" "numbered" "pairs" "places" "shared" "signed" "uncommon" "uncommon_hosts"
    "uncommon_pairs" "vm_families" "vm_hosts" "vm_words" "vms"
}

/// Numbers that the views refer to, as `{name}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Contents that more VMs hold are common: taken together as families instead of joined.
    pub(super) max_holders: u64,
    /// Least kept contents of a family.
    pub(super) family_kept: u64,
    /// Least part, in percent, of the VMs that hold one of two contents and hold both, where both are of one family.
    pub(super) family_percent: u64,
    /// Least kept contents that a pair has in common.
    pub(super) least: u64,
    /// VMs or hosts that are looked at for each VM, besides those that its families suggest.
    pub(super) candidates: u64,
    /// Most pairs of an answer.
    pub(super) pairs: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { max_holders: 32, family_kept: 4, family_percent: 60, least: 2, candidates: 10, pairs: 30 }
    }
}

impl Parameters {
    fn fill(self, text: &str) -> String {
        let Self { max_holders, family_kept, family_percent, least, candidates, pairs } = self;
        [
            ("{max_holders}", max_holders),
            ("{family_kept}", family_kept),
            ("{family_percent}", family_percent),
            ("{least}", least),
            ("{candidates}", candidates),
            ("{pairs}", pairs),
        ]
        .into_iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, &value.to_string()))
    }
}

/// The tables `sketches` and `hosts` of a fleet, with the columns `host` and `run`.
#[derive(Clone)]
pub(super) struct FleetTables {
    pub(super) sketches: LazyFrame,
    pub(super) hosts: LazyFrame,
}

impl FleetTables {
    /// The answer to a question, and the views among `also` that it needed. Each view is a table in memory for as long as
    /// a later one reads it.
    ///
    /// # Errors
    /// A table cannot be read.
    pub(super) fn ask(
        &self,
        question: &str,
        also: &[&str],
        parameters: Parameters,
    ) -> Result<Answered, AnalysisError> {
        let views = order(question);
        let texts: Vec<String> = views.iter().map(|view| parameters.fill(text_of(view))).collect();
        let mut tables = vec![("sketches", self.sketches.clone()), ("hosts", self.hosts.clone())];
        let mut answered = Answered { answer: DataFrame::empty(), also: Vec::new() };
        for (number, view) in views.iter().enumerate() {
            let frame = made(&texts[number], &tables).map_err(AnalysisError::view(view))?;
            if also.contains(view) {
                answered.also.push(((*view).to_owned(), frame.clone()));
            }
            let later = &texts[number + 1..];
            if later.is_empty() {
                answered.answer = frame;
                break;
            }
            tables.push((view, frame.lazy()));
            tables.retain(|(table, _)| later.iter().any(|text| names(text, table)));
        }
        Ok(answered)
    }
}

/// The rows of a view. Each has a context of its own: one that is used again remembers aliases of earlier queries.
fn made(text: &str, tables: &[(&str, LazyFrame)]) -> PolarsResult<DataFrame> {
    let mut context = SQLContext::new();
    for (name, table) in tables.iter().filter(|(name, _)| names(text, name)) {
        context.register(name, table.clone());
    }
    collect(context.execute(text)?)
}

/// The answer to a question.
pub(super) struct Answered {
    /// Its rows.
    pub(super) answer: DataFrame,
    also: Vec<(String, DataFrame)>,
}

impl Answered {
    /// The rows of a view that was asked for, too; none if the question did not need it.
    pub(super) fn take(&mut self, view: &str) -> DataFrame {
        let found = self.also.iter().position(|(name, _)| name == view);
        found.map_or_else(DataFrame::empty, |place| self.also.swap_remove(place).1)
    }
}

/// The views of a question, the answer last.
fn order(question: &str) -> Vec<&'static str> {
    let of = |line: &'static str| line.split_once(": ").filter(|(name, _)| *name == question);
    ORDER.lines().find_map(of).map(|(_, views)| views.split(' ').collect()).unwrap_or_default()
}

fn text_of(view: &str) -> &'static str {
    VIEWS.iter().find(|(name, _)| *name == view).map_or("", |(_, text)| text)
}

/// Whether the text reads a table of this name.
fn names(text: &str, table: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    let mut words = code
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|word| !word.is_empty());
    // Columns may have the name of a table.
    let mut before = words.next();
    words.any(|word| {
        before.replace(word).is_some_and(|before| word == table && ["FROM", "JOIN"].contains(&before))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_view_has_the_tables_that_it_reads_before_it() {
        let mut used = BTreeSet::new();
        for line in ORDER.lines().filter(|line| !line.starts_with('#')) {
            let question = line.split(':').next().unwrap();
            let views = order(question);
            assert!(!views.is_empty(), "{line}");
            for (number, view) in views.iter().enumerate() {
                assert!(!text_of(view).is_empty(), "{view} has no file");
                used.insert(*view);
                for (other, _) in VIEWS {
                    let is_read = [format!("FROM {other} "), format!("JOIN {other} ")].iter().any(|words| {
                        format!("{} ", text_of(view).replace('\n', " ")).contains(words.as_str())
                    });
                    assert!(!is_read || views[..number].contains(other), "{question}: {view} reads {other}");
                }
            }
        }
        let all: BTreeSet<&str> = VIEWS.iter().map(|(name, _)| *name).collect();
        assert_eq!(used, all, "every file is used");
    }

    #[test]
    fn every_number_is_filled_in() {
        for (name, text) in VIEWS {
            let filled = Parameters::default().fill(text);
            assert!(!filled.contains(['{', '}']), "{name}: {filled}");
        }
    }
}
