//! A config reads back, and a wrong one is refused with the reason.

use burn::tensor::Device;
use lapidary_codebook::{
    ClassIncremental, CodebookConfig, CodebookTrainer, Data, DataOptions, TokFsm,
};
use std::path::Path;

fn error(text: &str) -> String {
    CodebookConfig::parse("my.toml", text, &[])
        .unwrap_err()
        .to_string()
}

#[test]
fn a_config_reads_back() {
    let text = "training.lr = 3e-3\ncodebook.k = 2\ncodebook.loss = 'vqvae'\n";
    let config = CodebookConfig::parse("my.toml", text, &[]).unwrap();
    let again = CodebookConfig::parse("again", &config.to_toml(), &[]).unwrap();
    assert_eq!(config, again);
    let path = Path::new("run/config.toml");
    config.check_same_training(&again, path, false).unwrap();
    let set = ["codebook.k=3".to_owned(), "training.log_every=7".to_owned()];
    let other = CodebookConfig::parse("other", text, &set).unwrap();
    let error = config.check_same_training(&other, path, false).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("run/config.toml: codebook.k: found 2 in the run, 3 in the config"),
        "{error}"
    );
}

#[test]
fn wrong_configs_name_file_key_found_and_expected() {
    for (text, parts) in [
        (
            "codebook.n_code = 3",
            ["my.toml", "did you mean `codebook.n_codes`"],
        ),
        (
            "codebook.places = ['mlp']",
            ["`codebook.places`: found \"mlp\"", "\"mlp_out\""],
        ),
        (
            "codebook.n_codes = 4",
            ["`codebook.k`: found 8", "at most codebook.n_codes = 4"],
        ),
        ("training.lr = 0", ["`training.lr`: found 0", "more than 0"]),
        (
            "data.states = 200",
            ["my.toml: `data.digits`: found 2", "200 states in base 10"],
        ),
        (
            "data.kind = 'text'",
            ["`model.source`: found \"random\"", "a trained model"],
        ),
    ] {
        let error = error(text);
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

#[test]
fn sizes_that_no_machine_has_memory_for_are_refused_before_anything_is_allocated() {
    for (set, key) in [
        ("data.states=1000000000000000", "data.digits"),
        ("data.base=4000000000", "data.base"),
        (
            "data.sequence_states=100000000000000",
            "data.sequence_states",
        ),
        ("training.batch=100000000000000", "training.batch"),
        (
            "evaluation.sequences=100000000000000",
            "evaluation.sequences",
        ),
        ("model.d_model=4294967296", "model.d_model"),
        ("model.d_mlp=4294967296000", "model.d_mlp"),
        ("model.n_layers=4294967296000", "model.n_layers"),
        ("codebook.n_codes=4294967296", "codebook.n_codes"),
    ] {
        let error = CodebookConfig::parse("my.toml", "", &[set.to_owned()]);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&format!("`{key}`: found ")),
            "{set}: {error}"
        );
    }
    let machine = "data.states = 100000000000\ndata.edges = 1000000\ndata.digits = 19";
    let machine = error(machine);
    assert!(
        machine.contains("`data.states`") && machine.contains("GiB"),
        "{machine}"
    );
    for (set, key) in [
        ("bottleneck.keys=100000000000000", "bottleneck.keys"),
        ("bottleneck.d_key=100000000000000", "bottleneck.d_key"),
        ("data.per_class=100000000000000", "data.per_class"),
    ] {
        let error = ClassIncremental::parse("my.toml", "", &[set.to_owned()]);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(key) && error.contains("GiB"),
            "{set}: {error}"
        );
    }
}

#[test]
fn codes_that_no_machine_has_memory_for_are_refused() {
    let text = "model.d_model = 512\nmodel.n_layers = 1\ncodebook.n_codes = 2000000000";
    let config = CodebookConfig::parse("my.toml", text, &[]).unwrap();
    let DataOptions::TokFsm(options) = &config.data else {
        panic!("a machine")
    };
    let data = Data::TokFsm(TokFsm::new(options.clone()).unwrap());
    let Err(error) = CodebookTrainer::new(&config, data, None, &Device::flex()) else {
        panic!("15 TiB of codes and moments")
    };
    let error = error.to_string();
    assert!(
        error.contains("codebook.n_codes: found 2000000000") && error.contains("GiB"),
        "{error}"
    );
}
