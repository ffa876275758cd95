//! `generation_config.json`: of what it says we read which tokens begin and end a sequence.

use crate::ModelError;
use crate::fields::tokens;
use serde_json::Value;
use std::path::Path;

pub(crate) struct GenerationConfig {
    pub bos: Vec<u32>,
    /// Each ends a text.
    pub eos: Vec<u32>,
}

impl GenerationConfig {
    /// Reads the file, if it is there.
    pub fn read(path: &Path) -> Result<Option<Self>, ModelError> {
        if !path.exists() {
            return Ok(None);
        }
        let value: Value = lapidary_io::read_json(path)?;
        let ids = |field: &str| {
            let found = value.get(field);
            tokens(found).ok_or_else(|| ModelError::Field {
                path: path.into(),
                field: field.into(),
                found: found.map_or("nothing".into(), Value::to_string),
                expected: "a token id or a list of them".into(),
            })
        };
        Ok(Some(Self {
            bos: ids("bos_token_id")?,
            eos: ids("eos_token_id")?,
        }))
    }
}
