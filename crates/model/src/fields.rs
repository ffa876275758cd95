//! The fields of a `config.json`.

use crate::ModelError;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What transformers' configuration class of a family says of the keys that are read.
#[derive(Deserialize)]
pub(crate) struct Class {
    /// What a key means that is absent.
    pub defaults: Map<String, Value>,
    /// Keys that may be `null`.
    pub nullable: Vec<String>,
    /// Other spellings of keys, which come first.
    pub aliases: Map<String, Value>,
}

/// The class of a `model_type` (`scripts/check_config_defaults.py` writes and checks the file).
pub(crate) fn class(kind: &str) -> Option<Class> {
    let mut all: Map<String, Value> = serde_json::from_str(include_str!("defaults.json")).ok()?;
    serde_json::from_value(all.remove(kind)?).ok()
}

/// A `config.json` whose fields are read one by one, with errors that name file and field.
///
/// As in transformers a key that is absent has the default of the family's class, and `null` is a
/// value: none.
pub(crate) struct Fields {
    pub path: PathBuf,
    pub value: Value,
    class: Class,
}

impl Fields {
    /// # Errors
    /// A key is `null` that may not be.
    pub fn new(path: &Path, value: Value, class: Class) -> Result<Self, ModelError> {
        let fields = Self {
            path: path.into(),
            value,
            class,
        };
        let null = |field: &&String| fields.value.get(*field).is_some_and(Value::is_null);
        let keys = fields.class.defaults.keys();
        let mut wrong = keys.filter(|key| !fields.class.nullable.contains(key));
        match wrong.find(null) {
            Some(field) => Err(fields.wrong(field, "a value")),
            None => Ok(fields),
        }
    }

    pub fn wrong(&self, field: &str, expected: &str) -> ModelError {
        ModelError::Field {
            path: self.path.clone(),
            field: field.into(),
            found: self.raw(field).map_or("nothing".into(), Value::to_string),
            expected: expected.into(),
        }
    }

    /// The file's value, `null` included, or the class's default.
    fn raw(&self, field: &str) -> Option<&Value> {
        let own = |(_, own): &(&String, &Value)| own.as_str() == Some(field);
        let alias = self.class.aliases.iter().find(own);
        let alias = alias.and_then(|(other, _)| self.value.get(other));
        let found = alias.or_else(|| self.value.get(field));
        found.or_else(|| self.class.defaults.get(field))
    }

    pub fn get(&self, field: &str) -> Option<&Value> {
        self.raw(field).filter(|value| !value.is_null())
    }

    /// A size that has to be there.
    pub fn size(&self, field: &str) -> Result<usize, ModelError> {
        self.optional_size(field)?
            .ok_or_else(|| self.wrong(field, "a whole number"))
    }

    /// A size that may be none.
    pub fn optional_size(&self, field: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(field, "a whole number")),
        }
    }

    /// A number that has to be there.
    pub fn number(&self, field: &str) -> Result<f64, ModelError> {
        self.optional_number(field)?
            .ok_or_else(|| self.wrong(field, "a number"))
    }

    /// A number that may be absent, but not `null`: of a key that is no default of the class.
    pub fn number_or(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.raw(field) {
            None => Ok(default),
            Some(_) => self.number(field),
        }
    }

    /// A number that may be none.
    pub fn optional_number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(field, "a number")),
            },
        }
    }

    /// The number of layers: bounded here, since a list of that length is made of it.
    pub fn layers(&self, field: &str) -> Result<usize, ModelError> {
        match self.size(field)? {
            n @ 1..=4096 => Ok(n),
            _ => Err(self.wrong(field, "a number of layers from 1 to 4096")),
        }
    }

    /// Refuses a switch that is not at the setting that is implemented.
    pub fn only(&self, field: &str, implemented: bool) -> Result<(), ModelError> {
        let value = self.get(field);
        let as_it_is = value.map_or(Some(false), Value::as_bool);
        match as_it_is == Some(implemented) {
            true => Ok(()),
            false => Err(self.wrong(field, &implemented.to_string())),
        }
    }

    /// A switch; off where the family's class does not have it, whatever the file says.
    pub fn flag(&self, field: &str) -> Result<bool, ModelError> {
        if !self.class.defaults.contains_key(field) {
            return Ok(false);
        }
        let value = self.get(field).and_then(Value::as_bool);
        value.ok_or_else(|| self.wrong(field, "true or false"))
    }

    /// A token id. A negative one is no token's.
    pub fn token(&self, field: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.tokens(field)?.first().copied())
    }

    /// A token id or a list of them.
    pub fn tokens(&self, field: &str) -> Result<Vec<u32>, ModelError> {
        tokens(self.get(field)).ok_or_else(|| self.wrong(field, "a token id or a list of them"))
    }
}

/// Token ids of a number or a list of numbers, negative ones left out; `None` where it is something
/// else.
pub(crate) fn tokens(value: Option<&Value>) -> Option<Vec<u32>> {
    let list = match value {
        None | Some(Value::Null) => return Some(vec![]),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let id = |value: &Value| match value.as_i64()? {
        n if n < 0 => Some(None),
        n => u32::try_from(n).ok().map(Some),
    };
    let ids: Option<Vec<Option<u32>>> = list.iter().map(id).collect();
    Some(ids?.into_iter().flatten().collect())
}
