//! What can go wrong between a task and its circuit.

use lapidary_io::IoError;
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
    #[error("{model}: {problem}")]
    Unsupported { model: String, problem: String },
}
