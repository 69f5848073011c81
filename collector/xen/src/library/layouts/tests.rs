//! Xen's own headers, through a C compiler.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::*;

/// A C expression, and its value in Rust.
fn measures() -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut add = |c: &str, value: usize| all.push((c.to_owned(), value as u64));
    macro_rules! structure {
        ($c:literal, $rust:ty, $($field:ident $(as $c_field:literal)?),*) => {
            add(concat!("sizeof(", $c, ")"), size_of::<$rust>());
            $(
                #[allow(unused_mut, unused_assignments, reason = "set again only where C names the field otherwise")]
                let mut field = stringify!($field);
                $(field = $c_field;)?
                add(&format!("offsetof({}, {field})", $c), offset_of!($rust, $field));
            )*
        };
    }
    structure!(
        "xc_domaininfo_t", DomainInfo, domain, flags, tot_pages, shr_pages, cpu_time, nr_online_vcpus,
        max_vcpu_id, handle, cpupool, gpaddr_bits, emulation_flags as "arch_config.emulation_flags"
    );
    structure!("xc_vcpuinfo_t", VcpuInfo, vcpu, online, blocked, running, cpu_time, cpu);
    structure!("xc_cputopo_t", CpuTopology, core, socket, node);
    structure!("xc_cpupoolinfo_t", CpuPoolInfo, cpupool_id, n_dom, cpumap);
    structure!(
        "struct xc_domain_meminfo",
        DomainMemory,
        pt_levels,
        guest_width,
        pfn_type,
        p2m_table,
        p2m_size,
        p2m_frames
    );
    structure!("xentoollog_logger", Logger, vmessage, progress, destroy);
    for (c, value) in [
        ("XEN_DOMINF_dying", u64::from(DOMINF_DYING)),
        ("XEN_DOMINF_hvm_guest", DOMINF_HVM_GUEST.into()),
        ("XEN_DOMINF_shutdown", DOMINF_SHUTDOWN.into()),
        ("XEN_DOMINF_paused", DOMINF_PAUSED.into()),
        ("XEN_INVALID_MAX_VCPU_ID", INVALID_MAX_VCPU_ID.into()),
        ("XEN_X86_EMU_PIC", EMU_PIC.into()),
        ("XEN_VCPUAFFINITY_HARD", AFFINITY_HARD.into()),
        ("XEN_VCPUAFFINITY_SOFT", AFFINITY_SOFT.into()),
        ("XEN_INVALID_CORE_ID", INVALID_ID.into()),
        ("XEN_INVALID_NODE_ID", INVALID_ID.into()),
        ("XEN_DOMCTL_PFINFO_LTAB_MASK", PFINFO_LTAB_MASK),
        ("XEN_DOMCTL_PFINFO_XTAB", PFINFO_XTAB),
        ("XEN_DOMCTL_PFINFO_XALLOC", PFINFO_XALLOC),
        ("XEN_DOMCTL_PFINFO_BROKEN", PFINFO_BROKEN),
        ("XENVER_version", VERSION as u64),
        ("XC_PSR_CMT_L3_OCCUPANCY", CMT_L3_OCCUPANCY.into()),
        ("XC_PSR_CMT_TOTAL_MEM_COUNT", CMT_TOTAL_MEM_COUNT.into()),
        ("XC_PSR_CMT_LOCAL_MEM_COUNT", CMT_LOCAL_MEM_COUNT.into()),
    ] {
        all.push((c.to_owned(), value));
    }
    all
}

#[test]
fn layouts_are_those_of_xens_headers() {
    // The directory of `cargo xtask host xen`, beside the test programs.
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|path| path.join("guests").is_dir());
    let include = target.map(|target| target.join("guests/xen/include"));
    let Some(include) = include.filter(|path| path.join("xenctrl.h").is_file()) else {
        let missing = "Xen's headers are missing; `cargo xtask host xen --make-only` fetches them";
        assert!(std::env::var_os("CI").is_none(), "CI must not skip this: {missing}");
        // Not a print macro: the test harness captures those.
        std::io::stderr().write_all(format!("skipped: {missing}\n").as_bytes()).unwrap();
        return;
    };
    let mut program = String::from(
        "#define __XEN_TOOLS__ 1\n#include <stdio.h>\n#include <stddef.h>\n#include <xenctrl.h>\n\
         #include <xenguest.h>\n#include <xentoollog.h>\nint main(void) {\n",
    );
    for (c, _) in measures() {
        writeln!(program, "printf(\"%llu\\n\", (unsigned long long){c});").unwrap();
    }
    program += "return 0; }\n";
    let values = compile_and_run(&program, &include);
    let values: Vec<u64> = values.lines().map(|line| line.parse().unwrap()).collect();
    let measures = measures();
    assert_eq!(values.len(), measures.len());
    for ((c, ours), theirs) in measures.iter().zip(values) {
        assert_eq!(*ours, theirs, "{c}");
    }
}

fn compile_and_run(program: &str, include: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (source, binary) = (dir.path().join("layouts.c"), dir.path().join("layouts"));
    std::fs::write(&source, program).unwrap();
    let compiled = Command::new("cc").arg("-I").arg(include).arg("-o").arg(&binary).arg(&source).output();
    let compiled = compiled.unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    String::from_utf8(Command::new(&binary).output().unwrap().stdout).unwrap()
}
