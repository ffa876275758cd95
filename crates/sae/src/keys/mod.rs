//! The keys of a recipe: each declared once, with its type, default, range and documentation. The
//! keys of one architecture are in its own file ([`crate::architectures`]).

mod defaults;
mod facts;
mod names;
mod table;
mod tables;

pub(crate) use defaults::{AfterReading, Widths};
pub(crate) use facts::Facts;
pub(crate) use names::names;
pub use names::{DeadLatents, DecoderBiasStart, DecoderNorm, Loss, Optimizer, SparsityPenalty};
pub(crate) use table::{Key, Values, check_range, table, to_json, to_map, to_text, to_toml};
pub use tables::{
    ActivationsConfig, CoderConfig, CorpusConfig, EvaluationConfig, ExcludeConfig, FeaturesConfig,
    ResolvedActivations, ResolvedCoder, ResolvedTraining, TrainingConfig,
};
