//! The command line of `huddle-analysis fleet`.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use huddle_host::files;
use huddle_model::fleet::MoveLimits;
use serde::Serialize;

use super::families::FleetFamilies;
use super::hosts::VmHosts;
use super::load::FleetLimits;
use super::newest::NewestSketches;
use super::openstack::OpenstackWeights;
use super::overview::overview;
use super::pairs::FleetPairs;
use super::propose::ProposedMoves;
use crate::AnalysisError;
use crate::report::Report;
use crate::sources::Sources;

/// A question to a fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetQuestion {
    /// Pairs of VMs that have most in common, on one host or on two: the part of each that the other has.
    Pairs {
        #[command(flatten)]
        fleet: FleetRuns,
        #[command(flatten)]
        joined: Joined,
        /// How many pairs, those first that have most in common.
        #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        top: u64,
        /// At most so many pairs of each VM.
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        of_vm: u64,
        /// Output format: a readable table, or one JSON object on stdout.
        #[arg(long, value_enum, default_value_t = FleetFormat::Table)]
        format: FleetFormat,
    },
    /// Contents that many VMs hold, such as systems and libraries, taken together where nearly the same VMs hold them.
    Families {
        #[command(flatten)]
        fleet: FleetRuns,
        /// Contents that more VMs hold than this; a quarter of the VMs by default, at least 3 and at most 32.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max_holders: Option<u64>,
        /// Output format: a readable table, or one JSON object on stdout.
        #[arg(long, value_enum, default_value_t = FleetFormat::Table)]
        format: FleetFormat,
    },
    /// How much of each VM the others of its host hold, and those of the ten hosts that suit it best.
    Hosts {
        #[command(flatten)]
        fleet: FleetRuns,
        #[command(flatten)]
        joined: Joined,
        /// Output format: a readable table, or one JSON object on stdout.
        #[arg(long, value_enum, default_value_t = FleetFormat::Table)]
        format: FleetFormat,
    },
    /// Moves of VMs between hosts that bring most of what they share together; nothing is moved.
    Propose {
        #[command(flatten)]
        fleet: FleetRuns,
        #[command(flatten)]
        limits: Limits,
        /// Output format: a readable table, one JSON object on stdout, commands of libvirt's `virsh` or Proxmox's `qm`, or
        /// weights of hosts as JSON for a weigher of OpenStack Nova.
        #[arg(long, value_enum, default_value_t = MovesFormat::Table)]
        format: MovesFormat,
    },
    /// Hosts, families and proposed moves as JSON, for `huddle top --fleet`.
    Overview {
        #[command(flatten)]
        fleet: FleetRuns,
        #[command(flatten)]
        limits: Limits,
        /// At most so many families, the largest.
        #[arg(long, default_value_t = 100, value_name = "N")]
        families: usize,
        /// Where to write it; stdout if it is not given.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Families, hosts and proposed moves in one HTML file that needs nothing else.
    Report {
        #[command(flatten)]
        fleet: FleetRuns,
        #[command(flatten)]
        limits: Limits,
        /// Where to write it.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// Limits of the proposed moves.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Limits {
    /// At most so many moves, those that bring most.
    #[arg(long, default_value_t = 10, value_name = "N")]
    moves: usize,
    /// Part of a host's memory that its VMs may have together, as if they shared nothing.
    #[arg(long, default_value_t = 0.9, value_name = "SHARE", value_parser = share)]
    memory_share: f64,
    /// Most vCPUs of a host for each of its CPUs.
    #[arg(long, default_value_t = 4.0, value_name = "N", value_parser = positive)]
    vcpus_per_cpu: f64,
}

impl Limits {
    fn of_hosts(self) -> FleetLimits {
        FleetLimits { memory_share: self.memory_share, vcpus_per_cpu: self.vcpus_per_cpu }
    }

    fn of_moves(self) -> MoveLimits {
        MoveLimits { moves: self.moves }
    }
}

/// Recordings of a fleet.
#[derive(Debug, Args)]
pub(crate) struct FleetRuns {
    /// Recordings with sketches: directories of runs, trees of them, or patterns. Of each host the newest counts.
    #[arg(required = true, value_name = "RUN")]
    paths: Vec<PathBuf>,
}

/// How VMs are found that belong together.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Joined {
    /// VMs are found by contents that at most so many hold; those of more are counted only where two are compared.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_holders: u64,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FleetFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How moves are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MovesFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// A script of libvirt.
    Virsh,
    /// Commands of Proxmox.
    Qm,
    /// Weights for a scheduler.
    Openstack,
}

