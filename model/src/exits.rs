//! How exits of a guest are numbered: the processors have no numbers in common.

use serde::{Deserialize, Serialize};

use crate::kind::named;

/// What the number of an exit's reason means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitNumbering {
    /// Basic exit reasons of Intel's VMX (Intel SDM volume 3, appendix C; arch/x86/include/uapi/asm/vmx.h, Linux 6.18).
    Vmx,
    /// Exit codes of AMD's SVM (AMD APM volume 2, appendix C; arch/x86/include/uapi/asm/svm.h, Linux 6.18).
    Svm,
    /// ARM64: below 64 the exception class of a trap (`ESR_ELx_EC_...`, arch/arm64/include/asm/esr.h); otherwise 256
    /// more than KVM's return code (`ARM_EXCEPTION_...`, arch/arm64/include/asm/kvm_asm.h, Linux 6.18): 256 is an
    /// interrupt, 257 an SError, 259 an illegal state.
    Arm64,
}

named! {ExitNumbering, "numbering of exits":
    Vmx = "vmx",
    Svm = "svm",
    Arm64 = "arm64",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_names_of_messages() {
        for numbering in [ExitNumbering::Vmx, ExitNumbering::Svm, ExitNumbering::Arm64] {
            assert_eq!(serde_json::to_value(numbering).unwrap(), numbering.name());
            assert_eq!(numbering.name().parse(), Ok(numbering));
        }
    }
}
