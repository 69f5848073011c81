//! Samples of families, and how they are written.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit as ClientUnit;

use super::families::{Family, Kind, Unit};

/// A value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(u64::from(value))
    }
}

impl Value {
    /// Seconds of a time in microseconds.
    pub(crate) fn seconds_of_us(us: u64) -> Self {
        Self::Real(us as f64 / 1e6)
    }

    /// Seconds of a time in nanoseconds.
    pub(crate) fn seconds_of_ns(ns: u64) -> Self {
        Self::Real(ns as f64 / 1e9)
    }
}

/// A sample: the values of the labels of its family, in their order, and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample<'a> {
    labels: Vec<Cow<'a, str>>,
    value: Value,
}

impl<'a> Sample<'a> {
    pub(crate) fn new(value: impl Into<Value>) -> Self {
        Self { labels: Vec::new(), value: value.into() }
    }

    /// With the value of the next label.
    #[must_use]
    pub(crate) fn of(mut self, label: impl Into<Cow<'a, str>>) -> Self {
        self.labels.push(label.into());
        self
    }
}

/// Labels with their names.
struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [Cow<'a, str>],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.names.iter().zip(self.values) {
            (*name, &**value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// Where families are written to.
pub(crate) struct Families<'a>(DescriptorEncoder<'a>);

impl<'a> Families<'a> {
    pub(crate) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// Writes a family, which is absent if it has no samples.
    pub(crate) fn write<'s>(
        &mut self,
        family: &'static Family,
        samples: impl IntoIterator<Item = Sample<'s>>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let unit = family.unit.map(client_unit);
        let kind = match family.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
        };
        let mut metric = self.0.encode_descriptor(family.stem, family.help, unit.as_ref(), kind)?;
        for Sample { labels, value } in samples {
            debug_assert_eq!(labels.len(), family.labels.len(), "labels of {}", family.stem);
            if labels.is_empty() {
                write_value(&mut metric, family.kind, value)?;
                continue;
            }
            let labels = Labels { names: family.labels, values: &labels };
            write_value(&mut metric.encode_family(&labels)?, family.kind, value)?;
        }
        Ok(())
    }
}

fn write_value(metric: &mut MetricEncoder<'_>, kind: Kind, value: Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Gauge, Value::Whole(value)) => metric.encode_gauge(&value),
        (Kind::Gauge, Value::Real(value)) => metric.encode_gauge(&value),
        (Kind::Counter, Value::Whole(value)) => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (Kind::Counter, Value::Real(value)) => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
    }
}

fn client_unit(unit: Unit) -> ClientUnit {
    match unit {
        Unit::Bytes => ClientUnit::Bytes,
        Unit::Seconds => ClientUnit::Seconds,
        // The library's own one is `ratios`.
        Unit::Ratio => ClientUnit::Other(unit.name().to_owned()),
    }
}
