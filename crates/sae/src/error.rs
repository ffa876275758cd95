//! Everything that can go wrong in this crate, each as one sentence that names the place, what was
//! found and what was expected.

use lapidary_coder::CoderError;
use lapidary_io::{FileError, IoError};

/// Error of training, storing, loading or evaluating a dictionary.
#[derive(Debug, thiserror::Error)]
pub enum SaeError {
    /// A coder fails.
    #[error(transparent)]
    Coder(#[from] CoderError),
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A recipe cannot be read.
    #[error(transparent)]
    Settings(#[from] lapidary_io::settings::SettingsError),
    /// Two keys of a configuration contradict each other or the model.
    #[error("{place}: {message}")]
    Config {
        /// The file, or `configuration`.
        place: String,
        /// What contradicts what.
        message: String,
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
    /// The activations failed.
    #[error(transparent)]
    Activations(#[from] lapidary_activations::ActivationsError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] lapidary_model::ModelError),
}

impl SaeError {
    /// Sizes that do not fit.
    #[must_use]
    pub const fn shape(what: &'static str, found: usize, expected: usize) -> Self {
        Self::Coder(CoderError::Shape {
            what,
            found,
            expected,
        })
    }
}

impl FileError for SaeError {
    fn as_io(&mut self) -> Option<&mut IoError> {
        match self {
            Self::Io(error) => Some(error),
            Self::Coder(error) => error.as_io(),
            _ => None,
        }
    }
}
