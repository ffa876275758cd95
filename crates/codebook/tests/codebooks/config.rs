//! A config reads back, and a wrong one is refused with the reason.

use lapidary_codebook::CodebookConfig;

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
    assert_eq!(config.training_difference(&again), None);
    let set = ["codebook.k=3".to_owned(), "training.log_every=7".to_owned()];
    let other = CodebookConfig::parse("other", text, &set).unwrap();
    let found = config.training_difference(&other);
    assert_eq!(found, Some(("codebook.k", "2".into(), "3".into())));
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
            ["digits: found 2", "200 states in base 10"],
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
