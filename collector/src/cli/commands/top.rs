//! `huddle top`.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use crossterm::event::EventStream;
use futures::StreamExt;
use huddle_collector::attach::{AttachError, SOCKET_FILE, Said, Viewer};
use huddle_model::snapshot::Snapshot;
use huddle_tui::terminal::TerminalGuard;
use huddle_tui::{Action, App, Charset, ColourEnv, ColourMode, LocaleEnv, Options, draw};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cli::args::{Common, Format, TopArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::log::Log;
use crate::cli::looping::{self, Loop};

/// How often the age of the picture is drawn anew.
const TICK: Duration = Duration::from_secs(1);

pub(crate) fn run(common: &Common, args: &TopArgs, log: &Log) -> Result<(), Failure> {
    if common.format == Format::Json {
        return Err(Failure::usage(anyhow!(
            "huddle top draws on a terminal; for JSON use `huddle run --format json`"
        )));
    }
    let context = Context::new(common)?;
    match &args.attach {
        Some(socket) => attached(&context, socket.as_deref(), args.ascii, log),
        None => live(&context, args, log),
    }
}

/// Runs the loop and shows it.
fn live(context: &Context, args: &TopArgs, log: &Log) -> Result<(), Failure> {
    let parts = Loop::prepare(context, &args.looping)?;
    let guard = enter()?;
    // Dropped after the screen is left, so that what was said meanwhile is read then.
    let held = log.hold();
    let runtime = looping::runtime()?;
    let options = args.looping.options(None);
    let end = runtime.block_on(async {
        let signalled = looping::stop_signal()?;
        let (publish, seen) = watch::channel(None);
        let (quit, quitted) = oneshot::channel::<()>();
        let (asks, asked) = mpsc::channel(8);
        let screen = tokio::spawn(show(guard, seen, args.ascii, quit));
        let stop = async {
            tokio::select! {
                () = signalled => {}
                // The screen has ended: by the user's wish, or because it cannot go on.
                _ = quitted => {}
            }
        };
        let end = parts.run(stop, &publish, (asks, asked), options).await;
        drop(publish);
        let shown = screen.await.context("the terminal stopped early").map_err(Failure::Failed)?;
        end.and_then(|end| shown.map(|()| end))
    });
    drop(held);
    let end = end?;
    looping::say_undone(&end)
}

/// Shows a loop that another process runs. Nothing of it changes when the screen is left.
fn attached(context: &Context, socket: Option<&Path>, ascii: bool, log: &Log) -> Result<(), Failure> {
    let socket = match socket {
        Some(socket) => socket.to_owned(),
        None => context.state()?.path().join(SOCKET_FILE),
    };
    let runtime = looping::runtime()?;
    let mut viewer = runtime.block_on(Viewer::attach(&socket)).map_err(Failure::failed)?;
    let guard = enter()?;
    let held = log.hold();
    let end = runtime.block_on(async {
        let signalled = looping::stop_signal()?;
        let (publish, seen) = watch::channel(None);
        let (quit, quitted) = oneshot::channel::<()>();
        let screen = tokio::spawn(show(guard, seen, ascii, quit));
        let followed = tokio::select! {
            followed = follow(&mut viewer, &publish) => followed,
            () = signalled => Ok(false),
            _ = quitted => Ok(false),
        };
        drop(publish);
        let shown = screen.await.context("the terminal stopped early").map_err(Failure::Failed)?;
        followed.map_err(Failure::failed).and_then(|ended| shown.map(|()| ended))
    });
    drop(held);
    if end? {
        tracing::info!("the loop of process {} has ended", viewer.hello.pid);
    }
    Ok(())
}

/// Publishes what the loop says, until it ends.
async fn follow(
    viewer: &mut Viewer,
    publish: &watch::Sender<Option<Arc<Snapshot>>>,
) -> Result<bool, AttachError> {
    loop {
        match viewer.next().await? {
            Some(Said::Snapshot(snapshot)) => _ = publish.send_replace(Some(Arc::from(snapshot))),
            Some(Said::Answer(_) | Said::Hello(_)) => {}
            None => return Ok(true),
        }
    }
}

fn enter() -> Result<TerminalGuard, Failure> {
    TerminalGuard::enter().map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Failure::host(anyhow!("{error}")),
        _ => Failure::failed(error),
    })
}

/// Shows snapshots and takes keys until the user quits or the loop has ended; the terminal is left as
/// it was by the guard. Dropping `quit` stops the loop.
async fn show(
    mut guard: TerminalGuard,
    mut seen: watch::Receiver<Option<Arc<Snapshot>>>,
    ascii: bool,
    quit: oneshot::Sender<()>,
) -> Result<(), Failure> {
    let mut app = App::new(Options {
        colour: colour_mode(),
        charset: if ascii { Charset::Ascii } else { charset() },
        size: guard.size().map_err(Failure::failed)?,
        tick: TICK,
    });
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        if app.take_dirty() {
            guard.terminal().draw(|frame| draw(frame, &app)).map_err(Failure::failed)?;
        }
        tokio::select! {
            event = keys.next() => match event {
                Some(Ok(event)) => {
                    if app.on_event(event).contains(&Action::Quit) {
                        break;
                    }
                }
                Some(Err(error)) => return Err(Failure::failed(error)),
                None => break,
            },
            changed = seen.changed() => match changed {
                Ok(()) => {
                    if let Some(snapshot) = seen.borrow_and_update().clone() {
                        app.on_snapshot(snapshot);
                    }
                }
                Err(_) => break,
            },
            _ = tick.tick() => app.on_tick(),
        }
    }
    drop(guard);
    drop(quit);
    Ok(())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn colour_mode() -> ColourMode {
    let (no_color, colorterm, term) = (variable("NO_COLOR"), variable("COLORTERM"), variable("TERM"));
    ColourMode::detect(ColourEnv {
        no_color: no_color.as_deref(),
        colorterm: colorterm.as_deref(),
        term: term.as_deref(),
    })
}

fn charset() -> Charset {
    let (lc_all, lc_ctype, lang) = (variable("LC_ALL"), variable("LC_CTYPE"), variable("LANG"));
    Charset::detect(LocaleEnv {
        lc_all: lc_all.as_deref(),
        lc_ctype: lc_ctype.as_deref(),
        lang: lang.as_deref(),
    })
}
