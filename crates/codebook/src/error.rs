//! What can go wrong in this crate. Each message names the file or field, what was found and what
//! was expected.

use lapidary_io::{FileError, IoError};
use lapidary_model::ModelError;
use std::path::Path;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum CodebookError {
    /// A value cannot be as it is.
    #[error("{what}: found {found}, expected {expected}")]
    Value {
        /// The setting, or what the value is of.
        what: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The model fails.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The config is wrong.
    #[error(transparent)]
    Settings(#[from] lapidary_io::settings::SettingsError),
}

impl CodebookError {
    /// A value that cannot be as it is.
    pub(crate) fn value(
        what: impl Into<String>,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Value {
            what: what.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The same of a value that a file has.
    pub(crate) fn of_file(self, path: &Path) -> Self {
        match self {
            Self::Value {
                what,
                found,
                expected,
            } => Self::Value {
                what: format!("{}: {what}", path.display()),
                found,
                expected,
            },
            other => other,
        }
    }
}

impl FileError for CodebookError {
    fn as_io(&mut self) -> Option<&mut IoError> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
