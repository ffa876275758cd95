//! Metrics of a dictionary: how well it reconstructs, what its reconstruction costs the model, how
//! its latents fire.
//!
//! - [`evaluate`]: model and dictionary over token blocks, every metric in one pass, as [`Metrics`]
//!   and [`LatentFigures`]; [`Evaluator`]: the same batch by batch, with the codes;
//! - [`REGISTRY`]: what each metric is called and means;
//! - [`babel`], [`co_selected`]: how alike the directions of a dictionary are;
//! - [`synthetic`]: activations whose features are known, and what a coder makes of them;
//! - [`probing`]: k-sparse probes, feature absorption, shares of a representation;
//! - [`ReconstructionSums`], [`CodeSums`]: the running sums by themselves, for activations that
//!   come from elsewhere.

mod codes;
mod core;
mod cosines;
mod density;
mod error;
mod hooks;
mod latents;
mod matching;
mod metric;
mod metrics;
mod model_loading;
#[cfg(test)]
mod numbers;
mod ordinary;
mod predictions;
pub mod probing;
mod reconstruction;
mod registry;
pub mod synthetic;

pub use crate::core::{BATCH_BLOCKS, EvaluatedBatch, Evaluation, Evaluator, evaluate};
pub use codes::{CodeSums, HostCodes};
pub use cosines::{BABEL, CoSelected, DecoderCosines, babel, co_selected};
pub use density::DensityHistogram;
pub use error::EvaluationError;
pub use hooks::Hooks;
pub use latents::{LatentColumn, LatentFigures};
pub use matching::best_matching;
pub use metric::Metric;
pub use metrics::Metrics;
pub use model_loading::{PreparedModel, hub_name};
pub use reconstruction::ReconstructionSums;
pub use registry::REGISTRY;
