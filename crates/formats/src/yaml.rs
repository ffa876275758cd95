//! The YAML that configurations of transcoder sets are: one key a line with a plain or quoted
//! value, or JSON, which YAML holds. Lists and mappings in lines of their own are passed over with
//! their key. Anchors, tags, block texts and whatever else could mean something else are refused,
//! so that nothing is read wrong.

// Not by serde-saphyr: it brings eight packages, and takes forms that the tests below refuse.

use std::path::Path;

use lapidary_coder::CoderError;
use lapidary_io::Fields;
use serde_json::{Map, Value};

/// Reads the top-level keys of a file.
pub(crate) fn read(path: &Path) -> Result<Fields, CoderError> {
    let text = lapidary_io::read_text(path)?;
    let map = parse(&text).map_err(|(line, found)| {
        let expected = "`key: value` with a plain or quoted value, or JSON";
        CoderError::format(path, format!("line {line}"), found, expected)
    })?;
    Ok(Fields::of(path, Value::Object(map))?)
}

fn parse(text: &str) -> Result<Map<String, Value>, (usize, String)> {
    let mut map = Map::new();
    // The key whose value may follow in the lines below.
    let mut open = None;
    for (at, line) in text.lines().enumerate() {
        let wrong = || (at + 1, line.chars().take(60).collect::<String>());
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') || (at == 0 && line == "---") {
            continue;
        }
        let nested = line.starts_with([' ', '\t']) || text.starts_with("- ") || text == "-";
        if nested {
            // Lists and maps are not read, and nothing else may stand below a key.
            let part =
                text.starts_with("- ") || text == "-" || text.contains(": ") || text.ends_with(':');
            let Some(value) = open.as_ref().and_then(|key: &String| map.get_mut(key)) else {
                return Err(wrong());
            };
            if !part {
                return Err(wrong());
            }
            *value = Value::Array(vec![]);
            continue;
        }
        let (key, value) = match line.split_once(": ") {
            Some((key, value)) => (key, value.trim()),
            None => (line.trim_end().strip_suffix(':').ok_or_else(wrong)?, ""),
        };
        let plain = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        if key.is_empty() || !key.chars().all(plain) || map.contains_key(key) {
            return Err(wrong());
        }
        let value = scalar(value).ok_or_else(wrong)?;
        open = value.is_null().then(|| key.to_owned());
        map.insert(key.to_owned(), value);
    }
    Ok(map)
}

/// A value in a line; none if it may be more than it seems.
fn scalar(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let text = match text.starts_with('\'') {
        true => {
            let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
            return (!inner.contains('\'')).then(|| inner.into());
        }
        false => text.split(" #").next().unwrap_or_default().trim_end(),
    };
    match text.chars().next() {
        None | Some('#' | '~') => Some(Value::Null),
        Some(c) if "&*!|>%@`{}[],?\"'".contains(c) => None,
        Some(_) if text.contains(": ") || text.ends_with(':') => None,
        Some(_) => Some(serde_json::from_str(text).unwrap_or_else(|_| text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_as_they_are_written_are_read() {
        let text = "---\n# a set\nmodel_name: google/gemma-2-2b  # the base\nscan: 'gemma: 2'\nk: 32\nskip: true\nempty:\n\
                    transcoders:\n- \"hf://a/b/c.npz\"\n  - x: y\nfeature_input_hook: \"ln2.hook_normalized\"\nlapidary: {\"a\": [1, 2]}\n";
        let map = parse(text).unwrap();
        assert_eq!(
            Value::Object(map),
            serde_json::json!({"model_name": "google/gemma-2-2b", "scan": "gemma: 2", "k": 32, "skip": true, "empty": null,
                               "transcoders": [], "feature_input_hook": "ln2.hook_normalized", "lapidary": {"a": [1, 2]}})
        );
    }

    #[test]
    fn a_file_is_read_as_other_configurations_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, "\u{feff}k: 32\n").unwrap();
        let fields = read(&path).unwrap();
        assert_eq!(fields.get("k"), Some(&Value::from(32)));
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(lapidary_io::MAX_TEXT_BYTES + 1).unwrap();
        let error = read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains("config.yaml: 67108865 bytes, expected at most 67108864"),
            "{error}"
        );
    }

    #[test]
    fn what_could_mean_something_else_is_refused() {
        for line in [
            "a: &b c",
            "a: *b",
            "a: !!python/object:os.system x",
            "a: |",
            "a: {b: c}",
            "a: b: c",
            "a: 'it''s'",
            "a: \"unfinished",
            "no key",
            "? a",
            "a: 1\na: 2",
            "a: google/\n  gemma",
            "a:\n  cross_layer_transcoder",
            "a: 1\n- b",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
