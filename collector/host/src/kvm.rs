//! Settings of KVM (Documentation/admin-guide/kernel-parameters.txt).

use super::{HostError, HostRoot, optional, read_line};

/// Whether KVM hands the counters of the processor to its guests while they run: the parameter `enable_mediated_pmu`,
/// off by default, of the module `kvm_intel` or `kvm_amd` (arch/x86/kvm/vmx/vmx.c and svm/svm.c, Linux 7.0). `kvm` is
/// asked too, where later kernels keep what both have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediatedVpmu {
    /// The module that has the parameter.
    pub module: &'static str,
    /// Whether it is on.
    pub is_on: bool,
}

/// Reads it; `None` if KVM is not loaded or this kernel has no such parameter.
pub fn mediated_vpmu(root: &HostRoot) -> Result<Option<MediatedVpmu>, HostError> {
    for module in ["kvm_intel", "kvm_amd", "kvm"] {
        let path = root.sys(format!("module/{module}/parameters/enable_mediated_pmu"));
        let Some(value) = optional(read_line(&path))? else { continue };
        let is_on = match value.as_str() {
            "Y" | "1" => true,
            "N" | "0" => false,
            _ => return Err(HostError::parse(&path, &value, "Y or N")),
        };
        return Ok(Some(MediatedVpmu { module, is_on }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_module_may_have_the_parameter() {
        for module in ["kvm_intel", "kvm_amd", "kvm"] {
            let dir = tempfile::tempdir().unwrap();
            let root = HostRoot::at(dir.path());
            assert_eq!(mediated_vpmu(&root).unwrap(), None);
            let path = root.sys(format!("module/{module}/parameters/enable_mediated_pmu"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            for (text, is_on) in [("Y\n", true), ("N\n", false), ("1\n", true)] {
                std::fs::write(&path, text).unwrap();
                assert_eq!(mediated_vpmu(&root).unwrap(), Some(MediatedVpmu { module, is_on }));
            }
            std::fs::write(&path, "?\n").unwrap();
            assert!(mediated_vpmu(&root).unwrap_err().to_string().contains("\"?\""));
        }
    }
}
