//! The report: every figure and table of one or more recordings in one HTML file.
//!
//! What cannot be said is said to be missing, with the reason, and the rest goes on.

mod arms;
mod data;
mod host;
mod page;
mod run;

use std::fs;
use std::path::Path;

use crate::AnalysisError;
use crate::figure::Figure;
use crate::run::RunDir;
use page::Page;

/// A report that is ready to be written.
#[derive(Clone, Debug)]
pub struct Report {
    html: String,
    figures: Vec<Figure>,
}

impl Report {
    /// The report of these recordings: what they compare, then each by itself.
    ///
    /// # Errors
    /// When none of the recordings has a manifest that can be used: then there is nothing to report.
    pub fn of(runs: &[RunDir]) -> Result<Self, AnalysisError> {
        let usable: Vec<RunDir> = runs.iter().filter(|run| run.manifest().is_ok()).cloned().collect();
        if let (true, Some(run)) = (usable.is_empty(), runs.first()) {
            run.manifest()?;
        }
        let mut page = Page::new();
        for run in runs {
            if let Err(error) = run.manifest() {
                page.gap(&format!("Left out: {error}"));
            }
        }
        arms::write(&mut page, &usable);
        for (number, run) in usable.iter().enumerate() {
            run::write(&mut page, number, run);
        }
        let lead = match usable.len() {
            1 => "One recording. Unavailable is shown as a dash with its reason, never as zero.".to_owned(),
            n => format!("{n} recordings. Unavailable is shown as a dash with its reason, never as zero."),
        };
        let (html, figures) = page.finish("huddle: report of recordings", &lead);
        Ok(Self { html, figures })
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
        let cannot = |error: std::io::Error| AnalysisError::Write {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let name = path.file_name().ok_or_else(|| AnalysisError::Write {
            path: path.to_owned(),
            message: "it names no file".to_owned(),
        })?;
        let open = path.with_file_name(format!(".{}.tmp", name.to_string_lossy()));
        let written = fs::write(&open, &self.html).and_then(|()| fs::rename(&open, path));
        if written.is_err() {
            // What is left of it helps nobody; the first error is the one to tell.
            let _ = fs::remove_file(&open);
        }
        written.map_err(cannot)
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

/// Writes what `ask` answers; an error becomes a gap in the page.
fn or_gap<T>(page: &mut Page, what: &str, answer: Result<T, AnalysisError>) -> Option<T> {
    answer.map_err(|error| page.gap(&format!("{what}: {error}"))).ok()
}
