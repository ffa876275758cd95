//! From sparse codes to a feature dictionary that people read: statistics and contexts of every
//! latent, as Parquet tables for notebooks and as one self-contained HTML page.
//!
//! - [`Collector`]: model and dictionary over token blocks; [`summarize_decoder`]: what the weights
//!   alone say;
//! - [`FeatureStatistics`]: one pass over sparse codes, memory independent of the number of tokens;
//! - [`FeatureRow`], [`ExampleRow`]: one row of `features.parquet` and of `examples.parquet`,
//!   written and read here;
//! - [`Steering`] changes what a model does by a latent;
//! - [`write_report`] makes `report.html`; [`serve`] is what a server of the same answers from.

mod clamping;
mod code_reader;
mod collect;
pub mod comparison;
mod error;
pub mod exports;
mod hook_names;
pub mod labels;
mod lens;
pub mod measures;
mod nearest;
mod page_data;
pub mod plots;
mod report;
pub mod selection;
pub mod serve;
mod shared_page;
mod sparse_rows;
mod statistics;
mod steering;
mod tables;
mod text_codes;

pub use clamping::{ClampedRuns, OtherLabels};
pub use code_reader::CodeReader;
pub use collect::{Collector, summarize_decoder};
pub use error::FeaturesError;
pub use hook_names::names;
pub use lens::{LogitEffect, TokenLogits, logit_effects, shown_tokens};
pub use nearest::nearest_latents;
pub use report::{Curve, Report, write_report};
pub use sparse_rows::SparseRows;
pub use statistics::{
    Band, BlockView, Coactivation, Context, FeatureStatistics, HistogramBin, LatentStatistics,
    QUANTILES, StatisticsConfig, StatisticsSummary, TokenCount,
};
pub use steering::{Steer, Steering};
pub use tables::{
    CodePlace, CodesWriter, DecoderSummary, DocumentRow, ExampleRow, FeatureRow, FiringToken,
    LABEL_COLUMNS, LabelRow, LogitToken, NeuronRow, PairRow, PartnerRow, RankedRow, RunRow,
    TableDescription, TableSource, Token, WRITTEN, best_labels, describe_table, document_rows,
    example_rows, feature_rows, read_examples, read_examples_of, read_features,
    read_histogram_rows, read_histograms, read_labels, read_partner_rows, read_runs, read_source,
    write_coactivations, write_codes, write_documents, write_examples, write_features,
    write_histograms, write_labels, write_latents, write_neurons, write_pairs, write_ranking,
    write_runs,
};
pub use text_codes::TextCodes;

/// The Rust parts of the tutorial on hooks, run as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/tutorial-hooks.md")]
struct TutorialOnHooks;
