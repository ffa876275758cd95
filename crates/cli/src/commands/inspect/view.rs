//! What was found: printed as lines for people, or as one JSON object.

use anyhow::Result;
use serde_json::{Map, Value};
use std::io::Write;

/// Lines of a list that are shown unless all are asked for.
pub const FIRST: usize = 40;
/// Characters of a value that are shown unless all are asked for.
const WIDEST: usize = 100;

/// Facts in the order in which they are shown.
pub struct View {
    fields: Map<String, Value>,
    lines: Vec<String>,
}

impl View {
    /// That of a thing of this kind.
    pub fn new(kind: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("kind".to_owned(), kind.into());
        Self {
            fields,
            lines: vec![],
        }
    }

    /// A fact that is shown as it is stored.
    pub fn fact(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        let text = match &value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.told(name, value, &text);
    }

    /// A fact that is shown in words.
    pub fn told(&mut self, name: &str, value: impl Into<Value>, text: &str) {
        self.lines.push(format!("{name:<12} {text}"));
        self.store(name, value);
    }

    /// A fact for the JSON object alone.
    pub fn store(&mut self, name: &str, value: impl Into<Value>) {
        let key = name.to_lowercase().replace([' ', '-'], "_");
        self.fields.insert(key, value.into());
    }

    /// A line for people alone.
    pub fn line(&mut self, text: impl Into<String>) {
        self.lines.push(text.into());
    }

    /// A list of things, a line each, of which the first are shown; all of them are in the JSON
    /// object.
    pub fn list(&mut self, name: &str, things: Vec<(Value, String)>, all: bool) {
        let shown = if all { things.len() } else { FIRST };
        for (_, line) in things.iter().take(shown) {
            self.lines.push(line.clone());
        }
        if things.len() > shown {
            let left = things.len() - shown;
            self.lines.push(format!("… and {left} more (--all)"));
        }
        let values: Vec<Value> = things.into_iter().map(|(value, _)| value).collect();
        self.store(name, values);
    }

    /// Writes it.
    pub fn print(&self, out: &mut impl Write, json: bool) -> Result<()> {
        if json {
            let text = serde_json::to_string_pretty(&self.fields)?;
            // JSON leaves these as they are, and some terminals act on them.
            let text: String = text.chars().map(escaped_in_json).collect();
            writeln!(out, "{text}")?;
            return Ok(());
        }
        for line in &self.lines {
            writeln!(out, "{}", printable(line))?;
        }
        Ok(())
    }
}

fn escaped_in_json(c: char) -> String {
    match c {
        '\u{7f}'..='\u{9f}' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    }
}

/// The text with control characters spelled out, so that no file moves a terminal's cursor.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push('⏎'),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// A JSON value in a line: of lists and objects their sizes, of long texts the beginning.
pub fn brief(value: &Value, all: bool) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if !all && items.len() > 8 => {
            return format!("a list of {}", items.len());
        }
        Value::Object(fields) if !all && fields.len() > 4 => {
            return format!("an object of {} fields", fields.len());
        }
        other => other.to_string(),
    };
    match all {
        true => text,
        false => cut(&text),
    }
}

/// The beginning of a text, and how much longer it is.
pub fn cut(text: &str) -> String {
    let count = text.chars().count();
    match count > WIDEST {
        true => {
            let start: String = text.chars().take(WIDEST).collect();
            format!("{start}… ({count} characters)")
        }
        false => text.to_owned(),
    }
}

/// A number of bytes in words.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let mut view = View::new("t\u{1b}[2J");
        view.fact("name", "a\u{1b}]0;x\u{7}b\u{9b}c\nd");
        for json in [false, true] {
            let mut out = vec![];
            view.print(&mut out, json).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(
                text.chars().all(|c| c == '\n' || !c.is_control()),
                "{text:?}"
            );
        }
        let mut out = vec![];
        view.print(&mut out, true).unwrap();
        let read: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read["name"], "a\u{1b}]0;x\u{7}b\u{9b}c\nd");
    }

    #[test]
    fn long_values_are_cut() {
        let long = "x".repeat(5000);
        assert_eq!(
            brief(&long.into(), false),
            format!("{}… (5000 characters)", "x".repeat(100))
        );
        assert_eq!(
            brief(&(0..9).collect::<Vec<_>>().into(), false),
            "a list of 9"
        );
    }
}
