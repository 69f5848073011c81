//! The tracepoints of KVM: entries into guest mode and exits from it.

use std::path::PathBuf;

use aya::EbpfLoader;
use aya::programs::TracePoint;
use aya::programs::trace_point::TracePointLink;
use huddle_abi::NO_OFFSET;
use huddle_model::availability::Availability;

use super::attach::Attacher;
use super::one_line;
use super::program::Program;
use huddle_host::architecture::Architecture;
use huddle_host::{HostRoot, read_text};

/// Offsets of the fields that the programs read, from the `format` of each tracepoint
/// (Documentation/trace/events.rst, Linux 6.18), or why they are unknown.
///
/// x86 tells the vCPU of an entry and the processor's reason of an exit (arch/x86/kvm/trace.h). ARM64 does not tell the
/// vCPU, and has `ret` and `esr_ec` of an exit: KVM's return code, and the exception class where that is a trap
/// (arch/arm64/kvm/trace_arm.h, Linux 6.18). There `kvm_exit` fires after the interrupt that ended the stay was handled
/// (`kvm_arch_vcpu_ioctl_run`, arch/arm64/kvm/arm.c), so time in the guest contains that.
pub(super) struct KvmFormat {
    /// [`NO_OFFSET`] where entries do not tell it.
    entry_vcpu_id: Result<u32, String>,
    exit: Result<ExitFields, String>,
    none: ExitFields,
}

/// Where the record of an exit has its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ExitFields {
    reason: u32,
    /// [`NO_OFFSET`] where there is no return code beside the reason.
    returned: u32,
}

impl KvmFormat {
    pub(super) fn read(root: &HostRoot) -> Self {
        Self {
            entry_vcpu_id: Format::read(root, "kvm_entry")
                .map(|format| format.field("vcpu_id").unwrap_or(NO_OFFSET)),
            exit: Format::read(root, "kvm_exit").and_then(|format| format.exit_fields()),
            none: ExitFields { reason: NO_OFFSET, returned: NO_OFFSET },
        }
    }

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        let exit = self.exit.as_ref().unwrap_or(&self.none);
        loader.override_global("KVM_ENTRY_VCPU_ID", self.entry_vcpu_id.as_ref().unwrap_or(&NO_OFFSET), true);
        loader.override_global("KVM_EXIT_REASON", &exit.reason, true);
        loader.override_global("KVM_EXIT_RETURN", &exit.returned, true);
    }

    fn reason(&self, program: Program) -> Option<String> {
        match program {
            Program::KvmEntry => self.entry_vcpu_id.as_ref().err().cloned(),
            _ => self.exit.as_ref().err().cloned(),
        }
    }
}

/// The programs on KVM's tracepoints that could be attached.
pub(super) struct KvmLinks {
    entry: Option<TracePointLink>,
    exit: Option<TracePointLink>,
}

impl KvmLinks {
    pub(super) fn attach(attacher: &mut Attacher<'_>) -> Self {
        let format = attacher.kernel.kvm;
        let mut attach = |program: Program| {
            let link = attacher.wanted(program).and_then(|()| match format.reason(program) {
                Some(reason) => Err(format!("the BPF program {} cannot run: {reason}", program.name())),
                None => try_attach(attacher, program),
            });
            match attacher.note(program, link) {
                Availability::Available(link) => Some(link),
                Availability::Unavailable(_) => None,
            }
        };
        Self { entry: attach(Program::KvmEntry), exit: attach(Program::KvmExit) }
    }

    pub(super) fn entries(&self) -> bool {
        self.entry.is_some()
    }

    pub(super) fn exits(&self) -> bool {
        self.exit.is_some()
    }
}

fn try_attach(attacher: &mut Attacher<'_>, program: Program) -> Result<TracePointLink, String> {
    let name = program.name();
    let failed = |error: aya::programs::ProgramError| {
        format!("the BPF program {name} cannot be attached: {}", one_line(&error))
    };
    let loaded = attacher.ebpf.program_mut(name).ok_or_else(|| format!("the BPF object has no {name}"))?;
    let tracepoint: &mut TracePoint = loaded.try_into().map_err(failed)?;
    tracepoint.load().map_err(failed)?;
    let link = tracepoint.attach("kvm", name).map_err(failed)?;
    tracepoint.take_link(link).map_err(failed)
}

/// The `format` of a tracepoint of KVM.
struct Format {
    path: PathBuf,
    text: String,
}

impl Format {
    fn read(root: &HostRoot, event: &str) -> Result<Self, String> {
        let tracefs = ["kernel/tracing", "kernel/debug/tracing"].map(|path| root.sys(path).join("events"));
        let Some(events) = tracefs.iter().find(|path| path.is_dir()) else {
            return Err("tracefs is not mounted; run `mount -t tracefs tracefs /sys/kernel/tracing`".into());
        };
        if !events.join("kvm").is_dir() {
            return Err(Architecture::of(root).without_kvm().into());
        }
        let path = events.join("kvm").join(event).join("format");
        let text = read_text(&path).map_err(|error| error.to_string())?;
        Ok(Self { path, text })
    }

    /// The offset of a 32-bit field.
    fn field(&self, name: &str) -> Option<u32> {
        parse_field(&self.text, name)
    }

