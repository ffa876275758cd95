//! The tables of `compare` and `select`.

use std::path::Path;

use polars::prelude::*;

use super::write::{TableSource, write_table};
use crate::FeaturesError;

/// One row of the table of a comparison: a latent of A with its counterpart in B.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// The latent of A (u32).
    pub feature_a: u32,
    /// The latent of B (u32).
    pub feature_b: u32,
    /// Cosine of their decoder rows (f64); null if decoder rows were not compared.
    pub cosine: Option<f64>,
    /// Correlation of their activations over tokens (f64); null if activations were not compared.
    pub correlation: Option<f64>,
    /// How the pair was found (string), such as `greedy-cosine`.
    pub method: &'static str,
}

/// Writes the pairs of a comparison, sorted by latent of A; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_pairs(
    path: &Path,
    rows: &[PairRow],
    source: &TableSource,
) -> Result<(), FeaturesError> {
    let mut rows: Vec<&PairRow> = rows.iter().collect();
    rows.sort_by_key(|row| row.feature_a);
    let ids = |of: fn(&PairRow) -> u32| rows.iter().map(|row| of(row)).collect::<Vec<u32>>();
    let numbers = |of: fn(&PairRow) -> Option<f64>| {
        let numbers = rows.iter().map(|row| of(row));
        numbers.collect::<Vec<Option<f64>>>()
    };
    let methods: Vec<&str> = rows.iter().map(|row| row.method).collect();
    let columns = vec![
        Column::new("feature_a".into(), ids(|row| row.feature_a)),
        Column::new("feature_b".into(), ids(|row| row.feature_b)),
        Column::new("cosine".into(), numbers(|row| row.cosine)),
        Column::new("correlation".into(), numbers(|row| row.correlation)),
        Column::new("method".into(), methods),
    ];
    write_table(path, rows.len(), columns, Some(("pairs", source)))
}

/// One row of the table of a selection: a document of the pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankedRow {
    /// Number of the document in the pool, from 0 (u32).
    pub document: u32,
    /// Similarity to the examples (f64).
    pub score: f64,
    /// Rank, from 0, the most similar document first (u32).
    pub rank: u32,
    /// Whether it is among the chosen ones (bool).
    pub selected: bool,
}

/// Writes the ranking of a pool, the most similar document first; the file appears whole or not at
/// all.
///
/// # Errors
/// If it cannot be written.
pub fn write_ranking(
    path: &Path,
    rows: &[RankedRow],
    source: &TableSource,
) -> Result<(), FeaturesError> {
    let columns = vec![
        Column::new(
            "document".into(),
            rows.iter().map(|r| r.document).collect::<Vec<u32>>(),
        ),
        Column::new(
            "score".into(),
            rows.iter().map(|r| r.score).collect::<Vec<f64>>(),
        ),
        Column::new(
            "rank".into(),
            rows.iter().map(|r| r.rank).collect::<Vec<u32>>(),
        ),
        Column::new(
            "selected".into(),
            rows.iter().map(|r| r.selected).collect::<Vec<bool>>(),
        ),
    ];
    write_table(path, rows.len(), columns, Some(("ranking", source)))
}
