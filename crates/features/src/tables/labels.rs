//! `labels.parquet`: what a latent responds to, in words or tokens.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use polars::prelude::*;

use super::columns::{Interned, Table};
use super::write::{TableSource, write_table};
use crate::FeaturesError;

/// One row of `labels.parquet`: a label of a latent.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRow {
    /// The latent (u32).
    pub feature_id: u32,
    /// The label (string).
    pub label: String,
    /// How it was made (string).
    pub method: Arc<str>,
    /// Balanced accuracy of detection on held-out windows (f64); null if it was not scored.
    pub detection: Option<f64>,
    /// Balanced accuracy of fuzzing on held-out windows (f64); null if it was not scored.
    pub fuzzing: Option<f64>,
    /// Share of other labels whose tokens gain less than this label's if the latent is clamped at
    /// its largest activation (f64); null if it was not scored.
    pub clamping: Option<f64>,
}

/// The columns of `labels.parquet`.
pub const LABEL_COLUMNS: [&str; 6] = [
    "feature_id",
    "label",
    "method",
    "detection",
    "fuzzing",
    "clamping",
];

/// The name of the method of labels that a language model wrote.
pub const WRITTEN: &str = "llm";

impl LabelRow {
    /// Which of two labels of a latent is shown where there is room for one: that of a language
    /// model, else the one that is detected best. The greater one is.
    pub fn better_than(&self, other: &Self) -> Ordering {
        let rank = |label: &Self| (&*label.method == WRITTEN, label.detection.unwrap_or(-1.0));
        let ((a, x), (b, y)) = (rank(self), rank(other));
        a.cmp(&b).then(x.total_cmp(&y))
    }
}

/// The label of each latent that is shown where there is room for one: that of a language model,
/// else the one that is detected best.
pub fn best_labels(labels: &[LabelRow]) -> HashMap<u32, &LabelRow> {
    let mut best: HashMap<u32, &LabelRow> = HashMap::new();
    for label in labels {
        let kept = best.entry(label.feature_id).or_insert(label);
        if label.better_than(kept).is_gt() {
            *kept = label;
        }
    }
    best
}

/// Writes `labels.parquet`, sorted by latent; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_labels(
    path: &Path,
    rows: &[LabelRow],
    source: &TableSource,
) -> Result<(), FeaturesError> {
    let mut rows: Vec<&LabelRow> = rows.iter().collect();
    rows.sort_by_key(|row| row.feature_id);
    let texts = |of: fn(&LabelRow) -> &str| rows.iter().map(|row| of(row)).collect::<Vec<&str>>();
    let scores = |of: fn(&LabelRow) -> Option<f64>| {
        let scores = rows.iter().map(|row| of(row));
        scores.collect::<Vec<Option<f64>>>()
    };
    let ids: Vec<u32> = rows.iter().map(|row| row.feature_id).collect();
    let columns = vec![
        Column::new("feature_id".into(), ids),
        Column::new("label".into(), texts(|row| &row.label)),
        Column::new("method".into(), texts(|row| &row.method)),
        Column::new("detection".into(), scores(|row| row.detection)),
        Column::new("fuzzing".into(), scores(|row| row.fuzzing)),
        Column::new("clamping".into(), scores(|row| row.clamping)),
    ];
    write_table(path, rows.len(), columns, Some(("labels", source)))
}

/// Reads `labels.parquet`, or a table with at least its columns `feature_id` (whole numbers of any
/// type), `label` and `method`.
///
/// # Errors
/// If the file cannot be read or is not such a table; the error names the file, the column and what
/// is wrong with it.
pub fn read_labels(path: &Path) -> Result<Vec<LabelRow>, FeaturesError> {
    let table = Table::open(path)?;
    let mut texts = Interned::default();
    let ids = table.ids("feature_id")?;
    let labels = table.strings("label", &mut texts)?;
    let methods = table.strings("method", &mut texts)?;
    let detection = table.optional_numbers::<Float64Type>("detection")?;
    let fuzzing = table.optional_numbers::<Float64Type>("fuzzing")?;
    let clamping = table.optional_numbers::<Float64Type>("clamping")?;
    let row = |at: usize| LabelRow {
        feature_id: ids[at],
        label: labels[at].to_string(),
        method: Arc::clone(&methods[at]),
        detection: detection[at],
        fuzzing: fuzzing[at],
        clamping: clamping[at],
    };
    Ok((0..ids.len()).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_back_sorted_by_latent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.parquet");
        let row = |feature_id, method: &str, detection| LabelRow {
            feature_id,
            label: format!("<b>{feature_id}</b>\n"),
            method: method.into(),
            detection,
            fuzzing: detection.map(|d: f64| d / 2.0),
            clamping: detection.map(|d: f64| d / 4.0),
        };
        let rows = [
            row(2, "pmi", Some(0.75)),
            row(0, "pmi", None),
            row(2, "lens", Some(0.5)),
        ];
        write_labels(&path, &rows, &TableSource::default()).unwrap();
        let sorted = [1, 0, 2].map(|at: usize| rows[at].clone());
        assert_eq!(read_labels(&path).unwrap(), sorted);
        std::fs::write(&path, "no table").unwrap();
        assert!(read_labels(&path).is_err());
    }
}
