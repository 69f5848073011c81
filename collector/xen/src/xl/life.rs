//! Domains of one's own: made from a configuration, and destroyed.

use std::path::Path;
use std::time::Duration;

use super::{Xl, run};
use crate::toolstack::{DomainRef, XenError};

impl Xl {
    /// Makes a domain from a configuration file (xl.cfg(5)) and returns when it runs. No process stays behind that
    /// waits for its end (`-e`): whoever makes it destroys it, also when it has crashed.
    ///
    /// # Errors
    /// [`XenError::Xl`] with what `xl` said; [`XenError::TimedOut`], after which the domain may be there.
    pub fn create(&self, config: &Path, limit: Duration) -> Result<(), XenError> {
        let Some(path) = config.to_str() else {
            let why = format!("is not called: {} is not UTF-8", config.display());
            return Err(XenError::Xl { command: "xl create".to_owned(), why });
        };
        run::run(&self.program, &["create", "-q", "-e", path], limit)?.text().map(drop)
    }

    /// Destroys a domain. One that is gone is no error.
    ///
    /// # Errors
    /// When `xl` does not answer, or cannot.
    pub fn destroy(&self, domain: DomainRef) -> Result<(), XenError> {
        let destroyed = self
            .check(domain)
            .and_then(|()| self.ask_about(domain.id, &["destroy", &domain.id.to_string()]).map(drop));
        match destroyed {
            Err(XenError::Gone(_)) => Ok(()),
            other => other,
        }
    }
}
