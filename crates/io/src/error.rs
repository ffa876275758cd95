//! What can go wrong with files and folders.

use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields hold.
pub enum IoError {
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
    #[error("{}: {bytes} bytes, expected at most {limit}", path.display())]
    TooLarge {
        path: PathBuf,
        bytes: u64,
        limit: u64,
    },
    #[error("{}: found {found}, expected a regular file or a new name", path.display())]
    NotAFile { path: PathBuf, found: &'static str },
    #[error("{} is in the way: expected {expected}", path.display())]
    InTheWay {
        path: PathBuf,
        expected: &'static str,
    },
    #[error("{}: the file is damaged: its checksum is {found}, expected {expected}", path.display())]
    Damaged {
        path: PathBuf,
        found: String,
        expected: String,
    },
    #[error("{}: {field}: found {found}, expected {expected}", path.display())]
    Format {
        path: PathBuf,
        field: String,
        found: String,
        expected: String,
    },
    #[error("{}: another process is writing to it", path.display())]
    InUse { path: PathBuf },
}

impl IoError {
    /// A failure to read `path`.
    pub fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Read {
            path: path.into(),
            source,
        }
    }

    /// A failure to write `path`.
    pub fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Write {
            path: path.into(),
            source,
        }
    }

    /// A file whose `field` is not what was expected.
    #[must_use]
    pub fn format(
        path: &Path,
        field: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Format {
            path: path.into(),
            field: field.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }
}
