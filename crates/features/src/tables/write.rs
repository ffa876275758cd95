//! Rows to Parquet columns.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use lapidary_evaluation::{LatentColumn, LatentFigures};
use polars::io::parquet::write::BatchedWriter;
use polars::prelude::*;

use polars_arrow::offset::Offsets;
use polars_parquet::write::KeyValue;
use serde::{Serialize, Serializer};

use super::{CodePlace, ExampleRow, FeatureRow, FiringToken, LogitToken};
use crate::FeaturesError;
use lapidary_io::write_file;

/// Version of the tables; 1 had parallel lists in place of lists of structs, and no metadata.
const SCHEMA_VERSION: u32 = 2;

/// What made a table: the metadata of the file, under the key `lapidary`, as JSON.
#[derive(Debug, Clone, Default)]
pub struct TableSource {
    /// Where the dictionary and the statistics come from, as (what, value).
    pub provenance: Vec<(String, String)>,
}

/// What the provenance calls the text on which latents were counted.
const TEXT: &str = "Text";

impl TableSource {
    /// The same, on a text.
    #[must_use]
    pub fn on_text(mut self, text: &str) -> Self {
        self.provenance.push((TEXT.to_owned(), text.to_owned()));
        self
    }

    /// The text on which latents were counted, if it is known.
    pub fn text(&self) -> Option<String> {
        let mut rows = self.provenance.iter();
        rows.find(|(what, _)| what == TEXT)
            .map(|(_, text)| text.clone())
    }

    /// A title: the model and the hook point, as far as they are known; `place` stands for a hook
    /// point that is not.
    pub fn title(&self, place: &str) -> String {
        let named = |wanted: &str| {
            let found = self.provenance.iter().find(|(what, _)| what == wanted);
            found.map(|(_, value)| value.as_str())
        };
        let model = named("Model").map_or(String::new(), |model| format!("{model} · "));
        format!("{model}{}", named("Hook point").unwrap_or(place))
    }

    pub(super) fn metadata(&self, table: &str) -> Vec<KeyValue> {
        let value = FileMetadata {
            table,
            schema_version: SCHEMA_VERSION,
            lapidary_version: env!("CARGO_PKG_VERSION"),
            provenance: &self.provenance,
        };
        let value = serde_json::to_string(&value).unwrap_or_default();
        vec![KeyValue::new("lapidary".to_owned(), value)]
    }
}

#[derive(Serialize)]
struct FileMetadata<'a> {
    table: &'a str,
    schema_version: u32,
    lapidary_version: &'a str,
    #[serde(serialize_with = "in_order")]
    provenance: &'a [(String, String)],
}

/// As an object whose entries keep their order.
fn in_order<S: Serializer>(rows: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(rows.iter().map(|(what, value)| (what, value)))
}

/// Writes `features.parquet`; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_features(
    path: &Path,
    rows: &[FeatureRow],
    source: &TableSource,
) -> Result<(), FeaturesError> {
    let columns = feature_columns(rows).map_err(|source| FeaturesError::WriteTable {
        path: path.into(),
        source,
    })?;
    write_table(path, rows.len(), columns, Some(("features", source)))
}

