//! Names of kinds in files and messages, in one table each.

/// A name that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {name:?}")]
pub struct UnknownKind {
    /// What it should be the name of.
    what: &'static str,
    name: String,
}

impl UnknownKind {
    /// `name`, which should be that of `what`.
    pub fn new(what: &'static str, name: &str) -> Self {
        Self { what, name: name.to_owned() }
    }
}

/// Gives an enum `name()`, `Display` and `FromStr` from one table of names, which has to be complete to compile.
macro_rules! named {
    ($kind:ident, $what:literal: $($variant:ident = $name:literal),+ $(,)?) => {
        impl $kind {
            /// Its name in files and messages.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $kind {
            type Err = $crate::kind::UnknownKind;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::kind::UnknownKind::new($what, name)),
                }
            }
        }
    };
}
pub(crate) use named;

#[cfg(test)]
mod tests {
    use crate::event::EventKind;
    use crate::matrix::Method;
    use crate::vm::VmmKind;

    #[test]
    fn names_are_read_back_and_others_are_refused_by_name() {
        assert_eq!("qemu-kvm".parse(), Ok(VmmKind::QemuKvm));
        assert_eq!("kvm".parse::<VmmKind>().map(VmmKind::name), Ok("kvm"));
        assert_eq!("events".parse(), Ok(Method::Events));
        assert_eq!("limit_lost".parse(), Ok(EventKind::LimitLost));
        let error = "qemu_kvm".parse::<VmmKind>().unwrap_err().to_string();
        assert_eq!(error, "unknown kind of VMM \"qemu_kvm\"");
        assert!("".parse::<Method>().is_err());
    }
}
