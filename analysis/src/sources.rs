//! Finds recordings and results of experiments.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use huddle_model::schema::MANIFEST_FILE;

use crate::AnalysisError;
use crate::experiment::{ExperimentDir, is_experiment};
use crate::run::{RunDir, is_run};

/// How many directories below the named one a run may be: `host=NAME/run=ID`, and one for a tree of trees.
const DEEPEST: usize = 3;

/// The inputs of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Recordings, except those of experiments.
    pub runs: Vec<RunDir>,
    /// Results of experiments, with their recordings.
    pub experiments: Vec<ExperimentDir>,
}

impl Sources {
    /// Everything at these paths, without duplicates.
    ///
    /// # Errors
    /// When nothing is found at one of them.
    pub fn of(paths: &[PathBuf]) -> Result<Self, AnalysisError> {
        let mut all = Self::default();
        for path in paths {
            all.add(Self::find(path)?);
        }
        all.dedup();
        Ok(all)
    }

    /// Everything at `path`: the directory of a run or of an experiment, a tree that holds some, or a pattern
    /// (`*`, `?`, `[..]`) of such, in ascending order.
    ///
    /// # Errors
    /// When nothing is found.
    pub fn find(path: &Path) -> Result<Self, AnalysisError> {
        // An existing path is not a pattern, whatever characters it has.
        match path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists()) {
            Some(pattern) => Self::matching(pattern),
            None => Self::at(path),
        }
    }

    /// The recordings alone, those of experiments among them.
    ///
    /// # Errors
    /// When there are only results of experiments, which some queries do not support.
    pub fn recordings(&self) -> Result<Vec<RunDir>, AnalysisError> {
        let of_experiments = self.experiments.iter().flat_map(ExperimentDir::runs);
        let all: Vec<RunDir> = self.runs.iter().chain(of_experiments).cloned().collect();
        match self.experiments.first() {
            Some(only) if all.is_empty() => Err(AnalysisError::OnlyExperiment(only.path().to_owned())),
            _ => Ok(all),
        }
    }

    /// The experiments alone, without those that are sizes of a scan among them.
    ///
    /// # Errors
    /// When there are recordings only.
    pub(crate) fn experiments_alone(&self) -> Result<Vec<&ExperimentDir>, AnalysisError> {
        let scans = self.experiments.iter().filter(|dir| dir.is_scan());
        let scans: Vec<&Path> = scans.map(ExperimentDir::path).collect();
        let is_within =
            |dir: &&ExperimentDir| dir.path().parent().is_some_and(|parent| scans.contains(&parent));
        let alone: Vec<&ExperimentDir> = self.experiments.iter().filter(|dir| !is_within(dir)).collect();
        match (alone.is_empty(), self.runs.first()) {
            (true, Some(run)) => Err(AnalysisError::OnlyRecording(run.path().to_owned())),
            _ => Ok(alone),
        }
    }

    /// What was left out of them, one sentence each.
    pub(crate) fn losses(&self) -> impl Iterator<Item = &String> {
        let of_experiments = self.experiments.iter().flat_map(ExperimentDir::all_runs);
        self.runs.iter().chain(of_experiments).flat_map(RunDir::losses)
    }

    /// What is to know of segments that another program wrote, one sentence each.
    pub(crate) fn notes_of_others(&self) -> impl Iterator<Item = String> + '_ {
        let of_experiments = self.experiments.iter().flat_map(ExperimentDir::all_runs);
        self.runs
            .iter()
            .chain(of_experiments)
            .flat_map(|run| run.notes().of_others().map(|note| format!("{}: {note}", run.path().display())))
    }

    /// The result of `query`. If it fails at a segment that is damaged inside, all rows are read to find such segments,
    /// and it is run again without them.
    ///
    /// # Errors
    /// Those of `query`.
    pub(crate) fn run<T>(
        &mut self,
        query: impl Fn(&Self) -> Result<T, AnalysisError>,
    ) -> Result<T, AnalysisError> {
        match query(self) {
            // For an export, a failure to read is a failure to write.
            Err(AnalysisError::Table { .. } | AnalysisError::View { .. } | AnalysisError::Write { .. })
                if self.check_all_rows() > 0 =>
            {
                query(self)
            }
            result => result,
        }
    }

    /// Reads all rows to find segments that are damaged inside; returns how many were found.
    pub(crate) fn check_all_rows(&mut self) -> usize {
        let of_runs: usize = self.runs.iter_mut().map(RunDir::check_all_rows).sum();
        of_runs + self.experiments.iter_mut().map(ExperimentDir::check_all_rows).sum::<usize>()
    }

    /// Everything at the paths that match a pattern; paths without a run or an experiment are skipped.
    fn matching(pattern: &str) -> Result<Self, AnalysisError> {
        let bad = |error: &dyn std::fmt::Display| {
            AnalysisError::Pattern(format!("{pattern:?} is not a pattern of paths: {error}"))
        };
        let mut found = Self::default();
        for path in glob::glob(pattern).map_err(|error| bad(&error))? {
            match Self::at(&path.map_err(|error| bad(&error))?) {
                Ok(more) => found.add(more),
                Err(AnalysisError::NoRun(_) | AnalysisError::NotADirectory(_)) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort();
        found.dedup();
        if found == Self::default() {
            return Err(AnalysisError::Pattern(format!("{pattern:?} matches no recording")));
        }
        Ok(found)
    }

    fn at(path: &Path) -> Result<Self, AnalysisError> {
        let about = std::fs::metadata(path).map_err(AnalysisError::read(path))?;
        if !about.is_dir() {
            return Err(AnalysisError::NotADirectory(path.to_owned()));
        }
        let mut found = Self::default();
        found.search(path, DEEPEST)?;
        if found == Self::default() {
            return Err(AnalysisError::NoRun(path.to_owned()));
        }
        found.sort();
        Ok(found)
    }

    fn search(&mut self, dir: &Path, depth: usize) -> Result<(), AnalysisError> {
        // An experiment may have the table of its responses beside its result, and no manifest.
        let is_experiment = !dir.join(MANIFEST_FILE).exists() && is_experiment(dir);
        if !is_experiment && is_run(dir) {
            self.runs.push(RunDir::new(dir.to_owned()));
            return Ok(());
        }
        let mut below = Self::default();
        if depth > 0 {
            for entry in std::fs::read_dir(dir).map_err(AnalysisError::read(dir))? {
                let entry = entry.map_err(AnalysisError::read(dir))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    below.search(&entry.path(), depth - 1)?;
                }
            }
        }
        if is_experiment {
            below.runs.sort();
            let runs = std::mem::take(&mut below.runs);
            self.experiments.push(ExperimentDir::new(dir.to_owned(), runs));
        }
        self.add(below);
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.runs.extend(other.runs);
        self.experiments.extend(other.experiments);
    }

    /// Leaves out what is there already.
    fn dedup(&mut self) {
        let mut seen = HashSet::new();
        self.runs.retain(|run| seen.insert(run.path().to_owned()));
        let mut seen = HashSet::new();
        self.experiments.retain(|experiment| seen.insert(experiment.path().to_owned()));
    }

    fn sort(&mut self) {
        self.runs.sort();
        self.experiments.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_run_or_experiment_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        // A file of that name that another program wrote.
        std::fs::write(dir.path().join("summary.json"), "{\"schema\":\"other\"}").unwrap();
        for (path, words) in
            [("", "has no recording"), ("file", "is a file"), ("none", "No such file or directory")]
        {
            let error = Sources::find(&dir.path().join(path)).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn an_experiment_has_the_recordings_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let summary = "{\"schema\":\"huddle/summary/1\"}";
        make("scan/summary.json", summary);
        make("scan/128-kib/summary.json", summary);
        make("scan/128-kib/recording/manifest.json", "{}");
        make("scan/128-kib/responses/segment-000001.parquet", "");
        make("run/manifest.json", "{}");
        let found = Sources::find(dir.path()).unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(found.runs, [RunDir::new(at("run"))]);
        let listed: Vec<(PathBuf, usize)> =
            found.experiments.iter().map(|one| (one.path().to_owned(), one.runs().len())).collect();
        assert_eq!(listed, [(at("scan"), 0), (at("scan/128-kib"), 1)]);
        assert_eq!(found.recordings().unwrap().len(), 2);
        std::fs::remove_dir_all(at("scan/128-kib/recording")).unwrap();
        let error = Sources::find(&at("scan")).unwrap().recordings().unwrap_err().to_string();
        assert!(error.contains("the result of an experiment and no recording"), "{error}");
    }
}
