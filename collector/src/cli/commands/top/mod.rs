//! `huddle top`: a screen for a loop of this process or of another one, for a recording, for the result of an experiment,
//! or for a fleet.

mod attached;
mod dry_run;
mod fleet;
mod live;
mod replay;
mod result;
mod screen;

use std::path::Path;

use anyhow::{Context as _, anyhow};
use huddle_engine::attach::{SOCKET_FILE, Viewer};
use huddle_model::command::LoopCommand;
use huddle_record::replay::{Recording, ReplayError};
use huddle_tui::Action;

use self::attached::Attached;
use self::live::Live;
use self::replay::Replayed;
use self::result::ShownResult;
use self::screen::{Feed, Screen};
use super::what_if::log_warnings;
use crate::cli::args::{Common, Format, TopArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::log::Log;
use crate::cli::looping::{self, Loop};
use crate::cli::metrics::EarlySocket;
use crate::cli::names::new_name;
use crate::cli::signals::{Hangup, StopSignals};

pub(crate) fn run(common: &Common, args: &TopArgs, log: &Log, early: EarlySocket) -> Result<(), Failure> {
    if common.format == Format::Json {
        return Err(Failure::usage(anyhow!(
            "huddle top draws on a terminal; for JSON use `huddle run --format json`"
        )));
    }
    let context = Context::new(common)?;
    match (&args.attach, &args.replay, &args.fleet) {
        (Some(socket), ..) => attached(&context, socket.as_deref(), args, log),
        (None, Some(dir), _) => replayed(&context, dir, args, log),
        (None, None, Some(file)) => fleet::show(&context.config.top, file, args, log),
        (None, None, None) => live(&context, args, log, early),
    }
}

/// Runs the loop and shows it.
fn live(context: &Context, args: &TopArgs, log: &Log, early: EarlySocket) -> Result<(), Failure> {
    let runtime = looping::runtime()?;
    let options = looping::options(context, &args.looping, None);
    let entered = runtime.enter();
    let (parts, signals) = Loop::prepare(context, &args.looping, Hangup::Ends, early, || ())?;
    let screen = Screen::enter(&context.config.top, args.ascii)?;
    drop(entered);
    // Dropped after the screen is left, so that buffered log lines are readable then.
    let held = log.hold();
    let end = runtime.block_on(async {
        let (channels, viewer) = looping::channels();
        // A task of its own, so that the loop ends in order even if it panics.
        let mut shown = tokio::spawn(screen.show(Live::new(viewer, parts.can_pin())));
        let mut left = None;
        let stop = async {
            tokio::select! {
                () = signals.wait() => {}
                // The user quit, or the screen failed.
                ended = &mut shown => left = Some(ended),
            }
        };
        let end = parts.run(stop, channels, options).await;
        let left = match left {
            Some(left) => left,
            None => shown.await,
        };
        let left = left.context("the terminal stopped early").map_err(Failure::Failed)?;
        end.and_then(|end| left.map(|()| end))
    });
    drop(held);
    looping::log_undone(&end?)
}

/// Shows a loop of another process, which continues when the screen is left.
fn attached(context: &Context, socket: Option<&Path>, args: &TopArgs, log: &Log) -> Result<(), Failure> {
    let socket = match socket {
        Some(socket) => socket.to_owned(),
        None => context.state_place()?.join(SOCKET_FILE),
    };
    let runtime = looping::runtime()?;
    let viewer = runtime.block_on(Viewer::attach(&socket)).map_err(Failure::failed)?;
    runtime.block_on(async {
        // Before the terminal is taken over, so that it is always restored.
        let signals = StopSignals::listen()?;
        let screen = Screen::enter(&context.config.top, args.ascii)?;
        let held = log.hold();
        let end = tokio::select! {
            ended = screen.show(Attached::new(socket, viewer)) => ended,
            () = signals.wait() => Ok(()),
        };
        drop(held);
        end
    })
}

/// Shows a recording, or the result of an experiment; nothing is read from the host.
fn replayed(context: &Context, dir: &Path, args: &TopArgs, log: &Log) -> Result<(), Failure> {
    match Recording::open(dir) {
        Ok(recording) => {
            log_warnings(&recording);
            show_replay(context, Replayed::new(recording), args, log)
        }
        Err(ReplayError::NoRecording(_)) => {
            let result = ShownResult::open(dir).map_err(Failure::failed)?;
            show_replay(context, result, args, log)
        }
        Err(error) => Err(Failure::failed(error)),
    }
}

fn show_replay(context: &Context, feed: impl Feed, args: &TopArgs, log: &Log) -> Result<(), Failure> {
    looping::runtime()?.block_on(async {
        let signals = StopSignals::listen()?;
        let screen = Screen::enter(&context.config.top, args.ascii)?;
        let held = log.hold();
        let end = tokio::select! {
            ended = screen.show(feed) => ended,
            () = signals.wait() => Ok(()),
        };
        drop(held);
        end
    })
}

/// The command for an action; `None` if the action is not for the loop.
fn command_of(action: Action) -> Result<Option<LoopCommand>, String> {
    Ok(Some(match action {
        Action::ApplyPlan { dry_run: false } => LoopCommand::Apply,
        Action::SetPolicy(policy) => LoopCommand::SetPolicy(policy),
        Action::Restore => LoopCommand::Restore,
        Action::StartRecording => {
            let here = std::env::current_dir().map_err(|error| format!("no directory to record in: {error}"));
            let dir = here?.join(new_name("recording"));
            let dir = dir.into_os_string().into_string();
            let dir =
                dir.map_err(|_| "this directory's name is not UTF-8, which the loop needs".to_owned())?;
            LoopCommand::StartRecording { dir }
        }
        Action::StopRecording => LoopCommand::StopRecording,
        Action::SaveLast => LoopCommand::SaveLast,
        _ => return Ok(None),
    }))
}