fn feature_columns(rows: &[FeatureRow]) -> PolarsResult<Vec<Column>> {
    fn column<T>(rows: &[FeatureRow], cell: impl Fn(&FeatureRow) -> T) -> Vec<T> {
        rows.iter().map(cell).collect()
    }
    let cosines: Vec<Option<f32>> = column(rows, |row| row.encoder_decoder_cosine);
    let mut columns = vec![
        Column::new("feature_id".into(), column(rows, |row| row.feature_id)),
        Column::new(
            "hook_point".into(),
            rows.iter()
                .map(|row| &*row.hook_point)
                .collect::<Vec<&str>>(),
        ),
        Column::new(
            "firing_density".into(),
            column(rows, |row| row.firing_density),
        ),
        Column::new("firing_count".into(), column(rows, |row| row.firing_count)),
        Column::new(
            "mean_activation".into(),
            column(rows, |row| row.mean_activation),
        ),
        Column::new(
            "max_activation".into(),
            column(rows, |row| row.max_activation),
        ),
        Column::new(
            "std_activation".into(),
            column(rows, |row| row.std_activation),
        ),
    ];
    for (at, name) in super::columns::QUANTILE_COLUMNS.into_iter().enumerate() {
        columns.push(Column::new(
            name.into(),
            column(rows, |row| row.quantiles[at]),
        ));
    }
    columns.push(Column::new(
        "mean_position".into(),
        column(rows, |row| row.mean_position),
    ));
    columns.push(Column::new(
        "decoder_norm".into(),
        column(rows, |row| row.decoder_norm),
    ));
    columns.push(lists::<Float32Type, _, _>(
        "relative_decoder_norms",
        rows,
        |row| row.relative_decoder_norms.iter().copied(),
    ));
    columns.push(Column::new("encoder_decoder_cosine".into(), cosines));
    columns.push(Column::new(
        "logit_kurtosis".into(),
        column(rows, |row| row.logit_kurtosis),
    ));
    columns.push(near_latents("nearest", rows)?);
    columns.push(logit_tokens("promoted", rows, |row| &row.promoted)?);
    columns.push(logit_tokens("suppressed", rows, |row| &row.suppressed)?);
    columns.push(firing_tokens("top_tokens", rows)?);
    let peaks = || rows.iter().map(|row| row.peak_token.as_ref());
    let texts = peaks().map(|token| token.map(|token| &*token.text));
    columns.push(Column::new(
        "peak_token".into(),
        texts.collect::<Vec<Option<&str>>>(),
    ));
    let ids = peaks().map(|token| token.map(|token| token.id));
    columns.push(Column::new(
        "peak_token_id".into(),
        ids.collect::<Vec<Option<u32>>>(),
    ));
    columns.push(Column::new("dead".into(), column(rows, |row| row.dead)));
    let codes: Option<Vec<CodePlace>> = rows.iter().map(|row| row.code).collect();
    if let Some(codes) = codes.filter(|codes| !codes.is_empty()) {
        let of = |number: fn(&CodePlace) -> u32| codes.iter().map(number).collect::<Vec<u32>>();
        let [layer, head, code] = super::columns::CODE_COLUMNS;
        columns.push(Column::new(layer.into(), of(|place| place.layer)));
        columns.push(Column::new(head.into(), of(|place| place.head)));
        columns.push(Column::new(code.into(), of(|place| place.code)));
    }
    Ok(columns)
}

/// Writes `examples.parquet`; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_examples(
    path: &Path,
    rows: &[ExampleRow],
    source: &TableSource,
) -> Result<(), FeaturesError> {
    fn column<T>(rows: &[ExampleRow], cell: impl Fn(&ExampleRow) -> T) -> Vec<T> {
        rows.iter().map(cell).collect()
    }
    let columns = vec![
        Column::new("feature_id".into(), column(rows, |row| row.feature_id)),
        Column::new("rank".into(), column(rows, |row| row.rank)),
        Column::new("band".into(), column(rows, |row| row.band.name())),
        Column::new(
            "max_activation".into(),
            column(rows, |row| row.max_activation),
        ),
        string_lists("tokens", rows, |row| row.tokens.iter().map(|text| &**text)),
        lists::<UInt32Type, _, _>("token_ids", rows, |row| row.token_ids.iter().copied()),
        lists::<Float32Type, _, _>("activations", rows, |row| row.activations.iter().copied()),
        Column::new("peak_index".into(), column(rows, |row| row.peak_index)),
        Column::new("document".into(), column(rows, |row| row.document)),
        Column::new("position".into(), column(rows, |row| row.position)),
    ];
    write_table(path, rows.len(), columns, Some(("examples", source)))
}

