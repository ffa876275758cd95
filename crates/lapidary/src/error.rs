//! What can go wrong between a recipe and its report.

use std::fmt::Display;

use lapidary_activations::ActivationsError;
use lapidary_codebook::CodebookError;
use lapidary_coder::CoderError;
use lapidary_evaluation::EvaluationError;
use lapidary_features::FeaturesError;
use lapidary_formats::FormatError;
use lapidary_io::IoError;
use lapidary_model::ModelError;
use lapidary_sae::SaeError;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate, or of one of those that it joins.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something cannot be as it was asked for.
    #[error("{0}")]
    Invalid(String),
    /// The run was asked to stop and did so, with a checkpoint.
    #[error("{0}")]
    Interrupted(String),
    /// Where an error happened.
    #[error("{context}")]
    Context {
        /// What was done.
        context: String,
        /// What went wrong.
        source: Box<Error>,
    },
    /// A coder fails.
    #[error(transparent)]
    Coder(#[from] CoderError),
    /// Codebooks cannot be trained, read or written.
    #[error(transparent)]
    Codebook(#[from] CodebookError),
    /// The training fails, or its recipe is wrong.
    #[error(transparent)]
    Sae(#[from] SaeError),
    /// The model fails.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The activations fail.
    #[error(transparent)]
    Activations(#[from] ActivationsError),
    /// The evaluation fails.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// A dictionary's files cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Tables or report cannot be made.
    #[error(transparent)]
    Features(#[from] FeaturesError),
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file operation fails.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// A value cannot be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// The same error, with what was done when it happened.
    #[must_use]
    pub fn context(self, context: impl Display) -> Self {
        Self::Context {
            context: context.to_string(),
            source: Box::new(self),
        }
    }
}

/// Adds what was done when something failed, or what was missing.
pub(crate) trait Context<T> {
    fn context(self, context: impl Display) -> Result<T>;
    fn with_context<C: Display>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl Display) -> Result<T> {
        self.map_err(|e| e.into().context(context))
    }

    fn with_context<C: Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|e| e.into().context(context()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, context: impl Display) -> Result<T> {
        self.ok_or_else(|| Error::Invalid(context.to_string()))
    }

    fn with_context<C: Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.ok_or_else(|| Error::Invalid(context().to_string()))
    }
}

/// Leaves the function with an [`Error::Invalid`].
macro_rules! bail {
    ($($message:tt)*) => { return Err($crate::Error::Invalid(format!($($message)*))) };
}
pub(crate) use bail;

/// Leaves the function with an [`Error::Invalid`] unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            $crate::error::bail!($($message)*);
        }
    };
}
pub(crate) use ensure;
