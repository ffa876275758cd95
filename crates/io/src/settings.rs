//! A strict reader of TOML: every key is asked for by name, and what nobody asked for is an error
//! that says which key was probably meant.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It is not TOML.
    #[error("{place}: not valid TOML: {message}")]
    Syntax {
        /// The file, or `--set`.
        place: String,
        /// The parser's message with line and column.
        message: String,
    },
    /// It has a key that means nothing.
    #[error("{place}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// The file, or `--set`.
        place: String,
        /// The dotted key.
        key: String,
        /// `; did you mean ..?`, or the keys that the section has.
        hint: String,
    },
    /// A key has a value of the wrong type or out of range.
    #[error("{place}: `{key}`: found {found}, expected {expected}")]
    Value {
        /// The file, or `--set`.
        place: String,
        /// The dotted key.
        key: String,
        /// The value found.
        found: String,
        /// The values allowed.
        expected: String,
    },
}

/// A TOML document as dotted keys, each with the place it came from.
pub struct Reader {
    file: String,
    overridden: BTreeSet<String>,
    values: BTreeMap<String, Value>,
    known: Vec<&'static str>,
}

/// A Rust type that a setting can have.
pub trait FromToml: Sized {
    /// What the type is called in an error.
    fn expected() -> String;
    /// The value, or `None` if it is of another type or out of range.
    fn from_toml(value: &Value) -> Option<Self>;
    /// The value that [`FromToml::from_toml`] reads back.
    fn to_toml(&self) -> Value;
    /// A value of the wrong type as an error shows it.
    fn show_wrong(value: &Value) -> String {
        describe(value)
    }
    /// The value as an error shows it that says that it is out of range.
    fn show(&self) -> String {
        self.to_toml().to_string()
    }
}

/// A type with a fixed set of values, each of which has a name in files.
pub trait Named: Copy + PartialEq + 'static {
    /// All values with their names.
    const NAMES: &'static [(Self, &'static str)];

    /// The name of this value.
    fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(value, _)| *value == self);
        found.map_or("", |(_, name)| name)
    }

    /// The value of this name.
    #[must_use]
    fn named(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(_, n)| *n == name);
        found.map(|(value, _)| *value)
    }
}

impl<T: Named> FromToml for T {
    fn expected() -> String {
        let names = T::NAMES.iter().map(|(_, name)| format!("\"{name}\""));
        format!("one of {}", names.collect::<Vec<_>>().join(", "))
    }
    fn from_toml(value: &Value) -> Option<Self> {
        T::named(value.as_str()?)
    }
    fn to_toml(&self) -> Value {
        Value::String(self.name().to_owned())
    }
    fn show_wrong(value: &Value) -> String {
        match value.as_str() {
            Some(name) => format!("\"{name}\""),
            None => describe(value),
        }
    }
}

impl FromToml for u64 {
    fn expected() -> String {
        "a whole number, 0 or more".to_owned()
    }
    fn from_toml(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(i) => Self::try_from(*i).ok(),
            // 1e6 is how people write a token count, and it is exact.
            Value::Float(f) if f.fract() == 0.0 && (0.0..9.0e15).contains(f) => Some(*f as Self),
            _ => None,
        }
    }
    fn to_toml(&self) -> Value {
        match i64::try_from(*self) {
            Ok(i) => Value::Integer(i),
            Err(_) => Value::Float(*self as f64),
        }
    }
}

impl FromToml for usize {
    fn expected() -> String {
        u64::expected()
    }
    fn from_toml(value: &Value) -> Option<Self> {
        u64::from_toml(value).and_then(|v| Self::try_from(v).ok())
    }
    fn to_toml(&self) -> Value {
        (*self as u64).to_toml()
    }
}

impl FromToml for f64 {
    fn expected() -> String {
        "a finite number".to_owned()
    }
    fn from_toml(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(i) => Some(*i as Self),
            Value::Float(f) if f.is_finite() => Some(*f),
            _ => None,
        }
    }
    fn to_toml(&self) -> Value {
        Value::Float(*self)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl FromToml for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }
    fn from_toml(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn to_toml(&self) -> Value {
        Value::Boolean(*self)
    }
}

impl FromToml for Vec<usize> {
    fn expected() -> String {
        "a list of whole numbers, 0 or more".to_owned()
    }
    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(usize::from_toml).collect()
    }
    fn to_toml(&self) -> Value {
        Value::Array(self.iter().map(usize::to_toml).collect())
    }
}

impl FromToml for Vec<String> {
    fn expected() -> String {
        "a list of strings".to_owned()
    }
    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(String::from_toml).collect()
    }
    fn to_toml(&self) -> Value {
        Value::Array(self.iter().map(String::to_toml).collect())
    }
}

