//! The stages of the loop for what runs the VMs: processes of this host, or Xen.

use std::time::Duration;

use anyhow::Context as _;
use huddle_engine::{EventsSharing, HostContents, HostFacts, HostSharing, HostVms, RESCAN_ROUNDS};
use huddle_host::ksm;
use huddle_host::pin::StateLock;
use huddle_host::stages::PassTrigger;
use huddle_host::stages::{HostSource, Observer, PageMerger, SharingSource, VmSource};
use huddle_model::availability::Availability;
use huddle_observe::observer::{HostObserver, Sources};
use huddle_observe::perf::VcpuCounters;
use huddle_observe::probes::graph::frame_changes;
use huddle_observe::probes::pass::FullScansTrigger;
use huddle_observe::probes::{ProbeConfig, Probes};
use huddle_observe::reported::{ReportSocket, Reports};
use huddle_observe::resctrl::Resctrl;
use huddle_sharing::content::ContentScan;
use huddle_sharing::{MergedScan, frames_visible};
use huddle_xen as xen;
use huddle_xen::observer::XenObserver;
use huddle_xen::stages::Interval;

use super::args::LoopArgs;
use super::config::LoopMethod;
use super::context::{Backend, Context, seconds};
use super::failure::Failure;

/// How often `full_scans` is looked at: far more often than a pass completes, and cheap.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What the loop is made of, but for the pinning.
pub(crate) struct Stages {
    pub(crate) vms: Box<dyn VmSource + Send>,
    pub(crate) sharing: Box<dyn SharingSource + Send>,
    pub(crate) merger: Option<Box<dyn PageMerger + Send>>,
    pub(crate) host: Box<dyn HostSource + Send>,
    pub(crate) observer: Box<dyn Observer + Send>,
    pub(crate) passes: Box<dyn PassTrigger>,
}

/// Least time between two rounds where the user gave none: with KSM its passes are what counts; the contents
/// of domains are read again in each round, which the paper does every few minutes.
pub(crate) fn min_interval(backend: Backend) -> Duration {
    match backend {
        Backend::Host => Duration::from_secs(1),
        Backend::Xen => Duration::from_secs(60),
    }
}

/// Whether this host can do what `args` asks for; nothing is changed.
pub(crate) fn check(context: &Context, args: &LoopArgs) -> Result<(), Failure> {
    // Bad names on the command line are an error now, not an event in every round.
    context.topology()?;
    match context.backend {
        Backend::Host => {
            if args.merge {
                let error =
                    anyhow::anyhow!("--merge is for Xen's domains; on this host KSM merges: --ksm-run");
                return Err(Failure::usage(error));
            }
            frames_visible(&context.root).map_err(Failure::host)?;
            context.discoverer().discover().map_err(Failure::failed)?;
            ksm::state(&context.root)
                .context("this kernel reports nothing about KSM, so no pass will ever complete")
                .map_err(Failure::Host)?;
        }
        Backend::Xen => {
            if args.ksm_run {
                let error =
                    anyhow::anyhow!("--ksm-run is of no use here: KSM merges nothing of Xen's domains");
                return Err(Failure::usage(error));
            }
            if matches!(context.config.sharing.method, Some(LoopMethod::Merged | LoopMethod::Events)) {
                return Err(Failure::host(anyhow::anyhow!(
                    "Xen does not report which frames domains share; set [sharing] method = \"content\""
                )));
            }
            context.vms()?;
            xen::open_memory(&context.root).map_err(Failure::host)?;
        }
    }
    Ok(())
}

/// Says what the loop will lack, once nothing keeps it from starting.
pub(crate) fn advise(context: &Context, args: &LoopArgs) {
    let is_off = ksm::state(&context.root).is_ok_and(|state| state.run != 1);
    if context.backend == Backend::Host && is_off && !args.ksm_run {
        tracing::warn!(
            "KSM is not running, so there is one round and then no pass to follow; \
             start it with --ksm-run or `echo 1 > /sys/kernel/mm/ksm/run`"
        );
    }
}

