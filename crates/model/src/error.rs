//! What can go wrong between a model's files and its activations. Each message names the file, the
//! field, what was found and what was expected.

use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields hold.
pub enum ModelError {
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        path: PathBuf,
        r#source: std::io::Error,
    },
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        path: PathBuf,
        r#source: std::io::Error,
    },
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        path: PathBuf,
        r#source: serde_json::Error,
    },
    #[error("{}: field `{field}`: found {found}, expected {expected}", path.display())]
    Field {
        path: PathBuf,
        field: String,
        found: String,
        expected: String,
    },
    #[error("{}: unknown architecture: model_type is {found}; this version reads {known}", path.display())]
    Architecture {
        path: PathBuf,
        found: String,
        known: String,
    },
    #[error("{}: not a whole safetensors file: {problem}", path.display())]
    Safetensors { path: PathBuf, problem: String },
    #[error("{}: not a whole GGUF file: {problem}", path.display())]
    Gguf { path: PathBuf, problem: String },
    #[error("{}: {missing} is missing; found {found}; {advice}", path.display())]
    Folder {
        path: PathBuf,
        missing: String,
        found: String,
        advice: String,
    },
    #[error(
        "model `{model}` has no unembedding, so no logits: {} was saved without a language model's head; hook points up to ln_final can be read", path.display()
    )]
    NoHead { model: String, path: PathBuf },
    #[error("{what}: found {found}, expected {expected}")]
    Sampling {
        what: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor { path: PathBuf, tensor: String },
    #[error("{}: tensor `{tensor}` has shape {found:?}, the configuration asks for {expected:?}", path.display())]
    Shape {
        path: PathBuf,
        tensor: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("{}: tensor `{tensor}` has dtype {found}, expected floats or blocks that are implemented", path.display())]
    Dtype {
        path: PathBuf,
        tensor: String,
        found: String,
    },
    #[error("{}: tensor `{tensor}` holds {count} values that are not finite", path.display())]
    NotFinite {
        path: PathBuf,
        tensor: String,
        count: usize,
    },
    #[error("{}: not a usable tokenizer: {problem}", path.display())]
    Tokenizer { path: PathBuf, problem: String },
    #[error("model `{model}` has no tokenizer: {} is missing", path.display())]
    NoTokenizer { model: String, path: PathBuf },
    #[error("{kind} `{name}` of the hub: {problem}")]
    Repository {
        kind: &'static str,
        name: String,
        problem: String,
    },
    #[error("model `{model}` was not found: {problem}")]
    NotFound { model: String, problem: String },
    #[error("hook point `{found}` is unknown{}", hint(.closest))]
    HookPoint {
        found: String,
        closest: Option<String>,
    },
    #[error("hook point `{point}` does not exist in this model: {reason}")]
    HookPointAbsent { point: String, reason: String },
    #[error("token {found} at position {position}: this model's vocabulary ends at {}", d_vocab - 1)]
    Token {
        found: u64,
        position: usize,
        d_vocab: usize,
    },
    #[error("{found} tokens in one sequence, this model's context holds {n_ctx}")]
    Context { found: usize, n_ctx: usize },
    #[error("the intervention at {point} does not fit: {problem}")]
    Intervention { point: String, problem: String },
    #[error(
        "model `{model}` cannot be simplified by {what}: {why}, so its predictions would change"
    )]
    Simplify {
        model: String,
        what: &'static str,
        why: &'static str,
    },
    #[error("a pass cannot start there: {problem}")]
    Start { problem: String },
    #[error("the segments do not fit: {problem}")]
    Segments { problem: String },
    #[error("an empty sequence of tokens: give at least one")]
    NoTokens,
    #[error(transparent)]
    Io(#[from] lapidary_io::IoError),
    #[error(transparent)]
    Settings(#[from] lapidary_io::settings::SettingsError),
    #[error("training of the model stopped at step {step}: {problem}")]
    Pretrain { step: u64, problem: String },
}

fn hint(closest: &Option<String>) -> String {
    match closest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => "; the spelling is TransformerLens's, such as `blocks.0.hook_resid_post`".into(),
    }
}

impl ModelError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Read {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Write {
            path: path.into(),
            source,
        }
    }
}
