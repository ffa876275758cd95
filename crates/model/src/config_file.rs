//! Reading a Hugging Face `config.json` as a [`ModelConfig`].

use crate::config::ModelConfig;
use crate::fields::{Fields, class};
use crate::{ModelError, family};
use serde_json::Value;
use std::path::Path;

impl ModelConfig {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// When the file is not JSON, names an unknown architecture, or holds a size that cannot be.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        Self::of_value(path, lapidary_io::read_json(path)?)
    }

    /// Reads the value of a `config.json`; `path` is the file that errors name.
    pub(crate) fn of_value(path: &Path, value: Value) -> Result<Self, ModelError> {
        let kind = value.get("model_type").and_then(Value::as_str);
        let Some(class) = kind.and_then(class) else {
            return Err(ModelError::Architecture {
                path: path.into(),
                found: kind.map_or("absent".into(), |s| format!("{s:?}")),
                known: family::known(),
            });
        };
        let fields = Fields::new(path, value, class)?;
        let config = family::config(&fields)?;
        config.check(&fields)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<(), ModelError> {
        let wrong = |field: &str, found: usize, expected: &str| ModelError::Field {
            path: fields.path.clone(),
            field: field.into(),
            found: found.to_string(),
            expected: expected.into(),
        };
        for (field, size) in [
            ("hidden size", self.d_model),
            ("number of layers", self.n_layers()),
            ("number of heads", self.n_heads),
            ("number of key-value heads", self.n_kv_heads),
            ("head size", self.d_head),
            ("MLP size", self.d_mlp),
            ("vocab_size", self.d_vocab),
            ("context length", self.n_ctx),
        ] {
            if size == 0 || size > 1 << 24 {
                return Err(wrong(field, size, "a size from 1 to 16777216"));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(wrong(
                "num_key_value_heads",
                self.n_kv_heads,
                &format!("a divisor of {}", self.n_heads),
            ));
        }
        for layer in &self.layers {
            if layer.window == Some(0) {
                return Err(wrong("sliding_window", 0, "at least 1"));
            }
            if let Some(rope) = &layer.rope
                && (rope.dims == 0 || !rope.dims.is_multiple_of(2) || rope.dims > self.d_head)
            {
                return Err(wrong(
                    "rotary dimensions",
                    rope.dims,
                    &format!("an even size up to the head size {}", self.d_head),
                ));
            }
        }
        for (field, value) in [
            ("norm epsilon", Some(self.norm_eps)),
            ("attention scale", Some(self.attn_scale)),
            ("embedding scale", Some(self.embed_scale)),
            ("attn_logit_softcapping", self.attn_softcap),
            ("final_logit_softcapping", self.logit_softcap),
        ] {
            if value.is_some_and(|v| !v.is_finite() || v <= 0.0) {
                return Err(ModelError::Field {
                    path: fields.path.clone(),
                    field: field.into(),
                    found: value.map_or("nothing".into(), |v| v.to_string()),
                    expected: "a positive number".into(),
                });
            }
        }
        Ok(())
    }
}
