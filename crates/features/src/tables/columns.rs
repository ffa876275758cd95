//! The columns of a Parquet file, checked: type, nulls, lengths.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use lapidary_activations::check_parquet_pages;
use lapidary_io::without_panic;
use polars::prelude::*;

use super::{FiringToken, LogitToken};
use crate::FeaturesError;

pub(super) const QUANTILE_COLUMNS: [&str; 5] = [
    "quantile_25",
    "quantile_50",
    "quantile_75",
    "quantile_90",
    "quantile_99",
];
pub(super) const CODE_COLUMNS: [&str; 3] = ["layer", "head", "code"];

pub(super) fn open(path: &Path) -> Result<File, FeaturesError> {
    File::open(path).map_err(|source| FeaturesError::Read {
        path: path.into(),
        source,
    })
}

/// What the decoder returns: polars answers some damaged files with a panic.
pub(super) fn decoded<T>(
    path: &Path,
    read: impl FnOnce() -> PolarsResult<T>,
) -> Result<T, FeaturesError> {
    without_panic(read)
        .and_then(|read| read.map_err(|error| error.to_string()))
        .map_err(|reason| FeaturesError::Parquet {
            path: path.into(),
            reason,
        })
}

/// A table in memory.
pub(super) struct Table<'a> {
    pub(super) path: &'a Path,
    pub(super) data: DataFrame,
}

/// A list column: all values, and which of them belong to each row.
pub(super) struct Lists<T> {
    values: Vec<T>,
    pub(super) rows: Vec<Range<usize>>,
}

impl<T> Lists<T> {
    pub(super) fn row(&self, row: usize) -> &[T] {
        &self.values[self.rows[row].clone()]
    }
}

/// Each distinct text, stored once.
#[derive(Default)]
pub(super) struct Interned(HashMap<String, Arc<str>>);

impl Interned {
    fn of(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = text.into();
        self.0.insert(text.to_owned(), Arc::clone(&shared));
        shared
    }
}

