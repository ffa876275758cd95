//! What a user does to measure a dictionary beyond its figures on text: known features, probes,
//! absorption.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Exit status, standard output, standard error.
fn lapidary(arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    let output = command
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn succeeds(arguments: &[&str]) -> String {
    let (good, out, errors) = lapidary(arguments);
    assert!(good, "{arguments:?}\n{errors}");
    out
}

fn fails(arguments: &[&str]) -> String {
    let (good, _, errors) = lapidary(arguments);
    assert!(
        !good && errors.contains("error:") && !errors.contains("panicked"),
        "{arguments:?}\n{errors}"
    );
    errors
}

#[test]
fn known_features_are_found_and_a_dictionary_from_elsewhere_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (out, data) = (
        folder.path().join("out"),
        folder.path().join("data.safetensors"),
    );
    let (out, data) = (out.to_str().unwrap(), data.to_str().unwrap());
    let recipe = [
        "synthetic",
        "configs/synthetic/topk.toml",
        "--device",
        "cpu",
        "--rows",
        "2000",
        "--json",
        "--set",
        "training.tokens=300000",
        "--set",
        "synthetic.n_features=16",
        "--set",
        "synthetic.d_in=16",
        "--set",
        "synthetic.density=0.1",
        "--set",
        "coder.d_sae=16",
        "--set",
        "coder.k=2",
    ];
    let found = succeeds(&[&recipe[..], &["--out", out, "--data", data]].concat());
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert!(found["mcc"].as_f64().unwrap() > 0.9, "{found}");
    assert_eq!(found["n_features"], 16);
    let file = std::fs::read(data).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("directions").unwrap().shape(), [16, 16]);
    assert_eq!(tensors.tensor("activations").unwrap().shape(), [2000, 16]);
    // The dictionary alone gives the same figures.
    let dictionary = Path::new(out).join("dictionary");
    let again = succeeds(&[&recipe[..], &["--dictionary", dictionary.to_str().unwrap()]].concat());
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&again).unwrap(),
        found
    );
    // Other features are not those that it found.
    let other = succeeds(
        &[
            &recipe[..],
            &[
                "--dictionary",
                dictionary.to_str().unwrap(),
                "--set",
                "seed=5",
            ],
        ]
        .concat(),
    );
    let other: serde_json::Value = serde_json::from_str(&other).unwrap();
    assert!(other["mcc"].as_f64().unwrap() < 0.7);

    let error = fails(&[&recipe[..], &["--set", "synthetic.densty=0.1"]].concat());
    assert!(error.contains("did you mean"), "{error}");
    let error = fails(&["synthetic", "configs/quickstart.toml"]);
    assert!(error.contains("come from no model"), "{error}");
}

#[test]
fn latents_are_probed_and_absorption_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let mut train = vec![
        "train",
        "configs/quickstart.toml",
        "--device",
        "cpu",
        "--out",
        out,
    ];
    for setting in [
        "coder.d_sae=256",
        "coder.k=16",
        "corpus.context=64",
        "training.tokens=10240",
        "training.batch_tokens=512",
        "activations.buffer_tokens=2048",
        "evaluation.tokens=256",
        "features.tokens=0",
    ] {
        train.extend(["--set", setting]);
    }
    succeeds(&train);

    // Two kinds of text that nobody can mistake for one another.
    let task = folder.path().join("task.jsonl");
    let line = |i: usize| match i % 2 {
        0 => format!(
            "{{\"text\": \"The Congress and the Treasury {i} of the United States\", \"label\": \"state\"}}\n"
        ),
        _ => format!(
            "{{\"text\": \"{i} {} {} 7 9 11 13\", \"label\": \"numbers\"}}\n",
            i * 3,
            i + 1000
        ),
    };
    std::fs::write(&task, (0..60).map(line).collect::<String>()).unwrap();
    let task = task.to_str().unwrap();
    let probe = [
        "probe", out, "--task", task, "--device", "cpu", "--k", "1,4", "--json",
    ];
    let found: serde_json::Value = serde_json::from_str(&succeeds(&probe)).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 2);
    for class in found.as_array().unwrap() {
        assert_eq!(
            (&class["train_texts"], &class["test_texts"]),
            (&48.into(), &12.into())
        );
        assert_eq!(class["llm_test_accuracy"], 1.0);
        assert_eq!(class["top_k"][1]["latents"].as_array().unwrap().len(), 4);
        assert!(
            class["top_k"][1]["sae_test_accuracy"].as_f64().unwrap() > 0.9,
            "{class}"
        );
    }
    assert!(fails(&["probe", out, "--task", task, "--label-field", "kind"]).contains("kind"));
    assert!(fails(&["probe", out, "--task", task, "--k", "2,1,2"]).contains("found 2 twice"));

    // Two words, a class each. Where rows lack a text or a class, the others keep theirs;
    // categories are strings.
    for (name, texts, note) in [
        ("labels.parquet", 120, ""),
        ("labels_categories.parquet", 120, ""),
        (
            "labels_nulls.parquet",
            107,
            "note 13 rows without text or class were skipped",
        ),
    ] {
        let task = format!("tests/fixtures/corpora/{name}");
        let probe = [
            "probe", out, "--task", &task, "--device", "cpu", "--k", "1", "--json",
        ];
        let (good, found, told) = lapidary(&probe);
        assert!(good && told.contains(note), "{told}");
        assert_eq!(told.contains("skipped"), !note.is_empty(), "{told}");
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        let count = |key: &str| found[0][key].as_u64().unwrap();
        assert!(
            count("train_texts") + count("test_texts") <= texts,
            "{found}"
        );
        assert_eq!(found[0]["llm_test_accuracy"], 1.0, "{name}");
        assert_eq!(found[1]["llm_test_accuracy"], 1.0, "{name}");
    }
    assert!(fails(&["probe", out, "--task", task, "--k", "257"]).contains("expected 1 to 256"));
    assert!(fails(&["probe", out, "--task", task, "--test-share", "1"]).contains("--test-share"));

    let absorption = [
        "absorption",
        out,
        "--device",
        "cpu",
        "--words",
        "200",
        "--json",
    ];
    let found: serde_json::Value = serde_json::from_str(&succeeds(&absorption)).unwrap();
    assert_eq!(found["words"], serde_json::json!([160, 40]));
    assert!(found["details"].as_array().unwrap().len() > 5);
    assert!(fails(&["absorption", out, "--words", "20"]).contains("more than 50"));
}
