//! The reload of the configuration at SIGHUP.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use huddle_engine::Replacement;
use huddle_engine::backend::LoopChoice;
use nix::fcntl::OFlag;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::Manager;
use crate::cli::args::Common;
use crate::cli::config::reload::{Applies, Change, changes, merged};
use crate::cli::config::{Config, table_of};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::recorder::{InForce, Settings};

/// Whether SIGHUP reloads the configuration: in a process that has a configuration file and no controlling terminal. With
/// a terminal it means that the terminal is gone, and ends the loop.
fn reloads(common: &Common) -> bool {
    common.config.is_some() && !has_controlling_terminal(Path::new("/dev/tty"))
}

/// `tty` can be opened only by a process that has a controlling terminal (tty(4)).
fn has_controlling_terminal(tty: &Path) -> bool {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NOCTTY.bits()).open(tty).is_ok()
}

/// Waits for SIGHUP, and puts what has changed in force.
pub(crate) struct Reloader {
    hangups: Signal,
    common: Common,
    path: PathBuf,
    choice: LoopChoice,
}

impl Reloader {
    /// Takes SIGHUP from now on; within a runtime. `None` where SIGHUP ends the loop.
    pub(crate) fn listen(common: &Common, choice: LoopChoice) -> Result<Option<Self>, Failure> {
        let Some(path) = common.config.clone().filter(|_| reloads(common)) else { return Ok(None) };
        let hangups = signal(SignalKind::hangup()).map_err(Failure::failed)?;
        Ok(Some(Self { hangups, common: common.clone(), path, choice }))
    }

    /// Reloads at each SIGHUP, for ever. `in_force` has the configuration that the loop started with, and is told what
    /// follows.
    pub(crate) async fn serve(
        mut self,
        in_force: InForce,
        to_loop: mpsc::Sender<Replacement>,
        manager: Manager,
    ) {
        while self.hangups.recv().await.is_some() {
            manager.reloading();
            let (path, common, choice, before) =
                (self.path.clone(), self.common.clone(), self.choice, in_force.get());
            let read = on_a_thread(move || Reload::read(&path, &common, &choice, &before)).await;
            match read {
                Ok(reload) => {
                    in_force.set(reload.settings.clone());
                    reload.apply(&to_loop).await;
                }
                Err(failure) => {
                    tracing::error!(
                        "the configuration is not reloaded, and what was in force stays: {failure}"
                    );
                }
            }
            manager.reloaded();
        }
    }
}

/// Runs work that looks at the host, which may take long or hang, on a thread that the end of the process does not wait for:
/// it would for a blocking task of the runtime.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (done, outcome) = oneshot::channel();
    let thread = std::thread::Builder::new().name("huddle-reload".to_owned());
    // Nobody waits for it any more if the loop has ended.
    thread.spawn(move || done.send(work()).map_err(drop)).map_err(Failure::failed)?;
    outcome.await.map_err(|_| {
        Failure::failed(anyhow::anyhow!("reading it ended unexpectedly, which is a fault of huddle"))
    })?
}

/// What a reload comes to.
struct Reload {
    /// The settings that are in force after it.
    settings: Settings,
    /// One sentence for each key that has changed.
    notes: Vec<String>,
    /// The keys that wait for a restart.
    waits: Vec<String>,
    /// For the loop; `None` where nothing changes for it.
    replacement: Option<Replacement>,
}

impl Reload {
    /// Reads and checks the whole file, and makes what is to be replaced. Changes nothing.
    fn read(path: &Path, common: &Common, choice: &LoopChoice, before: &Settings) -> Result<Self, Failure> {
        let (_, text) = Config::read(path)?;
        let new = table_of(&text).map_err(Failure::Usage)?;
        let old = before.config.as_deref().map_or_else(|| Ok(toml::Table::new()), table_of);
        let old = old.map_err(Failure::Failed)?;
        let changes = changes(&old, &new);
        let context_of = |settings: &toml::Table| {
            Context::of(common, Config::of_table(settings).map_err(Failure::Usage)?, None)
        };
        let mut in_force = merged(&old, &new, true);
        let mut context = context_of(&in_force)?;
        let sources = context.backend.sources();
        let can_replace = sources.is_some();
        if !can_replace {
            in_force = merged(&old, &new, false);
            context = context_of(&in_force)?;
        }
        // What the start checks, too.
        context.topology()?;
        context.backend.check(choice)?;
        context.check_limits()?;
        let waits = changes.iter().filter(|change| change.applies(can_replace) == Applies::AtRestart);
        let waits = waits.map(|change| change.path().to_owned()).collect();
        // Only what has changed: a viewer may have chosen another policy since. Where a flag wins nothing has.
        let applied = |change: &&Change| {
            change.applies(can_replace) == Applies::AtReload && flag_that_wins(common, change).is_none()
        };
        let applied: Vec<&Change> = changes.iter().filter(applied).collect();
        let is_applied = |of: fn(&str) -> bool| applied.iter().any(|change| of(change.path()));
        let replacement = (!applied.is_empty()).then(|| Replacement {
            policy: is_applied(|path| path == "policy").then_some(context.policy),
            weigh: is_applied(|path| path == "sharing.weigh").then_some(context.weigh),
            limits: is_applied(|path| path.starts_with("plan.")).then(|| context.config.plan.clone()),
            sources: sources.filter(|_| applied.iter().any(|change| change.needs_sources())),
            notes: Vec::new(),
        });
        let notes = changes.iter().map(|change| {
            let flag = flag_that_wins(common, change);
            let flag = flag.map_or_else(String::new, |flag| format!(" (the flag {flag} wins)"));
            format!("configuration: {}{flag}", change.sentence(can_replace))
        });
        let notes = notes.collect();
        // As it was written, where all of it is in force.
        let config = if in_force == new {
            Some(text)
        } else if in_force == old {
            before.config.clone()
        } else {
            Some(toml::to_string(&in_force).map_err(Failure::failed)?)
        };
        let settings = Settings::of(&context, config);
        Ok(Self { settings, notes, waits, replacement })
    }

    /// Puts it in force, and says what has changed.
    async fn apply(self, to_loop: &mpsc::Sender<Replacement>) {
        let Self { notes, waits, replacement, .. } = self;
        if notes.is_empty() {
            tracing::info!("the configuration was read again: nothing has changed");
        }
        match replacement {
            // The loop reports them, also to viewers and recordings.
            Some(replacement) => {
                let sent = to_loop.send(Replacement { notes, ..replacement }).await;
                if sent.is_err() {
                    tracing::warn!("the configuration is not reloaded: the loop is ending");
                }
            }
            None => notes.iter().for_each(|note| tracing::info!("{note}")),
        }
        if !waits.is_empty() {
            tracing::warn!("some changes of the configuration need a restart: {}", waits.join(", "));
        }
    }
}

/// The flag that was given for the same setting.
fn flag_that_wins(common: &Common, change: &Change) -> Option<&'static str> {
    match change.path() {
        "policy" => common.policy.and(Some("--policy")),
        "cache_level" => common.cache_level.and(Some("--cache-level")),
        "sharing.weigh" => common.weigh.and(Some("--weigh")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_there_if_it_can_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tty");
        assert!(!has_controlling_terminal(&path));
        std::fs::write(&path, "").unwrap();
        assert!(has_controlling_terminal(&path));
    }
}
