//! Parquet columns to rows. A table may come from anywhere: every column's type, every null and
//! every list's length is checked, and what is wrong is named by file, column and row.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use lapidary_activations::check_parquet_pages;
use lapidary_io::without_panic;
use polars::prelude::*;
use serde_json::Value;

use super::{CodePlace, ExampleRow, FeatureRow, FiringToken, LogitToken, RunRow, Token};
use crate::FeaturesError;
use crate::statistics::Band;

pub(super) const QUANTILE_COLUMNS: [&str; 5] = [
    "quantile_25",
    "quantile_50",
    "quantile_75",
    "quantile_90",
    "quantile_99",
];
pub(super) const CODE_COLUMNS: [&str; 3] = ["layer", "head", "code"];

/// What a Parquet file's footer says.
#[derive(Clone, Debug, PartialEq)]
pub struct TableDescription {
    /// Number of rows.
    pub rows: usize,
    /// Name and type of each column.
    pub columns: Vec<(String, String)>,
}

/// Reads the footer of any Parquet file, and no rows.
///
/// # Errors
/// If the file cannot be read or is no Parquet table.
pub fn describe_table(path: &Path) -> Result<TableDescription, FeaturesError> {
    let mut reader = ParquetReader::new(open(path)?);
    let read = decoded(path, || Ok((reader.schema()?, reader.num_rows()?)));
    let (schema, rows) = read?;
    let columns = schema.iter_values().map(|field| {
        let dtype = DataType::from_arrow_field(field);
        (field.name.to_string(), dtype.to_string())
    });
    Ok(TableDescription {
        rows,
        columns: columns.collect(),
    })
}

/// Reads `runs.parquet`, or any other small table of numbers, texts and booleans; cells of other
/// types are text.
///
/// # Errors
/// If the file cannot be read or is no Parquet table.
pub fn read_runs(path: &Path) -> Result<Vec<RunRow>, FeaturesError> {
    let table = Table::open(path)?;
    let cell = |column: &Column, row: usize| match column.get(row) {
        Ok(AnyValue::Null) | Err(_) => Value::Null,
        Ok(AnyValue::Boolean(yes)) => yes.into(),
        Ok(AnyValue::String(text)) => text.into(),
        Ok(AnyValue::StringOwned(text)) => text.as_str().into(),
        Ok(AnyValue::Int64(number)) => number.into(),
        Ok(AnyValue::UInt64(number)) => number.into(),
        Ok(AnyValue::Float64(number)) => number.into(),
        Ok(other) => other.to_string().into(),
    };
    let rows = (0..table.data.height()).map(|row| {
        let columns = table.data.columns().iter();
        let cells = columns.map(|column| (column.name().to_string(), cell(column, row)));
        cells.collect()
    });
    Ok(rows.collect())
}

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

