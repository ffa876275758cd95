//! Models by name from the Hugging Face hub, through its shared cache.

use crate::ModelError;
use crate::tensor_file::Index;
use hf_hub::{Cache, Repo, api::sync::ApiBuilder};
use std::path::{Path, PathBuf};

/// The folder of a model's files, fetched into the hub's cache unless they are there. `HF_HOME`, `HF_ENDPOINT`,
/// `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean in Python.
pub(crate) fn fetch(name: &str) -> Result<PathBuf, ModelError> {
    let not_found = |problem: String| ModelError::NotFound {
        model: name.into(),
        problem,
    };
    if !is_repository_name(name) {
        return Err(not_found(
            "it is no folder here, nor a hub name such as `openai-community/gpt2`, nor `embedded`"
                .into(),
        ));
    }
    let offline = std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|v| matches!(v.to_lowercase().as_str(), "1" | "true" | "yes" | "on"));
    if offline {
        let cache = Cache::from_env().repo(Repo::model(name.into()));
        let config = cache.get("config.json").ok_or_else(|| {
            not_found("HF_HUB_OFFLINE forbids fetching and the hub's cache does not hold it".into())
        })?;
        return folder_of(&config)
            .ok_or_else(|| not_found("its cached config.json lies in no folder".into()));
    }
    let mut builder = ApiBuilder::from_env().with_progress(true);
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(|e| not_found(e.to_string()))?;
    let repo = api.model(name.into());
    let fetch = |file: &str| {
        repo.get(file)
            .map_err(|e| not_found(format!("{file}: {e}")))
    };
    let config = fetch("config.json")?;
    // A model without a tokenizer can still be run on token ids.
    let _ = repo.get("tokenizer.json");
    match repo.get("model.safetensors.index.json") {
        Ok(index) => {
            for shard in Index::read(&index)?.shards() {
                fetch(shard)?;
            }
        }
        Err(_) => {
            fetch("model.safetensors")?;
        }
    }
    folder_of(&config).ok_or_else(|| not_found("its cached config.json lies in no folder".into()))
}

fn folder_of(file: &Path) -> Option<PathBuf> {
    file.parent().map(Path::to_path_buf)
}

/// `name` or `owner/name` in the hub's alphabet, so that a mistyped path is never sent anywhere.
fn is_repository_name(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('.')
            && p.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let mut parts = name.split('/');
    let (first, second, rest) = (parts.next(), parts.next(), parts.next());
    rest.is_none() && first.is_some_and(part) && second.is_none_or(part)
}