/// Writes the metrics of each latent, one row each; the file appears whole or not at all. What
/// is not a number is null.
///
/// # Errors
/// If it cannot be written.
pub fn write_latents(path: &Path, figures: &LatentFigures) -> Result<(), FeaturesError> {
    let rows = figures.feature_density.len();
    let mut columns = vec![Column::new(
        "feature_id".into(),
        (0..rows as u32).collect::<Vec<u32>>(),
    )];
    columns.extend(figures.values().map(|(metric, values)| {
        let name = metric.name.into();
        match values {
            LatentColumn::F32(values) => {
                let cell = |v: &f32| (!v.is_nan()).then_some(*v);
                Column::new(name, values.iter().map(cell).collect::<Vec<Option<f32>>>())
            }
            LatentColumn::F64(values) => {
                let cell = |v: &f64| (!v.is_nan()).then_some(*v);
                Column::new(name, values.iter().map(cell).collect::<Vec<Option<f64>>>())
            }
        }
    }));
    write_table(path, rows, columns, None)
}

/// A column of lists of tokens with their logits.
pub(super) fn logit_tokens<R>(
    name: &str,
    rows: &[R],
    of: impl Fn(&R) -> &Vec<LogitToken>,
) -> PolarsResult<Column> {
    let all: Vec<&LogitToken> = rows.iter().flat_map(&of).collect();
    let fields = [
        Series::new(
            "token".into(),
            all.iter().map(|t| &*t.text).collect::<Vec<&str>>(),
        ),
        Series::new("id".into(), all.iter().map(|t| t.id).collect::<Vec<u32>>()),
        Series::new(
            "logit".into(),
            all.iter().map(|t| t.logit).collect::<Vec<f32>>(),
        ),
    ];
    struct_lists(name, rows.iter().map(|row| of(row).len()), &fields)
}

/// A column of lists of latents with their cosines.
fn near_latents(name: &str, rows: &[FeatureRow]) -> PolarsResult<Column> {
    let all: Vec<(u32, f32)> = rows.iter().flat_map(|row| &row.nearest).copied().collect();
    let (latents, cosines): (Vec<u32>, Vec<f32>) = all.into_iter().unzip();
    let fields = [
        Series::new("feature_id".into(), latents),
        Series::new("cosine".into(), cosines),
    ];
    struct_lists(name, rows.iter().map(|row| row.nearest.len()), &fields)
}

/// A column of lists of tokens with how a latent fires on them.
fn firing_tokens(name: &str, rows: &[FeatureRow]) -> PolarsResult<Column> {
    let all: Vec<&FiringToken> = rows.iter().flat_map(|row| &row.top_tokens).collect();
    let numbers = |of: fn(&FiringToken) -> f32| all.iter().map(|t| of(t)).collect::<Vec<f32>>();
    let fields = [
        Series::new(
            "token".into(),
            all.iter().map(|t| &*t.text).collect::<Vec<&str>>(),
        ),
        Series::new("id".into(), all.iter().map(|t| t.id).collect::<Vec<u32>>()),
        Series::new(
            "count".into(),
            all.iter().map(|t| t.count).collect::<Vec<u64>>(),
        ),
        Series::new("mean_activation".into(), numbers(|t| t.mean_activation)),
        Series::new(
            "lift".into(),
            all.iter().map(|t| t.lift).collect::<Vec<Option<f32>>>(),
        ),
    ];
    struct_lists(name, rows.iter().map(|row| row.top_tokens.len()), &fields)
}

/// A column of lists of structs: the fields of all structs, and the length of each row's list.
fn struct_lists(
    name: &str,
    lengths: impl Iterator<Item = usize>,
    fields: &[Series],
) -> PolarsResult<Column> {
    let height = fields.first().map_or(0, |field| field.len());
    let structs = StructChunked::from_series(name.into(), height, fields.iter())?;
    let structs = structs.into_series().rechunk();
    let offsets = Offsets::<i64>::try_from_lengths(lengths)?;
    let values = structs.chunks()[0].clone();
    let dtype = LargeListArray::default_datatype(values.dtype().clone());
    let lists = LargeListArray::new(dtype, offsets.into(), values, None);
    Ok(ListChunked::with_chunk(name.into(), lists).into_column())
}