impl FromToml for String {
    fn expected() -> String {
        "a string".to_owned()
    }
    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
    fn to_toml(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Reader {
    /// Reads `text`, named `file` in errors, then applies `set`: items `dotted.key=value`.
    pub fn new(file: &str, text: &str, set: &[String]) -> Result<Self, SettingsError> {
        let table: Table = text
            .parse()
            .map_err(|e: toml::de::Error| SettingsError::Syntax {
                place: file.to_owned(),
                message: e.to_string().trim_end().to_owned(),
            })?;
        let mut values = BTreeMap::new();
        flatten("", table, &mut values);
        let mut overridden = BTreeSet::new();
        for item in set {
            let Some((key, value)) = item.split_once('=') else {
                return Err(SettingsError::Value {
                    place: "--set".to_owned(),
                    key: item.clone(),
                    found: "no `=`".to_owned(),
                    expected: "KEY=VALUE, such as training.lr=1e-3".to_owned(),
                });
            };
            let (key, value) = (key.trim().to_owned(), value.trim());
            values.insert(key.clone(), parse_value(value));
            overridden.insert(key);
        }
        Ok(Self {
            file: file.to_owned(),
            overridden,
            values,
            known: Vec::new(),
        })
    }

    /// The file, or `--set` if the key was overridden there.
    pub fn place(&self, key: &str) -> String {
        if self.overridden.contains(key) {
            "--set".to_owned()
        } else {
            self.file.clone()
        }
    }

    /// The value of `key`, if it is there.
    pub fn optional<T: FromToml>(&mut self, key: &'static str) -> Result<Option<T>, SettingsError> {
        self.known.push(key);
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match T::from_toml(value) {
            Some(v) => Ok(Some(v)),
            None => Err(SettingsError::Value {
                place: self.place(key),
                key: key.to_owned(),
                found: T::show_wrong(value),
                expected: T::expected(),
            }),
        }
    }

    /// The value of `key`, or `default`.
    pub fn or<T: FromToml>(&mut self, key: &'static str, default: T) -> Result<T, SettingsError> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// The value of `key`, which must be one of `names`, or `default`.
    pub fn one_of(
        &mut self,
        key: &'static str,
        names: &[&str],
        default: &str,
    ) -> Result<String, SettingsError> {
        let value: String = self.or(key, default.to_owned())?;
        if names.contains(&value.as_str()) {
            return Ok(value);
        }
        let list = names
            .iter()
            .map(|n| format!("\"{n}\""))
            .collect::<Vec<_>>()
            .join(", ");
        Err(SettingsError::Value {
            place: self.place(key),
            key: key.to_owned(),
            found: format!("\"{value}\""),
            expected: format!("one of {list}"),
        })
    }

    /// The error for a value that is of the right type but cannot be.
    pub fn wrong(&self, key: &str, found: impl std::fmt::Display, expected: &str) -> SettingsError {
        let (found, expected) = (found.to_string(), expected.to_owned());
        SettingsError::Value {
            place: self.place(key),
            key: key.to_owned(),
            found,
            expected,
        }
    }

    /// Complains about the first key that nobody asked for.
    pub fn finish(self) -> Result<(), SettingsError> {
        let unknown = |(key, _): &(&String, &Value)| !self.known.contains(&key.as_str());
        let Some((key, value)) = self.values.iter().find(unknown) else {
            return Ok(());
        };
        let place = self.place(key);
        let section = format!("{key}.");
        if self.known.iter().any(|k| k.starts_with(&section)) {
            return Err(SettingsError::Value {
                place,
                key: key.clone(),
                found: describe(value),
                expected: format!("a table [{key}]"),
            });
        }
        let hint = match self.nearest(key) {
            Some(name) => format!("; did you mean `{name}`?"),
            None => {
                let prefix = key.rsplit_once('.').map_or("", |(p, _)| p);
                let siblings: Vec<&str> = self
                    .known
                    .iter()
                    .filter(|k| k.rsplit_once('.').map_or("", |(p, _)| p) == prefix)
                    .copied()
                    .collect();
                if siblings.is_empty() {
                    String::new()
                } else {
                    format!("; known there: {}", siblings.join(", "))
                }
            }
        };
        Err(SettingsError::UnknownKey {
            place,
            key: key.clone(),
            hint,
        })
    }

    /// The known key that `key` resembles most: in full, or in its last part (the right name in the
    /// wrong table).
    fn nearest(&self, key: &str) -> Option<&'static str> {
        let last = |k: &str| k.rsplit('.').next().unwrap_or_default().to_owned();
        let score = |known: &str| {
            let full = strsim::normalized_damerau_levenshtein(key, known);
            let tail = strsim::normalized_damerau_levenshtein(&last(key), &last(known));
            let same_section =
                key.rsplit_once('.').map(|p| p.0) == known.rsplit_once('.').map(|p| p.0);
            // In the right table only the last part can be misspelt; elsewhere it must match almost
            // exactly.
            if same_section {
                tail
            } else {
                full.max(tail - 0.1)
            }
        };
        self.known
            .iter()
            .map(|k| (score(k), *k))
            .filter(|(s, _)| *s >= 0.5)
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))
            .map(|(_, k)| k)
    }
}

/// `a = {b = 1}` becomes `a.b = 1`. An empty table leaves nothing.
fn flatten(prefix: &str, table: Table, out: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) => flatten(&path, inner, out),
            other => {
                out.insert(path, other);
            }
        }
    }
}

/// A value of `--set` is TOML where it can be, and a plain string otherwise:
/// `--set coder.architecture=topk`.
fn parse_value(text: &str) -> Value {
    format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| if t.len() == 1 { t.remove("v") } else { None })
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A value as an error shows it: its type and itself.
fn describe(value: &Value) -> String {
    let shown = value.to_string();
    let shown = if shown.chars().count() > 60 {
        format!("{}…", shown.chars().take(60).collect::<String>())
    } else {
        shown
    };
    format!("{} {shown}", value.type_str())
}

impl Reader {
    /// The value of a key that has not been read yet. It still has to be read.
    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The choice that a key names and that has not been read yet; `default` if it is absent, or no
    /// such choice, which reading the key will say.
    pub fn peek_as<T: Named>(&self, key: &str, default: T) -> T {
        let named = self.peek(key).and_then(T::from_toml);
        named.unwrap_or(default)
    }

    /// Every dotted key with its value.
    pub fn into_values(self) -> BTreeMap<String, Value> {
        self.values
    }
}
