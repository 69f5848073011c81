//! The feed of the screen from the result of an experiment, each arm one step.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use huddle_model::summary::{ArmSteps, NoSteps, SUMMARY_FILE};
use huddle_model::view::View;
use huddle_record::{SummaryFault, read_summary};
use huddle_tui::{Action, Capability, ExperimentResult, Replay, Source};

use super::screen::{Feed, FeedMessage};

/// A result that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResultError {
    /// A directory with nothing to show.
    #[error(
        "{} is neither a recording (it has no manifest.json) nor the result of an experiment (no {SUMMARY_FILE}); name \
         the directory that `--record` of huddle or `--out` of the experiment was given",
        .0.display()
    )]
    Nothing(PathBuf),
    /// It cannot be read.
    #[error(transparent)]
    Summary(#[from] SummaryFault),
    /// It has nothing that can be shown.
    #[error("{}: {source}", path.display())]
    Steps {
        /// Its file.
        path: PathBuf,
        /// What is missing.
        source: NoSteps,
    },
}

/// A result and the arm shown.
pub(super) struct ShownResult {
    views: Vec<View>,
    at: Replay,
    /// Messages to deliver.
    queue: VecDeque<FeedMessage>,
}

impl ShownResult {
    /// Shows the first arm, which is the recommended one if there is one.
    ///
    /// # Errors
    /// There is no result in the directory, or none that this version can show.
    pub(super) fn open(dir: &Path) -> Result<Self, ResultError> {
        let summary = read_summary(dir).map_err(|fault| match fault.is_not_found() {
            true => ResultError::Nothing(dir.to_owned()),
            false => fault.into(),
        })?;
        let steps = ArmSteps::of(summary)
            .map_err(|source| ResultError::Steps { path: dir.join(SUMMARY_FILE), source })?;
        let ArmSteps { arms, views, simulated } = steps;
        let at = Replay {
            name: name(dir),
            length: views.len(),
            experiment: Some(Arc::new(ExperimentResult { arms, simulated })),
            ..Replay::default()
        };
        let mut shown = Self { views, at, queue: VecDeque::new() };
        shown.show(0);
        Ok(shown)
    }

    /// Shows the arm at a position, or the last one.
    fn show(&mut self, position: usize) {
        self.at.position = position.min(self.views.len().saturating_sub(1));
        // The arm comes first: the view is taken as one of its own.
        self.say_position();
        if let Some(view) = self.views.get(self.at.position) {
            self.queue.push_back(FeedMessage::View { view: Box::new(view.clone()), missed: 0 });
        }
    }

    fn say_position(&mut self) {
        self.queue.push_back(FeedMessage::Source(Source::Replay(self.at.clone())));
    }
}

fn name(dir: &Path) -> String {
    // `.` has no name of its own.
    let real = std::fs::canonicalize(dir).ok();
    let name = real.as_deref().unwrap_or(dir).file_name();
    name.map_or_else(|| "result".to_owned(), |name| name.to_string_lossy().into_owned())
}

impl Feed for ShownResult {
    fn refusals(&self) -> Vec<(Capability, String)> {
        // The screen itself refuses actions during a replay.
        Vec::new()
    }

    async fn next(&mut self) -> Option<FeedMessage> {
        match self.queue.pop_front() {
            Some(message) => Some(message),
            // The user is the only one who changes anything.
            None => std::future::pending().await,
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Play | Action::Pause | Action::SetSpeed(_) => {
                // The screen expects it to play.
                self.say_position();
                return Err("arms do not follow one another in time: step through them".to_owned());
            }
            Action::Step => self.show(self.at.position + 1),
            Action::Seek { position } => self.show(position),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use huddle_testing::experiment::{Measured, result};
    use huddle_testing::fixtures::SMALL;

    use super::*;

    /// The positions and the number of views that are delivered until nothing is left.
    fn delivered(shown: &mut ShownResult) -> (Vec<usize>, usize) {
        let mut found = (Vec::new(), 0);
        for message in shown.queue.drain(..) {
            match message {
                FeedMessage::Source(Source::Replay(replay)) => found.0.push(replay.position),
                FeedMessage::View { .. } => found.1 += 1,
                _ => panic!("another message"),
            }
        }
        found
    }

    #[tokio::test]
    async fn each_arm_is_a_step_and_nothing_plays() {
        let dir = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&result(SMALL, Measured::Counters, true)).unwrap();
        std::fs::write(dir.path().join(SUMMARY_FILE), text).unwrap();
        let mut shown = ShownResult::open(dir.path()).unwrap();
        assert_eq!((shown.at.length, delivered(&mut shown)), (5, (vec![0], 1)));
        shown.act(Action::Step).await.unwrap();
        shown.act(Action::Seek { position: 99 }).await.unwrap();
        shown.act(Action::Step).await.unwrap();
        assert_eq!(delivered(&mut shown), (vec![1, 4, 4], 3));
        assert!(shown.act(Action::Play).await.unwrap_err().contains("step through them"));
        // The screen took it for playing, and learns that it is not.
        assert_eq!((delivered(&mut shown), shown.at.is_playing), ((vec![4], 0), false));
        assert!(matches!(ShownResult::open(&dir.path().join("none")), Err(ResultError::Nothing(_))));
    }
}
