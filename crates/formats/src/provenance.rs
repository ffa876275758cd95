//! Where a dictionary comes from, kept in other formats' configurations under one key that their
//! readers pass over.

use lapidary_coder::{CoderError, Provenance};
use lapidary_io::Fields;
use serde_json::{Value, json};

/// The key.
const KEY: &str = "lapidary";
const FORMAT_VERSION: u64 = 1;

/// What is written under the key.
pub(crate) fn written(from: &Provenance) -> (&'static str, Value) {
    let value = json!({
        "format_version": FORMAT_VERSION,
        "version": env!("CARGO_PKG_VERSION"),
        "provenance": from,
    });
    (KEY, value)
}

/// What was written under the key, if it was; none also where it is of a later version.
pub(crate) fn read(config: &Fields) -> Result<Option<Provenance>, CoderError> {
    let ours = config.inner(KEY)?;
    if ours.get("format_version").and_then(Value::as_u64) != Some(FORMAT_VERSION) {
        return Ok(None);
    }
    Ok(ours.get("provenance").and_then(Provenance::from_json))
}
