//! The JSON files of metrics keep their keys, their order and their form.

use lapidary_evaluation::Metrics;
use lapidary_evaluation::synthetic::Recovery;

#[test]
fn metrics_json_is_written_as_it_was_read() {
    let text = include_str!("../../../../tests/fixtures/metrics/metrics.json");
    let metrics: Metrics = serde_json::from_str(text).unwrap();
    let written = serde_json::to_string_pretty(&metrics).unwrap();
    assert_eq!(written.trim_end(), text.trim_end());
}

#[test]
fn recovery_json_is_written_as_it_was_read() {
    let text = include_str!("../../../../tests/fixtures/metrics/recovery.json");
    let recovery: Recovery = serde_json::from_str(text).unwrap();
    let written = serde_json::to_string_pretty(&recovery).unwrap();
    assert_eq!(written.trim_end(), text.trim_end());
}