/// Reads `features.parquet`. Further columns are ignored; `encoder_decoder_cosine`,
/// `relative_decoder_norms` and `nearest` may be absent, and of a dictionary's latents `layer`,
/// `head` and `code` are. Tables of schema version 1, which have parallel lists in place of lists
/// of structs, are read too.
///
/// # Errors
/// If the file cannot be read or is not such a table; the error names the file, the column and what
/// is wrong with it.
pub fn read_features(path: &Path) -> Result<Vec<FeatureRow>, FeaturesError> {
    let table = Table::open(path)?;
    let mut texts = Interned::default();
    let ids = table.numbers::<UInt32Type>("feature_id")?;
    let hook_points = table.strings("hook_point", &mut texts)?;
    let densities = table.numbers::<Float64Type>("firing_density")?;
    let counts = table.numbers::<UInt64Type>("firing_count")?;
    let means = table.numbers::<Float32Type>("mean_activation")?;
    let maxima = table.numbers::<Float32Type>("max_activation")?;
    let deviations = table.numbers::<Float32Type>("std_activation")?;
    let mut quantiles = vec![[0.0; 5]; ids.len()];
    for (at, name) in QUANTILE_COLUMNS.into_iter().enumerate() {
        for (row, value) in quantiles
            .iter_mut()
            .zip(table.numbers::<Float32Type>(name)?)
        {
            row[at] = value;
        }
    }
    let norms = table.numbers::<Float32Type>("decoder_norm")?;
    let relative = match table.data.column("relative_decoder_norms") {
        Ok(_) => Some(table.lists::<Float32Type>("relative_decoder_norms")?),
        Err(_) => None,
    };
    let cosines = table.optional_numbers::<Float32Type>("encoder_decoder_cosine")?;
    let mut nearest = match table.data.column("nearest") {
        Ok(_) => table.near_latents("nearest")?,
        Err(_) => vec![vec![]; ids.len()],
    };
    let kurtoses = table.optional_numbers::<Float32Type>("logit_kurtosis")?;
    let positions = table.optional_numbers::<Float64Type>("mean_position")?;
    let (mut promoted, mut suppressed, mut top_tokens) = match table.data.column("promoted") {
        Ok(_) => (
            table.logit_tokens("promoted", &mut texts)?,
            table.logit_tokens("suppressed", &mut texts)?,
            table.firing_tokens("top_tokens", &mut texts)?,
        ),
        Err(_) => super::version_1::token_lists(&table, &mut texts)?,
    };
    let mut peaks = table
        .optional_strings("peak_token", &mut texts)?
        .into_iter();
    let peak_ids = table.optional_numbers::<UInt32Type>("peak_token_id")?;
    let dead = table.flags("dead")?;
    let [layers, heads, codes] =
        CODE_COLUMNS.map(|name| table.optional_numbers::<UInt32Type>(name));
    let (layers, heads, codes) = (layers?, heads?, codes?);
    let code = |row: usize| {
        Some(CodePlace {
            layer: layers[row]?,
            head: heads[row]?,
            code: codes[row]?,
        })
    };
    let rows = (0..ids.len()).map(|row| FeatureRow {
        feature_id: ids[row],
        hook_point: Arc::clone(&hook_points[row]),
        firing_density: densities[row],
        firing_count: counts[row],
        mean_activation: means[row],
        max_activation: maxima[row],
        std_activation: deviations[row],
        quantiles: quantiles[row],
        mean_position: positions[row],
        decoder_norm: norms[row],
        relative_decoder_norms: relative
            .as_ref()
            .map_or_else(Vec::new, |lists| lists.row(row).to_vec()),
        encoder_decoder_cosine: cosines[row],
        logit_kurtosis: kurtoses[row],
        nearest: std::mem::take(&mut nearest[row]),
        promoted: std::mem::take(&mut promoted[row]),
        suppressed: std::mem::take(&mut suppressed[row]),
        top_tokens: std::mem::take(&mut top_tokens[row]),
        peak_token: peaks
            .next()
            .flatten()
            .zip(peak_ids[row])
            .map(|(text, id)| Token { text, id }),
        dead: dead[row],
        code: code(row),
    });
    Ok(rows.collect())
}

/// Reads `examples.parquet`. Further columns are ignored.
///
/// # Errors
/// If the file cannot be read or is not such a table; the error names the file, the column and what
/// is wrong with it.
pub fn read_examples(path: &Path) -> Result<Vec<ExampleRow>, FeaturesError> {
    Table::open(path)?.examples()
}

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

    /// The contexts that the table has.
    pub(super) fn examples(&self) -> Result<Vec<ExampleRow>, FeaturesError> {
        let mut texts = Interned::default();
        let ids = self.numbers::<UInt32Type>("feature_id")?;
        let ranks = self.numbers::<UInt32Type>("rank")?;
        let bands = self.strings("band", &mut texts)?;
        let maxima = self.numbers::<Float32Type>("max_activation")?;
        let tokens = self.string_lists("tokens", &mut texts)?;
        let token_ids = self.lists::<UInt32Type>("token_ids")?;
        let activations = self.lists::<Float32Type>("activations")?;
        let peaks = self.numbers::<UInt32Type>("peak_index")?;
        let documents = self.numbers::<UInt32Type>("document")?;
        let positions = self.numbers::<UInt32Type>("position")?;
        let mut rows = Vec::with_capacity(ids.len());
        for row in 0..ids.len() {
            let window = tokens.rows[row].len();
            self.same_length(
                "token_ids",
                row,
                token_ids.rows[row].len(),
                "tokens",
                window,
            )?;
            self.same_length(
                "activations",
                row,
                activations.rows[row].len(),
                "tokens",
                window,
            )?;
            if peaks[row] as usize >= window {
                return Err(self.cell(
                    "peak_index",
                    row,
                    peaks[row],
                    format!("below {window}, the number of tokens"),
                ));
            }
            let band = Band::from_name(&bands[row]).ok_or_else(|| {
                self.cell(
                    "band",
                    row,
                    format!("`{}`", bands[row]),
                    "top, q75, q50 or q25".into(),
                )
            })?;
            rows.push(ExampleRow {
                feature_id: ids[row],
                rank: ranks[row],
                band,
                max_activation: maxima[row],
                tokens: tokens.row(row).to_vec(),
                token_ids: token_ids.row(row).to_vec(),
                activations: activations.row(row).to_vec(),
                peak_index: peaks[row],
                document: documents[row],
                position: positions[row],
            });
        }
        Ok(rows)
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

    fn flags(&self, name: &'static str) -> Result<Vec<bool>, FeaturesError> {
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

    fn logit_tokens(
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

    fn near_latents(&self, name: &'static str) -> Result<Vec<Vec<(u32, f32)>>, FeaturesError> {
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

    fn firing_tokens(
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
    fn optional_strings(
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
