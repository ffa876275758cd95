//! Checkpoints as they lie about: saved from the bare model, in f64, with another unembedding than
//! the configuration says, in shards without an index, or in a form that is not read. What they
//! come to is what `transformers` makes of them (`scripts/make_model_fixtures.py`).

use crate::fixtures::{at, close, expected, model, model_folder};
use burn::tensor::Device;
use lapidary_io::tensors::TensorWriter;
use lapidary_model::{HookPoint, HookedRun, LanguageModel, Simplify, TensorFile};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::path::Path;

fn load(folder: &Path) -> LanguageModel {
    LanguageModel::load(folder.to_str().unwrap(), &Device::flex()).unwrap()
}

fn error_of(folder: &Path) -> String {
    let loaded = LanguageModel::load(folder.to_str().unwrap(), &Device::flex());
    loaded.map(|_| ()).unwrap_err().to_string()
}

/// A copy of a fixture whose tensors are renamed or left out, and whose configuration is changed.
fn changed(
    name: &str,
    rename: &dyn Fn(&str) -> Option<String>,
    config: Value,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = model_folder(name);
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let views: Vec<(String, TensorView<'_>)> = file
        .tensors()
        .into_iter()
        .filter_map(|(name, view)| Some((rename(&name)?, view)))
        .collect();
    let written = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), written).unwrap();
    let text = std::fs::read_to_string(from.join("config.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    for (key, new) in config.as_object().unwrap() {
        value[key] = new.clone();
    }
    std::fs::write(folder.path().join("config.json"), value.to_string()).unwrap();
    folder
}

#[test]
fn bare_checkpoints_of_every_family_compute_what_whole_ones_do() {
    for (name, prefix) in [
        ("gpt2", "transformer."),
        ("neox", "gpt_neox."),
        ("llama-gqa", "model."),
        ("llama-tied", "model."),
        ("mistral", "model."),
        ("qwen2", "model."),
        ("qwen3", "model."),
        ("gemma2", "model."),
        ("gemma3", "model."),
        ("opt", "model."),
        ("phi", "model."),
    ] {
        // As the base model's `save_pretrained` names them; the unembedding belongs to the language
        // model.
        let bare = |tensor: &str| tensor.strip_prefix(prefix).map(str::to_owned);
        let folder = changed(name, &bare, json!({}));
        let model = load(folder.path());
        let expected = expected(name);
        let hook = "blocks.1.hook_resid_post";
        close(
            &at(&model, &expected.tokens, hook),
            &expected.values[hook],
            1e-4,
            name,
        );
        let run = HookedRun {
            logits: true,
            ..Default::default()
        };
        let logits = model.run(model.tokens(&expected.tokens).unwrap(), &run);
        if model.config().tied {
            let logits = logits.unwrap().logits.unwrap().into_data();
            let logits: Vec<f32> = logits.iter::<f32>().collect();
            close(&logits, &expected.values["logits"], 1e-4, name);
            assert!(model.warnings().is_empty(), "{:?}", model.warnings());
        } else {
            let error = logits.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("no unembedding"), "{name}: {error}");
            assert!(model.warnings()[0].contains("logits cannot"), "{name}");
            let capture = [HookPoint::Logits];
            let run = HookedRun {
                capture: &capture,
                ..Default::default()
            };
            assert!(model.run(model.tokens(&[[1]]).unwrap(), &run).is_err());
            assert!(model.check_head().is_err());
            assert!(
                model
                    .simplified(Simplify {
                        fold_norms: true,
                        ..Default::default()
                    })
                    .is_ok()
            );
        }
    }
}

#[test]
fn a_bare_checkpoint_that_transformers_saved_is_read() {
    let (model, expected) = (model("bare-llama"), expected("bare-llama"));
    for (name, values) in &expected.values {
        close(&at(&model, &expected.tokens, name), values, 1e-4, name);
    }
    assert!(model.warnings().is_empty(), "{:?}", model.warnings());
}

#[test]
fn another_head_in_the_file_wins_over_a_configuration_that_ties() {
    let (model, expected) = (
        model("tied-but-other-head"),
        expected("tied-but-other-head"),
    );
    close(
        &at(&model, &expected.tokens, "logits"),
        &expected.values["logits"],
        1e-4,
        "logits",
    );
    let [warning] = model.warnings() else {
        panic!("{:?}", model.warnings());
    };
    assert!(
        warning.contains("tie_word_embeddings") && warning.contains("lm_head.weight"),
        "{warning}"
    );
    assert!(!model.config().tied);
}

#[test]
fn the_embedding_stored_once_more_as_head_is_no_reason_to_warn() {
    let from = model_folder("llama-tied");
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut views = file.tensors();
    views.push((
        "lm_head.weight".into(),
        file.tensor("model.embed_tokens.weight").unwrap(),
    ));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("model.safetensors"),
        safetensors::serialize(views, None).unwrap(),
    )
    .unwrap();
    std::fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let model = load(folder.path());
    assert!(
        model.config().tied && model.warnings().is_empty(),
        "{:?}",
        model.warnings()
    );
}

