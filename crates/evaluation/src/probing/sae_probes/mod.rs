//! Sparse probing on 113 binary data sets, as the Python package sae-probes does it
//! (Kantamneni et al. 2025, arXiv 2502.16681).
//!
//! A caller reads a data set ([`DataSets`]), computes activations and latents of its prompts at
//! the last token, and passes them to [`baseline_probe`] and [`k_sparse_probes`]. Results of
//! several data sets and seeds go to [`summarize`].

mod data_sets;
mod folds;
mod k_sparse;
mod lbfgs;
mod line_search;
mod matrix;
mod metrics;
mod numpy_random;
mod probe;
mod saga;
mod splits;
mod summary;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_rows;

pub use data_sets::{DataSet, DataSets, Kind, Samples};
pub use k_sparse::{
    KSparseConfig, ProbeFigures, ProbeOf, baseline_probe, default_ks, k_sparse_probes, selected,
};
pub use metrics::{accuracy, auc, weighted_f1};
pub use probe::{ProbeMetrics, ProbeOptions, RegType, Solver, best_probe};
pub use splits::{
    Setting, Split, class_fractions, flipped_fractions, split, train_sizes, usable_train_sizes,
};
pub use summary::{Spread, Summary, summarize};