fn string_lists<'a, R, I: Iterator<Item = &'a str>>(
    name: &str,
    rows: &'a [R],
    list: impl Fn(&'a R) -> I,
) -> Column {
    let mut builder = ListStringChunkedBuilder::new(name.into(), rows.len(), 16 * rows.len());
    for row in rows {
        builder.append_values_iter(list(row));
    }
    builder.finish().into_column()
}

pub(super) fn lists<'a, T: PolarsNumericType, R, I: Iterator<Item = T::Native>>(
    name: &str,
    rows: &'a [R],
    list: impl Fn(&'a R) -> I,
) -> Column {
    let mut builder = ListPrimitiveChunkedBuilder::<T>::new(
        name.into(),
        rows.len(),
        16 * rows.len(),
        T::get_static_dtype(),
    );
    let mut values = Vec::new();
    for row in rows {
        values.clear();
        values.extend(list(row));
        builder.append_slice(&values);
    }
    builder.finish().into_column()
}

/// Rows of the largest and of the smallest row group.
const ROW_GROUP: [usize; 2] = [1 << 16, 256];

/// Number of row groups of a table that is neither small nor very large: a reader that wants one
/// latent reads about a 40th of the rows, and the footer, which grows with their number, no more.
const ROW_GROUPS: usize = 40;

/// Writes a table; `source` is the table's name and what made it.
pub(super) fn write_table(
    path: &Path,
    height: usize,
    columns: Vec<Column>,
    source: Option<(&str, &TableSource)>,
) -> Result<(), FeaturesError> {
    let table_error = |source| FeaturesError::WriteTable {
        path: path.into(),
        source,
    };
    let table = DataFrame::new(height, columns).map_err(table_error)?;
    let metadata = source.map_or_else(Vec::new, |(name, source)| source.metadata(name));
    write_file(path, |file| {
        write_parquet(file, &table, metadata).map_err(table_error)
    })
}

fn write_parquet(file: &mut File, table: &DataFrame, metadata: Vec<KeyValue>) -> PolarsResult<()> {
    let writer = ParquetWriter::new(file).with_compression(ParquetCompression::Zstd(None));
    let mut writer = writer.batched(table.schema())?;
    let [most, least] = ROW_GROUP;
    let rows = table.height().div_ceil(ROW_GROUPS).clamp(least, most);
    // A latent's rows stay in one group, if they are not very many.
    let first = table.columns().first();
    let ids = first.and_then(|column| column.u32().ok());
    let ids: Vec<Option<u32>> = ids.map_or(vec![], |ids| ids.iter().collect());
    let goes_on = |row: usize| ids.get(row).is_some_and(|id| *id == ids[row - 1]);
    let mut start = 0;
    while start < table.height() {
        let mut end = (start + rows).min(table.height());
        while end < table.height() && end < start + 2 * rows && goes_on(end) {
            end += 1;
        }
        writer.write_batch(&table.slice(start as i64, end - start))?;
        start = end;
    }
    end_with_metadata(&writer, metadata)
}

/// Writes the footer. polars' own `finish` would store the Arrow schema too, in which every string
/// is a string view; pandas cannot read lists of those. The Parquet types alone say all that is
/// needed.
pub(super) fn end_with_metadata<W: Write>(
    writer: &BatchedWriter<W>,
    metadata: Vec<KeyValue>,
) -> PolarsResult<()> {
    let footer = writer
        .get_writer()
        .lock()
        .expect("no thread that held the writer panicked")
        .end(Some(metadata));
    footer.map(drop)
}
