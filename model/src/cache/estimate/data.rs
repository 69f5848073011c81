//! Who reads what.

use super::EstimateError;

/// The order in which a reader reads the lines of its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadPattern {
    /// Each read is of any line, whatever was read before.
    #[default]
    Independent,
    /// Every line once in each round, in the same order (a scan or a ring of pointers).
    Cyclic,
}

/// What reads: the vCPUs of a VM in one domain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reader {
    /// Reads in a unit of time, the same unit for all readers of a cache. Only the proportions matter.
    pub rate: f64,
    /// In which order.
    pub pattern: ReadPattern,
}

/// A reader of a part of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    /// Its position among the readers.
    pub reader: usize,
    /// The share (0 to 1) of its reads that are of this part; evenly of all lines of the part.
    pub share: f64,
}

/// A part of the data: what exactly these readers read, each evenly.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// Its size in bytes.
    pub bytes: f64,
    /// Its readers.
    pub uses: Vec<Use>,
}

/// # Errors
/// A number that cannot be.
pub(super) fn check(readers: &[Reader], data: &[Data]) -> Result<(), EstimateError> {
    for (reader, Reader { rate, .. }) in readers.iter().enumerate() {
        if !(rate.is_finite() && *rate > 0.0) {
            return Err(EstimateError::Rate { reader, rate: *rate });
        }
    }
    for part in data {
        if !(part.bytes.is_finite() && part.bytes >= 0.0) {
            return Err(EstimateError::Bytes(part.bytes));
        }
        for Use { reader, share } in part.uses.iter().copied() {
            if reader >= readers.len() {
                return Err(EstimateError::Reader { found: reader, readers: readers.len() });
            }
            if !(0.0..=1.0).contains(&share) {
                return Err(EstimateError::Share { reader, share });
            }
        }
    }
    Ok(())
}
