//! What can go wrong between a text and its activations.

use std::fmt::Display;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields hold.
pub enum ActivationsError {
    #[error(transparent)]
    Io(#[from] lapidary_io::IoError),
    #[error(transparent)]
    Model(#[from] lapidary_model::ModelError),
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        path: PathBuf,
        r#source: std::io::Error,
    },
    #[error("corpus {}: {problem}", path.display())]
    Corpus { path: PathBuf, problem: String },
    #[error("{}: {unit} {number}: {problem}", path.display())]
    Row {
        path: PathBuf,
        /// What is counted: `line` or `object`.
        unit: &'static str,
        number: u64,
        problem: String,
    },
    #[error("Parquet file {}: {problem}", path.display())]
    Parquet { path: PathBuf, problem: String },
    #[error(
        "corpus {corpus} holds {found} blocks of {context} tokens, at least {needed} are needed"
    )]
    TooShort {
        corpus: String,
        found: u64,
        context: usize,
        needed: u64,
    },
    #[error(
        "context: found {context} tokens, expected 2 to {n_ctx}, the model's context (--context, corpus.context)"
    )]
    Context { context: usize, n_ctx: usize },
    #[error(
        "prepend_bos is set, but model `{model}` has no beginning-of-sequence token; set it to false"
    )]
    NoBos { model: String },
    #[error(
        "exclude.first_positions: found {first_positions}, expected less than the context of {context} tokens, of which nothing would be left"
    )]
    FirstPositions {
        first_positions: usize,
        context: usize,
    },
    #[error("{}: {problem}", path.display())]
    Checkpoint { path: PathBuf, problem: String },
    #[error("the activations at {hook} hold {count} values that are not finite")]
    NotFinite { hook: String, count: usize },
    #[error("the activations at {hook} cannot be written in int8: {source}")]
    Quantize {
        hook: String,
        r#source: lapidary_quantize::QuantizeError,
    },
    #[error(
        "a shuffle buffer of {tokens} activations of width {d_in} does not fit into memory; lower `activations.buffer_tokens` or `training.batch_tokens`"
    )]
    Buffer { tokens: usize, d_in: usize },
    #[error("{}: field `{field}`: found {found}, expected {expected}", path.display())]
    Field {
        path: PathBuf,
        field: String,
        found: String,
        expected: String,
    },
    #[error(
        "the activations at {hook} hold {count} values beyond 65504, which f16 cannot hold; use bf16"
    )]
    TooLarge { hook: String, count: usize },
    #[error(
        "{}: the store was made with {setting} = {there}, this harvest has {here}; give the same settings or another --out", path.display()
    )]
    StoreSettings {
        path: PathBuf,
        setting: String,
        there: String,
        here: String,
    },
    #[error("{}: holds no store but {}; give an empty or a new folder", folder.display(), path.display())]
    NotAStore { folder: PathBuf, path: PathBuf },
    #[error("{}: {count} of {of} shards are not what was written: {problems}", path.display())]
    Damaged {
        path: PathBuf,
        count: usize,
        of: usize,
        problems: String,
    },
    #[error("models `{first}` and `{other}` do not have the same tokens: found {problem}")]
    Tokenizers {
        first: String,
        other: String,
        problem: String,
    },
    #[error("activations of width {found}, expected {expected}")]
    Width { found: usize, expected: usize },
}

impl ActivationsError {
    /// A checkpoint whose file contradicts itself: `what` is `found` instead of `expected`.
    pub(crate) fn damaged_checkpoint(
        path: PathBuf,
        what: &str,
        found: impl Display,
        expected: &str,
    ) -> Self {
        let problem = format!(
            "{what}: found {found}, expected {expected}; the checkpoint is damaged or of another model: start again with --overwrite"
        );
        Self::Checkpoint { path, problem }
    }
}
