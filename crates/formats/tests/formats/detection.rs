//! Which format lies where.

use std::fs;

use lapidary_formats::{Format, detect};
use serde_json::json;

use crate::folder::fixture;

#[test]
fn formats_are_told_by_their_files() {
    let told = |files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        detect(dir.path()).map_err(|e| {
            e.to_string()
                .replace(&dir.path().display().to_string(), "DIR")
        })
    };
    let (config, weights) = ("config.json", "sae_weights.safetensors");
    assert_eq!(
        told(&[("cfg.json", "{}"), (weights, "")]),
        Ok(Format::SaeLens)
    );
    assert_eq!(told(&[("cfg.json", "{\"d_sae\": 8}")]), Ok(Format::SaeLens));
    assert_eq!(
        told(&[("cfg.json", "{}"), ("sae.safetensors", "")]),
        Ok(Format::Sparsify)
    );
    assert_eq!(
        told(&[("layer_0.safetensors", "")]),
        Ok(Format::CircuitTracer)
    );
    assert_eq!(
        told(&[("W_enc_0.safetensors", ""), ("W_dec_0.safetensors", "")]),
        Ok(Format::CircuitTracer)
    );
    assert_eq!(told(&[("params.npz", "")]), Ok(Format::GemmaScope));
    assert_eq!(told(&[("hyperparams.json", "{}")]), Ok(Format::LlamaScope));
    let typed = json!({"sae_type": "sae"}).to_string();
    assert_eq!(
        told(&[(config, &typed), (weights, "")]),
        Ok(Format::Llamascopium)
    );

    let both = [("cfg.json", "{}"), (weights, ""), ("sae.safetensors", "")];
    assert_eq!(
        told(&both).unwrap_err(),
        "DIR: this could be saelens (cfg.json with sae_weights.safetensors), sparsify (cfg.json with sae.safetensors): name the format"
    );
    let neither = told(&[("README.md", ""), ("model.safetensors", "")]).unwrap_err();
    assert!(
        neither.starts_with("DIR: found [README.md, model.safetensors], expected the files of a dictionary: cfg.json with"),
        "{neither}"
    );
    assert!(
        told(&[])
            .unwrap_err()
            .starts_with("DIR: found no file, expected")
    );
}

#[test]
fn a_file_is_told_by_what_is_in_it() {
    let told = |name: &str| detect(&fixture(name)).unwrap();
    assert_eq!(told("topk.pt"), Format::DictionaryLearning);
    assert_eq!(told("jumprelu.pt"), Format::DictionaryLearning);
    assert_eq!(told("openai_relu.pt"), Format::OpenAi);
    assert_eq!(told("gemma_scope.npz"), Format::GemmaScope);
}

#[test]
fn a_misspelt_format_names_the_likely_one() {
    let error = "sparsfy".parse::<Format>().unwrap_err();
    assert_eq!(error, "found sparsfy, did you mean sparsify?");
    for format in Format::ALL {
        assert_eq!(format.name().parse::<Format>(), Ok(format));
    }
}
