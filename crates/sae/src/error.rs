//! Everything that can go wrong in this crate, each as one sentence that names the place, what was found and what
//! was expected.

use std::path::{Path, PathBuf};

/// Error of training, storing, loading or evaluating a dictionary.
#[derive(Debug, thiserror::Error)]
pub enum SaeError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        r#source: std::io::Error,
    },
    /// A file or folder could not be written; nothing stands under its final name that did not stand there before.
    #[error("cannot write {}: {source} (nothing was changed under that name)", path.display())]
    Write {
        /// The final name of the file or folder.
        path: PathBuf,
        /// What the operating system said.
        r#source: std::io::Error,
    },
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Io(#[from] lapidary_io::IoError),
    /// A recipe cannot be read.
    #[error(transparent)]
    Settings(#[from] lapidary_model::settings::SettingsError),
    /// Two keys of a configuration contradict each other or the model.
    #[error("{place}: {message}")]
    Config {
        /// The file, or `configuration`.
        place: String,
        /// What contradicts what.
        message: String,
    },
    /// A file from outside has a field that this program cannot use.
    #[error("{}: {field}: found {found}, expected {expected}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The field or tensor.
        field: String,
        /// The value found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// Activations do not fit the coder.
    #[error("{what}: found {found}, expected {expected}")]
    Shape {
        /// Which number.
        what: &'static str,
        /// What was found.
        found: usize,
        /// What was expected.
        expected: usize,
    },
    /// Training left the numbers: the loss is no longer finite.
    #[error(
        "step {step}: the loss is {loss}; lower `training.lr`, set `training.clip_grad_norm`, or normalize the activations"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
    },
    /// Training has diverged without the loss of a logged step showing it.
    #[error(
        "step {step}: {count} weights or Adam moments are not finite; lower `training.lr`, set `training.clip_grad_norm`, or normalize the activations"
    )]
    NotFinite {
        /// Steps done.
        step: u64,
        /// How many values.
        count: u64,
    },
    /// One of several coders of a run failed.
    #[error("coder {number} of the run: {error}")]
    OfCoder {
        /// Its number, from 0.
        number: usize,
        /// What happened to it.
        error: Box<Self>,
    },
    /// The device failed to give a tensor back.
    #[error("the device could not return {what}: {message}")]
    Device {
        /// Which tensor.
        what: &'static str,
        /// The device's message.
        message: String,
    },
    /// The activations failed.
    #[error(transparent)]
    Activations(#[from] lapidary_activations::ActivationsError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] lapidary_model::ModelError),
}

impl SaeError {
    /// A [`SaeError::Read`].
    #[must_use]
    pub fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read {
            path: path.to_path_buf(),
            source,
        }
    }

    /// A [`SaeError::Write`].
    #[must_use]
    pub fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Write {
            path: path.to_path_buf(),
            source,
        }
    }

    /// A [`SaeError::Format`].
    #[must_use]
    pub fn format(
        path: &Path,
        field: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Format {
            path: path.to_path_buf(),
            field: field.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }
}
