//! Everything that can go wrong in this crate, each as one sentence.

use std::path::Path;

use lapidary_io::{FileError, IoError};

/// Error of a coder or of a dictionary.
#[derive(Debug, thiserror::Error)]
pub enum CoderError {
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Something cannot be as it was asked for.
    #[error("{place}: {message}")]
    Invalid {
        /// What is concerned: a file, a setting, a dictionary.
        place: String,
        /// What was found and what was expected.
        message: String,
    },
    /// Sizes do not fit.
    #[error("{what}: found {found}, expected {expected}")]
    Shape {
        /// Which number.
        what: &'static str,
        /// What was found.
        found: usize,
        /// What was expected.
        expected: usize,
    },
    /// The device failed to return a tensor.
    #[error("the device could not return {what}: {message}")]
    Device {
        /// Which tensor.
        what: &'static str,
        /// The device's message.
        message: String,
    },
}

impl FileError for CoderError {
    fn as_io(&mut self) -> Option<&mut IoError> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl CoderError {
    /// A file that cannot be read.
    #[must_use]
    pub fn read(path: &Path, source: std::io::Error) -> Self {
        IoError::read(path)(source).into()
    }

    /// A file that cannot be written.
    #[must_use]
    pub fn write(path: &Path, source: std::io::Error) -> Self {
        IoError::write(path)(source).into()
    }

    /// A file whose `field` is not what was expected.
    #[must_use]
    pub fn format(
        path: &Path,
        field: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        IoError::format(path, field, found, expected).into()
    }
}
