//! `huddle run`.

use std::sync::Arc;

use anyhow::Context as _;
use huddle_engine::publish::{Delivery, Subscriber};
use huddle_model::availability::Availability;
use huddle_model::event::{Event, EventKind};
use huddle_model::observation::{LossObservation, Observation};
use huddle_model::text::{counted, plain};
use huddle_model::update::{Round, Step, Update};
use huddle_model::view::View;
use serde::Serialize;

use crate::cli::args::{Common, Format, RunArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::log::is_journal;
use crate::cli::looping::{self, Loop};
use crate::cli::metrics::EarlySocket;
use crate::cli::runs::Run;
use crate::cli::service::{Manager, Reloader};
use crate::cli::signals::Hangup;
use crate::cli::table::print_json;

pub(crate) fn run(common: &Common, args: &RunArgs, early: EarlySocket) -> Result<(), Failure> {
    let context = Context::new(common)?;
    let runtime = looping::runtime()?;
    let mut looping = args.looping.clone();
    let record = &context.config.record;
    let directory = record.directory.as_deref().filter(|_| looping.record.is_none());
    let recorded = directory.map(Run::new).transpose()?;
    looping.record = looping.record.or_else(|| recorded.as_ref().map(Run::path));
    let options = looping::options(&context, &looping, args.rounds);
    let end = runtime.block_on(async {
        // Before anything is changed: from now on SIGHUP does not end the process.
        let reloader = Reloader::listen(common, looping::choice(&looping))?;
        let hangup = if reloader.is_some() { Hangup::Reloads } else { Hangup::Ends };
        let make_room = || {
            if let (Some(run), Some(total)) = (&recorded, record.limits().recording.max_total_bytes) {
                run.remove_oldest(total);
            }
        };
        let (mut parts, signals) = Loop::prepare(&context, &looping, hangup, early, make_room)?;
        let (channels, viewer) = looping::channels();
        let manager = Manager::default();
        if let Some(reloader) = reloader {
            let (in_force, to_loop) = (parts.in_force(), parts.replacements());
            tokio::spawn(reloader.serve(in_force, to_loop, manager.clone()));
        }
        if Manager::is_there() {
            tokio::spawn(manager.clone().follow(parts.progress(), channels.subscribe()));
        }
        let reader = tokio::spawn(follow(viewer.steps, common.format));
        let stop = async {
            signals.wait().await;
            manager.stopping();
        };
        let end = parts.run(stop, channels, options).await;
        let logged = reader.await.context("the log stopped early").map_err(Failure::Failed)?;
        end.and_then(|end| logged.map(|()| end))
    })?;
    looping::log_undone(&end)
}

/// Logs each round as it comes: a readable line on stderr, or a line of JSON on stdout. Windows of observation in
/// between are summed up until then; their events are logged at once.
async fn follow(mut steps: Subscriber<Step>, format: Format) -> Result<(), Failure> {
    let is_brief = is_journal();
    let mut log = Log { format, is_brief, view: None, cost: CostSoFar::default() };
    while let Some(delivery) = steps.next().await {
        match delivery {
            Delivery::Next(step) => log.take(&step)?,
            Delivery::View { view, missed } => {
                if missed > 0 {
                    tracing::warn!("this log fell behind: {missed} steps of the loop are logged as one");
                }
                log.take(&view.updates_since(log.view.as_ref()))?;
            }
        }
    }
    log.cost.log(is_brief);
    Ok(())
}

/// The log of a loop.
struct Log {
    format: Format,
    /// Rounds in which nothing changed, and own costs, are of level debug: a service runs for ever.
    is_brief: bool,
    /// What was logged so far.
    view: Option<View>,
    cost: CostSoFar,
}

impl Log {
    fn take(&mut self, updates: &[Update]) -> Result<(), Failure> {
        let before = self.view.as_ref().map(|view| Arc::clone(&view.round));
        View::follow(&mut self.view, updates);
        for update in updates {
            match update {
                Update::Window(Availability::Available(seen)) => self.cost.add(seen),
                Update::Round(round) => self.take_round(round, before.as_deref())?,
                Update::Event(event) => log_events(std::slice::from_ref(event)),
                Update::Decision(decision) => tracing::info!("{}", plain(&decision.to_string())),
                // What they change is in an event, a decision or the next round.
                Update::Window(_) | Update::Switch { .. } | Update::Comparison(_) => {}
            }
        }
        Ok(())
    }

    fn take_round(&mut self, round: &Round, before: Option<&Round>) -> Result<(), Failure> {
        log_events(&round.events);
        let is_unchanged = before.is_some_and(|before| is_unchanged(round, before));
        log_round(round, self.is_brief && is_unchanged);
        self.cost.log(self.is_brief);
        if self.format == Format::Json {
            print_json(&RoundLine::of(round, &self.cost))?;
        }
        self.cost = CostSoFar::default();
        Ok(())
    }
}

fn log_events(events: &[Event]) {
    for event in events {
        match event.kind {
            EventKind::LimitLost => tracing::error!("{}", event.message),
            EventKind::StageFailed | EventKind::PinSkipped => tracing::warn!("{}", event.message),
            _ => tracing::info!("{}", event.message),
        }
    }
}

/// Whether a round found the VMs of the one before and left them where they were.
fn is_unchanged(round: &Round, before: &Round) -> bool {
    let moved = round.pinning.outcome().is_some_and(|pinned| pinned.changed > 0);
    let names = |round: &Round| round.vms.iter().map(|vm| (vm.name.clone(), vm.id)).collect::<Vec<_>>();
    !moved && round.pinning.reason() == before.pinning.reason() && names(round) == names(before)
}

/// A line about a round, of level debug if it is `minor`.
fn log_round(round: &Round, minor: bool) {
    let shared = match round.plan.value().map(|plan| (plan.shared_within, plan.shared_total)) {
        Some((Some(within), Some(total))) if round.pinning.outcome().is_none() => {
            format!("{within} of {total} shared frames would be within domains")
        }
        Some((Some(within), Some(total))) => format!("{within} of {total} shared frames within domains"),
        Some((None, Some(total))) => format!("{total} shared frames"),
        _ => "no plan".into(),
    };
    let took_ms = round.end_unix_us.saturating_sub(round.begin_unix_us) / 1000;
    let cost = match &round.own_cpu_us {
        Availability::Available(us) => format!("{} ms of CPU so far", us / 1000),
        Availability::Unavailable(reason) => format!("own CPU time unavailable: {reason}"),
    };
    let moved = round.pinning.outcome().map(|pinned| pinned.changed.to_string());
    let line = format!(
        "round {}: {}, {shared}, {} moved, took {took_ms} ms, {cost}",
        round.number,
        counted(round.vms.len(), "VM"),
        counted(moved.as_deref().unwrap_or("no"), "vCPU"),
    );
    match minor {
        true => tracing::debug!("{line}"),
        false => tracing::info!("{line}"),
    }
}

/// Shortest time of whose cost there is a line.
const MIN_COST_US: u64 = 100_000;

/// The cost of observing since the last line. A sum is `None` as soon as a part of it is unknown.
#[derive(Clone, Copy, Debug, Serialize)]
struct CostSoFar {
    /// Windows of observation.
    windows: u64,
    /// How long they were.
    windows_us: u64,
    /// CPU time of this process in them.
    own_cpu_us: Option<u64>,
    /// The part of it for reading counters and probes.
    reading_cpu_us: Option<u64>,
    /// Run time of the BPF programs.
    programs_ns: Option<u64>,
    /// Events that found a buffer or a map full.
    lost_events: Option<u64>,
}

impl Default for CostSoFar {
    fn default() -> Self {
        Self {
            windows: 0,
            windows_us: 0,
            own_cpu_us: Some(0),
            reading_cpu_us: Some(0),
            programs_ns: Some(0),
            lost_events: Some(0),
        }
    }
}

impl CostSoFar {
    fn add(&mut self, seen: &Observation) {
        let sum = |so_far: Option<u64>, more: Option<u64>| Some(so_far? + more?);
        self.windows += 1;
        self.windows_us += seen.end_unix_us.saturating_sub(seen.begin_unix_us);
        self.own_cpu_us = sum(self.own_cpu_us, seen.own_cpu_us.value().copied());
        self.reading_cpu_us = sum(self.reading_cpu_us, seen.reading_cpu_us.value().copied());
        self.programs_ns = sum(self.programs_ns, seen.programs_cost().value().map(|cost| cost.run_ns));
        self.lost_events = sum(self.lost_events, seen.losses.value().map(LossObservation::total));
    }

    /// The shares are of level debug if they are `minor`; losses never are.
    fn log(&self, minor: bool) {
        if self.windows == 0 {
            return;
        }
        // What is left over at the end may be too short for a share of it to mean anything.
        if self.windows_us >= MIN_COST_US {
            self.log_shares(minor);
        }
        match self.lost_events {
            Some(0) => {}
            Some(lost) => tracing::warn!("{lost} events were lost: a buffer or a map was full"),
            None if minor => tracing::debug!("whether events were lost is not known"),
            None => tracing::info!("whether events were lost is not known"),
        }
    }

    fn log_shares(&self, minor: bool) {
        let share = |part_us: Option<f64>| match part_us {
            Some(part_us) => format!("{:.3} %", 100.0 * part_us / self.windows_us.max(1) as f64),
            None => "unavailable".into(),
        };
        let us = |us: Option<u64>| share(us.map(|us| us as f64));
        let line = format!(
            "own cost over {:.1} s, of one core: process {}, of that reading {}; BPF programs {}",
            self.windows_us as f64 / 1e6,
            us(self.own_cpu_us),
            us(self.reading_cpu_us),
            share(self.programs_ns.map(|ns| ns as f64 / 1e3)),
        );
        match minor {
            true => tracing::debug!("{line}"),
            false => tracing::info!("{line}"),
        }
    }
}

/// The line of JSON of one round.
#[derive(Serialize)]
struct RoundLine<'a> {
    schema: &'static str,
    round: u64,
    begin_unix_us: u64,
    end_unix_us: u64,
    full_scans: Option<u64>,
    matrix: Option<&'a huddle_model::matrix::SharingMatrix>,
    matrix_unavailable: Option<&'a str>,
    plan: Option<huddle_model::plan::PlanOfVms<'a>>,
    plan_unavailable: Option<&'a str>,
    changed: Option<u32>,
    pinning_unavailable: Option<&'a str>,
    own_cpu_us: Option<u64>,
    cost: &'a CostSoFar,
    events: Vec<&'a str>,
}

impl<'a> RoundLine<'a> {
    fn of(of: &'a Round, cost: &'a CostSoFar) -> Self {
        Self {
            schema: "huddle/round/1",
            round: of.number,
            begin_unix_us: of.begin_unix_us,
            end_unix_us: of.end_unix_us,
            full_scans: of.ksm.value().map(|ksm| ksm.full_scans),
            matrix: of.matrix.value().map(|matrix| &**matrix),
            matrix_unavailable: of.matrix.reason(),
            plan: of
                .plan
                .value()
                .map(|plan| plan.of_vms(of.matrix.value().map_or(&[], |matrix| matrix.vms()))),
            plan_unavailable: of.plan.reason(),
            changed: of.pinning.outcome().map(|pinned| pinned.changed),
            pinning_unavailable: of.pinning.reason(),
            own_cpu_us: of.own_cpu_us.value().copied(),
            cost,
            events: of.events.iter().map(|event| event.message.as_str()).collect(),
        }
    }
}
