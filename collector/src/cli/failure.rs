//! How a command fails: one sentence and an exit code.

use std::process::ExitCode;

use huddle_engine::backend::BackendError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It failed; exit code 1.
    #[error("{}", sentence(.0))]
    Failed(anyhow::Error),
    /// The user's input cannot be used; exit code 2.
    #[error("{}", sentence(.0))]
    Usage(anyhow::Error),
    /// This host cannot do it; exit code 3.
    #[error("{}", sentence(.0))]
    Host(anyhow::Error),
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Usage(why) => Self::Usage(anyhow::anyhow!(why)),
            BackendError::Host(error) => Self::Host(anyhow::Error::from_boxed(error)),
            BackendError::Failed(error) => Self::Failed(anyhow::Error::from_boxed(error)),
        }
    }
}

/// An error with its causes; a cause that the text already contains is not repeated.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Host(_) => ExitCode::from(3),
        }
    }

    pub(crate) fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::Failed(error.into())
    }

    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::Usage(error.into())
    }

    pub(crate) fn host(error: impl Into<anyhow::Error>) -> Self {
        Self::Host(error.into())
    }
}