#[test]
fn tensors_that_nothing_reads_are_named_and_buffers_are_not() {
    // One layer of three is left unread.
    let folder = changed(
        "llama-gqa",
        &|name| Some(name.into()),
        json!({"num_hidden_layers": 2}),
    );
    let model = load(folder.path());
    let [warning] = model.warnings() else {
        panic!("{:?}", model.warnings());
    };
    for part in [
        "9 tensors",
        "`model.layers.2.input_layernorm.weight`",
        ", …",
    ] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    // GPT-2's masks, and what older files of other families have.
    assert!(load(&model_folder("gpt2-sharded")).warnings().is_empty());
    let buffers = [
        "attention.bias",
        "attention.masked_bias",
        "attention.rotary_emb.inv_freq",
    ];
    let from = model_folder("neox");
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut views = file.tensors();
    let any = file.tensor("gpt_neox.final_layer_norm.bias").unwrap();
    for buffer in buffers {
        views.push((format!("gpt_neox.layers.0.{buffer}"), any.clone()));
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |views: &Vec<(String, TensorView<'_>)>| {
        let file = safetensors::serialize(views.clone(), None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    };
    std::fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    write(&views);
    assert!(
        load(folder.path()).warnings().is_empty(),
        "{:?}",
        load(folder.path()).warnings()
    );
    views.push(("gpt_neox.adapter.weight".into(), any));
    write(&views);
    let warnings = load(folder.path()).warnings().to_vec();
    assert!(
        warnings[0].contains("1 tensor of the file: `gpt_neox.adapter.weight`"),
        "{warnings:?}"
    );
}

#[test]
fn weights_in_f64_and_numbers_that_only_python_writes_are_read() {
    let text = std::fs::read_to_string(model_folder("llama-f64").join("config.json")).unwrap();
    assert!(text.contains("NaN") && text.contains("-Infinity"));
    let (model, expected) = (model("llama-f64"), expected("llama-f64"));
    close(
        &at(&model, &expected.tokens, "logits"),
        &expected.values["logits"],
        1e-4,
        "logits",
    );
    // Integers are no weights.
    let bytes = std::fs::read(model_folder("llama-gqa").join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (dtype, size) in [
        (Dtype::I8, 1),
        (Dtype::BOOL, 1),
        (Dtype::I64, 8),
        (Dtype::F8_E4M3, 1),
    ] {
        let data = vec![0; 40 * size];
        let mut views = file.tensors();
        views.retain(|(name, _)| name != "model.norm.weight");
        let view = TensorView::new(dtype, vec![40], &data).unwrap();
        views.push(("model.norm.weight".into(), view));
        let folder = tempfile::tempdir().unwrap();
        let config = model_folder("llama-gqa").join("config.json");
        std::fs::copy(config, folder.path().join("config.json")).unwrap();
        let written = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), written).unwrap();
        let error = error_of(folder.path());
        let says =
            error.contains("`model.norm.weight` has dtype") && error.contains("expected floats");
        assert!(says, "{error}");
    }
}

#[test]
fn a_mistral_without_the_key_of_its_window_has_one_of_4096() {
    let (model, expected) = (
        model("mistral-no-window-key"),
        expected("mistral-no-window-key"),
    );
    assert_eq!(model.config().layers[0].window, Some(4096));
    let logits = at(&model, &expected.tokens, "logits");
    let d_vocab = model.config().d_vocab;
    let rows = expected
        .positions
        .iter()
        .flat_map(|p| &logits[p * d_vocab..(p + 1) * d_vocab]);
    close(
        &rows.copied().collect::<Vec<_>>(),
        &expected.values["logits"],
        1e-4,
        "logits",
    );
}

#[test]
fn shards_without_an_index_are_read_by_their_names() {
    let from = model_folder("gpt2-sharded");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&from).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().contains("index") {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let expected = expected("gpt2-sharded");
    close(
        &at(&load(folder.path()), &expected.tokens, "logits"),
        &expected.values["logits"],
        1e-4,
        "logits",
    );
    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = error_of(folder.path());
    let says = error.contains("model-00002-of-00002.safetensors is missing")
        && error.contains("1 of 2 shards");
    assert!(says, "{error}");
}

#[test]
fn a_folder_that_lacks_what_is_needed_says_what_lies_there() {
    let with = |files: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let target = folder.path().join(file);
            match *file {
                "config.json" => {
                    std::fs::copy(model_folder("llama-gqa").join("config.json"), target).unwrap();
                }
                _ => std::fs::write(target, "x").unwrap(),
            }
        }
        error_of(folder.path())
    };
    for (files, parts) in [
        (
            &["config.json", "pytorch_model.bin"][..],
            &[
                "model.safetensors is missing",
                "pytorch_model.bin",
                "python -c",
                "save_pretrained",
            ][..],
        ),
        (
            &["config.json", "tf_model.h5"],
            &["tf_model.h5", "save_pretrained"],
        ),
        (
            &["llama.Q4_K_M.gguf"],
            &["config.json is missing", "give the GGUF file itself"],
        ),
        (
            &["config.json", "a.gguf"],
            &["give the GGUF file itself", "a.gguf"],
        ),
        (
            &["consolidated.00.pth", "params.json"],
            &[
                "config.json is missing",
                "consolidated.00.pth",
                "Hugging Face",
            ],
        ),
        (
            &["adapter_config.json", "adapter_model.safetensors"],
            &["adapter", "merge"],
        ),
        (
            &["config.json", "weights.safetensors"],
            &["weights.safetensors", "name it model.safetensors"],
        ),
        (
            &["model.safetensors"],
            &["config.json is missing", "found model.safetensors"],
        ),
        (&[], &["config.json is missing", "found nothing"]),
    ] {
        let error = with(files);
        for part in parts {
            assert!(error.contains(part), "{files:?}: {part}: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_tensor_file_tells_f64_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut written = TensorWriter::default();
    written.f32("x", &[1], &[1.5]);
    written.write(&path, None).unwrap();
    assert!(TensorFile::open(&path).unwrap().read("x").is_ok());
    let value = 1.0e-3_f64.to_le_bytes();
    let view = TensorView::new(Dtype::F64, vec![1], &value).unwrap();
    std::fs::write(&path, safetensors::serialize([("x", view)], None).unwrap()).unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.read("x").unwrap(), (vec![1], vec![1.0e-3_f32]));
    assert_eq!(file.tensors().next().unwrap().1, "F64");
}
