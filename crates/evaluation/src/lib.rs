//! Figures of merit of a dictionary: how well it reconstructs, what its reconstruction costs the model, how its latents fire.
//!
//! - [`evaluate`]: model and dictionary over token blocks, every figure in one pass, as [`Metrics`];
//! - [`ReconstructionSums`], [`CodeSums`]: the running sums by themselves, for activations that come from elsewhere.

mod codes;
mod core;
mod error;
mod metrics;
#[cfg(test)]
mod numbers;
mod predictions;
mod reconstruction;

pub use crate::core::{BATCH_BLOCKS, evaluate};
pub use codes::{CodeSums, HostCodes};
pub use error::EvaluationError;
pub use metrics::Metrics;
pub use reconstruction::ReconstructionSums;
