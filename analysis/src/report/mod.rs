//! The report: every figure and table of recordings and experiments in one HTML file.
//!
//! Missing parts are shown as missing, with the reason, and the rest goes on.

mod arms;
mod colours;
mod data;
mod experiment;
mod fleet;
mod host;
mod misses;
mod page;
mod paired;
mod run;

use std::fs;
use std::path::Path;

use huddle_host::files;

use crate::AnalysisError;
use crate::experiment::ExperimentDir;
use crate::figure::Figure;
use crate::run::RunDir;
use crate::sources::Sources;
use page::Page;

/// A finished report.
#[derive(Clone, Debug)]
pub struct Report {
    html: String,
    figures: Vec<Figure>,
    /// Whether a table could not be read.
    has_unread: bool,
}

impl Report {
    /// The report of these recordings and experiments: their comparison, then each separately.
    ///
    /// # Errors
    /// When none of them can be used: then there is nothing to report.
    pub fn of(sources: &Sources) -> Result<Self, AnalysisError> {
        let mut page = Page::new();
        let mut first_error = None;
        let mut leave_out = |page: &mut Page, error: AnalysisError| {
            page.gap(&format!("Left out: {error}"));
            first_error.get_or_insert(error);
        };
        let mut usable = |page: &mut Page, runs: &[RunDir]| {
            let mut good = Vec::new();
            for run in runs {
                match run.manifest() {
                    Ok(_) => good.push(run.clone()),
                    Err(error) => leave_out(page, error),
                }
            }
            good
        };
        let runs = usable(&mut page, &sources.runs);
        let of_experiments: Vec<RunDir> =
            sources.experiments.iter().flat_map(ExperimentDir::runs).cloned().collect();
        let of_experiments = usable(&mut page, &of_experiments);
        let mut experiments = Vec::new();
        for dir in &sources.experiments {
            match dir.summary() {
                Ok(summary) => experiments.push((dir, summary)),
                Err(error) => leave_out(&mut page, error),
            }
        }
        let things = runs.len() + of_experiments.len() + experiments.len();
        if let (0, Some(error)) = (things, first_error) {
            return Err(error);
        }
        for (number, (dir, summary)) in experiments.iter().enumerate() {
            experiment::write(&mut page, number, dir, summary);
        }
        if !runs.is_empty() {
            arms::write(&mut page, &runs);
        }
        for (number, run) in runs.iter().chain(&of_experiments).enumerate() {
            run::write(&mut page, number, run);
        }
        let count = |n: usize, what: &str| match n {
            0 => None,
            1 => Some(format!("1 {what}")),
            n => Some(format!("{n} {what}s")),
        };
        let counts: Vec<String> =
            [count(experiments.len(), "experiment"), count(runs.len() + of_experiments.len(), "recording")]
                .into_iter()
                .flatten()
                .collect();
        let lead = format!(
            "{}. Unavailable is shown as a dash with its reason, never as zero.",
            counts.join(" and ")
        );
        let title = if runs.is_empty() && !experiments.is_empty() {
            "huddle: report of experiments"
        } else {
            "huddle: report of recordings"
        };
        let has_unread = page.has_unread();
        let (html, figures) = page.finish(title, &lead);
        Ok(Self { html, figures, has_unread })
    }

    /// Whether a table could not be read, though nothing was known to be wrong with its segments: it is worth asking
    /// again when they were read through.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// The page.
    pub fn html(&self) -> &str {
        &self.html
    }

    /// Writes the page to `path`, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), AnalysisError> {
        files::replace_file(path, self.html.as_bytes(), files::FOR_ALL)
            .map(drop)
            .map_err(|error| AnalysisError::Write { path: path.to_owned(), message: error.to_string() })
    }

    /// Writes each figure to `dir/ID.svg`.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write_figures(&self, dir: &Path) -> Result<(), AnalysisError> {
        let cannot = |path: &Path, error: std::io::Error| AnalysisError::Write {
            path: path.to_owned(),
            message: error.to_string(),
        };
        fs::create_dir_all(dir).map_err(|error| cannot(dir, error))?;
        for figure in &self.figures {
            let path = dir.join(format!("{}.svg", figure.id));
            fs::write(&path, figure.file()).map_err(|error| cannot(&path, error))?;
        }
        Ok(())
    }
}

/// Writes the result of `ask`; an error becomes a gap in the page.
fn or_gap<T>(page: &mut Page, what: &str, answer: Result<T, AnalysisError>) -> Option<T> {
    let leave_out = |error: AnalysisError| {
        if matches!(error, AnalysisError::Table { .. }) {
            page.note_unread();
        }
        page.gap(&format!("{what}: {error}"));
    };
    answer.map_err(leave_out).ok()
}
