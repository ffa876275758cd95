//! One function for each reader. Where the first byte chooses, what is chosen is in the function's
//! documentation.

use crate::folders::{
    CONFIGURED, checkpoint as write_checkpoint, configured, copy, fixture, folder,
    old_checkpoint as write_old_checkpoint, scratch,
};
use crate::folders::{source, store as write_store};
use burn::tensor::Device;
use lapidary_activations::{Corpus, Store, StoreManifest};
use lapidary_evaluation::synthetic::SyntheticConfig;
use lapidary_features::{read_examples, read_features};
use lapidary_formats::container::Container;
use lapidary_formats::open;
use lapidary_io::{python_json, read_json};
use lapidary_model::pretrain::PretrainConfig;
use lapidary_model::{LanguageModel, ModelConfig, TensorFile, Tokenizer, read_hub_answer};
use lapidary_sae::{Recipe, TrainingRun, checkpoint as checkpoints, hook_points};
use std::fs;
use std::path::{Path, PathBuf};

/// Writes the bytes as a file of [`scratch`].
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = scratch().join(name);
    fs::write(&path, bytes).expect("a temporary file");
    path
}

/// The first byte as a choice among `among`, and the rest.
fn choice<T: Copy>(among: &[T], bytes: &[u8]) -> Option<(T, Vec<u8>)> {
    let (first, rest) = bytes.split_first()?;
    Some((among[usize::from(*first) % among.len()], rest.to_vec()))
}

/// `config.json` of a model of any family: an error, or sizes that can be used.
pub fn config(bytes: &[u8]) {
    if let Ok(config) = ModelConfig::read(&file("config.json", bytes)) {
        let _ = config.n_params();
    }
}

/// The same beside the weights of a small model, which its sizes may not fit. The first byte
/// chooses the model.
pub fn model_config(bytes: &[u8]) {
    let Some((model, bytes)) = choice(&MODELS, bytes) else {
        return;
    };
    let folder = folder(model, |path| copy(&fixture("models").join(model), path));
    fs::write(folder.join("config.json"), bytes).expect("a temporary file");
    let _ = LanguageModel::load(&folder.to_string_lossy(), &Device::flex());
}

/// Small models, one a family.
pub(crate) const MODELS: [&str; 10] = [
    "gpt2-sharded",
    "llama-tied",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "neox",
    "opt",
    "phi",
];

/// `tokenizer.json`: an error, or a tokenizer that makes tokens of a text and a text of tokens.
pub fn tokenizer(bytes: &[u8]) {
    let path = file("tokenizer.json", bytes);
    if let Ok(tokenizer) = Tokenizer::read(&path, Some(0), &[0]) {
        for text in [
            "The Congress of the United States ",
            "",
            "été 🦀\n\u{feff} a\0b",
        ] {
            if let Ok(tokens) = tokenizer.encode(text) {
                let _ = tokenizer.decode(&tokens);
            }
        }
        let _ = tokenizer.encode_batch(vec!["war and peace", ""]);
        for token in [0, 1, 7, u32::MAX] {
            let _ = tokenizer.token_text(token);
        }
        let _ = (tokenizer.len(), tokenizer.to_json());
    }
}

/// `model.safetensors.index.json` beside two shards: an error, or the model.
pub fn index(bytes: &[u8]) {
    let of = fixture("models/gpt2-sharded");
    let folder = folder("index", |path| copy(&of, path));
    fs::write(folder.join("model.safetensors.index.json"), bytes).expect("a temporary file");
    let _ = LanguageModel::load(&folder.to_string_lossy(), &Device::flex());
}

/// A safetensors file: an error, or tensors that can all be asked for.
pub fn safetensors(bytes: &[u8]) {
    let path = file("model.safetensors", bytes);
    if let Ok(file) = TensorFile::open(&path) {
        let names: Vec<String> = file.tensors().map(|(name, ..)| name.to_owned()).collect();
        for name in names {
            let _ = file.read(&name);
        }
    }
}

/// A GGUF file: an error, or a model.
pub fn gguf(bytes: &[u8]) {
    let path = file("model.gguf", bytes);
    let _ = LanguageModel::load(&path.to_string_lossy(), &Device::flex());
}

