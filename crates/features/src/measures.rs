//! Measures on sparse codes and dense activations that need no model: only arrays and labels.
//!
//! - [`SparseRows`](crate::SparseRows): the codes of many tokens; [`SupportCodes`]: only which
//!   latents are active;
//! - [`latent_information`], [`ebab`], [`kde_information`]: mutual information with labels;
//! - [`gdv`]: how well labels separate in a representation;
//! - [`CodeChance`] and the functions beside it: what overlap of codes is chance;
//! - [`knn_accuracy`], [`kmeans_accuracy`], [`redundancy_ratio`], [`overlap_spearman`]: codes as
//!   hashes;
//! - [`text_core`]: the core features of a text.

mod adaptive_bins;
mod binary_codes;
mod core_features;
mod gdv;
mod hash_codes;
mod information;
mod kde_information;
mod kmeans;
mod latent_information;
mod log_gamma;
mod plug_in;
mod rank_correlation;
mod sdr;

use std::fmt::Display;

pub use binary_codes::SupportCodes;
pub use core_features::{
    CoreChange, CoreConfig, CoreDenominator, CoreLatent, TextCore, core_stability, text_core,
    token_core,
};
pub use gdv::{Gdv, gdv};
pub use hash_codes::{
    input_cosines, knn_accuracy, overlap_spearman, redundancy_ratio, sample_pairs,
};
pub use information::{EbabConfig, EbabInformation, ebab};
pub use kde_information::{KdeEstimate, KdeInformation, adaptive_noise_variance, kde_information};
pub use kmeans::{KMeansAccuracy, KMeansConfig, kmeans_accuracy};
pub use latent_information::{
    InformationTable, LatentInformation, LatentInformationConfig, latent_information,
};
pub use rank_correlation::spearman;
pub use sdr::{
    CodeChance, false_match, false_negative, ln_false_match, ln_overlap_sets, union_false_match,
    union_false_member, union_on_bits,
};

use crate::FeaturesError;

pub(crate) fn unfit(
    field: &'static str,
    found: impl Display,
    expected: impl Into<String>,
) -> FeaturesError {
    FeaturesError::Input {
        field,
        found: found.to_string(),
        expected: expected.into(),
    }
}

/// Number of rows of a finite matrix `[rows, width]`.
fn matrix_rows(field: &'static str, values: &[f32], width: usize) -> Result<usize, FeaturesError> {
    if width == 0 || !values.len().is_multiple_of(width) {
        return Err(unfit(
            field,
            format!("{} values with rows of {width}", values.len()),
            "whole rows of at least one value",
        ));
    }
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(unfit(
            field,
            format!("{} in row {}", values[at], at / width),
            "finite values",
        ));
    }
    Ok(values.len() / width)
}

/// One label per row, and at least one row.
fn check_labels(labels: &[u32], rows: usize) -> Result<(), FeaturesError> {
    if labels.len() != rows {
        return Err(unfit(
            "labels",
            format!("{} labels", labels.len()),
            format!("one label per row, that is {rows}"),
        ));
    }
    if rows == 0 {
        return Err(unfit("labels", "0 labels", "at least one row"));
    }
    Ok(())
}
