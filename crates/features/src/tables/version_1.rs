//! Token lists of `features.parquet` of schema version 1: a column for each field.

use std::sync::Arc;

use polars::prelude::*;

use super::columns::{Interned, Table};
use super::{FiringToken, LogitToken};
use crate::FeaturesError;

const PROMOTED: [&str; 3] = ["promoted_tokens", "promoted_token_ids", "promoted_logits"];
const SUPPRESSED: [&str; 3] = [
    "suppressed_tokens",
    "suppressed_token_ids",
    "suppressed_logits",
];
const TOP: [&str; 4] = [
    "top_tokens",
    "top_token_ids",
    "top_token_counts",
    "top_token_mean_activations",
];

/// Of each row the promoted, the suppressed and the top tokens.
type TokenLists = (
    Vec<Vec<LogitToken>>,
    Vec<Vec<LogitToken>>,
    Vec<Vec<FiringToken>>,
);

pub(super) fn token_lists(
    table: &Table<'_>,
    texts: &mut Interned,
) -> Result<TokenLists, FeaturesError> {
    Ok((
        logit_tokens(table, PROMOTED, texts)?,
        logit_tokens(table, SUPPRESSED, texts)?,
        firing_tokens(table, texts)?,
    ))
}

fn logit_tokens(
    table: &Table<'_>,
    [text_column, id_column, logit_column]: [&'static str; 3],
    texts: &mut Interned,
) -> Result<Vec<Vec<LogitToken>>, FeaturesError> {
    let tokens = table.string_lists(text_column, texts)?;
    let ids = table.lists::<UInt32Type>(id_column)?;
    let logits = table.lists::<Float32Type>(logit_column)?;
    let mut rows = Vec::with_capacity(tokens.rows.len());
    for row in 0..tokens.rows.len() {
        let length = tokens.rows[row].len();
        table.same_length(id_column, row, ids.rows[row].len(), text_column, length)?;
        let found = logits.rows[row].len();
        table.same_length(logit_column, row, found, text_column, length)?;
        let cells = tokens.row(row).iter();
        let cells = cells.zip(ids.row(row)).zip(logits.row(row));
        let cells = cells.map(|((text, &id), &logit)| LogitToken {
            text: Arc::clone(text),
            id,
            logit,
        });
        rows.push(cells.collect());
    }
    Ok(rows)
}

fn firing_tokens(
    table: &Table<'_>,
    texts: &mut Interned,
) -> Result<Vec<Vec<FiringToken>>, FeaturesError> {
    let [text_column, id_column, count_column, mean_column] = TOP;
    let tokens = table.string_lists(text_column, texts)?;
    let ids = table.lists::<UInt32Type>(id_column)?;
    let counts = table.lists::<UInt64Type>(count_column)?;
    let means = table.lists::<Float32Type>(mean_column)?;
    let mut rows = Vec::with_capacity(tokens.rows.len());
    for row in 0..tokens.rows.len() {
        let length = tokens.rows[row].len();
        for (column, found) in [
            (id_column, ids.rows[row].len()),
            (count_column, counts.rows[row].len()),
            (mean_column, means.rows[row].len()),
        ] {
            table.same_length(column, row, found, text_column, length)?;
        }
        let cells = tokens.row(row).iter().zip(ids.row(row));
        let cells = cells.zip(counts.row(row)).zip(means.row(row));
        let cells = cells.map(|(((text, &id), &count), &mean_activation)| FiringToken {
            text: Arc::clone(text),
            id,
            count,
            mean_activation,
            lift: None,
        });
        rows.push(cells.collect());
    }
    Ok(rows)
}
