//! Being a service: what the service manager is told, its watchdog, and the reload of the configuration.
//!
//! Without a service manager nothing is sent.

mod reload;
mod status;
mod watchdog;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use huddle_engine::Progress;
use huddle_engine::publish::{Delivery, Subscriber};
use huddle_model::update::Step;
use huddle_model::view::View;
use sd_notify::NotifyState;

pub(crate) use reload::Reloader;
use watchdog::Watchdog;

/// How often the watchdog is looked after where the manager has none: the time-outs of start and end are extended then.
const PERIOD: Duration = Duration::from_secs(20);

/// What is told to the service manager (sd_notify(3)). Clones are of the same service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manager(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_ready: AtomicBool,
    is_stopping: AtomicBool,
}

impl Manager {
    /// Whether there is a service manager.
    pub(crate) fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The loop is about to end, and undoes everything.
    pub(crate) fn stopping(&self) {
        self.0.is_stopping.store(true, Ordering::Relaxed);
        tell(&[NotifyState::Stopping, NotifyState::Status("everything is undone now")]);
    }

    /// The first round is done: what is to be in force is in force.
    fn ready(&self, status: &str) {
        self.0.is_ready.store(true, Ordering::Relaxed);
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    fn is_ready(&self) -> bool {
        self.0.is_ready.load(Ordering::Relaxed)
    }

    fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Ordering::Relaxed)
    }

    /// A reload begins. Nothing is said before the start is complete: it would count as complete with the end of the reload.
    fn reloading(&self) {
        if !self.is_ready() {
            return;
        }
        // Since systemd 253 the time is required with Type=notify-reload.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// The reload has ended, whether the new settings are in force or not.
    fn reloaded(&self) {
        if self.is_ready() {
            tell(&[NotifyState::Ready]);
        }
    }

    /// Follows the loop until its last step: says when it is ready and what is in force, and keeps the watchdog while the
    /// loop moves on.
    pub(crate) async fn follow(self, progress: Progress, mut steps: Subscriber<Step>) {
        let timeout = sd_notify::watchdog_enabled();
        // Three times within the time-out, so that one that comes late is no failure.
        let period = timeout.map_or(PERIOD, |timeout| timeout / 3).max(Duration::from_millis(10));
        let mut watchdog = Watchdog::new(progress);
        let mut ticks = tokio::time::interval(period);
        let mut view: Option<View> = None;
        let mut said = String::new();
        loop {
            tokio::select! {
                delivery = steps.next() => {
                    match delivery {
                        Some(Delivery::Next(step)) => View::follow(&mut view, step.iter()),
                        Some(Delivery::View { view: whole, .. }) => view = Some(*whole),
                        None => return,
                    }
                    let Some(view) = view.as_ref().filter(|_| !self.is_stopping()) else { continue };
                    let status = status::sentence(view);
                    if !self.is_ready() {
                        self.ready(&status);
                    } else if status != said {
                        tell(&[NotifyState::Status(&status)]);
                    }
                    said = status;
                }
                _ = ticks.tick() => {
                    if watchdog.moves_on() {
                        self.alive(period, watchdog.is_busy());
                    }
                }
            }
        }
    }

    /// The loop moves on. Its first round and its undo may take as long as they need.
    fn alive(&self, period: Duration, is_busy: bool) {
        tell(&[NotifyState::Watchdog]);
        // After the undo only a recording is left to close: a disk that hangs must not keep the service for ever.
        if is_busy && (!self.is_ready() || self.is_stopping()) {
            let longer = period.as_micros().saturating_mul(3);
            tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(longer).unwrap_or(u32::MAX))]);
        }
    }
}

/// Sends this to the service manager, if there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        // The manager notices by its own time-outs what it is not told.
        tracing::debug!("the service manager cannot be told the state: {error}");
    }
}