impl FleetQuestion {
    /// Where its recordings are.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Pairs { fleet, .. }
            | Self::Families { fleet, .. }
            | Self::Hosts { fleet, .. }
            | Self::Propose { fleet, .. }
            | Self::Overview { fleet, .. }
            | Self::Report { fleet, .. } => &fleet.paths,
        }
    }

    /// Writes the answer to `out`.
    ///
    /// # Errors
    /// When a recording cannot be read, or `out` cannot be written.
    pub(crate) fn answer(self, sources: &mut Sources, out: &mut impl Write) -> anyhow::Result<()> {
        let sketches = |all: &Sources| NewestSketches::of(&all.recordings()?);
        match self {
            Self::Pairs { joined, top, of_vm, format, .. } => {
                let found =
                    sources.run(|all| FleetPairs::of(&sketches(all)?, joined.max_holders, top, of_vm))?;
                write(out, format, &found)
            }
            Self::Families { max_holders, format, .. } => {
                let found = sources.run(|all| FleetFamilies::of(&sketches(all)?, max_holders))?;
                write(out, format, &found)
            }
            Self::Hosts { joined, format, .. } => {
                let found = sources.run(|all| VmHosts::of(&sketches(all)?, joined.max_holders))?;
                write(out, format, &found)
            }
            Self::Overview { limits, families, output, .. } => {
                let ask =
                    |all: &Sources| overview(&sketches(all)?, limits.of_hosts(), limits.of_moves(), families);
                let found = sources.run(ask)?;
                let Some(output) = output else { return json(out, &found) };
                let mut text = Vec::new();
                json(&mut text, &found)?;
                files::replace_file(&output, &text, files::FOR_ALL).map_err(|error| {
                    AnalysisError::Write { path: output.clone(), message: error.to_string() }
                })?;
                Ok(writeln!(out, "wrote {}", output.display())?)
            }
            Self::Report { limits, output, .. } => {
                let ask = |all: &Sources| {
                    overview(&sketches(all)?, limits.of_hosts(), limits.of_moves(), usize::MAX)
                };
                Report::of_fleet(&sources.run(ask)?).write(&output)?;
                Ok(writeln!(out, "wrote {}", output.display())?)
            }
            Self::Propose { limits, format, .. } => {
                let is_for_openstack = format == MovesFormat::Openstack;
                let ask = |all: &Sources| -> Result<_, AnalysisError> {
                    let sketches = sketches(all)?;
                    let found = ProposedMoves::of(&sketches, limits.of_hosts(), limits.of_moves())?;
                    let max_holders = super::views::Parameters::default().max_holders;
                    let hosts = is_for_openstack.then(|| VmHosts::of(&sketches, max_holders)).transpose()?;
                    Ok((found, hosts))
                };
                let (found, hosts) = sources.run(ask)?;
                match (format, &hosts) {
                    (MovesFormat::Table, _) => write!(out, "{found}")?,
                    (MovesFormat::Virsh, _) => write!(out, "{}", found.virsh())?,
                    (MovesFormat::Qm, _) => write!(out, "{}", found.qm())?,
                    (MovesFormat::Openstack, Some(hosts)) => json(out, &OpenstackWeights::of(&found, hosts))?,
                    (MovesFormat::Openstack, None) | (MovesFormat::Json, _) => json(out, &found)?,
                }
                Ok(())
            }
        }
    }
}

fn write(
    out: &mut impl Write,
    format: FleetFormat,
    answer: &(impl Serialize + Display),
) -> anyhow::Result<()> {
    match format {
        FleetFormat::Table => Ok(write!(out, "{answer}")?),
        FleetFormat::Json => json(out, answer),
    }
}

fn json(out: &mut impl Write, document: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)?;
    Ok(())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    positive(text)
        .ok()
        .filter(|share| *share <= 1.0)
        .ok_or("expected a number above 0 and up to 1".to_owned())
}
