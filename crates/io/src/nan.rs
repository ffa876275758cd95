//! JSON has no word for a number that is not finite: it is written as `null`.

use serde::{Deserialize, Deserializer};

/// Reads a number, `null` as NaN: `#[serde(deserialize_with = "nan_if_null")]`.
///
/// # Errors
/// Neither a number nor `null`.
pub fn nan_if_null<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Line {
        #[serde(deserialize_with = "super::nan_if_null")]
        loss: f64,
    }

    #[test]
    fn a_nan_that_was_written_is_read_again() {
        let text = serde_json::to_string(&Line { loss: f64::NAN }).unwrap();
        assert_eq!(text, r#"{"loss":null}"#);
        let line: Line = serde_json::from_str(&text).unwrap();
        assert!(line.loss.is_nan());
        let line: Line = serde_json::from_str(r#"{"loss":1.5}"#).unwrap();
        assert_eq!(line.loss, 1.5);
    }
}
