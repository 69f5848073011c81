//! What the running kernel says of itself: its version, its command line and the settings below
//! `/proc/sys/kernel` (proc(5); Documentation/admin-guide/sysctl/kernel.rst, Linux 6.18).
//!
//! A setting that this kernel does not have is an error for which [`HostError::is_gone`] is true.

use huddle_model::text::chosen;

use super::{HostError, HostRoot, read_line, read_number, read_text};

/// The release, as `uname -r` has it: `6.18.44-cloud-amd64`.
pub fn release(root: &HostRoot) -> Result<String, HostError> {
    read_line(&root.proc("sys/kernel/osrelease"))
}

/// The release with who built the kernel, and when.
pub fn version(root: &HostRoot) -> Result<String, HostError> {
    read_line(&root.proc("version"))
}

/// The host's name.
pub fn host_name(root: &HostRoot) -> Result<String, HostError> {
    read_line(&root.proc("sys/kernel/hostname"))
}

/// A number that is another one after each boot.
pub fn boot_id(root: &HostRoot) -> Result<String, HostError> {
    read_line(&root.proc("sys/kernel/random/boot_id"))
}

/// The parameters that the kernel was booted with, without those for init, which follow `--`.
pub fn parameters(root: &HostRoot) -> Result<Vec<String>, HostError> {
    let text = read_text(&root.proc("cmdline"))?;
    let parameters = text.split_ascii_whitespace().take_while(|parameter| *parameter != "--");
    Ok(parameters.map(str::to_owned).collect())
}

/// Whether the kernel moves memory between NUMA nodes: 0 is off.
pub fn numa_balancing(root: &HostRoot) -> Result<u64, HostError> {
    read_number(&root.proc("sys/kernel/numa_balancing"))
}

/// Whether the watchdog that takes a hardware counter of each CPU is on: 0 is off.
pub fn nmi_watchdog(root: &HostRoot) -> Result<u64, HostError> {
    read_number(&root.proc("sys/kernel/nmi_watchdog"))
}

/// How little perf_event_open(2) lets the unprivileged count; from -1 (all) upwards.
pub fn perf_event_paranoid(root: &HostRoot) -> Result<i32, HostError> {
    read_number(&root.proc("sys/kernel/perf_event_paranoid"))
}

/// One more than the largest process id.
pub fn pid_max(root: &HostRoot) -> Result<u32, HostError> {
    read_number(&root.proc("sys/kernel/pid_max"))
}

/// How far the kernel is locked down (kernel_lockdown(7)): `none`, `integrity` or `confidentiality`.
pub fn lockdown(root: &HostRoot) -> Result<String, HostError> {
    Ok(chosen(&read_text(&root.sys("kernel/security/lockdown"))?).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_tells_of_itself() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        assert!(release(&root).unwrap_err().is_gone());
        for (path, text) in [
            (root.proc("sys/kernel/osrelease"), "6.18.44\n"),
            (root.proc("cmdline"), "root=UUID=1 nosmt -- mem=4\n"),
            (root.proc("sys/kernel/perf_event_paranoid"), "-1\n"),
            (root.sys("kernel/security/lockdown"), "none [integrity] confidentiality\n"),
        ] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(release(&root).unwrap(), "6.18.44");
        assert_eq!(parameters(&root).unwrap(), ["root=UUID=1", "nosmt"]);
        assert_eq!(perf_event_paranoid(&root).unwrap(), -1);
        assert_eq!(lockdown(&root).unwrap(), "integrity");
    }

    #[test]
    fn this_kernel_has_a_name_and_a_boot() {
        let root = HostRoot::real();
        assert!(release(&root).unwrap().contains('.') && version(&root).unwrap().starts_with("Linux"));
        assert_eq!(boot_id(&root).unwrap().len(), 36);
        assert!(pid_max(&root).unwrap() >= 301 && !host_name(&root).unwrap().is_empty());
    }
}
