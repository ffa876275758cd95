//! Sparse coders: architectures, losses, trainer, checkpoints, and dictionaries on disk.
//!
//! A [`RunConfig`] says what to do, a [`TrainingRun`] does it for one recipe or several on one source of activations, and
//! [`TrainingRun::finish`] gives a [`Dictionary`] that explains activations as the model makes them.

pub mod checkpoint;
mod coder;
mod coders;
mod config;
mod cross_layer;
mod decoder_norm;
mod dictionary;
mod end_to_end;
mod ends;
mod error;
mod fields;
mod files;
mod firing;
mod fold;
mod formats;
mod init;
mod json;
pub mod losses;
mod model_loading;
mod optimizer;
mod parameters;
mod penalized_step;
mod penalty;
mod pursuit;
mod revival;
mod run;
pub mod schedule;
mod sparse_step;
pub mod tensors;
mod train;
mod weights;

pub use coder::{Architecture, SparseCoder, Weight, Weights};
pub use coders::{JumpReluConfig, MatryoshkaConfig};
pub use config::{
    ActivationsConfig, CoderConfig, CorpusConfig, EvaluationConfig, FeaturesConfig, RunConfig,
    TrainingConfig,
};
pub use dictionary::{Description, Dictionary, Provenance};
pub use ends::{Batch, Scaling};
pub use error::SaeError;
pub use fields::Fields;
pub use files::{fill_folder, replace_folder};
pub use json::nan_if_null;
pub use lapidary_kernels::Pursuit;
pub use model_loading::{ModelLoading, PreparedModel, hub_name};
pub use penalty::{Penalty, Shape};
pub use run::{Observer, TrainingRun, hook_points};
pub use tensors::{host, host_int};
pub use train::{StepReport, Trainer};
