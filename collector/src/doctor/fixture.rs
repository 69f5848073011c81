//! A tree of fixtures for the tests of this module.

use super::{Finding, State};
use huddle_host::HostRoot;

pub(super) struct Tree {
    dir: tempfile::TempDir,
    pub(super) root: HostRoot,
}

impl Tree {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Self { root: HostRoot::at(dir.path()), dir };
        for (path, text) in files {
            tree.write(path, text);
        }
        tree
    }

    pub(super) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }
}

/// The finding called `item`.
pub(super) fn find(findings: Vec<Finding>, item: &str) -> Finding {
    let items: Vec<&str> = findings.iter().map(|finding| finding.item).collect();
    assert!(items.contains(&item), "{items:?}");
    findings.into_iter().find(|finding| finding.item == item).unwrap()
}

/// For each value of one file, the state of one item, and a word of its finding.
pub(super) fn check(
    examine: fn(&HostRoot) -> Vec<Finding>,
    item: &str,
    path: &str,
    cases: &[(Option<&str>, State, &str)],
) {
    for (text, state, word) in cases {
        let tree = Tree::new(&[]);
        if let Some(text) = text {
            tree.write(path, text);
        }
        let finding = find(examine(&tree.root), item);
        assert_eq!(finding.state, *state, "{text:?}: {finding:?}");
        let text_of_finding =
            format!("{} {} {}", finding.value, finding.meaning, finding.remedy.unwrap_or_default());
        assert!(text_of_finding.contains(word), "{text:?}: {word:?} is not in {text_of_finding:?}");
    }
}
