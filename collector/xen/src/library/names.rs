//! Names of domains, which xenstore has and Xen does not.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::toolstack::{DomainRef, XenError};
use crate::xenstore::Xenstore;
use huddle_host::HostRoot;

/// A daemon that did not answer is left alone for as long, so that a list of domains does not wait for it once
/// for each of them.
const REST: Duration = Duration::from_secs(30);

/// The names, each kept as it was last known: a VM does not become another when xenstore stops answering.
pub(super) struct Names {
    store: Xenstore,
    known: RefCell<BTreeMap<DomainRef, String>>,
    failed_at: Cell<Option<Instant>>,
}

impl Names {
    pub(super) fn new(root: &HostRoot) -> Self {
        Self { store: Xenstore::new(root), known: RefCell::default(), failed_at: Cell::new(None) }
    }

    /// Forgets all but these domains.
    pub(super) fn keep(&self, domains: impl Iterator<Item = DomainRef>) {
        let there: BTreeSet<DomainRef> = domains.collect();
        self.known.borrow_mut().retain(|domain, _| there.contains(domain));
    }

    /// Its name; `Domain-ID` where it has none or none was ever known.
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
            tracing::warn!("names of domains are not known: {error}");
        }
    }
}
