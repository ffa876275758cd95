//! Everything that can go wrong in this crate, each as one sentence that names the place, what was
//! found and what was expected.

/// Error of an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// What was given does not fit together.
    #[error("{what}: found {found}, expected {expected}")]
    Input {
        /// Which argument or number.
        what: &'static str,
        /// What was given.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// Settings cannot be read.
    #[error(transparent)]
    Settings(#[from] lapidary_io::settings::SettingsError),
    /// The dictionary failed.
    #[error(transparent)]
    Coder(#[from] lapidary_coder::CoderError),
    /// The activations failed.
    #[error(transparent)]
    Activations(#[from] lapidary_activations::ActivationsError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] lapidary_model::ModelError),
}

impl EvaluationError {
    /// An [`EvaluationError::Input`].
    pub(crate) fn input(what: &'static str, found: impl ToString, expected: impl ToString) -> Self {
        Self::Input {
            what,
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }
}