/// A file of a store of activations, by the first byte its manifest or one of two shards: an error,
/// or rows.
pub fn store(bytes: &[u8]) {
    let Some((name, bytes)) = choice(&STORE, bytes) else {
        return;
    };
    let folder = folder("store", write_store);
    let path = folder.join(name);
    let good = fs::read(&path).expect("a file of the store");
    fs::write(&path, bytes).expect("a temporary file");
    rows(&folder);
    fs::write(&path, good).expect("a temporary file");
}

pub(crate) const STORE: [&str; 3] = [
    "manifest.json",
    "shard-000000.safetensors",
    "shard-000001.safetensors",
];

/// Everything that is read of a store.
fn rows(folder: &Path) {
    let _ = StoreManifest::read(folder);
    let _ = Store::verify(folder, &mut |_| ());
    let Ok(store) = Store::open(folder) else {
        return;
    };
    let rows = store.rows().min(64);
    for hook in store.hooks() {
        let _ = store.read(&hook.name, 0..rows);
    }
    let _ = store.places(0..rows);
}

/// A file of a cache of SAELens, by the first byte one of two Arrow files or a JSON file beside
/// them: an error, or rows.
pub fn arrow(bytes: &[u8]) {
    let Some((name, bytes)) = choice(&ARROW, bytes) else {
        return;
    };
    let folder = folder("arrow", |path| {
        copy(&fixture("saelens_cache/float32"), path)
    });
    let path = folder.join(name);
    let good = fs::read(&path).expect("a file of the cache");
    fs::write(&path, bytes).expect("a temporary file");
    rows(&folder);
    fs::write(&path, good).expect("a temporary file");
}

pub(crate) const ARROW: [&str; 4] = [
    "data-00000-of-00002.arrow",
    "data-00001-of-00002.arrow",
    "state.json",
    "dataset_info.json",
];

/// A corpus; the first byte chooses its extension: an error, or documents.
pub fn corpus(bytes: &[u8]) {
    let Some((name, bytes)) = choice(&CORPORA, bytes) else {
        return;
    };
    let path = file(name, &bytes);
    let path = path.to_string_lossy();
    for corpus in [Corpus::open(&path, "text"), Corpus::labels(&path, "label")] {
        let Ok(corpus) = corpus else { return };
        let _ = corpus
            .documents()
            .take(1 << 12)
            .filter_map(Result::ok)
            .count();
    }
}

pub(crate) const CORPORA: [&str; 10] = [
    "a.txt",
    "a.jsonl",
    "a.json",
    "a.parquet",
    "a.txt.gz",
    "a.jsonl.gz",
    "a.json.gz",
    "a.txt.zst",
    "a.jsonl.zst",
    "a.json.zst",
];

/// A table, by the first byte `features.parquet` or `examples.parquet`: an error, or its rows.
pub fn table(bytes: &[u8]) {
    let Some((name, bytes)) = choice(&TABLES, bytes) else {
        return;
    };
    let path = file(name, &bytes);
    let _ = match name {
        "features.parquet" => read_features(&path).map(|rows| rows.len()),
        _ => read_examples(&path).map(|rows| rows.len()),
    };
}

pub(crate) const TABLES: [&str; 2] = ["features.parquet", "examples.parquet"];

/// A recipe, by the first byte of `train`, `synthetic` or `pretrain`: an error, or a recipe that
/// reads the same when it is written out.
pub fn recipe(bytes: &[u8]) {
    let Some((kind, bytes)) = choice(&RECIPES, bytes) else {
        return;
    };
    let Ok(text) = String::from_utf8(bytes) else {
        return;
    };
    match kind {
        "train" => {
            if let Ok(recipe) = Recipe::parse("recipe.toml", &text, &[]) {
                let _ = (recipe.steps(), recipe.architecture(), recipe.exclusion());
                let _ = hook_points(std::slice::from_ref(&recipe));
                let json = Recipe::from_json(&recipe.to_json());
                assert_eq!(json.as_ref(), Some(&recipe));
                for width in [1, 64] {
                    let _ = recipe.resolve(width);
                }
                let again = Recipe::parse("again.toml", &recipe.to_toml(), &[]);
                assert_eq!(again.map(|r| r.to_toml()).ok(), Some(recipe.to_toml()));
            }
        }
        "synthetic" => {
            let _ = synthetic_recipe(&text);
        }
        _ => {
            let _ = PretrainConfig::load(&file("pretrain.toml", text.as_bytes()), &[]);
        }
    }
}

