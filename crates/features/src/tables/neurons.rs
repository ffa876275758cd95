//! The table of `neurons`: what each MLP neuron's weights do to the logits.

use std::path::Path;

use polars::prelude::*;

use super::LogitToken;
use super::write::{TableSource, logit_tokens, write_table};
use crate::FeaturesError;

/// One row of the table: a neuron.
#[derive(Debug, Clone, PartialEq)]
pub struct NeuronRow {
    /// Its layer (u32).
    pub layer: u32,
    /// Its number in the layer (u32).
    pub neuron: u32,
    /// The matrix whose weights are decoded (string): `W_out`, `W_in` or `W_gate`.
    pub weights: &'static str,
    /// The probability of the first promoted token under the softmax of the logits as they are
    /// (f32).
    pub probability: f32,
    /// Excess kurtosis of the logits over all tokens (f32).
    pub logit_kurtosis: f32,
    /// Tokens whose logits the weights raise most, highest first (list of structs).
    pub promoted: Vec<LogitToken>,
    /// Tokens whose logits they lower most, lowest first (list of structs).
    pub suppressed: Vec<LogitToken>,
    /// Share of other neurons whose first token gains less than this one's if the neuron is clamped
    /// (f64); null if it was not scored.
    pub clamping: Option<f64>,
}

/// Writes the table, in the order of the rows; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_neurons(
    path: &Path,
    rows: &[NeuronRow],
    source: &TableSource,
) -> Result<(), FeaturesError> {
    fn column<T>(rows: &[NeuronRow], cell: impl Fn(&NeuronRow) -> T) -> Vec<T> {
        rows.iter().map(cell).collect()
    }
    let failed = |source| FeaturesError::WriteTable {
        path: path.into(),
        source,
    };
    let first = rows.iter().map(|row| row.promoted.first());
    let tokens: Vec<Option<&str>> = first.clone().map(|t| t.map(|t| &*t.text)).collect();
    let token_ids: Vec<Option<u32>> = first.map(|t| t.map(|t| t.id)).collect();
    let columns = vec![
        Column::new("layer".into(), column(rows, |row| row.layer)),
        Column::new("neuron".into(), column(rows, |row| row.neuron)),
        Column::new("weights".into(), column(rows, |row| row.weights)),
        Column::new("token".into(), tokens),
        Column::new("token_id".into(), token_ids),
        Column::new("probability".into(), column(rows, |row| row.probability)),
        Column::new(
            "logit_kurtosis".into(),
            column(rows, |row| row.logit_kurtosis),
        ),
        logit_tokens("promoted", rows, |row| &row.promoted).map_err(failed)?,
        logit_tokens("suppressed", rows, |row| &row.suppressed).map_err(failed)?,
        Column::new("clamping".into(), column(rows, |row| row.clamping)),
    ];
    write_table(path, rows.len(), columns, Some(("neurons", source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_the_documented_types() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("neurons.parquet");
        let token = |text: &str, id, logit| LogitToken {
            text: text.into(),
            id,
            logit,
        };
        let rows = [0, 1].map(|neuron| NeuronRow {
            layer: 2,
            neuron,
            weights: "W_out",
            probability: 0.25,
            logit_kurtosis: 7.0,
            promoted: match neuron {
                0 => vec![token(" dog", 5, 2.0), token(" cat", 4, 1.0)],
                _ => vec![],
            },
            suppressed: vec![token("\0", 9, -1.0)],
            clamping: (neuron == 0).then_some(0.75),
        });
        write_neurons(&path, &rows, &TableSource::default()).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let table = ParquetReader::new(file).finish().unwrap();
        let columns = table.columns().iter();
        let types: Vec<String> = columns
            .map(|c| format!("{} {}", c.name(), c.dtype()))
            .collect();
        assert_eq!(
            types.join(", "),
            "layer u32, neuron u32, weights str, token str, token_id u32, probability f32, \
             logit_kurtosis f32, promoted list[struct[3]], suppressed list[struct[3]], clamping f64"
        );
        let cell = |name: &str, row: usize| table.column(name).unwrap().get(row).unwrap();
        assert_eq!(cell("token", 0), AnyValue::String(" dog"));
        assert_eq!(cell("token", 1), AnyValue::Null);
        assert_eq!(cell("clamping", 0), AnyValue::Float64(0.75));
        assert_eq!(cell("clamping", 1), AnyValue::Null);
    }
}
