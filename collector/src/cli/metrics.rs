//! Metrics of a loop: where its updates go to, and what serves them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use huddle_engine::publish::{Delivery, Subscriber};
use huddle_host::HostRoot;
use huddle_host::clock::HostClock;
use huddle_host::stages::Clock as _;
use huddle_metrics::{Facts, Listen, Metrics, MetricsSettings, RecorderFacts, Server, TextFile};
use huddle_model::availability::Availability;
use huddle_model::update::Step;
use tokio::task::JoinSet;

use super::args::{Command, Common};
use super::config::Config;
use super::failure::Failure;
use super::recorder::LoopRecorder;

/// An address to listen at is bound before huddle gives up the network: from then on it can make no socket of it.
#[derive(Debug, Default)]
pub(crate) struct EarlySocket(Option<(Listen, Server)>);

impl EarlySocket {
    /// Binds the address that the configuration names for a command that runs a loop.
    pub(crate) fn bind(common: &Common, command: &Command) -> Result<Self, Failure> {
        let runs_a_loop = match command {
            Command::Run(_) => true,
            Command::Top(top) => top.runs_a_loop(),
            _ => false,
        };
        let Some(path) = common.config.as_deref().filter(|_| runs_a_loop) else { return Ok(Self::default()) };
        Self::of_config(path)
    }

    fn of_config(path: &Path) -> Result<Self, Failure> {
        let (config, _) = Config::read(path)?;
        match config.metrics.listen {
            Some(listen @ Listen::Address(_)) => {
                let server = Server::bind(&listen).map_err(Failure::failed)?;
                Ok(Self(Some((listen, server))))
            }
            // A Unix socket can be made later, once everything else was checked.
            Some(Listen::Socket(_)) | None => Ok(Self::default()),
        }
    }
}

/// What serves the metrics of a loop, ready.
pub(crate) struct Served {
    metrics: Arc<Metrics>,
    server: Option<Server>,
    file: Option<TextFile>,
}

impl Served {
    /// As the configuration says; `None` if nobody is to get metrics.
    pub(crate) fn prepare(
        root: &HostRoot,
        settings: &MetricsSettings,
        early: EarlySocket,
    ) -> Result<Option<Self>, Failure> {
        if !settings.is_on() {
            return Ok(None);
        }
        let server = match (&settings.listen, early.0) {
            (None, _) => None,
            (Some(listen), Some((bound, server))) if *listen == bound => Some(server),
            (Some(listen @ Listen::Socket(_)), _) => Some(Server::bind(listen).map_err(Failure::failed)?),
            (Some(Listen::Address(address)), _) => {
                return Err(Failure::failed(anyhow::anyhow!(
                    "[metrics] listen became {address} while huddle was starting; start it again"
                )));
            }
        };
        if let Some(place) = server.as_ref().and_then(Server::place) {
            tracing::info!("metrics can be fetched at {place}, path /metrics");
        }
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION"),
            revision: option_env!("HUDDLE_GIT_REVISION"),
            start_unix_us: HostClock.now_unix_us(),
            ..Facts::default()
        };
        let metrics = Arc::new(Metrics::new(root.clone(), settings.clone(), facts));
        let interval = Duration::from_secs(settings.textfile_interval_s);
        let file = settings.textfile.as_deref().map(|path| TextFile::begin(path, interval, &metrics));
        let file = file.transpose().map_err(Failure::failed)?;
        Ok(Some(Self { metrics, server, file }))
    }

    /// Follows the loop and serves its metrics, for ever.
    pub(crate) async fn serve(self, mut steps: Subscriber<Step>, recorder: &LoopRecorder) {
        let Self { metrics, server, file } = self;
        // Tasks of their own, which end with this future.
        let mut serving = JoinSet::new();
        server.map(|server| serving.spawn(server.serve(Arc::clone(&metrics))));
        file.map(|file| serving.spawn(file.serve(Arc::clone(&metrics))));
        while let Some(delivery) = steps.next().await {
            metrics.set_recorder(recorder_facts(recorder));
            match delivery {
                Delivery::Next(step) => metrics.follow(&step, HostClock.now_unix_us()),
                Delivery::View { view, missed } => metrics.catch_up(&view, missed, HostClock.now_unix_us()),
            }
        }
        std::future::pending::<()>().await;
    }
}

fn recorder_facts(recorder: &LoopRecorder) -> Option<RecorderFacts> {
    recorder.status().map(|status| match status {
        Availability::Available(status) => {
            RecorderFacts { is_writing: true, steps: Some((status.steps_recorded, status.steps_lost)) }
        }
        Availability::Unavailable(_) => RecorderFacts { is_writing: false, steps: None },
    })
}
