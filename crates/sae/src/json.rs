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
    use crate::StepReport;

    #[test]
    fn what_is_written_with_nan_is_read_again() {
        let report = r#"{"step":1,"tokens":2,"loss":null,"mse":1.5,"fvu":null,"l0":3.0,"penalty":0.0,"aux":0.0,"dead":0,
                         "lr":0.1,"grad_norm":null}"#;
        let report: StepReport = serde_json::from_str(report).unwrap();
        assert!(report.fvu.is_nan() && report.mse == 1.5);
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains("\"fvu\":null"), "{text}");
    }
}
