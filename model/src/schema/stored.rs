//! How a column may be stored in a file, so that no value is lost: the one rule of all readers of recordings.
//!
//! Other programs write the same values in other types: DuckDB has no column that is never null, pandas stores whole
//! numbers with nulls as doubles, Spark has no unsigned numbers and takes 64-bit ones for decimals of 20 digits. A column
//! is read in any type that holds exactly its values, and each value is compared with the type of the schema. What does
//! not fit is an error of that file, never a changed value.

use super::{Column, ColumnKind};

/// The type in which a file stores a column, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// True or false.
    Bool,
    /// Whole numbers of any width, signed or not; decimals without digits after the point.
    Whole,
    /// Floating point numbers of 32 or 64 bits.
    Float,
    /// UTF-8 text, in any encoding of Arrow or Parquet.
    Text,
    /// A type without values, as for a column that is null in every row.
    Nothing,
    /// Any other.
    Other,
}

/// The greatest number up to which a double holds every whole number exactly: 2^53.
pub const EXACT_IN_DOUBLE: i128 = 1 << 53;

impl Column {
    /// Whether values of this type can be values of the column without a loss. Each value still has to be in the range
    /// of the column: [`whole_of`], [`double_of`].
    pub fn accepts(&self, stored: Stored) -> bool {
        match (self.kind, stored) {
            (_, Stored::Nothing) => self.nullable,
            (ColumnKind::Bool, Stored::Bool) | (ColumnKind::Text, Stored::Text) => true,
            (ColumnKind::I32 | ColumnKind::U32 | ColumnKind::I64 | ColumnKind::U64, stored) => {
                matches!(stored, Stored::Whole | Stored::Float)
            }
            (ColumnKind::F64, stored) => matches!(stored, Stored::Whole | Stored::Float),
            (ColumnKind::Bool | ColumnKind::Text, _) => false,
        }
    }
}

impl ColumnKind {
    /// What it holds, for messages.
    pub fn words(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::I32 => "whole numbers of 32 bits",
            Self::U32 => "whole numbers of 32 bits, not negative",
            Self::I64 => "whole numbers of 64 bits",
            Self::U64 => "whole numbers of 64 bits, not negative",
            Self::F64 => "numbers",
            Self::Text => "text",
        }
    }
}

/// The whole number that a double stores; `None` if it is none, or so great that it may be a rounded one.
pub fn whole_of(double: f64) -> Option<i128> {
    let is_exact = double.fract() == 0.0 && double.abs() <= EXACT_IN_DOUBLE as f64;
    is_exact.then_some(double as i128)
}

/// The double that stores a whole number; `None` if it would be rounded.
pub fn double_of(whole: i128) -> Option<f64> {
    (whole.abs() <= EXACT_IN_DOUBLE).then_some(whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Table;

    fn column(kind: ColumnKind, nullable: bool) -> Column {
        Column { name: "a", kind, unit: "none", nullable, meaning: "A." }
    }

    #[test]
    fn a_type_is_accepted_where_it_can_hold_every_value() {
        use ColumnKind::{Bool, F64, I32, I64, Text, U32, U64};
        for kind in [I32, U32, I64, U64, F64] {
            for (stored, fits) in [
                (Stored::Whole, true),
                (Stored::Float, true),
                (Stored::Text, false),
                (Stored::Bool, false),
                (Stored::Other, false),
            ] {
                assert_eq!(column(kind, false).accepts(stored), fits, "{kind:?} {stored:?}");
            }
        }
        assert!(column(Text, false).accepts(Stored::Text) && !column(Text, true).accepts(Stored::Whole));
        assert!(column(Bool, false).accepts(Stored::Bool) && !column(Bool, true).accepts(Stored::Whole));
        for table in Table::ALL {
            for column in table.columns() {
                assert_eq!(column.accepts(Stored::Nothing), column.nullable, "{table}.{}", column.name);
            }
        }
    }

    #[test]
    fn only_exact_values_pass_between_doubles_and_whole_numbers() {
        assert_eq!(whole_of(-3.0), Some(-3));
        assert_eq!(whole_of(9_007_199_254_740_992.0), Some(EXACT_IN_DOUBLE));
        for lost in [0.5, 9_007_199_254_740_994.0, f64::NAN, f64::INFINITY] {
            assert_eq!(whole_of(lost), None, "{lost}");
        }
        assert_eq!(double_of(EXACT_IN_DOUBLE), Some(9_007_199_254_740_992.0));
        assert_eq!(double_of(EXACT_IN_DOUBLE + 1), None);
    }
}
