//! Rows to Parquet columns.

use std::fs::File;
use std::path::Path;

use lapidary_evaluation::{LatentColumn, LatentFigures};
use polars::prelude::*;

use super::{CodePlace, ExampleRow, FeatureRow, LogitToken};
use crate::FeaturesError;
use lapidary_io::write_file;

/// Writes `features.parquet`; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_features(path: &Path, rows: &[FeatureRow]) -> Result<(), FeaturesError> {
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
    for (at, name) in super::read::QUANTILE_COLUMNS.into_iter().enumerate() {
        columns.push(Column::new(
            name.into(),
            column(rows, |row| row.quantiles[at]),
        ));
    }
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
    columns.extend(logit_columns(rows, super::read::PROMOTED, |row| {
        &row.promoted
    }));
    columns.extend(logit_columns(rows, super::read::SUPPRESSED, |row| {
        &row.suppressed
    }));
    columns.push(string_lists("top_tokens", rows, |row| {
        row.top_tokens.iter().map(|token| &*token.text)
    }));
    columns.push(lists::<UInt32Type, _, _>("top_token_ids", rows, |row| {
        row.top_tokens.iter().map(|token| token.id)
    }));
    columns.push(lists::<UInt64Type, _, _>("top_token_counts", rows, |row| {
        row.top_tokens.iter().map(|token| token.count)
    }));
    columns.push(lists::<Float32Type, _, _>(
        "top_token_mean_activations",
        rows,
        |row| row.top_tokens.iter().map(|token| token.mean_activation),
    ));
    columns.push(Column::new("dead".into(), column(rows, |row| row.dead)));
    let codes: Option<Vec<CodePlace>> = rows.iter().map(|row| row.code).collect();
    if let Some(codes) = codes.filter(|codes| !codes.is_empty()) {
        let of = |number: fn(&CodePlace) -> u32| codes.iter().map(number).collect::<Vec<u32>>();
        let [layer, head, code] = super::read::CODE_COLUMNS;
        columns.push(Column::new(layer.into(), of(|place| place.layer)));
        columns.push(Column::new(head.into(), of(|place| place.head)));
        columns.push(Column::new(code.into(), of(|place| place.code)));
    }
    write_table(path, rows.len(), columns)
}

/// Writes `examples.parquet`; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_examples(path: &Path, rows: &[ExampleRow]) -> Result<(), FeaturesError> {
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
    write_table(path, rows.len(), columns)
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
    write_table(path, rows, columns)
}

fn logit_columns(
    rows: &[FeatureRow],
    [text, id, logit]: [&'static str; 3],
    of: impl Fn(&FeatureRow) -> &Vec<LogitToken> + Copy,
) -> [Column; 3] {
    [
        string_lists(text, rows, |row| of(row).iter().map(|token| &*token.text)),
        lists::<UInt32Type, _, _>(id, rows, |row| of(row).iter().map(|token| token.id)),
        lists::<Float32Type, _, _>(logit, rows, |row| of(row).iter().map(|token| token.logit)),
    ]
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

fn lists<'a, T: PolarsNumericType, R, I: Iterator<Item = T::Native>>(
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

/// Rows of one row group: readers take row groups in parallel, or one after the other.
const ROW_GROUP: usize = 1 << 16;

pub(super) fn write_table(
    path: &Path,
    height: usize,
    columns: Vec<Column>,
) -> Result<(), FeaturesError> {
    let table_error = |source| FeaturesError::WriteTable {
        path: path.into(),
        source,
    };
    let table = DataFrame::new(height, columns).map_err(table_error)?;
    write_file(path, |file| {
        write_parquet(file, &table).map_err(table_error)
    })
}

fn write_parquet(file: &mut File, table: &DataFrame) -> PolarsResult<()> {
    let writer = ParquetWriter::new(file).with_compression(ParquetCompression::Zstd(None));
    let mut writer = writer.batched(table.schema())?;
    for start in (0..table.height()).step_by(ROW_GROUP) {
        writer.write_batch(&table.slice(start as i64, ROW_GROUP))?;
    }
    // `finish` would store the Arrow schema too, in which polars calls every string a string view;
    // pandas cannot read lists of those. The Parquet types alone say all that is needed.
    let footer = writer
        .get_writer()
        .lock()
        .expect("no thread that held the writer panicked")
        .end(Some(Vec::new()));
    footer.map(drop)
}
