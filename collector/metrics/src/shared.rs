//! What is between the loop and those who read its metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_model::update::Update;
use huddle_model::view::View;

use super::encode::{Encoder, Format};
use super::facts::{Facts, RecorderFacts};
use super::fold::Fold;
use super::settings::MetricsSettings;

/// A text is given again for so long: a client that asks without a pause costs the host nothing more.
const FRESH: Duration = Duration::from_millis(500);

/// A text, and when it was made.
#[derive(Clone, Debug)]
struct Made {
    at: Instant,
    text: Arc<str>,
}

/// Metrics of one loop.
#[derive(Debug)]
pub struct Metrics {
    fold: Mutex<Arc<Fold>>,
    facts: Mutex<Facts>,
    root: HostRoot,
    encoder: Encoder,
    /// The last text of each format. Held while one is made, so that no two are made at a time.
    texts: Mutex<[Option<Made>; 2]>,
}

impl Metrics {
    /// Of a loop that begins now; `facts` are those that do not change.
    pub fn new(root: HostRoot, settings: MetricsSettings, facts: Facts) -> Self {
        Self {
            fold: Mutex::default(),
            facts: Mutex::new(facts),
            root,
            encoder: Encoder::new(settings),
            texts: Mutex::default(),
        }
    }

    /// Takes the updates of a step, see [`Fold::follow`].
    pub fn follow(&self, updates: &[Update], now_unix_us: u64) {
        // Copies what a text is being made of, and else nothing.
        Arc::make_mut(&mut lock(&self.fold)).follow(updates, now_unix_us);
    }

    /// Takes a complete view, see [`Fold::catch_up`].
    pub fn catch_up(&self, view: &View, missed: u64, now_unix_us: u64) {
        Arc::make_mut(&mut lock(&self.fold)).catch_up(view, missed, now_unix_us);
    }

    /// Takes the state of the recording; `None` if there is none.
    pub fn set_recorder(&self, recorder: Option<RecorderFacts>) {
        lock(&self.facts).recorder = recorder;
    }

    /// The text. It reads files of `/proc` and may take milliseconds, so it is to be called off the async threads.
    pub fn text(&self, format: Format) -> Arc<str> {
        let mut texts = lock(&self.texts);
        let place = &mut texts[format as usize];
        if let Some(made) = place
            && made.at.elapsed() < FRESH
        {
            return Arc::clone(&made.text);
        }
        let fold = Arc::clone(&lock(&self.fold));
        let facts = lock(&self.facts).clone().read(&self.root);
        let text: Arc<str> = self.encoder.encode(&fold, facts, format).into();
        *place = Some(Made { at: Instant::now(), text: Arc::clone(&text) });
        text
    }
}

/// Ignores poisoning: no holder leaves anything half done that is not made again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
