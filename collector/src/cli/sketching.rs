//! Sketches in the recordings of a loop: made again and again, on a thread of their own and slowly.

use std::time::{Duration, Instant};

use huddle_host::clock::unix_us;
use huddle_model::event::{Event, EventKind};
use huddle_model::schema::SketchFact;
use huddle_model::text::counted;
use huddle_model::update::{Step, Update};
use huddle_model::view::View;
use huddle_model::vm::Vm;
use tokio::sync::oneshot;

use super::context::Context;
use super::failure::Failure;
use super::recorder::{InForce, LoopRecorder, Settings};
use super::seed_file;
use super::sketches::{Sketched, Sketcher};

/// How often it is looked whether sketches are due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Makes sketches for the recordings of a loop.
pub(crate) struct Sketching {
    sketcher: Sketcher,
    every: Duration,
}

impl Sketching {
    /// As `[sketch]` says; `None` if loops are to make none.
    ///
    /// # Errors
    /// There is no seed, or others may read it.
    pub(crate) fn prepare(context: &Context) -> Result<Option<Self>, Failure> {
        let settings = &context.config.sketch;
        let Some(every) = settings.every else { return Ok(None) };
        let Some(seed) = &settings.seed else {
            return Err(Failure::usage(anyhow::anyhow!(
                "[sketch] every needs the seed of the fleet: set seed, a file that `huddle sketch --make-seed FILE` makes"
            )));
        };
        if let Some(age_s) = context.config.record.max_age_s.filter(|age_s| *age_s < every.0.as_secs()) {
            return Err(Failure::usage(anyhow::anyhow!(
                "[record] max_age_s removes sketches after {age_s} s, before the next ones are made ([sketch] every, {} s): \
                 raise one or lower the other",
                every.0.as_secs()
            )));
        }
        let seed = seed_file::read(seed).map_err(Failure::usage)?;
        let sketcher = Sketcher::new(context, seed, settings.scale(), settings.cpu_share());
        Ok(Some(Self { sketcher, every: every.0 }))
    }

    /// How they are made, for the manifests of recordings.
    pub(crate) fn fact(&self) -> SketchFact {
        self.sketcher.fact()
    }

    /// Makes sketches of the VMs of each recording soon after it begins and from time to time, for ever. That they cannot
    /// be made is said once for each reason.
    pub(crate) async fn serve(
        self,
        recorder: &LoopRecorder,
        in_force: &InForce,
        view: impl Fn() -> Option<View>,
        publish: impl Fn(&Step),
    ) {
        let mut last: Option<(String, Instant)> = None;
        let mut said: Option<String> = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(dir) = recorder.state().borrow().as_ref().map(|state| state.dir.clone()) else {
                continue;
            };
            if last.as_ref().is_some_and(|(of, begun)| *of == dir && begun.elapsed() < self.every) {
                continue;
            }
            // Before the first round it is not known which VMs there are.
            let Some(view) = view() else { continue };
            let begun = Instant::now();
            match self.sketch(view.round.vms.to_vec(), in_force.get()).await {
                Ok(Sketched { rows, .. }) => {
                    let (kept, s) = (counted(rows.sketches.len(), "hash"), begun.elapsed().as_secs());
                    match recorder.send_rows(&dir, rows) {
                        Ok(()) => tracing::info!("sketches recorded: {kept} of contents, read in {s} s"),
                        Err(why) => {
                            tracing::warn!("sketches are not recorded, and are made again: {why}");
                            continue;
                        }
                    }
                }
                Err(why) if said.as_ref() != Some(&why) => {
                    publish(&Step::from([Update::Event(failed(&why))]));
                    said = Some(why);
                }
                Err(_) => {}
            }
            last = Some((dir, begun));
        }
    }

    /// On a thread of its own, which takes hours where there is much memory: it ends with the process, and holds nothing
    /// that has to be undone.
    async fn sketch(&self, vms: Vec<Vm>, in_force: Settings) -> Result<Sketched, String> {
        let (sender, made) = oneshot::channel();
        let sketcher = self.sketcher.clone();
        let thread = std::thread::Builder::new().name("huddle-sketch".to_owned()).spawn(move || {
            // Nobody waits any more if the loop has ended.
            let _ = sender.send(sketcher.sketch(&vms, &in_force).map_err(|error| error.to_string()));
        });
        thread.map_err(|error| format!("no thread: {error}"))?;
        made.await.map_err(|_| "the thread ended early".to_owned())?
    }
}

fn failed(why: &str) -> Event {
    let at_unix_us = u64::try_from(unix_us()).unwrap_or(0);
    let message = format!("no sketches of the VMs are recorded: {why}");
    Event { at_unix_us, kind: EventKind::StageFailed, vm: None, message }
}