/// Both halves of a recipe on synthetic activations, as the command takes them apart: its table
/// `synthetic`, and the rest.
fn synthetic_recipe(text: &str) -> Option<()> {
    let mut rest: toml::Table = text.parse().ok()?;
    let mut own = toml::Table::new();
    own.extend(rest.remove_entry("synthetic"));
    SyntheticConfig::parse("recipe.toml", &own.to_string(), &[])
        .ok()?
        .check()
        .ok()?;
    Recipe::parse("recipe.toml", &rest.to_string(), &[]).ok()?;
    Some(())
}

pub(crate) const RECIPES: [&str; 3] = ["train", "synthetic", "pretrain"];

/// A file of a checkpoint of two coders, with checksums or, as older ones, without, chosen by the
/// first byte: an error, or a run that goes on a step.
pub fn checkpoint(bytes: &[u8]) {
    let all = CHECKPOINT.map(|name| [(name, true), (name, false)]);
    let Some(((name, sealed), bytes)) = choice(all.as_flattened(), bytes) else {
        return;
    };
    let folder = match sealed {
        true => folder("checkpoint", write_checkpoint),
        false => folder("checkpoint-2", write_old_checkpoint),
    };
    let path = folder.join(name);
    let good = fs::read(&path).expect("a file of the checkpoint");
    fs::write(&path, bytes).expect("a temporary file");
    let _ = checkpoints::recipes(&folder);
    if let Ok(mut run) = TrainingRun::resume(&folder, source(), &Device::flex()) {
        let _ = run.step();
        for coder in 0..run.trainers().len() {
            let _ = run.finish(coder);
        }
    }
    fs::write(&path, good).expect("a temporary file");
}

pub(crate) const CHECKPOINT: [&str; 6] = [
    "manifest.json",
    "coder-0/config.toml",
    "coder-0/state.safetensors",
    "coder-1/config.toml",
    "coder-1/state.safetensors",
    "source/stream.json",
];

/// The one file of a dictionary, PyTorch's, NumPy's or safetensors by the first byte: an error, or
/// tensors that can all be asked for.
pub fn dictionary(bytes: &[u8]) {
    let names = ["ae.pt", "params.npz", "layer_0.safetensors"];
    let Some((name, bytes)) = choice(&names, bytes) else {
        return;
    };
    let folder = folder("dictionary", |_| ());
    for other in names {
        let _ = fs::remove_file(folder.join(other));
    }
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a temporary file");
    if let Ok(file) = Container::open(&path)
        && let Ok(tensors) = file.tensors()
    {
        for name in tensors.names() {
            let shape = tensors.shape(name).unwrap_or_default();
            let _ = tensors.f32_or_infinite(name, &shape);
            let _ = tensors.whole(name);
        }
    }
    let _ = open(&folder, None, &Device::flex());
}

/// The configuration of a dictionary, JSON or YAML, beside its weights; the first byte chooses the
/// format: an error, or the dictionary.
pub fn dictionary_config(bytes: &[u8]) {
    let Some(((format, name), bytes)) = choice(&CONFIGURED, bytes) else {
        return;
    };
    let folder = folder(&format!("configured/{format}"), |path| {
        configured(format, path)
    });
    fs::write(folder.join(name), bytes).expect("a temporary file");
    let _ = open(&folder, None, &Device::flex());
}

/// An answer of a hub: a list of files, header lines, or the address of a redirect. An error, or
/// names that stay in the cache.
pub fn hub(bytes: &[u8]) {
    read_hub_answer(bytes);
}

/// JSON as Python writes it: an error, or a value.
pub fn json(bytes: &[u8]) {
    let path = file("value.json", bytes);
    let _ = read_json::<serde_json::Value>(&path);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(value) = serde_json::from_str::<serde_json::Value>(text)
    {
        // What is JSON already stays what it is.
        let again = serde_json::from_str(&python_json(text));
        assert_eq!(again.ok(), Some(value));
    }
}
