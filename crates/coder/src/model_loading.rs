//! How the model of a dictionary from elsewhere was loaded, where that changes its activations.
//! SAELens keeps it in `cfg.json`; the options are those of TransformerLens's `from_pretrained`.
//! Each is applied, without effect here, or refused by name.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::CoderError;

/// What SAELens's metadata say of a dictionary's activations beyond model and hook point. The
/// default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelLoading {
    /// `model_class_name`, if it is not `HookedTransformer`.
    pub class: Option<String>,
    /// `model_from_pretrained_kwargs`.
    pub options: Map<String, Value>,
    /// `hook_head_index`: the one head whose values the coder reads.
    pub head: Option<u64>,
    /// `hook_head_index_out`: the one head whose values a transcoder reconstructs.
    pub head_out: Option<u64>,
    /// `seqpos_slice`: the positions of each sequence that it was trained on.
    pub positions: Option<Value>,
    /// `exclude_special_tokens`: the tokens that it was not trained on.
    pub excluded_tokens: Option<Value>,
}

/// Options that change where and how a model is computed, or how text is padded, and no value but
/// by rounding. `n_ctx` is a limit, which the context of the dictionary keeps; whether a sequence
/// begins with BOS is said by `prepend_bos`.
const WITHOUT_EFFECT: [&str; 20] = [
    "attn_implementation",
    "cache_dir",
    "default_padding_side",
    "default_prepend_bos",
    "device",
    "device_map",
    "force_download",
    "local_files_only",
    "low_cpu_mem_usage",
    "max_memory",
    "move_to_device",
    "n_ctx",
    "n_devices",
    "offload_folder",
    "proxies",
    "resume_download",
    "token",
    "trust_remote_code",
    "use_auth_token",
    "use_safetensors",
];

/// Options that choose other weights of the same model. Whoever names a model has chosen.
const OTHER_WEIGHTS: [&str; 6] = [
    "checkpoint_index",
    "checkpoint_label",
    "checkpoint_value",
    "revision",
    "subfolder",
    "variant",
];

/// What [`ModelLoading`] asks of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadingPlan {
    /// Fold the norms into the matrices that read them (`fold_ln`).
    pub fold_norms: bool,
    /// Centre the weights that write to the residual stream (`center_writing_weights`).
    pub center_writing: bool,
    /// Centre the unembedding (`center_unembed`).
    pub center_unembedding: bool,
    /// Fold the biases of values into attention's output bias (`fold_value_biases`).
    pub fold_value_biases: bool,
    /// Keep only so many layers (`first_n_layers`).
    pub first_layers: Option<usize>,
    /// What has no effect here, one sentence each.
    pub notes: Vec<String>,
}

impl ModelLoading {
    /// Whether nothing is said that a plain model does not do.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Whether activations differ from those that the model makes of the same text as it is.
    #[must_use]
    pub fn changes_activations(&self) -> bool {
        match self.plan(true) {
            Ok(plan) => {
                plan != LoadingPlan {
                    notes: plan.notes.clone(),
                    ..LoadingPlan::default()
                }
            }
            Err(_) => true,
        }
    }

    /// What is to be done to the model. `replaced`: the user chose the model in place of the
    /// metadata.
    ///
    /// # Errors
    /// The metadata ask for something that changes activations and is not done here.
    pub fn plan(&self, replaced: bool) -> Result<LoadingPlan, CoderError> {
        let mut plan = LoadingPlan::default();
        match self.class.as_deref() {
            None | Some("HookedTransformer" | "AutoModelForCausalLM") => {}
            Some(_) => {
                let found = self.class.clone().unwrap_or_default();
                let expected = "HookedTransformer or AutoModelForCausalLM";
                return Err(refused("model_class_name", &found.into(), expected));
            }
        }
        for (field, head) in [
            ("hook_head_index", self.head),
            ("hook_head_index_out", self.head_out),
        ] {
            if let Some(head) = head {
                let expected = "null: a coder of one head encodes stored activations (`encode`), and reads no model here";
                return Err(refused(field, &head.into(), expected));
            }
        }
        for (name, value) in &self.options {
            plan.option(name, value, replaced)?;
        }
        if let Some(positions) = &self.positions {
            plan.notes.push(format!(
                "the dictionary was trained on positions {positions} of each sequence (seqpos_slice), and is used on all"
            ));
        }
        if let Some(tokens) = &self.excluded_tokens {
            plan.notes.push(format!(
                "the dictionary was trained without special tokens (exclude_special_tokens: {tokens}), and is used on all tokens"
            ));
        }
        Ok(plan)
    }
}