impl<'a> Table<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self, FeaturesError> {
        let file = open(path)?;
        let data = decoded(path, || {
            let mut reader = ParquetReader::new(file).set_rechunk(true);
            let metadata = reader.get_metadata()?.clone();
            check_parquet_pages(path, &metadata, &[])
                .map_err(|problem| PolarsError::ComputeError(problem.into()))?;
            reader.finish()
        })?;
        Ok(Table { path, data })
    }

    pub(super) fn cell(
        &self,
        column: &'static str,
        row: usize,
        found: impl ToString,
        expected: String,
    ) -> FeaturesError {
        FeaturesError::Cell {
            path: self.path.into(),
            column,
            row,
            found: found.to_string(),
            expected,
        }
    }

    pub(super) fn same_length(
        &self,
        column: &'static str,
        row: usize,
        found: usize,
        like: &str,
        expected: usize,
    ) -> Result<(), FeaturesError> {
        if found == expected {
            return Ok(());
        }
        Err(self.cell(
            column,
            row,
            format!("{found} entries"),
            format!("{expected}, as `{like}` has"),
        ))
    }

    fn column(&self, name: &'static str, expected: &DataType) -> Result<&Column, FeaturesError> {
        let column = self
            .data
            .column(name)
            .map_err(|_| FeaturesError::MissingColumn {
                path: self.path.into(),
                column: name,
                expected: expected.to_string(),
            })?;
        if column.dtype() != expected {
            return Err(FeaturesError::ColumnType {
                path: self.path.into(),
                column: name,
                found: column.dtype().to_string(),
                expected: expected.to_string(),
            });
        }
        Ok(column)
    }

    /// The column's values, of which none may be null.
    fn whole(&self, name: &'static str, expected: &DataType) -> Result<&Series, FeaturesError> {
        let column = self.column(name, expected)?;
        if column.null_count() > 0 {
            let row = column
                .is_null()
                .iter()
                .position(|null| null == Some(true))
                .unwrap_or(0);
            return Err(self.cell(name, row, "null", format!("a value of type {expected}")));
        }
        Ok(column.as_materialized_series())
    }

    pub(super) fn numbers<T: PolarsNumericType>(
        &self,
        name: &'static str,
    ) -> Result<Vec<T::Native>, FeaturesError> {
        let series = self.whole(name, &T::get_static_dtype())?;
        self.of_height(name, numbers_of::<T>(series))
    }

    /// Ids of any type of whole numbers, as other programs write them.
    pub(super) fn ids(&self, name: &'static str) -> Result<Vec<u32>, FeaturesError> {
        let whole = |column: &Column| column.dtype().is_integer().then(|| column.clone());
        let Some(column) = self.data.column(name).ok().and_then(whole) else {
            return self.numbers::<UInt32Type>(name);
        };
        let cast = column.strict_cast(&DataType::UInt32);
        let cast = cast.map_err(|error| FeaturesError::Parquet {
            path: self.path.into(),
            reason: format!("`{name}`: {error}"),
        })?;
        let mut data = self.data.clone();
        let _ = data.with_column(cast);
        let table = Table {
            path: self.path,
            data,
        };
        table.numbers::<UInt32Type>(name)
    }

    pub(super) fn optional_numbers<T: PolarsNumericType>(
        &self,
        name: &'static str,
    ) -> Result<Vec<Option<T::Native>>, FeaturesError> {
        if self.data.column(name).is_err() {
            return Ok(vec![None; self.data.height()]);
        }
        let column = self.column(name, &T::get_static_dtype())?;
        let numbers = column.as_materialized_series().unpack::<T>();
        self.of_height(
            name,
            numbers.map_or(Vec::new(), |values| values.iter().collect()),
        )
    }

    pub(super) fn flags(&self, name: &'static str) -> Result<Vec<bool>, FeaturesError> {
        let series = self.whole(name, &DataType::Boolean)?;
        let flags = series
            .bool()
            .map_or(Vec::new(), |flags| flags.iter().flatten().collect());
        self.of_height(name, flags)
    }

    pub(super) fn strings(
        &self,
        name: &'static str,
        texts: &mut Interned,
    ) -> Result<Vec<Arc<str>>, FeaturesError> {
        let series = self.whole(name, &DataType::String)?;
        self.of_height(name, strings_of(series, texts))
    }

    /// A list column's values in one series, and each row's share of it.
    pub(super) fn list(
        &self,
        name: &'static str,
        inner: DataType,
    ) -> Result<(Series, Vec<Range<usize>>), FeaturesError> {
        let series = self.whole(name, &DataType::List(Box::new(inner)))?;
        let lists = series.list().map_err(|_| self.damaged(name))?;
        let mut rows = Vec::with_capacity(lists.len());
        let mut start_of_chunk = 0;
        for chunk in lists.downcast_iter() {
            let offsets = chunk.offsets().as_slice();
            rows.extend(
                offsets.windows(2).map(|pair| {
                    start_of_chunk + pair[0] as usize..start_of_chunk + pair[1] as usize
                }),
            );
            start_of_chunk += chunk.values().len();
        }
        let values = lists.get_inner();
        if values.null_count() > 0 {
            let at = values
                .is_null()
                .iter()
                .position(|null| null == Some(true))
                .unwrap_or(0);
            let row = rows.iter().position(|row| row.contains(&at)).unwrap_or(0);
            return Err(self.cell(name, row, "a list with null in it", "a list without".into()));
        }
        if rows
            .iter()
            .any(|row| row.start > row.end || row.end > values.len())
        {
            return Err(self.damaged(name));
        }
        Ok((values, self.of_height(name, rows)?))
    }

    /// What has been decoded of a column, if it is as long as the table: in damaged files it may be
    /// shorter.
    fn of_height<T>(&self, name: &'static str, cells: Vec<T>) -> Result<Vec<T>, FeaturesError> {
        if cells.len() == self.data.height() {
            return Ok(cells);
        }
        Err(self.damaged(name))
    }

    fn lists_of<T>(
        &self,
        name: &'static str,
        expected: usize,
        values: Vec<T>,
        rows: Vec<Range<usize>>,
    ) -> Result<Lists<T>, FeaturesError> {
        if values.len() == expected {
            Ok(Lists { values, rows })
        } else {
            Err(self.damaged(name))
        }
    }

    pub(super) fn damaged(&self, name: &'static str) -> FeaturesError {
        FeaturesError::Parquet {
            path: self.path.into(),
            reason: format!("column `{name}` is damaged"),
        }
    }

    pub(super) fn lists<T: PolarsNumericType>(
        &self,
        name: &'static str,
    ) -> Result<Lists<T::Native>, FeaturesError> {
        let (values, rows) = self.list(name, T::get_static_dtype())?;
        self.lists_of(name, values.len(), numbers_of::<T>(&values), rows)
    }

    pub(super) fn string_lists(
        &self,
        name: &'static str,
        texts: &mut Interned,
    ) -> Result<Lists<Arc<str>>, FeaturesError> {
        let (values, rows) = self.list(name, DataType::String)?;
        self.lists_of(name, values.len(), strings_of(&values, texts), rows)
    }

    /// A column of lists of structs, none of them null: the structs of all rows, and each row's
    /// share of them.
    fn struct_list(
        &self,
        name: &'static str,
        fields: &[(&str, DataType)],
    ) -> Result<(StructChunked, Vec<Range<usize>>), FeaturesError> {
        let fields = fields
            .iter()
            .map(|(name, dtype)| Field::new((*name).into(), dtype.clone()));
        let (values, rows) = self.list(name, DataType::Struct(fields.collect()))?;
        let structs = values.struct_().map_err(|_| self.damaged(name))?;
        Ok((structs.clone(), rows))
    }

    /// A field of structs, of which only `lift` may be null.
    fn field<T: PolarsNumericType>(
        &self,
        column: &'static str,
        structs: &StructChunked,
        field: &str,
    ) -> Result<Vec<Option<T::Native>>, FeaturesError> {
        let series = structs
            .field_by_name(field)
            .map_err(|_| self.damaged(column))?;
        let values = series.unpack::<T>().map_err(|_| self.damaged(column))?;
        if values.len() != structs.len() {
            return Err(self.damaged(column));
        }
        Ok(values.iter().collect())
    }

    fn whole_field<T: PolarsNumericType>(
        &self,
        column: &'static str,
        structs: &StructChunked,
        field: &str,
    ) -> Result<Vec<T::Native>, FeaturesError> {
        let values = self.field::<T>(column, structs, field)?;
        let values: Option<Vec<T::Native>> = values.into_iter().collect();
        values.ok_or_else(|| self.null_field(column, field))
    }

    fn texts_of_field(
        &self,
        column: &'static str,
        structs: &StructChunked,
        field: &str,
        texts: &mut Interned,
    ) -> Result<Vec<Arc<str>>, FeaturesError> {
        let series = structs
            .field_by_name(field)
            .map_err(|_| self.damaged(column))?;
        let values = strings_of(&series, texts);
        match values.len() == structs.len() {
            true => Ok(values),
            false => Err(self.null_field(column, field)),
        }
    }

    fn null_field(&self, column: &'static str, field: &str) -> FeaturesError {
        FeaturesError::Parquet {
            path: self.path.into(),
            reason: format!("column `{column}` has a null in the field `{field}`, expected none"),
        }
    }

    pub(super) fn logit_tokens(
        &self,
        name: &'static str,
        texts: &mut Interned,
    ) -> Result<Vec<Vec<LogitToken>>, FeaturesError> {
        let fields = [
            ("token", DataType::String),
            ("id", DataType::UInt32),
            ("logit", DataType::Float32),
        ];
        let (structs, rows) = self.struct_list(name, &fields)?;
        let tokens = self.texts_of_field(name, &structs, "token", texts)?;
        let ids = self.whole_field::<UInt32Type>(name, &structs, "id")?;
        let logits = self.whole_field::<Float32Type>(name, &structs, "logit")?;
        let cell = |at: usize| LogitToken {
            text: Arc::clone(&tokens[at]),
            id: ids[at],
            logit: logits[at],
        };
        Ok(rows
            .into_iter()
            .map(|row| row.map(cell).collect())
            .collect())
    }

    pub(super) fn near_latents(
        &self,
        name: &'static str,
    ) -> Result<Vec<Vec<(u32, f32)>>, FeaturesError> {
        let fields = [
            ("feature_id", DataType::UInt32),
            ("cosine", DataType::Float32),
        ];
        let (structs, rows) = self.struct_list(name, &fields)?;
        let latents = self.whole_field::<UInt32Type>(name, &structs, "feature_id")?;
        let cosines = self.whole_field::<Float32Type>(name, &structs, "cosine")?;
        let cell = |at: usize| (latents[at], cosines[at]);
        let lists = rows.into_iter().map(|row| row.map(cell).collect());
        Ok(lists.collect())
    }

    pub(super) fn firing_tokens(
        &self,
        name: &'static str,
        texts: &mut Interned,
    ) -> Result<Vec<Vec<FiringToken>>, FeaturesError> {
        let fields = [
            ("token", DataType::String),
            ("id", DataType::UInt32),
            ("count", DataType::UInt64),
            ("mean_activation", DataType::Float32),
            ("lift", DataType::Float32),
        ];
        let (structs, rows) = self.struct_list(name, &fields)?;
        let tokens = self.texts_of_field(name, &structs, "token", texts)?;
        let ids = self.whole_field::<UInt32Type>(name, &structs, "id")?;
        let counts = self.whole_field::<UInt64Type>(name, &structs, "count")?;
        let means = self.whole_field::<Float32Type>(name, &structs, "mean_activation")?;
        let lifts = self.field::<Float32Type>(name, &structs, "lift")?;
        let cell = |at: usize| FiringToken {
            text: Arc::clone(&tokens[at]),
            id: ids[at],
            count: counts[at],
            mean_activation: means[at],
            lift: lifts[at],
        };
        Ok(rows
            .into_iter()
            .map(|row| row.map(cell).collect())
            .collect())
    }

    /// A column of texts that may be null or absent.
    pub(super) fn optional_strings(
        &self,
        name: &'static str,
        texts: &mut Interned,
    ) -> Result<Vec<Option<Arc<str>>>, FeaturesError> {
        if self.data.column(name).is_err() {
            return Ok(vec![None; self.data.height()]);
        }
        let column = self.column(name, &DataType::String)?;
        let strings = column.as_materialized_series().str();
        let cells = strings.map_or(Vec::new(), |strings| {
            let cells = strings.iter().map(|text| text.map(|text| texts.of(text)));
            cells.collect()
        });
        self.of_height(name, cells)
    }
}

/// The numbers of a series whose type and lack of nulls have been checked.
fn numbers_of<T: PolarsNumericType>(series: &Series) -> Vec<T::Native> {
    series
        .unpack::<T>()
        .map_or(Vec::new(), |values| values.iter().flatten().collect())
}

/// The strings of a series whose type and lack of nulls have been checked.
fn strings_of(series: &Series, texts: &mut Interned) -> Vec<Arc<str>> {
    series.str().map_or(Vec::new(), |strings| {
        strings
            .iter()
            .flatten()
            .map(|text| texts.of(text))
            .collect()
    })
}
