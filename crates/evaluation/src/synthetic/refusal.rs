//! The error of a setting that cannot be.

use lapidary_io::settings::SettingsError;

use crate::error::EvaluationError;

/// The value of a key is refused.
pub(super) fn refuse(
    key: &'static str,
    found: impl ToString,
    expected: impl ToString,
) -> EvaluationError {
    EvaluationError::Settings(SettingsError::Value {
        place: "recipe".to_owned(),
        key: key.to_owned(),
        found: found.to_string(),
        expected: expected.to_string(),
    })
}
