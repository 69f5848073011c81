//! Notices of recorders, passed on to the viewers of the loop.

use std::path::{Path, PathBuf};

use huddle_host::clock::HostClock;
use huddle_host::stages::Clock as _;
use huddle_model::event::{Event, EventKind};
use huddle_model::recording::{Interruption, RecordingState};
use huddle_model::update::{Step, Update};
use huddle_record::RecorderNotice;
use tokio::sync::{mpsc, watch};

/// Takes notices from recorders, each with the directory of its recording. A recorder sends at most one for every
/// attempt to write, and attempts are seconds apart.
pub(crate) type NoticeSender = mpsc::UnboundedSender<(PathBuf, RecorderNotice)>;

/// The other end of a [`NoticeSender`].
pub(crate) type Notices = mpsc::UnboundedReceiver<(PathBuf, RecorderNotice)>;

/// The initial state of a recording.
pub(crate) fn state_of(dir: &Path) -> RecordingState {
    RecordingState::of(dir.display().to_string())
}

/// Passes the notices of the recorder of `dir` to `notices`.
pub(crate) fn notifier(notices: &NoticeSender, dir: &Path) -> impl Fn(RecorderNotice) + Send + use<> {
    let (notices, dir) = (notices.clone(), dir.to_owned());
    move |notice| {
        // Without a receiver the loop has ended; a failure is then reported when the recording is finished.
        let _ = notices.send((dir.clone(), notice));
    }
}

/// Handles notices of recorders, for ever: updates the state in `recording`, and passes an event to `publish`, with
/// whether it can be recorded too.
pub(crate) async fn handle_notices(
    mut notices: Notices,
    recording: &watch::Sender<Option<RecordingState>>,
    publish: impl Fn(&Step, bool),
) {
    while let Some((dir, notice)) = notices.recv().await {
        recording.send_if_modified(|state| apply(state.as_mut(), &dir, &notice));
        let can_be_recorded = matches!(notice, RecorderNotice::Resumed(_));
        publish(&Step::from([Update::Event(event(&dir, notice))]), can_be_recorded);
    }
    std::future::pending::<()>().await;
}

/// Applies a notice to the state, if it is about the current recording; whether it was.
fn apply(state: Option<&mut RecordingState>, dir: &Path, notice: &RecorderNotice) -> bool {
    let Some(state) = state.filter(|state| state.dir == state_of(dir).dir) else { return false };
    state.interrupted = match notice {
        RecorderNotice::Interrupted { since_us, reason } => Some(Interruption {
            since_unix_us: u64::try_from(*since_us).unwrap_or(0),
            reason: reason.clone(),
        }),
        RecorderNotice::Resumed(_) => None,
    };
    true
}

fn event(dir: &Path, notice: RecorderNotice) -> Event {
    let dir = dir.display();
    let (kind, message) = match notice {
        RecorderNotice::Interrupted { reason, .. } => (
            EventKind::StageFailed,
            format!("nothing is recorded into {dir} now, and writing is retried until it works: {reason}"),
        ),
        RecorderNotice::Resumed(gap) => {
            (EventKind::Note, format!("recording into {dir} goes on; {}", gap.sentence()))
        }
    };
    Event { at_unix_us: HostClock.now_unix_us(), kind, vm: None, message }
}

#[cfg(test)]
mod tests {
    use huddle_model::schema::RecordingGap;

    use super::*;

    #[test]
    fn a_notice_changes_the_state_of_its_own_recording_only() {
        let here = Path::new("/run/here");
        let failed = RecorderNotice::Interrupted { since_us: 7, reason: "no space".into() };
        let resumed = RecorderNotice::Resumed(RecordingGap::begin(7, "no space".into()));
        let mut state = state_of(here);
        assert!(!apply(Some(&mut state), Path::new("/run/there"), &failed));
        assert!(!apply(None, here, &failed));
        assert!(apply(Some(&mut state), here, &failed));
        let interruption = Interruption { since_unix_us: 7, reason: "no space".into() };
        assert_eq!(state.interrupted, Some(interruption));
        assert!(apply(Some(&mut state), here, &resumed));
        assert_eq!(state, state_of(here));
        let event_of_failure = event(here, failed);
        assert_eq!(event_of_failure.kind, EventKind::StageFailed);
        assert!(event_of_failure.message.ends_with(": no space"), "{event_of_failure:?}");
        assert!(event(here, resumed).message.starts_with("recording into /run/here goes on; "));
    }
}
