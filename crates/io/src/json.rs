//! JSON files from outside, as Python's `json` writes them: with `NaN`, `Infinity` and `-Infinity`,
//! and of a bounded size.

use crate::IoError;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest text file that is read whole (configurations, indexes, recipes): 64 MiB.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Numbers that Python writes and JSON does not have.
const NOT_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads a text file whole, without a byte order mark.
///
/// # Errors
/// The file cannot be read, is no UTF-8, no regular file, or is longer than [`MAX_TEXT_BYTES`].
pub fn read_text(path: &Path) -> Result<String, IoError> {
    let file = File::open(path).map_err(IoError::read(path))?;
    let data = file.metadata().map_err(IoError::read(path))?;
    if !data.is_file() {
        let problem = std::io::Error::other("not a regular file");
        return Err(IoError::read(path)(problem));
    }
    let too_large = |bytes| IoError::TooLarge {
        path: path.into(),
        bytes,
        limit: MAX_TEXT_BYTES,
    };
    if data.len() > MAX_TEXT_BYTES {
        return Err(too_large(data.len()));
    }
    let mut text = String::new();
    // Some files tell no length, those of /proc for one.
    file.take(MAX_TEXT_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(IoError::read(path))?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(too_large(text.len() as u64));
    }
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// Reads a JSON file as Python would ([`python_json`]).
///
/// # Errors
/// As [`read_text`]; the text is no JSON, or not of this type.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, IoError> {
    serde_json::from_str(&python_json(&read_text(path)?)).map_err(|source| IoError::Json {
        path: path.into(),
        source,
    })
}

/// The text with Python's `NaN`, `Infinity` and `-Infinity` as JSON strings of these names.
///
/// Values that nobody reads are then no obstacle, and a reader that wants a finite number can say
/// what it found.
#[must_use]
pub fn python_json(text: &str) -> Cow<'_, str> {
    let mut out: Option<String> = None;
    let mut copied = 0;
    let (bytes, mut at) = (text.as_bytes(), 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'-' | b'I' | b'N' => {
                // JSON's own words have neither letter, and a minus begins a number that has
                // digits.
                let found = NOT_FINITE.iter().find(|w| text[at..].starts_with(**w));
                if let Some(word) = found {
                    let out = out.get_or_insert_default();
                    out.push_str(&text[copied..at]);
                    out.extend(["\"", word, "\""]);
                    at += word.len();
                    copied = at;
                } else {
                    at += 1;
                }
            }
            _ => at += 1,
        }
    }
    match out {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.push_str(&text[copied..]);
            Cow::Owned(out)
        }
    }
}

/// The place after the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn numbers_that_python_writes_are_read() {
        let text = r#"{"a": NaN, "b": [Infinity, -Infinity,-1], "NaN": "Infinity \" NaN", "ü": 2}"#;
        let read: Value = serde_json::from_str(&python_json(text)).unwrap();
        assert_eq!(
            read,
            json!({"a": "NaN", "b": ["Infinity", "-Infinity", -1], "NaN": "Infinity \" NaN", "ü": 2})
        );
    }

    #[test]
    fn json_is_left_as_it_is() {
        for text in [
            r#"{"a": [1, -2.5e3, null, true]}"#,
            "",
            "\"open",
            "\"\\",
            "é",
        ] {
            assert!(matches!(python_json(text), Cow::Borrowed(t) if t == text));
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, "\u{feff}[1, NaN]").unwrap();
        let read: Value = read_json(&path).unwrap();
        assert_eq!(read, json!([1, "NaN"]));
        assert!(read_text(dir.path()).is_err());
    }

    #[test]
    fn a_text_that_is_too_long_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let file = File::create(&path).unwrap();
        file.set_len(MAX_TEXT_BYTES + 1).unwrap();
        let error = read_text(&path).unwrap_err().to_string();
        assert!(
            error.contains("67108865 bytes, expected at most 67108864"),
            "{error}"
        );
    }
}
