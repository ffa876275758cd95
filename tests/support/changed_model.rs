//! A model of the fixtures with other configurations.

use serde_json::Value;
use std::path::Path;

/// A copy of the model in the folder `from`, with changes of its configurations.
pub fn model_with(from: &Path, config: &Value, generation: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let mut all: Value = lapidary_io::read_json(&from.join("config.json")).unwrap();
    for (key, value) in config.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    std::fs::write(folder.path().join("config.json"), all.to_string()).unwrap();
    if !generation.is_null() {
        let path = folder.path().join("generation_config.json");
        std::fs::write(path, generation.to_string()).unwrap();
    }
    folder
}
