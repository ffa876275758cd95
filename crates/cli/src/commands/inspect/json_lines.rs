//! JSON: the fields of an object, and files with an object on each line.

use super::view::{FIRST, View, brief, cut, size};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of a line of JSON that are read.
const LONGEST_LINE: u64 = 1 << 20;

/// The fields of an object, a line each.
pub fn fields(view: &mut View, value: &Value, all: bool) {
    let Value::Object(map) = value else {
        view.told("value", value.clone(), &brief(value, all));
        return;
    };
    view.told("fields", map.len(), &map.len().to_string());
    let lines = map.iter().map(|(field, value)| {
        let line = format!("{field:<24} {}", brief(value, all));
        (json!({"name": field, "value": value}), line)
    });
    let lines: Vec<_> = lines.collect();
    view.list("values", lines, all);
}

/// JSON lines: the first of them. The others are not read, or counted.
pub fn json_lines(path: &Path, all: bool) -> Result<View> {
    let mut view = View::new("JSON lines");
    let bytes = path
        .metadata()
        .with_context(|| path.display().to_string())?
        .len();
    view.told("size", bytes, &size(bytes));
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut start = vec![];
    file.take(LONGEST_LINE)
        .read_to_end(&mut start)
        .with_context(|| path.display().to_string())?;
    let whole = start.iter().position(|b| *b == b'\n');
    let line = &start[..whole.unwrap_or(start.len())];
    let text = String::from_utf8_lossy(line);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        view.line(if bytes == 0 {
            "no line"
        } else {
            "the first line is empty"
        });
        return Ok(view);
    }
    if whole.is_none() && bytes > LONGEST_LINE {
        view.line(format!(
            "the first line is longer than {}, and begins",
            size(LONGEST_LINE)
        ));
        view.line(cut(text));
        view.store("first_line", cut(text));
        return Ok(view);
    }
    let value: Value = serde_json::from_str(&lapidary_io::python_json(text))
        .with_context(|| format!("{}: line 1 is not valid JSON", path.display()))?;
    view.line("of the first line:");
    fields(&mut view, &value, all);
    if value.get("step").is_some()
        && let Some(last) = last_line(path)?
        && last != value
    {
        view.line("of the last line:");
        view.store("last_line", last.clone());
        if let Value::Object(map) = &last {
            for (field, value) in map.iter().take(FIRST) {
                view.line(format!("{field:<24} {}", brief(value, all)));
            }
        }
    }
    Ok(view)
}

/// The last whole line of a log, if it is JSON.
pub fn last_line(path: &Path) -> Result<Option<Value>> {
    let named = || path.display().to_string();
    let mut file = File::open(path).with_context(named)?;
    let length = file.metadata().with_context(named)?.len();
    let from = length.saturating_sub(LONGEST_LINE);
    file.seek(SeekFrom::Start(from)).with_context(named)?;
    let mut end = vec![];
    file.take(LONGEST_LINE)
        .read_to_end(&mut end)
        .with_context(named)?;
    let text = String::from_utf8_lossy(&end);
    let lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    Ok(lines
        .take(2)
        .find_map(|line| serde_json::from_str(&lapidary_io::python_json(line)).ok()))
}
