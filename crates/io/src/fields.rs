//! A JSON object out of a file, asked field by field; an error names file, field, what was found
//! and what was expected.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::IoError;
use crate::json::read_json;

/// Widest activation and largest dictionary that a file may claim; far above any that fits a
/// machine.
const LARGEST: u64 = 1 << 31;

/// The fields of a configuration file.
#[derive(Clone, Debug)]
pub struct Fields {
    path: PathBuf,
    /// Before the names of fields in errors: `trainer.`, for instance.
    within: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads a file as Python would: `NaN` and `Infinity` are values.
    ///
    /// # Errors
    /// When it cannot be read, is very large, or is no JSON object.
    pub fn read(path: &Path) -> Result<Self, IoError> {
        let value = read_json(path).map_err(|e| match e {
            IoError::Json { source, .. } => {
                IoError::format(path, "file", source.to_string(), "a JSON object")
            }
            other => other,
        })?;
        Self::of(path, value)
    }

    /// The fields of what was read from `path` in another notation.
    ///
    /// # Errors
    /// When it is no object.
    pub fn of(path: &Path, value: Value) -> Result<Self, IoError> {
        match value {
            Value::Object(map) => Ok(Self {
                path: path.into(),
                within: String::new(),
                map,
            }),
            other => Err(IoError::format(path, "file", show(&other), "a JSON object")),
        }
    }

    /// The object in a field; without fields if there is none.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn inner(&self, field: &str) -> Result<Self, IoError> {
        let map = match self.map.get(field) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(_) => return Err(self.wrong(field, "an object")),
        };
        Ok(Self {
            path: self.path.clone(),
            within: format!("{}{field}.", self.within),
            map,
        })
    }

    /// The error that `field` is not what was expected.
    #[must_use]
    pub fn wrong(&self, field: &str, expected: &str) -> IoError {
        let found = self.map.get(field).map_or("nothing".to_owned(), show);
        let field = format!("{}{field}", self.within);
        IoError::format(&self.path, field, found, expected)
    }

    /// The value of a field, `null` included.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field)
    }

    /// Whether something other than `null` stands there.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        !matches!(self.map.get(field), None | Some(Value::Null))
    }

    /// A number of things, 1 or more.
    ///
    /// # Errors
    /// When something else or nothing stands there.
    pub fn size(&self, field: &str) -> Result<usize, IoError> {
        self.map
            .get(field)
            .and_then(Value::as_u64)
            .filter(|v| (1..LARGEST).contains(v))
            .and_then(|v| usize::try_from(v).ok())
            .ok_or_else(|| self.wrong(field, "a whole number from 1 to 2147483647"))
    }

    /// A number of things, 1 or more and at most `most`, which is `what`.
    ///
    /// # Errors
    /// When something else or nothing stands there.
    pub fn size_up_to(&self, field: &str, most: usize, what: &str) -> Result<usize, IoError> {
        let size = self.size(field)?;
        match size <= most {
            true => Ok(size),
            false => Err(self.wrong(field, &format!("at most {what} = {most}"))),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool, IoError> {
        match self.map.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(_) => Err(self.wrong(field, "true or false")),
        }
    }

    /// A number, 0 or more.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn number(&self, field: &str, default: f64) -> Result<f64, IoError> {
        match self.map.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|v| v.is_finite() && *v >= 0.0)
                .ok_or_else(|| self.wrong(field, "a number, 0 or more")),
        }
    }

    /// One of a few words; absent or false is none of them.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn only(&self, field: &str, accepted: &[&str]) -> Result<(), IoError> {
        match self.map.get(field) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(Value::String(s)) if accepted.contains(&s.as_str()) => Ok(()),
            Some(_) => Err(self.wrong(field, &format!("one of {accepted:?}"))),
        }
    }

    /// The text in a field, if it is one.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.map.get(field).and_then(Value::as_str)
    }

    /// The field as `T`, if it is one.
    #[must_use]
    pub fn read_as<T: DeserializeOwned>(&self, field: &str) -> Option<T> {
        serde_json::from_value(self.map.get(field)?.clone()).ok()
    }
}

fn show(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 {
        format!("{}…", text.chars().take(60).collect::<String>())
    } else {
        text
    }
}
