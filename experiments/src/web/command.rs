//! The command `huddle-experiment web`.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use huddle_host::HostRoot;
use huddle_model::summary::Block;

use super::apache::{APACHE, ApacheFiles};
use super::run_directory::{BASE, RunDirectory};
use super::tenant::{Tenant, WebTenant};
use super::vm::WebVms;
use super::{Preset, Web, WebSettings, WebSpec, responses};
use crate::access_stream::Recorders;
use crate::frame::command::{self, Options, Prepared, Runnable};
use crate::frame::spec::{Changes, GuestKind, SpecError};
use crate::host::{CollectorHost, HostFailure};
use crate::interrupt::Interrupt;

/// Options of the web experiment.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A specification that comes with the program [default: quick; with --guest qemu, paper]
    #[arg(long, value_enum, conflicts_with = "spec")]
    preset: Option<Preset>,
    /// Apache's program, for servers that are processes
    #[arg(long, default_value = APACHE)]
    apache: PathBuf,
    #[command(flatten)]
    changes: Changes<WebSettings>,
    #[command(flatten)]
    options: Options,
}

impl Args {
    fn spec(&self) -> Result<WebSpec, SpecError> {
        let mut changed = WebSpec::default();
        self.changes.apply(&mut changed)?;
        let default = if changed.guest == GuestKind::Qemu { Preset::Paper } else { Preset::Quick };
        let spec = self.options.spec(self.preset.unwrap_or(default), &self.changes)?;
        spec.check()?;
        Ok(spec)
    }
}

/// Runs it, writes its files and prints its report.
///
/// # Errors
/// Nothing was measured, or what was measured cannot be written.
pub fn execute(args: &Args, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut web = Web { spec: args.spec()?, apache: args.apache.clone(), recorders: None };
    command::execute(&mut web, &args.options, interrupt)
}

impl Runnable for Web {
    fn prepare(
        &mut self,
        root: &HostRoot,
        options: &Options,
        _: &Path,
    ) -> anyhow::Result<Prepared<dyn Tenant>> {
        let spec = self.spec.clone();
        let apache =
            (spec.guest == GuestKind::Process).then(|| ApacheFiles::find(&self.apache)).transpose()?;
        let (events, state_dir) = (command::default_events(root), options.state_dir.as_deref());
        let host = CollectorHost::open(root.clone(), state_dir, 1, events, true)?;
        if spec.simulate.is_some() {
            let recorders = Recorders::create(&command::own_program()?, spec.guests(), 1);
            self.recorders = Some(Rc::new(recorders.map_err(HostFailure::Cannot)?));
        }
        let directory = RunDirectory::create(Path::new(BASE))?;
        let servers = match apache {
            Some(apache) => Servers::Processes(apache),
            None => {
                let accelerator = command::accelerator_for(self.recorders.is_some());
                Servers::Vms(WebVms::make(&options.images()?, &directory, accelerator, spec.memory_mib)?)
            }
        };
        let accelerator = match &servers {
            Servers::Processes(_) => None,
            Servers::Vms(vms) => Some(vms.accelerator),
        };
        let recorders = self.recorders.clone();
        let start = move |number, interrupt: &Interrupt| {
            let name = spec.guest_name(number);
            let server = match &servers {
                Servers::Processes(apache) => apache.start(&name, &directory)?,
                Servers::Vms(vms) => {
                    let plugin = recorders.as_ref().and_then(|recorders| recorders.plugin(number));
                    vms.start(&name, &directory, plugin.as_ref())?
                }
            };
            Ok(Box::new(WebTenant::new(server, &spec, number, interrupt)) as Box<dyn Tenant>)
        };
        Ok(Prepared { host: Box::new(host), accelerator, start: Box::new(start) })
    }

    fn write_more(&self, directory: &Path, blocks: &[Block]) -> anyhow::Result<Option<PathBuf>> {
        Ok(Some(responses::write(directory, blocks)?))
    }
}

/// What starts servers.
enum Servers {
    Processes(ApacheFiles),
    Vms(WebVms),
}
