//! Commands and flags.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand, ValueEnum};
use huddle_engine::SHORTEST_WINDOW;
use huddle_model::matrix::{Method, Weigh};
use huddle_model::plan::Policy;
use huddle_model::trial::Objective;
use huddle_observe::perf::EventChoice;
use huddle_sharing::content::Share;
use huddle_xen::toolstack::AffinityKind;

/// Finds the VMs of this host, measures which share memory, and runs those that share most on the
/// same cache.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the host cannot do it (with the reason).
#[derive(Debug, Parser)]
#[command(name = "huddle", version = env!("HUDDLE_VERSION"), max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// How to answer: a readable table, or one JSON object on stdout and nothing else there; of `huddle plan` also a
    /// script that makes the placement permanent with the VMs' manager: virsh (libvirt), qm (Proxmox VE), xl (Xen)
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Treat this process as a VM; repeatable; discovery is then off
    #[arg(long = "vm", global = true, value_name = "NAME=PID")]
    pub(crate) vms: Vec<NamePid>,
    /// Settings, and processes or cgroups to treat as VMs (TOML)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Cache level that makes the cache domains [default: the highest that has more than one]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=4))]
    pub(crate) cache_level: Option<u8>,
    /// How VMs are placed: paper, sharing, exact, opposed, spread, random, load or none [default: paper]
    #[arg(long, global = true)]
    pub(crate) policy: Option<Policy>,
    /// Which shared frames count when VMs are placed: all of them, or read, those that both VMs of a pair read meanwhile.
    /// `matrix` then shows both [default: all]
    #[arg(long, global = true, value_name = "all|read")]
    pub(crate) weigh: Option<Weigh>,
    /// The event that stands for a role (cycles, instructions, llc_references, llc_misses) instead of
    /// the processor's usual one, in the notation of perf: a name, r412e, event=0x2e,umask=0x41, PMU/EVENT/, or
    /// none; repeatable
    #[arg(long = "event", global = true, value_name = "ROLE=EVENT")]
    pub(crate) events: Vec<EventChoice>,
    /// Count hardware events only while vCPUs run their guest (KVM)
    #[arg(long, global = true)]
    pub(crate) guest_only: bool,
    /// Pin vCPUs that their owner bound, too: those with an affinity narrower than their cpuset, a real-time policy, or
    /// isolated CPUs
    #[arg(long, global = true)]
    pub(crate) override_bindings: bool,
    /// On Xen: the affinity of vCPUs that is set, hard (they run nowhere else) or soft (preferred)
    /// [default: hard]
    #[arg(long, global = true, value_enum, value_name = "KIND")]
    pub(crate) xen_affinity: Option<AffinityArg>,
    /// Where the journal and the lock are [default: $HUDDLE_STATE_DIR, or /run/huddle for root, or
    /// $XDG_RUNTIME_DIR/huddle]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// A script for libvirt.
    Virsh,
    /// A script for Proxmox VE.
    Qm,
    /// A script for Xen.
    Xl,
}

