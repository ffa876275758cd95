//! Folders that are not a dictionary but lead to one, or say what they are; and what is in the way
//! of one.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{Architecture, ArchitectureKind, Dictionary, ModelLoading, Sites};
use lapidary_formats::{Format, describe, detect, open, save};
use serde_json::json;

use crate::folder::{D, F, dictionary};

fn saved(place: &Path) -> Dictionary {
    let d = dictionary(Architecture::TopK { k: 2 }, true);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    save(&d, place, Format::SaeLens).unwrap();
    d
}

fn error(path: &Path) -> String {
    open(path, None, &Device::flex())
        .map(|_| ())
        .unwrap_err()
        .to_string()
}

#[test]
fn a_runs_folder_leads_to_its_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    saved(&dir.path().join("dictionary"));
    fs::write(dir.path().join("config.toml"), "").unwrap();
    assert_eq!(detect(dir.path()).unwrap(), Format::SaeLens);
    assert!(open(dir.path(), None, &Device::flex()).is_ok());
}

#[test]
fn the_folder_of_a_repository_in_the_hubs_cache_leads_to_its_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("models--someone--coder");
    saved(&repository.join("snapshots/1234/x"));
    saved(&repository.join("snapshots/5678"));
    fs::create_dir(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "5678").unwrap();
    assert!(open(&repository, None, &Device::flex()).is_ok());
    fs::write(repository.join("refs/main"), "1234").unwrap();
    assert!(open(&repository.join("x"), None, &Device::flex()).is_ok());
    fs::remove_dir_all(repository.join("refs")).unwrap();
    let said = error(&repository);
    assert!(said.contains("found 2 and no refs/main"), "{said}");
}

#[test]
fn a_folder_without_a_dictionary_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("checkpoint")).unwrap();
    fs::write(
        at("checkpoint/manifest.json"),
        json!({"format": "lapidary checkpoint"}).to_string(),
    )
    .unwrap();
    let said = error(&at("checkpoint"));
    assert!(said.contains("found a checkpoint of a run"), "{said}");

    fs::create_dir(at("run")).unwrap();
    fs::write(at("run/config.toml"), "").unwrap();
    fs::write(at("run/metrics.jsonl"), "").unwrap();
    let said = error(&at("run"));
    assert!(said.contains("found a run without a dictionary"), "{said}");

    fs::create_dir(at("model")).unwrap();
    fs::write(
        at("model/config.json"),
        json!({"model_type": "gpt2"}).to_string(),
    )
    .unwrap();
    let said = error(&at("model"));
    assert!(said.contains("found a model, expected"), "{said}");

    saved(&at("several/layer_0/a"));
    saved(&at("several/layer_1/b"));
    let said = error(&at("several"));
    assert!(
        said.contains("found 2 dictionaries in the folders layer_0/a, layer_1/b below: name one"),
        "{said}"
    );

    fs::create_dir_all(at("other/texts")).unwrap();
    fs::write(at("other/README.md"), "").unwrap();
    let said = error(&at("other"));
    assert!(
        said.contains("found [README.md] and the folders [texts]"),
        "{said}"
    );
}

#[test]
fn half_of_a_dictionary_says_what_lies_there() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    saved(&place);
    fs::remove_file(place.join("sae_weights.safetensors")).unwrap();
    let said = error(&place);
    assert!(
        said.contains("found [cfg.json, lapidary_sample.safetensors], expected sae_weights.safetensors among them"),
        "{said}"
    );
}

#[test]
fn links_to_the_folder_itself_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    for link in ["a/here", "a/there"] {
        std::os::unix::fs::symlink(".", dir.path().join(link)).unwrap();
    }
    assert!(error(dir.path()).contains("the folders [a]"));
}

#[test]
fn a_state_beside_a_dictionary_is_no_sign_of_another_format() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    saved(&place);
    fs::write(place.join("trainer_state.pt"), "no archive").unwrap();
    assert_eq!(detect(&place).unwrap(), Format::SaeLens);
}

