//! `lapidary generate` prints what `transformers` generates (`scripts/make_model_fixtures.py`), and
//! refuses numbers that mean nothing.

use crate::changed_model::model_with;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The model with SentencePiece's tokenizer.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/sentencepiece-like")
}

fn expected() -> Value {
    lapidary_io::read_json(&fixture().join("expected.json")).unwrap()
}

fn lapidary(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command
        .args(arguments)
        .args(["--device", "cpu"])
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn generate_prints_what_transformers_generates() {
    for case in expected()["generated"].as_array().unwrap() {
        let folder = model_with(&fixture(), &case["config"], &case["generation_config"]);
        let path = folder.path().to_str().unwrap();
        let n = case["tokens"].to_string();
        let prompt = case["prompt"].as_str().unwrap();
        let output = lapidary(&[
            "generate",
            prompt,
            "--model",
            path,
            "--temperature",
            "0",
            "--tokens",
            &n,
        ]);
        assert_eq!(
            stdout(&output),
            format!("{}\n", case["text"].as_str().unwrap()),
            "{case}"
        );
    }
}

#[test]
fn generate_refuses_numbers_that_mean_nothing() {
    for (arguments, parts) in [
        (
            &["--temperature", "NaN"][..],
            ["temperature: found NaN", "0 or more"],
        ),
        (
            &["--temperature=-1"],
            ["temperature: found -1", "0 or more"],
        ),
        (
            &["--temperature", "inf"],
            ["temperature: found inf", "finite"],
        ),
        (&["--top-p", "1.5"], ["top-p: found 1.5", "from 0 to 1"]),
        (&["--top-p", "NaN"], ["top-p: found NaN", "from 0 to 1"]),
        (&["--tokens", "0"], ["tokens: found 0", "at least 1"]),
        (&["--strength", "NaN"], ["--strength: found NaN", "finite"]),
    ] {
        let output = lapidary(&[&["generate", "We the people"], arguments].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(
            parts.iter().all(|part| told.contains(part)),
            "{arguments:?}: {told}"
        );
    }
    let output = lapidary(&["generate", "We", "--tokens", "300", "--temperature", "0"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success()
            && told.contains("the model's context has 256 tokens; for a longer text"),
        "{told}"
    );
}
