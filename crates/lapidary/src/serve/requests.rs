//! What a request asks for: queries and JSON bodies, checked field by field.

use serde_json::{Map, Value};

/// Why a request is refused; becomes the answer with status 400.
pub(super) type Problem = String;

/// The named values of a request, each of which is taken once.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Those of a JSON body.
    pub(super) fn of_json(body: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err("body: found another JSON value, expected an object".into()),
            Err(error) => Err(format!("body: not JSON: {error}")),
        }
    }

    /// Those of a query, all of them texts.
    pub(super) fn of_query(query: &str) -> Result<Self, Problem> {
        let mut fields = Map::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if fields.insert(name.clone(), value.into()).is_some() {
                return Err(format!("{name}: given twice"));
            }
        }
        Ok(Self(fields))
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A text of at most so many characters.
    pub(super) fn text(&mut self, name: &str, most: usize) -> Result<Option<String>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => match text.chars().count() {
                count if count > most => Err(format!(
                    "{name}: found {count} characters, expected at most {most}"
                )),
                _ => Ok(Some(text)),
            },
            Some(other) => Err(format!("{name}: found {}, expected a text", short(&other))),
        }
    }

    /// A whole number in a range, from JSON or a query.
    pub(super) fn whole(&mut self, name: &str, most: u64) -> Result<Option<u64>, Problem> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = match &value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        match number.filter(|number| *number <= most) {
            Some(number) => Ok(Some(number)),
            None => Err(format!(
                "{name}: found {}, expected a whole number from 0 to {most}",
                short(&value)
            )),
        }
    }

    /// A finite number, from JSON or a query.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, Problem> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = match &value {
            Value::String(text) => text.parse().ok(),
            value => value.as_f64(),
        };
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!(
                "{name}: found {}, expected a finite number",
                short(&value)
            )),
        }
    }

    /// One of several named choices; the default if none is named.
    pub(super) fn choice<T: Copy + Default>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<T, Problem> {
        let Some(text) = self.text(name, 100)? else {
            return Ok(T::default());
        };
        let chosen = choices.iter().find(|(name, _)| *name == text);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            format!("{name}: found `{text}`, expected {}", names.join(", "))
        })
    }

    /// Refuses what was not taken.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.keys().next() {
            Some(name) => Err(format!(
                "{}: there is no such field",
                short(&name.as_str().into())
            )),
            None => Ok(()),
        }
    }
}

/// What a field that must be there is told by when it is not.
pub(super) fn needed<T>(name: &str, value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(|| format!("{name}: missing"))
}

/// A value in a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A part of a query with its escapes resolved.
fn decoded(text: &str) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| {
                    let digit = char::from(digit.unwrap_or(b'?')).to_digit(16);
                    digit.map(|digit| digit as u8)
                });
                let [Some(high), Some(low)] = digits else {
                    return Err("query: found a % without two hexadecimal digits".into());
                };
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "query: not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_resolved() {
        let mut fields = Fields::of_query("search=%C3%A9t%C3%A9+%26&offset=20&empty=").unwrap();
        assert_eq!(fields.text("search", 10), Ok(Some("été &".into())));
        assert_eq!(fields.whole("offset", 100), Ok(Some(20)));
        assert_eq!(fields.whole("limit", 100), Ok(None));
        assert!(fields.end().unwrap_err().contains("empty"));
        for wrong in ["a=%", "a=%zz", "a=%ff", "a=1&a=2"] {
            assert!(Fields::of_query(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let body = br#"{"latent": -1, "strength": "much", "prompt": 7, "text": "long"}"#;
        let mut fields = Fields::of_json(body).unwrap();
        let problem = fields.whole("latent", 9).unwrap_err();
        assert_eq!(
            problem,
            "latent: found -1, expected a whole number from 0 to 9"
        );
        assert!(
            fields
                .number("strength")
                .unwrap_err()
                .starts_with("strength: found")
        );
        assert!(
            fields
                .text("prompt", 9)
                .unwrap_err()
                .starts_with("prompt: found 7")
        );
        assert!(
            fields
                .text("text", 3)
                .unwrap_err()
                .contains("found 4 characters")
        );
        assert_eq!(needed::<u64>("seed", None), Err("seed: missing".into()));
        for wrong in ["", "[1]", "{", "{\"a\": 1} x"] {
            assert!(
                Fields::of_json(wrong.as_bytes())
                    .unwrap_err()
                    .starts_with("body: ")
            );
        }
    }
}
