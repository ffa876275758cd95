//! Sparse coders: architectures, losses, trainer, checkpoints, figures of merit, and dictionaries on disk.
//!
//! A [`RunConfig`] says what to do, a [`Trainer`] does it on a source of activations, and [`Trainer::finish`] gives a
//! [`Dictionary`] that explains activations as the model makes them.

mod batchtopk;
pub mod checkpoint;
mod coder;
mod config;
mod decoder_norm;
mod dictionary;
mod error;
pub mod evaluate;
mod files;
mod firing;
mod formats;
mod init;
mod json;
mod jumprelu;
pub mod losses;
pub mod schedule;
mod sparse_step;
mod standard;
mod tensors;
mod topk;
mod train;

pub use coder::{Architecture, SparseCoder};
pub use config::{
    ActivationsConfig, CoderConfig, CorpusConfig, EvaluationConfig, FeaturesConfig, RunConfig,
    TrainingConfig,
};
pub use dictionary::{Dictionary, Provenance};
pub use error::SaeError;
pub use evaluate::{Metrics, evaluate};
pub use files::remove_folder;
pub use train::{StepReport, Trainer};