/// Makes them; `state` is the locked state directory of a loop that may change the host.
pub(crate) fn build(
    context: &Context,
    args: &LoopArgs,
    reports: Option<ReportSocket>,
    state: Option<&StateLock>,
) -> Result<Stages, Failure> {
    match context.backend {
        Backend::Host => on_host(context, reports),
        Backend::Xen => on_xen(context, args, reports, state),
    }
}

fn on_host(context: &Context, reports: Option<ReportSocket>) -> Result<Stages, Failure> {
    let root = &context.root;
    let mut probes = Probes::load(root, &ProbeConfig::default()).map_err(|error| error.to_string());
    let counters = VcpuCounters::new(root.clone(), context.event_set()?);
    let resctrl = Resctrl::open(root).into();
    let passes = pass_trigger(context, &mut probes)?;
    let sources = Sources { probes, counters, resctrl, reports };
    Ok(Stages {
        vms: Box::new(HostVms(context.discoverer())),
        sharing: sharing_source(context),
        merger: None,
        host: Box::new(HostFacts { root: root.clone(), cache_level: context.cache_level }),
        observer: Box::new(HostObserver::new(root.clone(), sources)),
        passes,
    })
}

fn on_xen(
    context: &Context,
    args: &LoopArgs,
    reports: Option<ReportSocket>,
    state: Option<&StateLock>,
) -> Result<Stages, Failure> {
    let contents = context.xen_contents(context.content_settings())?;
    let merger = match state.filter(|_| args.merge) {
        Some(state) => Some(Box::new(context.xen_merging(state)?) as _),
        None => None,
    };
    let every = args.min_interval.map_or(min_interval(context.backend), seconds);
    let monitor = xen::open_monitor(&context.root);
    Ok(Stages {
        vms: Box::new(context.xen_vms()?),
        sharing: Box::new(contents),
        merger,
        host: Box::new(context.xen_facts()?),
        observer: Box::new(XenObserver::new(context.toolstack()?, monitor, Box::new(Reports::new(reports)))),
        passes: Box::new(Interval::new(every)),
    })
}

/// The scan, or what the configuration says.
fn sharing_source(context: &Context) -> Box<dyn SharingSource + Send> {
    let scan = MergedScan::new(context.root.clone());
    let settings = &context.config.sharing;
    match settings.method.unwrap_or(LoopMethod::Merged) {
        LoopMethod::Merged => Box::new(HostSharing(scan)),
        LoopMethod::Content => {
            let settings = context.content_settings();
            Box::new(HostContents(ContentScan::new(context.root.clone(), settings)))
        }
        LoopMethod::Events => {
            let rounds = settings.rescan_rounds.unwrap_or(RESCAN_ROUNDS);
            Box::new(EventsSharing::new(
                context.root.clone(),
                scan,
                frame_changes(context.root.clone()),
                rounds,
            ))
        }
    }
}

/// Passes as the probes report them, or, where they cannot, as `full_scans` does.
fn pass_trigger(
    context: &Context,
    probes: &mut Result<Probes, String>,
) -> Result<Box<dyn PassTrigger>, Failure> {
    let told = match probes {
        Ok(probes) => std::mem::replace(&mut probes.passes, Availability::Unavailable("taken".into())),
        Err(reason) => Availability::Unavailable(reason.clone()),
    };
    let trigger: Box<dyn PassTrigger> = match told {
        Availability::Available(trigger) => Box::new(trigger),
        Availability::Unavailable(reason) => {
            tracing::warn!("passes of KSM are seen by watching full_scans, without their times: {reason}");
            Box::new(FullScansTrigger::new(context.root.clone(), LOOK_INTERVAL).map_err(Failure::host)?)
        }
    };
    tracing::debug!("passes of KSM are reported by {}", trigger.name());
    Ok(trigger)
}
