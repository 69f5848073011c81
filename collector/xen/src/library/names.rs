//! Names of domains, which xenstore knows and Xen does not.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::toolstack::{DomainRef, XenError};
use crate::xenstore::Xenstore;
use huddle_host::HostRoot;

/// After a timeout the daemon is not asked for this long, so that a list of domains does not wait once for
/// each of them.
const REST: Duration = Duration::from_secs(30);

/// The last known names: a VM keeps its name when xenstore stops answering.
pub(super) struct Names {
    store: Xenstore,
    known: RefCell<BTreeMap<DomainRef, String>>,
    failed_at: Cell<Option<Instant>>,
}

impl Names {
    pub(super) fn new(root: &HostRoot) -> Self {
        Self { store: Xenstore::new(root), known: RefCell::default(), failed_at: Cell::new(None) }
    }

    /// Forgets all other domains.
    pub(super) fn keep(&self, domains: impl Iterator<Item = DomainRef>) {
        let there: BTreeSet<DomainRef> = domains.collect();
        self.known.borrow_mut().retain(|domain, _| there.contains(domain));
    }

    /// Its name; `Domain-ID` if it has none or none was ever known.
    pub(super) fn of(&self, domain: DomainRef) -> String {
        let rests = self.failed_at.get().is_some_and(|at| at.elapsed() < REST);
        let mut known = self.known.borrow_mut();
        if !rests {
            match self.store.domain_name(domain.id) {
                Ok(Some(name)) => {
                    known.insert(domain, name);
                }
                Ok(None) => {}
                Err(error) => self.failed(&error),
            }
        }
        known.get(&domain).cloned().unwrap_or_else(|| format!("Domain-{}", domain.id))
    }

    fn failed(&self, error: &XenError) {
        if self.failed_at.replace(Some(Instant::now())).is_none() {
            tracing::warn!("names of domains are unknown: {error}");
        }
    }
}
