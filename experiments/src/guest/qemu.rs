//! A real VM: QEMU with a Linux kernel and an initramfs whose only program of ours is
//! `huddle-guest-init`. Its console goes to a file; the runner speaks to it over its second serial line,
//! which is QEMU's standard input and output, so that no socket is left behind by any end.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::child::ChildGuest;
use super::{GuestError, Patience};
use crate::interrupt::Interrupt;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator; many times slower, and its own data uses the caches too.
    Tcg,
}

/// How to start a VM.
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
    /// How long it may take to answer.
    pub patience: Patience,
    /// What ends the waiting for it early.
    pub interrupt: Interrupt,
}

impl QemuGuestSpec<'_> {
    /// Starts the VM without waiting until it is up: see [`ChildGuest::wait_ready`].
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(&self) -> Result<ChildGuest, GuestError> {
        let mut process = Command::new(PROGRAM);
        process.args(self.arguments());
        let console = Some(self.console.clone());
        ChildGuest::start(self.name, process, self.patience, self.interrupt.clone(), console)
    }

    fn arguments(&self) -> Vec<String> {
        let Self { memory_mib, vcpus, name, .. } = self;
        let (accelerator, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // A small translation buffer: it is memory of the VMM that no other shares.
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=32", "max"),
        };
        // A comma separates options, and is written twice where it is meant.
        let path = |path: &Path| path.display().to_string().replace(',', ",,");
        let console = format!("file,id=console,path={}", path(&self.console));
        let append = "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off nokaslr";
        let arguments = format!(
            "-accel {accelerator} -cpu {cpu} -m {memory_mib} -smp {vcpus} -nodefaults -no-user-config \
             -display none -no-reboot -machine pc,mem-merge=on -name {name},debug-threads=on"
        );
        let mut arguments: Vec<String> = arguments.split_ascii_whitespace().map(str::to_owned).collect();
        arguments.extend(
            [
                "-kernel",
                &self.image.join("vmlinuz").display().to_string(),
                "-initrd",
                &self.image.join("initrd").display().to_string(),
                "-append",
                append,
                "-chardev",
                &console,
                "-serial",
                "chardev:console",
                "-chardev",
                "stdio,id=line,signal=off",
                "-serial",
                "chardev:line",
            ]
            .map(str::to_owned),
        );
        arguments
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn memory_is_mergeable_and_threads_are_named() {
        let spec = QemuGuestSpec {
            name: "vm1",
            image: Path::new("/images/plain"),
            accelerator: Accelerator::Tcg,
            memory_mib: 96,
            vcpus: 2,
            console: "/runs/a,b/vm1.log".into(),
            patience: Patience { ready: Duration::from_secs(1), answer: Duration::from_secs(1) },
            interrupt: Interrupt::default(),
        };
        let arguments = spec.arguments();
        let after = |flag: &str| {
            let at = arguments.iter().position(|argument| argument == flag);
            at.and_then(|at| arguments.get(at + 1)).map(String::as_str)
        };
        assert_eq!(after("-machine"), Some("pc,mem-merge=on"));
        assert_eq!(after("-name"), Some("vm1,debug-threads=on"));
        assert_eq!((after("-m"), after("-smp")), (Some("96"), Some("2")));
        assert_eq!(after("-kernel"), Some("/images/plain/vmlinuz"));
        assert_eq!(after("-chardev"), Some("file,id=console,path=/runs/a,,b/vm1.log"));
    }
}