    fn exit_fields(&self) -> Result<ExitFields, String> {
        if let Some(reason) = self.field("exit_reason") {
            return Ok(ExitFields { reason, returned: NO_OFFSET });
        }
        match (self.field("esr_ec"), self.field("ret")) {
            (Some(reason), Some(returned)) => Ok(ExitFields { reason, returned }),
            _ => Err(format!(
                "{} has neither the 32-bit field exit_reason (x86) nor esr_ec and ret (ARM64)",
                self.path.display()
            )),
        }
    }
}

/// Finds `field:unsigned int NAME; offset:N; size:4; ...`.
fn parse_field(format: &str, name: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        let (declaration, rest) = line.trim().strip_prefix("field:")?.split_once(';')?;
        if declaration.split_ascii_whitespace().last()? != name {
            return None;
        }
        let value = |key: &str| {
            rest.split(';').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix(':')?.parse().ok())
        };
        value("offset").filter(|_| value("size") == Some(4_u32))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMAT: &str = "name: kvm_exit\nID: 9\nformat:\n\tfield:unsigned short common_type;\toffset:0;\t\
        size:2;\tsigned:0;\n\n\tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;\n\tfield:u64 \
        info1;\toffset:32;\tsize:8;\tsigned:0;\n\nprint fmt: \"vcpu %u reason\", REC->vcpu_id\n";

    #[test]
    fn fields_are_found_with_their_size() {
        assert_eq!(parse_field(FORMAT, "exit_reason"), Some(8));
        assert_eq!(parse_field(FORMAT, "info1"), None, "not 32 bits");
        assert_eq!(parse_field(FORMAT, "reason"), None);
        assert_eq!(parse_field("field:;;\nfield:x\n", "x"), None);
    }

    /// As the kernels of ARM64 print them (arch/arm64/kvm/trace_arm.h, Linux 6.18).
    const ARM_ENTRY: &str = "name: kvm_entry\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\t\
        signed:0;\n\n\tfield:unsigned long vcpu_pc;\toffset:8;\tsize:8;\tsigned:0;\n";
    const ARM_EXIT: &str = "name: kvm_exit\nformat:\n\tfield:int ret;\toffset:8;\tsize:4;\tsigned:1;\n\tfield:\
        unsigned int esr_ec;\toffset:12;\tsize:4;\tsigned:0;\n\tfield:unsigned long vcpu_pc;\toffset:16;\tsize:8;\t\
        signed:0;\n";

    /// A host whose tracepoints have these formats.
    fn host(entry: &str, exit: &str) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        for (event, text) in [("kvm_entry", entry), ("kvm_exit", exit)] {
            let path = root.sys("kernel/tracing/events/kvm").join(event);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("format"), text).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn each_architecture_has_its_fields() {
        let entry = "\tfield:unsigned int vcpu_id;\toffset:8;\tsize:4;\tsigned:0;\n";
        let (_dir, root) = host(entry, FORMAT);
        let x86 = KvmFormat::read(&root);
        assert_eq!(x86.entry_vcpu_id, Ok(8));
        assert_eq!(x86.exit, Ok(ExitFields { reason: 8, returned: NO_OFFSET }));

        let (_dir, root) = host(ARM_ENTRY, ARM_EXIT);
        let arm = KvmFormat::read(&root);
        assert_eq!(arm.entry_vcpu_id, Ok(NO_OFFSET), "entries are counted without it");
        assert_eq!(arm.exit, Ok(ExitFields { reason: 12, returned: 8 }));
        assert_eq!((arm.reason(Program::KvmEntry), arm.reason(Program::KvmExit)), (None, None));

        let (_dir, root) = host(ARM_ENTRY, ARM_ENTRY);
        let neither = KvmFormat::read(&root);
        assert_eq!(neither.reason(Program::KvmEntry), None);
        assert!(neither.reason(Program::KvmExit).unwrap().contains("neither the 32-bit field exit_reason"));
    }

    #[test]
    fn missing_parts_are_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let reason = || KvmFormat::read(&root).reason(Program::KvmExit).unwrap();
        assert!(reason().contains("mount -t tracefs"));
        let events = root.sys("kernel/tracing/events");
        std::fs::create_dir_all(&events).unwrap();
        assert!(reason().contains("KVM is not loaded"));
        std::fs::create_dir_all(events.join("kvm")).unwrap();
        assert!(reason().contains("kvm_exit/format"));
    }

    proptest! {
        #[test]
        fn any_field_of_any_record_is_found(
            fields in proptest::collection::vec(("[a-z_]{1,12}", any::<u32>()), 1..8),
            damage in "[ -~\t]{0,40}",
        ) {
            let line = |(name, at): &(String, u32)| {
                format!("\tfield:unsigned int {name};\toffset:{at};\tsize:4;\tsigned:0;\n")
            };
            let text: String = fields.iter().map(line).collect();
            let (name, _) = &fields[fields.len() - 1];
            let first = fields.iter().find(|(other, _)| other == name).map(|(_, at)| *at);
            prop_assert_eq!(parse_field(&text, name), first);
            let _ = parse_field(&format!("field:{damage}\n{damage}"), name);
        }
    }
}
