//! From what was seen of a loop to text.

mod host;
mod placement;
mod sharing;
mod vms;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use super::derived::Derived;
use super::facts::Facts;
use super::fold::Fold;
use super::labels::VmLabels;
use super::sample::Families;
use super::settings::MetricsSettings;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's own text format, 0.0.4, which promtool and node_exporter's textfile collector read.
    Prometheus,
}

impl Format {
    /// For the header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }

    /// The format that a client takes, by its header `Accept`: OpenMetrics if it names that.
    pub fn accepted(accept: &str) -> Self {
        let names = |kind: &str| kind.trim().eq_ignore_ascii_case("application/openmetrics-text");
        let is_named = accept.split(',').any(|range| {
            let mut parts = range.split(';');
            let is_refused =
                |part: &str| part.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
            names(parts.next().unwrap_or_default()) && !parts.any(is_refused)
        });
        if is_named { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// Encodes what was seen of one loop.
#[derive(Debug)]
pub struct Encoder {
    settings: MetricsSettings,
    derived: Mutex<Option<Arc<Derived>>>,
}

impl Encoder {
    /// With these limits.
    pub fn new(settings: MetricsSettings) -> Self {
        Self { settings, derived: Mutex::default() }
    }

    /// The text of all families that are available. It takes milliseconds with many VMs, so it is to be called off the
    /// async threads.
    pub fn encode(&self, fold: &Arc<Fold>, facts: Facts, format: Format) -> String {
        let view = fold.view.as_ref();
        let names = view.map_or(&[][..], |view| &view.round.vms).iter().map(|vm| &*vm.name);
        let labels = VmLabels::of(names, self.settings.max_vms);
        let mut kept = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let is_shown = |name: &str| labels.get(name).is_some();
        let derived = view.map(|view| Derived::of(view, is_shown, &self.settings, kept.as_ref()));
        kept.clone_from(&derived);
        drop(kept);
        let mut registry = Registry::default();
        let all = Exported { fold: Arc::clone(fold), facts, labels, derived };
        registry.register_collector(Box::new(all));
        let mut out = String::new();
        let written = match format {
            Format::OpenMetrics => text::encode(&mut out, &registry),
            Format::Prometheus => prometheus_text::encode(&mut out, &registry),
        };
        // Writing to a text cannot fail, and nothing here does.
        debug_assert!(written.is_ok());
        out
    }
}

/// Everything for one text.
#[derive(Debug)]
struct Exported {
    fold: Arc<Fold>,
    facts: Facts,
    labels: VmLabels,
    derived: Option<Arc<Derived>>,
}

impl Collector for Exported {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        self.write_host(&mut families)?;
        self.write_sharing(&mut families)?;
        self.write_placement(&mut families)?;
        self.write_vms(&mut families)
    }
}