impl LoadingPlan {
    fn option(&mut self, name: &str, value: &Value, replaced: bool) -> Result<(), CoderError> {
        if value.is_null() || WITHOUT_EFFECT.contains(&name) {
            return Ok(());
        }
        let field = format!("model_from_pretrained_kwargs.{name}");
        let wrong = |expected: &str| Err(refused(&field, value, expected));
        let flag = match name {
            "center_writing_weights" => Some(&mut self.center_writing),
            "fold_ln" => Some(&mut self.fold_norms),
            "center_unembed" => Some(&mut self.center_unembedding),
            "fold_value_biases" => Some(&mut self.fold_value_biases),
            _ => None,
        };
        if let Some(flag) = flag {
            let Some(on) = value.as_bool() else {
                return wrong("true or false");
            };
            *flag = on;
            return Ok(());
        }
        match name {
            "dtype" | "torch_dtype" => {
                let dtype = value.as_str().map(|d| d.trim_start_matches("torch."));
                match dtype {
                    Some("float32" | "auto") => {}
                    Some(dtype @ ("float64" | "float16" | "bfloat16")) => {
                        self.notes.push(format!(
                            "the dictionary's model ran in {dtype}; it runs in float32 here"
                        ));
                    }
                    _ => return wrong("float32, float64, float16 or bfloat16"),
                }
            }
            "first_n_layers" => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if n > 0 => self.first_layers = Some(n),
                _ => return wrong("a number of layers, 1 or more"),
            },
            "refactor_factored_attn_matrices" | "load_in_4bit" | "load_in_8bit" => {
                if *value != Value::Bool(false) {
                    return wrong("false: this is not done here, and it changes activations");
                }
            }
            _ if OTHER_WEIGHTS.contains(&name) => {
                if !replaced {
                    return wrong(
                        "nothing: these are other weights of the model; name a folder that has them as the model",
                    );
                }
                self.notes.push(format!(
                    "the dictionary's model is the one with {name} {value}; the model that was named is taken for it"
                ));
            }
            _ => {
                return wrong(
                    "an option that is known here: this one may change the model's activations",
                );
            }
        }
        Ok(())
    }
}

fn refused(field: &str, found: &Value, expected: &str) -> CoderError {
    let mut shown: String = found.to_string().chars().take(60).collect();
    if let Value::String(text) = found {
        shown = text.chars().take(60).collect();
    }
    CoderError::Invalid {
        place: "the dictionary's metadata".to_owned(),
        message: format!("{field}: found {shown}, expected {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn loading(options: Value) -> ModelLoading {
        ModelLoading {
            options: serde_json::from_value(options).unwrap(),
            ..ModelLoading::default()
        }
    }

    #[test]
    fn an_option_is_applied_without_effect_or_refused() {
        let options = json!({
            "center_writing_weights": true, "fold_ln": true, "center_unembed": false, "fold_value_biases": true,
            "first_n_layers": 3, "device": "cuda", "n_devices": 2, "revision": null, "load_in_8bit": false,
            "dtype": "torch.bfloat16",
        });
        let plan = loading(options).plan(false).unwrap();
        let wanted = LoadingPlan {
            center_writing: true,
            fold_norms: true,
            center_unembedding: false,
            fold_value_biases: true,
            first_layers: Some(3),
            notes: vec!["the dictionary's model ran in bfloat16; it runs in float32 here".into()],
        };
        assert_eq!(plan, wanted);
        for (options, message) in [
            (json!({"fold_ln": 1}), "fold_ln: found 1, expected true"),
            (json!({"load_in_4bit": true}), "load_in_4bit: found true"),
            (
                json!({"refactor_factored_attn_matrices": true}),
                "not done here",
            ),
            (json!({"dtype": "int8"}), "dtype: found int8"),
            (json!({"first_n_layers": 0}), "first_n_layers: found 0"),
            (json!({"revision": "step1000"}), "revision: found step1000"),
            (json!({"rope_scaling": {"factor": 2}}), "rope_scaling"),
        ] {
            let error = loading(options).plan(false).unwrap_err().to_string();
            assert!(
                error.starts_with("the dictionary's metadata: model_from_pretrained_kwargs."),
                "{error}"
            );
            assert!(error.contains(message), "{error}");
        }
        let named = loading(json!({"revision": "step1000"})).plan(true).unwrap();
        assert!(named.notes[0].contains("step1000"));
    }

    #[test]
    fn a_head_and_another_class_of_models_are_refused() {
        let of_head = ModelLoading {
            head: Some(3),
            ..ModelLoading::default()
        };
        let error = of_head.plan(false).unwrap_err().to_string();
        assert!(
            error.contains("hook_head_index: found 3, expected null"),
            "{error}"
        );
        let mamba = ModelLoading {
            class: Some("HookedMamba".into()),
            ..ModelLoading::default()
        };
        let error = mamba.plan(false).unwrap_err().to_string();
        assert!(
            error.contains("model_class_name: found HookedMamba"),
            "{error}"
        );
    }
}
