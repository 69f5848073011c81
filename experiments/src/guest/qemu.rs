//! A real VM: QEMU with a Linux kernel and an initramfs. Its console goes to a file.
//!
//! The initramfs of the microbenchmark's VMs has one program, `huddle-guest-init`, which the runner controls over a
//! second serial line: QEMU's standard input and output, so that no socket can be left behind.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::child::ChildGuest;
use super::{GuestError, TimeLimits};
use crate::interrupt::Interrupt;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's emulator; many times slower, and its own data uses the caches too.
    Tcg,
}

impl Accelerator {
    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A plugin that records what an emulated VM reads, writes and fetches: see [`crate::access_stream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Its library.
    pub library: PathBuf,
    /// The stream that it writes.
    pub stream: PathBuf,
}

/// What every VM of an experiment is, whatever runs in it.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its kernel.
    pub kernel: &'a Path,
    /// Its initramfs.
    pub initrd: &'a Path,
    /// What runs it.
    pub accelerator: Accelerator,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// The file its console is appended to.
    pub console: &'a Path,
    /// What records its accesses; only where it is emulated.
    pub plugin: Option<&'a Plugin>,
}

impl Machine<'_> {
    /// QEMU with this VM, to which devices may be added.
    ///
    /// # Errors
    /// A plugin, but no emulator that would call it.
    pub fn command(&self) -> Result<Command, GuestError> {
        if self.plugin.is_some() && self.accelerator != Accelerator::Tcg {
            return Err(GuestError::Make {
                name: self.name.to_owned(),
                why: format!(
                    "accesses are recorded of emulated VMs only (tcg), and {} runs it",
                    self.accelerator.name()
                ),
            });
        }
        let mut command = Command::new(PROGRAM);
        command.args(self.arguments());
        Ok(command)
    }

    /// That it could not be started.
    pub fn failed(&self, source: std::io::Error) -> GuestError {
        GuestError::start(self.name, PROGRAM, source)
    }

    fn arguments(&self) -> Vec<String> {
        let Self { memory_mib, vcpus, name, .. } = self;
        let (accelerator, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // A small translation buffer: it is memory of the VMM that no other shares.
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=32", "max"),
        };
        let console = format!("file,id=console,append=on,path={}", escaped(self.console));
        let append = "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off nokaslr";
        let arguments = format!(
            "-accel {accelerator} -cpu {cpu} -m {memory_mib} -smp {vcpus} -nodefaults -no-user-config \
             -display none -no-reboot -machine pc,mem-merge=on -name {name},debug-threads=on"
        );
        let mut arguments: Vec<String> = arguments.split_ascii_whitespace().map(str::to_owned).collect();
        let (kernel, initrd) = (self.kernel.display().to_string(), self.initrd.display().to_string());
        let rest = ["-kernel", &kernel, "-initrd", &initrd, "-append", append];
        arguments.extend(rest.map(str::to_owned));
        arguments.extend(["-chardev", &console, "-serial", "chardev:console"].map(str::to_owned));
        if let Some(Plugin { library, stream }) = self.plugin {
            let plugin = format!("file={},stream={}", escaped(library), escaped(stream));
            arguments.extend(["-plugin".to_owned(), plugin]);
        }
        arguments
    }
}

/// A path within an option: a comma separates options, and is written twice where it is meant.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// How to start a VM that is controlled by lines.
#[derive(Clone, Debug)]
pub struct QemuGuestSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Directory with `vmlinuz` and `initrd`.
    pub image: &'a Path,
    /// What runs it.
    pub accelerator: Accelerator,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// The file its console is written to.
    pub console: PathBuf,
    /// What records its accesses; only where it is emulated.
    pub plugin: Option<Plugin>,
    /// How long it may take to answer.
    pub limits: TimeLimits,
    /// What ends the waiting for it early.
    pub interrupt: Interrupt,
}

impl QemuGuestSpec<'_> {
    /// Starts the VM without waiting until it is up: see [`Guest::wait_ready`](super::Guest::wait_ready).
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(&self) -> Result<ChildGuest, GuestError> {
        // The output of an earlier VM of this name.
        let _ = std::fs::remove_file(&self.console);
        let mut process = Machine {
            name: self.name,
            kernel: &self.image.join("vmlinuz"),
            initrd: &self.image.join("initrd"),
            accelerator: self.accelerator,
            memory_mib: self.memory_mib,
            vcpus: self.vcpus,
            console: &self.console,
            plugin: self.plugin.as_ref(),
        }
        .command()?;
        process.args(["-chardev", "stdio,id=line,signal=off", "-serial", "chardev:line"]);
        let console = Some(self.console.clone());
        ChildGuest::start(self.name, process, self.limits, self.interrupt.clone(), console)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_mergeable_and_threads_are_named() {
        let plugin = Plugin { library: "/target/lib.so".into(), stream: "/proc/1/fd/3,x".into() };
        let machine = Machine {
            name: "vm1",
            kernel: Path::new("/images/plain/vmlinuz"),
            initrd: Path::new("/images/plain/initrd"),
            accelerator: Accelerator::Tcg,
            memory_mib: 96,
            vcpus: 2,
            console: Path::new("/runs/a,b/vm1.log"),
            plugin: Some(&plugin),
        };
        let arguments = machine.arguments();
        let after = |flag: &str| {
            let at = arguments.iter().position(|argument| argument == flag);
            at.and_then(|at| arguments.get(at + 1)).map(String::as_str)
        };
        assert_eq!(after("-machine"), Some("pc,mem-merge=on"));
        assert_eq!(after("-name"), Some("vm1,debug-threads=on"));
        assert_eq!((after("-m"), after("-smp")), (Some("96"), Some("2")));
        assert_eq!(after("-kernel"), Some("/images/plain/vmlinuz"));
        assert_eq!(after("-chardev"), Some("file,id=console,append=on,path=/runs/a,,b/vm1.log"));
        assert_eq!(after("-plugin"), Some("file=/target/lib.so,stream=/proc/1/fd/3,,x"));
        assert!(machine.command().is_ok());
        let error = Machine { accelerator: Accelerator::Kvm, ..machine }.command().unwrap_err().to_string();
        assert!(error.contains("vm1") && error.contains("tcg"), "{error}");
    }
}
