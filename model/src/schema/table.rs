//! Tables, columns and cells, and the macro that ties them to row types.

/// A table of a recording: a directory of Parquet segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// What each ordered pair of VMs shares.
    Sharing,
    /// What each VM's memory consists of.
    Vms,
    /// Where each vCPU was placed.
    Placements,
    /// Why.
    Decisions,
    /// KSM's counters and settings.
    Ksm,
    /// What happened.
    Events,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 6] =
        [Self::Sharing, Self::Vms, Self::Placements, Self::Decisions, Self::Ksm, Self::Events];

    /// Its name, which is that of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sharing => "sharing",
            Self::Vms => "vms",
            Self::Placements => "placements",
            Self::Decisions => "decisions",
            Self::Ksm => "ksm",
            Self::Events => "events",
        }
    }

    /// Its columns, in order.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Sharing => super::SharingRow::COLUMNS,
            Self::Vms => super::VmRow::COLUMNS,
            Self::Placements => super::PlacementRow::COLUMNS,
            Self::Decisions => super::DecisionRow::COLUMNS,
            Self::Ksm => super::KsmRow::COLUMNS,
            Self::Events => super::EventRow::COLUMNS,
        }
    }
}

/// Type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// 64-bit floating point number.
    F64,
    /// True or false.
    Bool,
    /// UTF-8 text.
    Text,
}

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, with the unit at its end where it has one.
    pub name: &'static str,
    /// Type of its values.
    pub column_type: ColumnType,
    /// Whether a value may be null: unavailable.
    pub nullable: bool,
    /// What it means.
    pub meaning: &'static str,
}

/// One value; `None` is null.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// See [`ColumnType::U64`].
    U64(Option<u64>),
    /// See [`ColumnType::I64`].
    I64(Option<i64>),
    /// See [`ColumnType::F64`].
    F64(Option<f64>),
    /// See [`ColumnType::Bool`].
    Bool(Option<bool>),
    /// See [`ColumnType::Text`].
    Text(Option<&'a str>),
}

/// A row of one table.
pub trait Row {
    /// The table.
    const TABLE: Table;
    /// Its columns, in the order of [`Row::cell`].
    const COLUMNS: &'static [Column];

    /// The value of the column at this position.
    ///
    /// # Panics
    /// If there is no such column.
    fn cell(&self, column: usize) -> Cell<'_>;
}

/// A type that a column can hold.
pub(super) trait ColumnValue {
    const TYPE: ColumnType;
    const NULLABLE: bool;
    fn cell(&self) -> Cell<'_>;
}

macro_rules! column_values {
    ($($type:ty => $cell:ident, $value:expr;)*) => {$(
        impl ColumnValue for $type {
            const TYPE: ColumnType = ColumnType::$cell;
            const NULLABLE: bool = false;
            fn cell(&self) -> Cell<'_> {
                Cell::$cell(Some($value(self)))
            }
        }

        impl ColumnValue for Option<$type> {
            const TYPE: ColumnType = ColumnType::$cell;
            const NULLABLE: bool = true;
            fn cell(&self) -> Cell<'_> {
                Cell::$cell(self.as_ref().map($value))
            }
        }
    )*};
}

column_values! {
    u64 => U64, |value: &u64| *value;
    i64 => I64, |value: &i64| *value;
    f64 => F64, |value: &f64| *value;
    bool => Bool, |value: &bool| *value;
    String => Text, String::as_str;
}

/// Defines a row type and the description of its columns.
macro_rules! table {
    ($(#[$doc:meta])* $row:ident of $table:ident { $($field:ident: $type:ty, $meaning:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $row {
            $(#[doc = $meaning] pub $field: $type,)*
        }

        impl $crate::schema::Row for $row {
            const TABLE: $crate::schema::Table = $crate::schema::Table::$table;
            const COLUMNS: &'static [$crate::schema::Column] = &[$($crate::schema::Column {
                name: stringify!($field),
                column_type: <$type as $crate::schema::table::ColumnValue>::TYPE,
                nullable: <$type as $crate::schema::table::ColumnValue>::NULLABLE,
                meaning: $meaning,
            },)*];

            fn cell(&self, column: usize) -> $crate::schema::Cell<'_> {
                let mut position = 0;
                $(
                    if column == position {
                        return $crate::schema::table::ColumnValue::cell(&self.$field);
                    }
                    position += 1;
                )*
                panic!("{} has {position} columns, asked for {column}", Self::TABLE.name())
            }
        }
    };
}
pub(super) use table;
