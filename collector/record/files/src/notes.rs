//! What a user should know of the files of a recording although all of their rows are read.

use std::collections::{BTreeMap, BTreeSet};

use huddle_model::schema::Table;

use super::segment::Origin;

/// Notes on the segments of one recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Number of segments without a checksum, since an older version wrote them.
    older: usize,
    /// Number of segments by the program that wrote them, other than the recorder.
    others: BTreeMap<String, usize>,
    /// Columns that are not read.
    further: BTreeMap<Table, BTreeSet<String>>,
}

impl Notes {
    /// Adds a segment that can be read.
    pub fn add(&mut self, table: Table, origin: &Origin, further: &[String]) {
        match origin {
            Origin::Checked => {}
            Origin::Older => self.older += 1,
            Origin::Other(program) => *self.others.entry(program.clone()).or_default() += 1,
        }
        if !further.is_empty() {
            self.further.entry(table).or_default().extend(further.iter().cloned());
        }
    }

    /// One sentence for each kind.
    pub fn sentences(&self) -> impl Iterator<Item = String> + '_ {
        let older = (self.older > 0).then(|| {
            format!(
                "{} segments have no checksum, as older versions wrote them: damage in them may go unnoticed",
                self.older
            )
        });
        older.into_iter().chain(self.of_others())
    }

    /// Those of segments that another program wrote.
    pub fn of_others(&self) -> impl Iterator<Item = String> + '_ {
        let segments = |count: usize| match count {
            1 => "1 segment was".to_owned(),
            _ => format!("{count} segments were"),
        };
        let others = (!self.others.is_empty()).then(|| {
            let names: Vec<String> = self.others.keys().map(|name| format!("{name:?}")).collect();
            format!(
                "{} written by another program ({}), so they have no checksum: damage in them may go unnoticed",
                segments(self.others.values().sum()),
                names.join(", ")
            )
        });
        let further = self.further.iter().map(|(table, names)| {
            let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            format!("{table} has further columns, which are not read: {}", names.join(", "))
        });
        others.into_iter().chain(further)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_one_sentence() {
        let mut notes = Notes::default();
        notes.add(Table::Vms, &Origin::Checked, &[]);
        assert_eq!(notes.sentences().count(), 0);
        notes.add(Table::Vms, &Origin::Other("DuckDB".to_owned()), &["cost".to_owned()]);
        notes.add(Table::Ksm, &Origin::Other("Polars".to_owned()), &[]);
        notes.add(Table::Ksm, &Origin::Older, &[]);
        let told: Vec<String> = notes.sentences().collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[1].starts_with("2 segments were written by another program (\"DuckDB\", \"Polars\")"),
            "{told:?}"
        );
        assert_eq!(told[2], "vms has further columns, which are not read: \"cost\"");
    }
}
