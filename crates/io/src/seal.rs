//! JSON files with a checksum of their own text, so that a changed digit is noticed.

use crate::{Checksum, IoError};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

const KEY: &str = "checksum";
/// The checksum is computed with these zeros in its place.
const BLANK: &str = "0000000000000000";

/// An object as JSON with a key `checksum`: the XXH64 of the text with zeros in the checksum's
/// place.
///
/// # Panics
/// When `value` is no JSON object, or has such a key.
#[must_use]
pub fn sealed_json<T: Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).expect("keys are strings");
    let Value::Object(mut object) = value else {
        panic!("a sealed value is an object")
    };
    assert!(object.insert(KEY.to_owned(), json!(BLANK)).is_none());
    let text = serde_json::to_string_pretty(&object).expect("JSON values") + "\n";
    let sum = Checksum::of(text.as_bytes());
    text.replacen(&entry(BLANK), &entry(&format!("{sum:016x}")), 1)
}

/// Compares the checksum in a text of [`sealed_json`] with its text.
///
/// # Errors
/// It has none, or another one: the file is damaged.
pub fn unseal(path: &Path, text: &str) -> Result<(), IoError> {
    let object: Value = serde_json::from_str(text).map_err(|source| IoError::Json {
        path: path.into(),
        source,
    })?;
    let stored = object[KEY].as_str().unwrap_or_default();
    let blank = text.replacen(&entry(stored), &entry(BLANK), 1);
    let found = format!("{:016x}", Checksum::of(blank.as_bytes()));
    if stored == found {
        return Ok(());
    }
    Err(IoError::Damaged {
        path: path.into(),
        found,
        expected: match stored {
            "" => "one in the field `checksum`".to_owned(),
            stored => stored.to_owned(),
        },
    })
}

fn entry(sum: &str) -> String {
    format!("\"{KEY}\": \"{sum}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_bit_is_noticed() {
        let text = sealed_json(&json!({"rows": 12, "checksums": {"a": "00"}, "name": "x"}));
        let path = Path::new("manifest.json");
        unseal(path, &text).unwrap();
        for byte in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[byte] ^= 1 << bit;
                let Ok(changed) = String::from_utf8(bytes) else {
                    continue;
                };
                assert!(unseal(path, &changed).is_err(), "byte {byte}, bit {bit}");
            }
        }
        assert!(unseal(path, "{}").is_err());
    }
}
