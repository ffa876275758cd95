//! What can go wrong on the way from sparse codes to tables and a report, each as one sentence that
//! names the place.

use std::path::PathBuf;

use polars::error::PolarsError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum FeaturesError {
    /// The text or the model failed.
    #[error(transparent)]
    Activations(#[from] lapidary_activations::ActivationsError),
    /// The dictionary failed.
    #[error(transparent)]
    Coder(#[from] lapidary_coder::CoderError),
    /// The evaluation failed.
    #[error(transparent)]
    Evaluation(#[from] lapidary_evaluation::EvaluationError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] lapidary_io::IoError),
    /// A file or its folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        r#source: std::io::Error,
    },
    /// A file could not be written; nothing was left under its name.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        r#source: std::io::Error,
    },
    /// A table could not be encoded or stored; nothing was left under its name.
    #[error("cannot write table {}: {source}", path.display())]
    WriteTable {
        /// The file.
        path: PathBuf,
        /// What polars said.
        r#source: PolarsError,
    },
    /// A file is not a Parquet table that can be decoded.
    #[error("{} is not a readable Parquet table: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// A table lacks a column.
    #[error("{}: column `{column}` is missing, expected a column of type {expected}", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// Its type.
        expected: String,
    },
    /// A table has the column, but of another type.
    #[error("{}: column `{column}` has type {found}, expected {expected}", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// The type in the file.
        found: String,
        /// The type it must have.
        expected: String,
    },
    /// One cell of a table cannot be right.
    #[error("{}: column `{column}`, row {row}: found {found}, expected {expected}", path.display())]
    Cell {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// The row, counted from 0.
        row: usize,
        /// The value found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A caller's data do not fit together.
    #[error("{field}: found {found}, expected {expected}")]
    Input {
        /// Which argument or field.
        field: &'static str,
        /// What was given.
        found: String,
        /// What would be right.
        expected: String,
    },
}
