//! Finds, loads, tokenizes, runs and hooks a decoder-only transformer, and trains a small one.
//!
//! Start at [`LanguageModel::load`].

mod attention;
mod config;
mod config_file;
mod embedded;
mod encoding;
mod error;
mod family;
mod fields;
mod found;
mod frozen;
mod generate;
mod generation_config;
mod gguf;
mod hook;
mod hub;
mod language_model;
mod load;
pub mod pretrain;
mod roles;
mod rotary;
mod run;
mod sample;
mod tensor_file;
mod tokenizer;
pub mod training;
mod transformer;
pub mod weights;

pub use config::{Activation, Family, LayerConfig, ModelConfig, Norm};
pub use error::ModelError;
pub use frozen::{FrozenModel, LogitDirections, ScoreSide};
pub use generate::{Sampling, generate, generate_batch};
pub use gguf::GgufDescription;
pub use hook::{BlockHook, HookPoint};
#[doc(hidden)]
pub use hub::read_hub_answer;
pub use hub::{CachedRepository, Download, HubRepository, on_download};
pub use language_model::{Gradients, LanguageModel};
pub use roles::Simplify;
pub use rotary::{Rope, RopeScaling};
pub use run::{BackwardRules, Edit, HookedRun, Intervention, RunOutput, Start};
pub use tensor_file::TensorFile;
pub use tokenizer::{TextStream, TokenPlace, Tokenizer};
