//! Parquet columns to rows. A table may come from anywhere: every column's type, every null and
//! every list's length is checked, and what is wrong is named by file, column and row.

use std::path::Path;
use std::sync::Arc;

use polars::prelude::*;
use serde_json::Value;

use super::columns::{CODE_COLUMNS, Interned, QUANTILE_COLUMNS, Table, decoded, open};
use super::version_1;
use super::{CodePlace, ExampleRow, FeatureRow, RunRow, Token};
use crate::FeaturesError;
use crate::statistics::Band;

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
        Err(_) => version_1::token_lists(&table, &mut texts)?,
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
    examples(&Table::open(path)?)
}

/// The contexts that the table has.
pub(super) fn examples(table: &Table<'_>) -> Result<Vec<ExampleRow>, FeaturesError> {
    let mut texts = Interned::default();
    let ids = table.numbers::<UInt32Type>("feature_id")?;
    let ranks = table.numbers::<UInt32Type>("rank")?;
    let bands = table.strings("band", &mut texts)?;
    let maxima = table.numbers::<Float32Type>("max_activation")?;
    let tokens = table.string_lists("tokens", &mut texts)?;
    let token_ids = table.lists::<UInt32Type>("token_ids")?;
    let activations = table.lists::<Float32Type>("activations")?;
    let peaks = table.numbers::<UInt32Type>("peak_index")?;
    let documents = table.numbers::<UInt32Type>("document")?;
    let positions = table.numbers::<UInt32Type>("position")?;
    let mut rows = Vec::with_capacity(ids.len());
    for row in 0..ids.len() {
        let window = tokens.rows[row].len();
        table.same_length(
            "token_ids",
            row,
            token_ids.rows[row].len(),
            "tokens",
            window,
        )?;
        table.same_length(
            "activations",
            row,
            activations.rows[row].len(),
            "tokens",
            window,
        )?;
        if peaks[row] as usize >= window {
            return Err(table.cell(
                "peak_index",
                row,
                peaks[row],
                format!("below {window}, the number of tokens"),
            ));
        }
        let band = Band::from_name(&bands[row]).ok_or_else(|| {
            table.cell(
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
