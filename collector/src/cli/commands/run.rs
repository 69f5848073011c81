//! `huddle run`.

use std::sync::Arc;

use anyhow::Context as _;
use huddle_collector::engine::RunOptions;
use huddle_model::availability::Availability;
use huddle_model::snapshot::{EventKind, Snapshot};
use serde::Serialize;
use tokio::sync::watch;

use crate::cli::args::{Common, Format, RunArgs};
use crate::cli::context::{Context, seconds};
use crate::cli::failure::Failure;
use crate::cli::looping::{self, Loop};
use crate::cli::table::print_json;

pub(crate) fn run(common: &Common, args: &RunArgs) -> Result<(), Failure> {
    let context = Context::new(common)?;
    let parts = Loop::prepare(&context, &args.looping)?;
    let runtime = looping::runtime()?;
    let options = RunOptions { min_interval: seconds(args.looping.min_interval), rounds: args.rounds };
    let end = runtime.block_on(async {
        let stop = looping::stop_signal()?;
        let (publish, seen) = watch::channel(None);
        let reader = tokio::spawn(follow(seen, common.format));
        let end = parts.run(stop, &publish, options).await;
        drop(publish);
        let said = reader.await.context("the log stopped early").map_err(Failure::Failed)?;
        end.and_then(|end| said.map(|()| end))
    })?;
    looping::say_undone(&end)
}

/// Says each snapshot as it comes: a readable line on stderr, or a line of JSON on stdout.
async fn follow(mut seen: watch::Receiver<Option<Arc<Snapshot>>>, format: Format) -> Result<(), Failure> {
    while seen.changed().await.is_ok() {
        let Some(snapshot) = seen.borrow_and_update().clone() else { continue };
        log_round(&snapshot);
        if format == Format::Json {
            print_json(&Round::of(&snapshot))?;
        }
    }
    Ok(())
}

fn log_round(snapshot: &Snapshot) {
    for event in &snapshot.events {
        match event.kind {
            EventKind::StageFailed | EventKind::PinSkipped => tracing::warn!("{}", event.message),
            _ => tracing::info!("{}", event.message),
        }
    }
    let shared = match snapshot.plan.value().map(|plan| (plan.shared_within, plan.shared_total)) {
        Some((Some(within), Some(total))) => format!("{within} of {total} shared frames within domains"),
        Some((None, Some(total))) => format!("{total} shared frames"),
        _ => "no plan".into(),
    };
    let took_ms = snapshot.end_unix_us.saturating_sub(snapshot.begin_unix_us) / 1000;
    let cost = match &snapshot.own_cpu_us {
        Availability::Available(us) => format!("{} ms of CPU so far", us / 1000),
        Availability::Unavailable(reason) => format!("own CPU time unavailable: {reason}"),
    };
    tracing::info!(
        "round {}: {} VMs, {shared}, {} pinned anew, took {took_ms} ms, {cost}",
        snapshot.round,
        snapshot.vms.len(),
        snapshot.pinned.value().map_or_else(|| "nothing".into(), |pinned| pinned.changed.to_string()),
    );
}

/// The line of JSON of one round.
#[derive(Serialize)]
struct Round<'a> {
    schema: &'static str,
    round: u64,
    begin_unix_us: u64,
    end_unix_us: u64,
    full_scans: Option<u64>,
    matrix: Option<&'a huddle_model::matrix::SharingMatrix>,
    matrix_unavailable: Option<&'a str>,
    plan: Option<&'a huddle_model::plan::Plan>,
    plan_unavailable: Option<&'a str>,
    changed: Option<u32>,
    pinning_unavailable: Option<&'a str>,
    own_cpu_us: Option<u64>,
    events: Vec<&'a str>,
}

impl<'a> Round<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            schema: "huddle/round/1",
            round: snapshot.round,
            begin_unix_us: snapshot.begin_unix_us,
            end_unix_us: snapshot.end_unix_us,
            full_scans: snapshot.ksm.value().map(|ksm| ksm.full_scans),
            matrix: snapshot.matrix.value(),
            matrix_unavailable: snapshot.matrix.reason(),
            plan: snapshot.plan.value(),
            plan_unavailable: snapshot.plan.reason(),
            changed: snapshot.pinned.value().map(|pinned| pinned.changed),
            pinning_unavailable: snapshot.pinned.reason(),
            own_cpu_us: snapshot.own_cpu_us.value().copied(),
            events: snapshot.events.iter().map(|event| event.message.as_str()).collect(),
        }
    }
}
