//! The reload of the configuration at SIGHUP.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use huddle_engine::backend::LoopChoice;
use huddle_engine::{Replacement, Sources};
use nix::fcntl::OFlag;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Manager;
use crate::cli::args::Common;
use crate::cli::config::reload::{Applies, Change, changes, merged};
use crate::cli::config::{Config, table_of};
use crate::cli::context::Context;
use crate::cli::failure::Failure;

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

    /// Reloads at each SIGHUP, for ever. `text` is what the configuration was when the loop started.
    pub(crate) async fn serve(
        mut self,
        text: Option<String>,
        to_loop: mpsc::Sender<Replacement>,
        manager: Manager,
    ) {
        let mut in_force = text.as_deref().and_then(|text| table_of(text).ok()).unwrap_or_default();
        while self.hangups.recv().await.is_some() {
            manager.reloading();
            let (path, common, choice, before) =
                (self.path.clone(), self.common.clone(), self.choice, in_force.clone());
            // It looks at the host, which may take long.
            let read =
                tokio::task::spawn_blocking(move || Reload::read(&path, &common, &choice, &before)).await;
            match read.map_err(Failure::failed).and_then(|read| read) {
                Ok(reload) => {
                    in_force = reload.in_force.clone();
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

/// What a reload comes to.
struct Reload {
    /// The settings that are in force after it.
    in_force: toml::Table,
    /// One sentence for each key that has changed.
    notes: Vec<String>,
    /// Whether some of them wait for a restart.
    waits: bool,
    /// For the loop; `None` where nothing changes for it.
    replacement: Option<Replacement>,
}

impl Reload {
    /// Reads and checks the whole file, and makes what is to be replaced. Changes nothing.
    fn read(
        path: &Path,
        common: &Common,
        choice: &LoopChoice,
        before: &toml::Table,
    ) -> Result<Self, Failure> {
        let (_, text) = Config::read(path)?;
        let new = table_of(&text).map_err(Failure::Usage)?;
        let changes = changes(before, &new);
        let context_of = |settings: &toml::Table| {
            Context::of(common, Config::of_table(settings).map_err(Failure::Usage)?, None)
        };
        let mut in_force = merged(before, &new, true);
        let mut context = context_of(&in_force)?;
        let sources = context.backend.sources();
        let can_replace = sources.is_some();
        if !can_replace {
            in_force = merged(before, &new, false);
            context = context_of(&in_force)?;
        }
        // What the start checks, too.
        context.topology()?;
        context.backend.check(choice)?;
        context.check_limits()?;
        let has = |applies| changes.iter().any(|change: &Change| change.applies(can_replace) == applies);
        // Only what has changed: a viewer may have chosen another policy since.
        let is_changed = |of: &dyn Fn(&str) -> bool| {
            let applied =
                |change: &&Change| of(change.path()) && change.applies(can_replace) == Applies::AtReload;
            changes.iter().any(|change| applied(&change))
        };
        let replacement = has(Applies::AtReload).then(|| Replacement {
            policy: is_changed(&|path| path == "policy").then_some(context.policy),
            weigh: is_changed(&|path| path == "sharing.weigh").then_some(context.weigh),
            limits: is_changed(&|path| path.starts_with("plan.")).then(|| context.config.plan.clone()),
            sources: sources.filter(|_: &Sources| changes.iter().any(Change::needs_sources)),
            notes: Vec::new(),
        });
        let notes = changes.iter().map(|change| {
            let flag = flag_that_wins(common, change);
            let flag = flag.map_or_else(String::new, |flag| format!(" (the flag {flag} wins)"));
            format!("configuration: {}{flag}", change.sentence(can_replace))
        });
        Ok(Self { notes: notes.collect(), waits: has(Applies::AtRestart), in_force, replacement })
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
        if waits {
            tracing::warn!("some changes of the configuration need a restart, as said above");
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
