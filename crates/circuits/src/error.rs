//! What can go wrong between a task and its circuit.

use lapidary_coder::CoderError;
use lapidary_io::{FileError, IoError};
use lapidary_model::ModelError;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields hold.
pub enum CircuitError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Io(#[from] IoError),
    #[error(transparent)]
    Coder(#[from] CoderError),
    #[error("{}, line {line}: {problem}", path.display())]
    TaskFile {
        path: PathBuf,
        line: usize,
        problem: String,
    },
    #[error("the task {task}: {problem}")]
    Task { task: String, problem: String },
    #[error("unknown task {found}: expected {known}, or a .jsonl file")]
    UnknownTask { found: String, known: String },
    #[error("{}: {problem}", path.display())]
    TruthFile { path: PathBuf, problem: String },
    #[error(
        "{method} runs the model at least once per edge, and {model} has {found} edges: expected at most {most}"
    )]
    TooManyEdges {
        method: String,
        model: String,
        found: usize,
        most: usize,
    },
    #[error("{method}: it scores edges alone, expected a method that scores heads")]
    NotRanked { method: String },
    #[error("{model}: {problem}")]
    Unsupported { model: String, problem: String },
    #[error("the transcoder {name}: {problem}")]
    Transcoder { name: String, problem: String },
    #[error("the head {layer}.{head}: {problem}")]
    Head {
        layer: usize,
        head: usize,
        problem: String,
    },
    #[error(
        "found the target token {found}, expected one below {d_vocab}, the size of the vocabulary"
    )]
    TargetToken { found: u32, d_vocab: usize },
    #[error("the feature {layer}.{index}: {problem}")]
    Feature {
        layer: usize,
        index: usize,
        problem: String,
    },
    #[error("`{model}` has {n_layers} layers, and these have no transcoder: {missing}")]
    MissingTranscoders {
        model: String,
        missing: String,
        n_layers: usize,
    },
    #[error(
        "found {} MB of memory for attribution besides the model, expected at least {} MB for {rows} rows of this prompt: give more, or fewer feature nodes",
        found / 1_000_000,
        least.div_ceil(1_000_000)
    )]
    Memory { found: u64, least: u64, rows: usize },
}

impl FileError for CircuitError {
    fn as_io(&mut self) -> Option<&mut IoError> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