impl Format {
    /// Its name, where it is a script for a manager of VMs, which only a plan can be.
    pub(crate) fn of_manager(self) -> Option<&'static str> {
        match self {
            Self::Table | Self::Json => None,
            Self::Virsh => Some("virsh"),
            Self::Qm => Some("qm"),
            Self::Xl => Some("xl"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AffinityArg {
    Hard,
    Soft,
}

impl From<AffinityArg> for AffinityKind {
    fn from(kind: AffinityArg) -> Self {
        match kind {
            AffinityArg::Hard => Self::Hard,
            AffinityArg::Soft => Self::Soft,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What this host lets us measure, each gap with its reason and remedy
    Doctor,
    /// VMs, vCPUs, where they run, memory kinds
    Vms,
    /// What every pair of VMs shares now
    Matrix(MatrixArgs),
    /// Record sketches of what the VMs hold, by which they can be compared with VMs of other hosts
    Sketch(SketchArgs),
    /// What would be pinned and why, or (`--format virsh`, `qm` or `xl`) the commands that make it permanent with the
    /// VMs' manager; changes nothing
    Plan(PlanArgs),
    /// Plan and apply once; undone by `huddle restore`
    Pin(PinArgs),
    /// The loop: after every complete KSM pass measure, plan and pin; everything is undone at the end
    Run(RunArgs),
    /// The loop in the terminal
    Top(TopArgs),
    /// Undo everything that the journal holds
    Restore,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MatrixArgs {
    /// How to measure [default: merged; on Xen, which does not report the frames of domains, content]
    #[arg(long, value_enum)]
    pub(crate) method: Option<MethodArg>,
    #[command(flatten)]
    pub(crate) content: ContentArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SketchArgs {
    /// File with the secret seed of the fleet, the same on all its hosts; its name is recorded, not what is in it
    /// [default: `[sketch] seed` of the configuration]
    #[arg(long, value_name = "FILE")]
    pub(crate) seed: Option<PathBuf>,
    /// Record into this directory, which must be new or empty
    #[arg(long, value_name = "DIR", required_unless_present_any = ["make_seed", "fleet"])]
    pub(crate) record: Option<PathBuf>,
    /// Record below this directory, in host=HOST/run=RUN
    #[arg(long, value_name = "DIR", conflicts_with = "record")]
    pub(crate) fleet: Option<PathBuf>,
    /// Keep about one content in so many [default: `[sketch] one_in` of the configuration, or 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=1 << 32))]
    pub(crate) one_in: Option<u64>,
    /// Most processor time, as a share of one CPU [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub(crate) cpu_share: Option<Share>,
    /// Write a new seed into this file, which must not exist, and do nothing else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "record", "fleet", "one_in", "cpu_share"])]
    pub(crate) make_seed: Option<PathBuf>,
}

/// Limits of method `content`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ContentArgs {
    /// With --method content: compare this share of the contents, drawn by their hashes, and state the 95 % interval of
    /// each rate. Saves memory and comparing, not reading: every page is read once
    #[arg(long, value_name = "SHARE")]
    pub(crate) sample: Option<Share>,
    /// With --method content: most processor time, as a share of one CPU [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub(crate) cpu_share: Option<Share>,
    /// With --method content: most memory to remember pages in, in MiB [default: 256]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) memory_mib: Option<u32>,
}

impl ContentArgs {
    /// The first of these that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.sample.is_some(), "--sample"),
            (self.cpu_share.is_some(), "--cpu-share"),
            (self.memory_mib.is_some(), "--memory-mib"),
        ];
        given.into_iter().find_map(|(is_given, name)| is_given.then_some(name))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodArg {
    /// Frames that both VMs map: what is shared now
    Merged,
    /// Equal contents of pages, wherever they are: what could be shared
    Content,
}

impl From<MethodArg> for Method {
    fn from(method: MethodArg) -> Self {
        match method {
            MethodArg::Merged => Self::Merged,
            MethodArg::Content => Self::Content,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// Plan from this matrix (JSON of `huddle matrix`, or CSV in percent) instead of measuring
    #[arg(long, value_name = "FILE")]
    pub(crate) matrix: Option<PathBuf>,
    /// Plan for these cache domains (JSON) instead of this host's
    #[arg(long, value_name = "FILE")]
    pub(crate) topology: Option<PathBuf>,
    /// What the policy would have done in each round of this recording, beside what was done
    #[arg(long, value_name = "DIR", conflicts_with_all = ["matrix", "topology"])]
    pub(crate) replay: Option<PathBuf>,
    /// With --replay: the plan for this round alone
    #[arg(long, value_name = "ROUND", requires = "replay", conflicts_with_all = ["matrix", "topology"])]
    pub(crate) at: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PinArgs {
    /// Show what would be pinned and leave everything as it is
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoopArgs {
    /// Do everything but the pinning
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Start KSM for the time of the loop (for experiments)
    #[arg(long)]
    pub(crate) ksm_run: bool,
    /// On a Xen that has memory sharing: merge equal pages of domains in each round, until the loop ends
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) merge: bool,
    /// Least time between two rounds, in seconds; on Xen, where no pass of KSM begins a round, the time
    /// [default: 1; on Xen: 60]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) min_interval: Option<f64>,
    /// Length of a window of observation, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = parse_window)]
    pub(crate) window: f64,
    /// Serve `huddle top --attach` at this socket [default: attach.sock in the state directory; a dry run
    /// has none]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Try what the policy proposes, in blocks of random order, and keep only what is better by this: mpki,
    /// miss_ratio, ipc, or reported (what workloads send to the report socket)
    #[arg(long, value_name = "OBJECTIVE")]
    pub(crate) trial: Option<Objective>,
    /// Listen here for lines `NAME OPERATIONS [LATENCY_US]` of workloads (Unix datagram socket) [default
    /// with `--trial reported`: `reports` in the state directory]
    #[arg(long, value_name = "PATH")]
    pub(crate) report_socket: Option<PathBuf>,
    /// Record into this directory, which must be new or empty
    #[arg(long, value_name = "DIR")]
    pub(crate) record: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) looping: LoopArgs,
    /// Stop after this many rounds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rounds: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) looping: LoopArgs,
    /// Draw with ASCII characters only
    #[arg(long)]
    pub(crate) ascii: bool,
    /// Show a loop that is already running, at this socket, instead of starting one
    /// [default: attach.sock in the state directory]
    #[arg(
        long,
        value_name = "SOCKET",
        num_args = 0..=1,
        conflicts_with_all = ["dry_run", "ksm_run", "merge", "min_interval", "window", "socket", "trial", "report_socket", "record"]
    )]
    pub(crate) attach: Option<Option<PathBuf>>,
    /// Show this recording instead of a loop: Space plays and stops, t steps, + and - change the speed. Or the result of
    /// an experiment (a directory with summary.json): t and T switch between its arms
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = [
            "attach", "dry_run", "ksm_run", "merge", "min_interval", "window", "socket", "trial", "report_socket", "record"
        ]
    )]
    pub(crate) replay: Option<PathBuf>,
    /// Show a fleet instead of a loop: families of contents by host, what hosts share, and proposed moves. FILE is what
    /// `huddle-analysis fleet overview` wrote
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "attach", "replay", "dry_run", "ksm_run", "merge", "min_interval", "window", "socket", "trial",
            "report_socket", "record"
        ]
    )]
    pub(crate) fleet: Option<PathBuf>,
}

impl TopArgs {
    /// Whether it shows a loop of its own, and so measures and changes this host.
    pub(crate) fn runs_a_loop(&self) -> bool {
        self.attach.is_none() && self.replay.is_none() && self.fleet.is_none()
    }
}

/// `NAME=PID` of `--vm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamePid {
    pub(crate) name: String,
    pub(crate) pid: i32,
}