#[test]
fn a_description_needs_no_weights() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    let d = saved(&place);
    let (format, described) = describe(&place, None).unwrap();
    let described = described.unwrap();
    assert_eq!(format, Format::SaeLens);
    assert_eq!(
        (
            described.architecture,
            described.k,
            described.d_in,
            described.d_sae
        ),
        (ArchitectureKind::TopK, Some(2), D, F)
    );
    assert_eq!(described.provenance, d.provenance);
}

#[test]
fn how_a_model_was_loaded_is_kept_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut d = dictionary(Architecture::TopK { k: 2 }, true);
    d.provenance.loading = ModelLoading {
        options: serde_json::from_value(json!({"center_writing_weights": true})).unwrap(),
        ..ModelLoading::default()
    };
    let place = dir.path().join("saelens");
    save(&d, &place, Format::SaeLens).unwrap();
    let read = open(&place, None, &Device::flex()).unwrap();
    assert_eq!(read.provenance.loading, d.provenance.loading);
    for format in [Format::Sparsify, Format::DictionaryLearning] {
        let error = save(&d, &dir.path().join("other"), format)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot hold how the dictionary's model was loaded"),
            "{error}"
        );
    }
    // What is off, and what has no effect, any format holds.
    d.provenance.loading.options =
        serde_json::from_value(json!({"center_writing_weights": false, "device": "cpu"})).unwrap();
    save(&d, &dir.path().join("other"), Format::Sparsify).unwrap();
}

#[test]
fn registered_releases_have_the_options_of_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let centred = |place: &str| {
        let place = dir.path().join(place);
        saved(&place);
        let read = open(&place, None, &Device::flex()).unwrap();
        read.provenance.loading.changes_activations()
    };
    let cached = "models--jbloom--GPT2-Small-SAEs-Reformatted/snapshots/0123";
    assert!(centred(&format!("{cached}/blocks.8.hook_resid_pre")));
    assert!(centred("tommmcgrath/gpt2-small-mlp-out-saes/x"));
    assert!(!centred("someone/GPT2-Small-SAEs-Reformatted/x"));
}

#[test]
fn modules_of_hugging_face_models_are_hook_points() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    let mut d = dictionary(Architecture::Standard, true);
    d.provenance.sites = Sites::autoencoder("model.layers.10");
    d.provenance.loading.class = Some("AutoModelForCausalLM".into());
    save(&d, &place, Format::SaeLens).unwrap();
    let read = open(&place, None, &Device::flex()).unwrap().provenance;
    assert_eq!(read.sites, Sites::autoencoder("blocks.10.hook_resid_post"));
    assert!(read.loading.is_plain());
}

#[test]
fn only_the_files_of_a_dictionary_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d");
    let d = saved(&place);
    for name in [
        "notes.md",
        "layer_norms.safetensors",
        "lapidary_sample_mine.txt",
        "sparsity.safetensors",
    ] {
        fs::write(place.join(name), "years of work").unwrap();
        for format in [Format::SaeLens, Format::Sparsify] {
            let error = save(&d, &place, format).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{name}` beside a dictionary")),
                "{error}"
            );
        }
        assert_eq!(
            fs::read_to_string(place.join(name)).unwrap(),
            "years of work"
        );
        fs::remove_file(place.join(name)).unwrap();
    }
    fs::create_dir(place.join("run")).unwrap();
    let error = save(&d, &place, Format::SaeLens).unwrap_err().to_string();
    assert!(error.contains("`run` beside a dictionary"), "{error}");
    fs::remove_dir(place.join("run")).unwrap();
    save(&d, &place, Format::SaeLens).unwrap();

    let file = dir.path().join("file");
    fs::write(&file, "years of work").unwrap();
    let error = save(&d, &file, Format::SaeLens).unwrap_err().to_string();
    assert!(
        error.contains("is in the way: expected a folder"),
        "{error}"
    );
}
