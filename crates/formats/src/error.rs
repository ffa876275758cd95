//! Everything that can go wrong in this crate, each as one sentence.

use std::path::PathBuf;

use lapidary_coder::CoderError;
use lapidary_io::{FileError, IoError};

/// Error of reading or writing a dictionary in some format.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A file is wrong, or cannot be read or written.
    #[error(transparent)]
    Coder(#[from] CoderError),
    /// A file of the hub cannot be fetched.
    #[error(transparent)]
    Model(#[from] lapidary_model::ModelError),
    /// Nothing that is known lies there.
    #[error("{}: found {found}, expected the files of a dictionary: {expected}", path.display())]
    Unknown {
        /// The place.
        path: PathBuf,
        /// What lies there.
        found: String,
        /// The files by which each format is known.
        expected: String,
    },
    /// It could be several formats.
    #[error("{}: this could be {candidates}: name the format", path.display())]
    Ambiguous {
        /// The place.
        path: PathBuf,
        /// The formats, each with its signs.
        candidates: String,
    },
    /// The format has no place for what the coder is.
    #[error("{}: the format {format} cannot hold {what}", path.display())]
    CannotHold {
        /// Where it was to be written.
        path: PathBuf,
        /// The name of the format.
        format: &'static str,
        /// What it cannot hold.
        what: String,
    },
    /// The file holds something that no coder here does.
    #[error("{}: found {found}, which cannot be done exactly here: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// Why not.
        why: String,
    },
}

impl From<IoError> for FormatError {
    fn from(error: IoError) -> Self {
        Self::Coder(error.into())
    }
}

impl FileError for FormatError {
    fn as_io(&mut self) -> Option<&mut IoError> {
        match self {
            Self::Coder(error) => error.as_io(),
            _ => None,
        }
    }
}