impl FromStr for NamePid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A name may contain `=`: the last one separates it from the pid.
        let (name, pid) = text.rsplit_once('=').ok_or("expected NAME=PID, as web=4711")?;
        if name.is_empty() {
            return Err("the name before = is empty; expected NAME=PID, as web=4711".into());
        }
        if name.chars().any(char::is_control) {
            return Err("the name holds a control character; expected NAME=PID, as web=4711".into());
        }
        match pid.parse() {
            Ok(pid) if pid > 0 => Ok(Self { name: name.to_owned(), pid }),
            _ => Err(format!("{pid:?} is not a process id; expected NAME=PID, as web=4711")),
        }
    }
}

/// A day: longer than useful between rounds, and far from overflowing a clock.
const MAX_SECONDS: f64 = 86_400.0;

const MIN_WINDOW_SECONDS: f64 = SHORTEST_WINDOW.as_secs_f64();

fn parse_window(text: &str) -> Result<f64, String> {
    match parse_seconds(text) {
        Ok(seconds) if seconds >= MIN_WINDOW_SECONDS => Ok(seconds),
        _ => Err(format!("expected seconds from {MIN_WINDOW_SECONDS} to {MAX_SECONDS}")),
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=MAX_SECONDS).contains(&seconds) => Ok(seconds),
        _ => Err(format!("expected seconds from 0 to {MAX_SECONDS}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn name_and_pid_are_separated_at_the_last_equals_sign() {
        assert_eq!("a=b=7".parse(), Ok(NamePid { name: "a=b".into(), pid: 7 }));
        for text in ["a", "=7", "a=", "a=-1", "a=0", "a=x", "a=99999999999"] {
            assert!(text.parse::<NamePid>().is_err(), "{text}");
        }
    }
}
