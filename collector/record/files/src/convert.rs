//! Values of other types as values of the schema, without a loss.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow_schema::DataType;
use huddle_model::schema::{ColumnKind, double_of, whole_of};

use super::columns::data_type;

/// A value that the type of the schema does not have.
#[derive(Debug)]
pub(super) struct Unfit {
    /// The value.
    pub(super) value: String,
    /// Its row within the array, from 0.
    pub(super) row: usize,
}

/// A number as it is stored.
#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Double(f64),
}

impl Number {
    fn text(self) -> String {
        match self {
            Self::Whole(value) => value.to_string(),
            Self::Double(value) => value.to_string(),
        }
    }

    fn whole<T: TryFrom<i128>>(self) -> Option<T> {
        let whole = match self {
            Self::Whole(value) => value,
            Self::Double(value) => whole_of(value)?,
        };
        T::try_from(whole).ok()
    }

    fn double(self) -> Option<f64> {
        match self {
            Self::Whole(value) => double_of(value),
            Self::Double(value) => Some(value),
        }
    }
}

/// The array in the type of a column.
pub(super) fn to(array: &ArrayRef, kind: ColumnKind) -> Result<ArrayRef, Unfit> {
    if *array.data_type() == DataType::Null {
        return Ok(new_null_array(&data_type(kind), array.len()));
    }
    macro_rules! whole {
        ($array:ty) => {
            numbers(array, Number::whole).map(|values| Arc::new(<$array>::from(values)) as ArrayRef)
        };
    }
    match kind {
        ColumnKind::I32 => whole!(Int32Array),
        ColumnKind::U32 => whole!(UInt32Array),
        ColumnKind::I64 => whole!(Int64Array),
        ColumnKind::U64 => whole!(UInt64Array),
        ColumnKind::F64 => {
            numbers(array, Number::double).map(|values| Arc::new(Float64Array::from(values)) as ArrayRef)
        }
        ColumnKind::Text => text(array),
        ColumnKind::Bool => match array.as_boolean_opt() {
            Some(found) => Ok(Arc::new(BooleanArray::clone(found))),
            None => Err(unknown(array)),
        },
    }
}

fn numbers<T>(array: &ArrayRef, convert: impl Fn(Number) -> Option<T>) -> Result<Vec<Option<T>>, Unfit> {
    macro_rules! of {
        ($kind:ty, $as:expr) => {{
            let values = array.as_primitive_opt::<$kind>().ok_or_else(|| unknown(array))?;
            each(values.iter().map(|value| value.map($as)), convert)
        }};
    }
    macro_rules! wholes {
        ($kind:ty) => {
            of!($kind, |value| Number::Whole(value.into()))
        };
    }
    match array.data_type() {
        DataType::Int8 => wholes!(Int8Type),
        DataType::Int16 => wholes!(Int16Type),
        DataType::Int32 => wholes!(Int32Type),
        DataType::Int64 => wholes!(Int64Type),
        DataType::UInt8 => wholes!(UInt8Type),
        DataType::UInt16 => wholes!(UInt16Type),
        DataType::UInt32 => wholes!(UInt32Type),
        DataType::UInt64 => wholes!(UInt64Type),
        DataType::Decimal128(_, 0) => wholes!(Decimal128Type),
        DataType::Float32 => of!(Float32Type, |value| Number::Double(value.into())),
        DataType::Float64 => of!(Float64Type, Number::Double),
        _ => Err(unknown(array)),
    }
}

fn each<T>(
    values: impl Iterator<Item = Option<Number>>,
    convert: impl Fn(Number) -> Option<T>,
) -> Result<Vec<Option<T>>, Unfit> {
    let one = |(row, value): (usize, Option<Number>)| match value {
        None => Ok(None),
        Some(number) => convert(number).map(Some).ok_or_else(|| Unfit { value: number.text(), row }),
    };
    values.enumerate().map(one).collect()
}

fn text(array: &ArrayRef) -> Result<ArrayRef, Unfit> {
    let strings: StringArray = match array.data_type() {
        DataType::LargeUtf8 => array.as_string::<i64>().iter().collect(),
        DataType::Utf8View => array.as_string_view().iter().collect(),
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary_opt().ok_or_else(|| unknown(array))?;
            let values = dictionary.values().as_string_opt::<i32>().ok_or_else(|| unknown(array))?;
            let keys = dictionary.normalized_keys();
            let one = |(row, key): (usize, usize)| (!array.is_null(row)).then(|| values.value(key));
            keys.into_iter().enumerate().map(one).collect()
        }
        _ => return Err(unknown(array)),
    };
    Ok(Arc::new(strings))
}

/// The footer was checked before, so this is a type that changed between footer and pages.
fn unknown(array: &ArrayRef) -> Unfit {
    Unfit { value: format!("a value of the type {}", array.data_type()), row: 0 }
}

#[cfg(test)]
mod tests {
    use arrow_array::{
        Decimal128Array, DictionaryArray, Float32Array, Int16Array, LargeStringArray, NullArray,
    };

    use super::*;

    #[test]
    fn what_fits_is_converted_and_what_does_not_is_named_with_its_row() {
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), None, Some(i64::MAX)]));
        let found = to(&whole, ColumnKind::U64).unwrap();
        assert_eq!(
            found.as_ref(),
            &UInt64Array::from(vec![Some(3), None, Some(i64::MAX as u64)]) as &dyn arrow_array::Array
        );
        let negative: ArrayRef = Arc::new(Int64Array::from(vec![3, -1]));
        let unfit = to(&negative, ColumnKind::U64).unwrap_err();
        assert_eq!((unfit.value.as_str(), unfit.row), ("-1", 1));
        let doubles: ArrayRef = Arc::new(Float64Array::from(vec![Some(4.0), None, Some(0.5)]));
        let unfit = to(&doubles, ColumnKind::I32).unwrap_err();
        assert_eq!((unfit.value.as_str(), unfit.row), ("0.5", 2));
        let decimals =
            Decimal128Array::from(vec![Some(i128::from(u64::MAX)), None]).with_precision_and_scale(20, 0);
        let decimals: ArrayRef = Arc::new(decimals.unwrap());
        let found = to(&decimals, ColumnKind::U64).unwrap();
        assert_eq!(found.as_primitive::<UInt64Type>().value(0), u64::MAX);
        assert_eq!(to(&decimals, ColumnKind::I64).unwrap_err().value, u64::MAX.to_string());
        let small: ArrayRef = Arc::new(Int16Array::from(vec![200]));
        assert_eq!(to(&small, ColumnKind::U32).unwrap().as_primitive::<UInt32Type>().value(0), 200);
        let single: ArrayRef = Arc::new(Float32Array::from(vec![0.25]));
        assert_eq!(to(&single, ColumnKind::F64).unwrap().as_primitive::<Float64Type>().value(0), 0.25);
    }

    #[test]
    fn text_comes_in_every_encoding_and_a_column_without_values_is_null() {
        let large: ArrayRef = Arc::new(LargeStringArray::from(vec![Some("a"), None]));
        let coded: ArrayRef = Arc::new([Some("a"), None].into_iter().collect::<DictionaryArray<Int32Type>>());
        for array in [large, coded] {
            let found = to(&array, ColumnKind::Text).unwrap();
            assert_eq!(found.as_string::<i32>(), &StringArray::from(vec![Some("a"), None]));
        }
        let nothing: ArrayRef = Arc::new(NullArray::new(2));
        let found = to(&nothing, ColumnKind::F64).unwrap();
        assert_eq!((found.len(), found.null_count(), found.data_type()), (2, 2, &DataType::Float64));
    }
}
