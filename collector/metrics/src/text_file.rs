//! The file for node_exporter's textfile collector.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use huddle_host::files;
use tokio::time::MissedTickBehavior;

use super::encode::Format;
use super::shared::Metrics;

/// Everybody who can enter the directory may read it: node_exporter is another user.
const MODE: u32 = 0o644;

/// Why the file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write metrics to {}: {source}; give another path in [metrics] textfile", path.display())]
pub struct TextFileError {
    path: PathBuf,
    source: io::Error,
}

/// Writes metrics to a file; it is removed when this is dropped, since a file that stays would be taken for metrics
/// of now.
#[derive(Debug)]
pub struct TextFile {
    path: PathBuf,
    interval: Duration,
}

impl TextFile {
    /// Writes the first text at once, to find out whether that is possible.
    ///
    /// # Errors
    /// It is not.
    pub fn begin(path: &Path, interval: Duration, metrics: &Metrics) -> Result<Self, TextFileError> {
        let file = Self { path: path.to_owned(), interval };
        file.write(metrics).map_err(|source| TextFileError { path: path.to_owned(), source })?;
        Ok(file)
    }

    /// Whole or not at all: under another name first, which does not end with `.prom`.
    fn write(&self, metrics: &Metrics) -> io::Result<()> {
        files::replace_file(&self.path, metrics.text(Format::Prometheus).as_bytes(), MODE).map(drop)
    }

    /// Writes it again and again, until the future is dropped. Within a runtime.
    pub async fn serve(self, metrics: Arc<Metrics>) {
        let file = Arc::new(self);
        let mut ticks = tokio::time::interval(file.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut has_failed = false;
        loop {
            ticks.tick().await;
            let (file, metrics) = (Arc::clone(&file), Arc::clone(&metrics));
            let path = file.path.clone();
            // A disk may take its time.
            match tokio::task::spawn_blocking(move || file.write(&metrics)).await {
                Ok(Ok(())) => has_failed = false,
                Ok(Err(error)) if !has_failed => {
                    tracing::warn!(
                        "metrics cannot be written to {}, and it is tried again: {error}",
                        path.display()
                    );
                    has_failed = true;
                }
                Ok(Err(_)) => {}
                Err(_) => return,
            }
        }
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use huddle_host::HostRoot;

    use super::*;
    use crate::{Facts, MetricsSettings};

    #[tokio::test]
    async fn the_file_is_whole_is_written_again_and_goes_with_the_loop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huddle.prom");
        let metrics = Arc::new(Metrics::new(HostRoot::real(), MetricsSettings::default(), Facts::default()));
        let missing = dir.path().join("none/huddle.prom");
        let error = TextFile::begin(&missing, Duration::from_secs(1), &metrics).unwrap_err().to_string();
        assert!(error.contains("none/huddle.prom") && error.contains("[metrics] textfile"), "{error}");

        let file = TextFile::begin(&path, Duration::from_millis(20), &metrics).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(std::fs::read_to_string(&path).unwrap().contains("\nhuddle_build_info{"));
        std::fs::remove_file(&path).unwrap();
        let writing = tokio::spawn(file.serve(metrics));
        for _ in 0..500 {
            if path.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(path.exists(), "it is not written again");
        writing.abort();
        let _ = writing.await;
        // One that is being written meanwhile ends first.
        for _ in 0..500 {
            if !path.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it stays");
    }
}
