//! Creating domains from a configuration, and destroying them.

use std::path::Path;
use std::time::Duration;

use super::{Xl, run};
use crate::toolstack::{DomainRef, XenError};

impl Xl {
    /// Creates a domain from a configuration file (xl.cfg(5)) and returns when it runs. No process stays
    /// behind to wait for its end (`-e`): the caller must destroy it, even if it has crashed.
    ///
    /// # Errors
    /// [`XenError::Xl`] with the message of `xl`; [`XenError::TimedOut`], after which the domain may exist.
    pub fn create(&self, config: &Path, limit: Duration) -> Result<(), XenError> {
        let Some(path) = config.to_str() else {
            let why = format!("is not called: {} is not UTF-8", config.display());
            return Err(XenError::Xl { command: "xl create".to_owned(), why });
        };
        run::run(&self.program, &["create", "-q", "-e", path], limit)?.text().map(drop)
    }

    /// Destroys a domain. A gone domain is not an error.
    ///
    /// # Errors
    /// When `xl` does not answer, or fails.
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
