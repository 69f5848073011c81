//! This process, its loop, its recording.

use std::fmt;

use huddle_model::availability::Availability;

use super::Exported;
use crate::families as family;
use crate::labels::label;
use crate::sample::{Families, Sample, Value};

impl Exported {
    pub(super) fn write_host(&self, families: &mut Families<'_>) -> fmt::Result {
        let (facts, fold) = (&self.facts, &self.fold);
        let build = Sample::new(1).of(facts.version).of(facts.revision.unwrap_or_default());
        families.write(&family::BUILD, [build])?;
        families.write(&family::START, [Sample::new(Value::seconds_of_us(facts.start_unix_us))])?;
        let cpu = facts.own_cpu_us.map(Value::seconds_of_us);
        families.write(&family::OWN_CPU, cpu.map(Sample::new))?;
        families.write(&family::OWN_MEMORY, facts.own_memory_bytes.map(Sample::new))?;
        let reading = fold.reading_cpu_us.map(Value::seconds_of_us);
        families.write(&family::READING_CPU, reading.map(Sample::new))?;
        let programs = || fold.programs.iter().map(|(name, sums)| (label(name), sums));
        let times = programs().map(|(name, sums)| Sample::new(Value::seconds_of_ns(sums.run_ns)).of(name));
        families.write(&family::PROGRAM_TIME, times)?;
        families
            .write(&family::PROGRAM_RUNS, programs().map(|(name, sums)| Sample::new(sums.runs).of(name)))?;
        self.write_loop(families)?;
        self.write_recording(families)
    }

    fn write_loop(&self, families: &mut Families<'_>) -> fmt::Result {
        let fold = &self.fold;
        families.write(&family::ROUNDS, [Sample::new(fold.rounds)])?;
        let round = fold.view.as_ref().map(|view| &view.round);
        let ended = round.map(|round| Sample::new(Value::seconds_of_us(round.end_unix_us)));
        families.write(&family::ROUND_TIME, ended)?;
        let took = round.map(|round| round.end_unix_us.saturating_sub(round.begin_unix_us));
        families.write(&family::ROUND_DURATION, took.map(Value::seconds_of_us).map(Sample::new))?;
        families.write(&family::WINDOWS, [Sample::new(fold.windows)])?;
        let ended = fold.window_end_us.map(Value::seconds_of_us);
        families.write(&family::WINDOW_TIME, ended.map(Sample::new))?;
        families.write(&family::AVAILABLE, self.stages())?;
        let events = fold.events.iter().map(|(kind, count)| Sample::new(*count).of(*kind));
        families.write(&family::EVENTS, events)?;
        let lost = fold.losses.iter().flat_map(|lost| {
            [
                ("pass_events", lost.pass_events),
                ("ksm_events", lost.ksm_events),
                ("exit_reasons", lost.exit_reasons),
                ("vcpu_threads", lost.vcpu_threads),
            ]
        });
        families.write(&family::LOST_EVENTS, lost.map(|(kind, count)| Sample::new(count).of(kind)))?;
        families.write(&family::MISSED_STEPS, [Sample::new(fold.missed_steps)])
    }

    fn stages(&self) -> Vec<Sample<'static>> {
        fn has<T>(stage: &Availability<T>) -> bool {
            stage.value().is_some()
        }
        let Some(view) = &self.fold.view else { return Vec::new() };
        let round = &view.round;
        [
            ("topology", has(&round.topology)),
            ("ksm", has(&round.ksm)),
            ("sharing", has(&round.matrix)),
            ("plan", has(&round.plan)),
            ("pinning", view.pinning.failure().is_none()),
            ("observation", has(&view.observation)),
        ]
        .map(|(stage, has)| Sample::new(has).of(stage))
        .into()
    }

    fn write_recording(&self, families: &mut Families<'_>) -> fmt::Result {
        let recorder = self.facts.recorder;
        families.write(&family::RECORDING, recorder.map(|recorder| Sample::new(recorder.is_writing)))?;
        let steps = recorder.and_then(|recorder| recorder.steps);
        families.write(&family::RECORDED, steps.map(|(recorded, _)| Sample::new(recorded)))?;
        families.write(&family::RECORDER_LOST, steps.map(|(_, lost)| Sample::new(lost)))
    }
}
