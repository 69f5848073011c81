//! The tracepoints of KVM: entries into guest mode and exits from it.

use aya::EbpfLoader;
use aya::programs::TracePoint;
use aya::programs::trace_point::TracePointLink;
use huddle_model::availability::Availability;

use super::attach::Attacher;
use super::one_line;
use super::program::Program;
use huddle_host::{HostRoot, read_text};

/// Offsets of the fields that the programs read, from the `format` of each tracepoint
/// (Documentation/trace/events.rst, Linux 6.18), or why they are unknown.
pub(super) struct KvmFormat {
    entry_vcpu_id: Result<u32, String>,
    exit_reason: Result<u32, String>,
    none: u32,
}

impl KvmFormat {
    pub(super) fn read(root: &HostRoot) -> Self {
        Self {
            entry_vcpu_id: field(root, "kvm_entry", "vcpu_id"),
            exit_reason: field(root, "kvm_exit", "exit_reason"),
            none: huddle_abi::NO_OFFSET,
        }
    }

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global("KVM_ENTRY_VCPU_ID", self.entry_vcpu_id.as_ref().unwrap_or(&self.none), true);
        loader.override_global("KVM_EXIT_REASON", self.exit_reason.as_ref().unwrap_or(&self.none), true);
    }

    fn reason(&self, program: Program) -> Option<String> {
        let offset = if program == Program::KvmEntry { &self.entry_vcpu_id } else { &self.exit_reason };
        offset.as_ref().err().cloned()
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

/// The offset of a 32-bit field in the record of a tracepoint of KVM.
fn field(root: &HostRoot, event: &str, field: &str) -> Result<u32, String> {
    let tracefs = ["kernel/tracing", "kernel/debug/tracing"].map(|path| root.sys(path).join("events"));
    let Some(events) = tracefs.iter().find(|path| path.is_dir()) else {
        return Err("tracefs is not mounted; run `mount -t tracefs tracefs /sys/kernel/tracing`".into());
    };
    if !events.join("kvm").is_dir() {
        return Err("KVM is not loaded; run `modprobe kvm`, or there are no KVM VMs on this host".into());
    }
    let path = events.join("kvm").join(event).join("format");
    let text = read_text(&path).map_err(|error| error.to_string())?;
    parse_field(&text, field).ok_or_else(|| format!("{} has no 32-bit field {field}", path.display()))
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

    #[test]
    fn missing_parts_are_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        assert!(field(&root, "kvm_exit", "exit_reason").unwrap_err().contains("mount -t tracefs"));
        let events = root.sys("kernel/tracing/events");
        std::fs::create_dir_all(&events).unwrap();
        assert!(field(&root, "kvm_exit", "exit_reason").unwrap_err().contains("KVM is not loaded"));
        std::fs::create_dir_all(events.join("kvm/kvm_exit")).unwrap();
        std::fs::write(events.join("kvm/kvm_exit/format"), FORMAT).unwrap();
        assert_eq!(field(&root, "kvm_exit", "exit_reason"), Ok(8));
        assert!(field(&root, "kvm_exit", "vcpu_id").unwrap_err().contains("no 32-bit field vcpu_id"));
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
