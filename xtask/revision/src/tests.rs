use std::fs;
use std::time::SystemTime;

use super::*;

/// A work tree with one commit.
fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "-b", "main"]).unwrap();
    fs::write(dir.path().join("file"), "one").unwrap();
    commit(dir.path());
    dir
}

fn commit(root: &Path) {
    git(root, &["add", "."]).unwrap();
    let author = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
    git(root, &[&author[..], &["commit", "-qm", "change"]].concat()).unwrap();
}

fn head(root: &Path) -> String {
    git(root, &["rev-parse", "--short=12", "HEAD"]).unwrap()
}

fn revision(text: impl Into<String>) -> Revision {
    Revision::Git(text.into())
}

/// The newest change of what is watched, as cargo looks at it: directories with all that is in them.
fn newest(paths: &[PathBuf]) -> SystemTime {
    let changed = |path: &PathBuf| {
        let own = fs::metadata(path).unwrap().modified().unwrap();
        let Ok(entries) = fs::read_dir(path) else { return own };
        let inside: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        if inside.is_empty() { own } else { own.max(newest(&inside)) }
    };
    paths.iter().map(changed).max().unwrap()
}

#[test]
fn a_revision_is_clean_until_a_file_changes() {
    let dir = repository();
    let root = dir.path();
    assert_eq!(Revision::of(root), revision(head(root)));
    fs::write(root.join("file"), "two").unwrap();
    assert_eq!(Revision::of(root), revision(format!("{}-dirty", head(root))));
    commit(root);
    assert_eq!(Revision::of(root), revision(head(root)));
}

#[test]
fn an_archive_inside_another_work_tree_is_an_archive() {
    let dir = repository();
    let inside = dir.path().join("unpacked");
    fs::create_dir(&inside).unwrap();
    assert_eq!(Revision::of(&inside), Revision::SourceArchive);
    assert_eq!(Revision::of(&inside).to_string(), "source archive");
}

#[test]
fn a_work_tree_that_git_cannot_read_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".git"), "gitdir: /nonexistent").unwrap();
    assert!(matches!(Revision::of(dir.path()), Revision::Unknown(reason) if !reason.is_empty()));
    assert_eq!(git_files(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_commit_changes_what_is_watched_in_work_trees_and_with_packed_branches_too() {
    let dir = repository();
    let main = dir.path().join("main");
    let linked = dir.path().join("linked");
    git(dir.path(), &["clone", "-q", ".", "main"]).unwrap();
    git(&main, &["worktree", "add", "-q", "-b", "side/branch", "../linked"]).unwrap();
    for root in [&main, &linked] {
        for packed in [false, true] {
            if packed {
                git(root, &["pack-refs", "--all"]).unwrap();
            }
            let watched = git_files(root);
            let before = newest(&watched);
            let old = Revision::of(root);
            // File systems tell times as coarsely as the kernel's tick.
            std::thread::sleep(std::time::Duration::from_millis(20));
            fs::write(root.join("file"), format!("{packed}")).unwrap();
            commit(root);
            assert_ne!(Revision::of(root), old);
            assert!(newest(&watched) > before, "{watched:?} of {} (packed: {packed})", root.display());
        }
    }
}

#[test]
fn tests_of_a_package_are_not_its_sources() {
    let dir = tempfile::tempdir().unwrap();
    for directory in ["src", "tests"] {
        fs::create_dir(dir.path().join(directory)).unwrap();
    }
    let file = dir.path().join("Cargo.toml");
    fs::write(&file, "").unwrap();
    assert_eq!(source_files(dir.path().to_owned()), [file.clone(), dir.path().join("src")]);
    assert_eq!(source_files(file.clone()), [file]);
    assert!(source_files(dir.path().join("gone")).is_empty());
}
