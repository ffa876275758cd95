//! `lapidary codebook` and `lapidary dkvb`, end to end: a tiny run, its folder, and what is
//! refused.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const CONFIG: &str = "
data.states = 12
data.edges = 3
data.sequence_states = 4
model.d_model = 16
model.n_layers = 2
model.n_heads = 2
model.d_mlp = 16
codebook.n_codes = 16
codebook.k = 1
codebook.replace_every = 3
training.steps = 8
training.batch = 4
training.log_every = 2
training.checkpoint_every = 4
evaluation.sequences = 4
";

fn lapidary(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    let arguments = arguments.split_whitespace();
    command.current_dir(folder).args(arguments);
    command.args(["--device", "cpu"]).output().unwrap()
}

fn succeeds(folder: &Path, arguments: &str) -> String {
    let output = lapidary(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, arguments: &str, parts: &[&str]) {
    let output = lapidary(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments}: {told}");
    for part in parts {
        assert!(told.contains(part), "{arguments}: {told}");
    }
}

#[test]
fn a_run_is_trained_resumed_replaced_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("tiny.toml"), CONFIG).unwrap();
    let printed = succeeds(at, "codebook train tiny.toml --out out --keep-checkpoint");
    let metrics: Value = lapidary_io::read_json(&at.join("out/metrics.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), metrics);
    for key in [
        "loss",
        "accuracy",
        "transition_accuracy",
        "frac_dead_codes",
        "code_perplexity",
    ] {
        assert!(metrics[key].is_number(), "{key}: {metrics}");
    }
    let log = std::fs::read_to_string(at.join("out/metrics.jsonl")).unwrap();
    let steps = log.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["step"].as_u64().unwrap()
    });
    assert_eq!(steps.collect::<Vec<_>>(), [2, 4, 6, 8]);
    // A second run does not touch the first one unless it is told to.
    refused(
        at,
        "codebook train tiny.toml --out out",
        &["holds a run already", "--overwrite"],
    );
    let codes = std::fs::read(at.join("out/codebooks.safetensors")).unwrap();
    assert_eq!(
        succeeds(at, "codebook train tiny.toml --out out --resume"),
        printed
    );
    succeeds(at, "codebook train tiny.toml --out out --overwrite");
    assert_eq!(
        std::fs::read(at.join("out/codebooks.safetensors")).unwrap(),
        codes
    );
    assert!(!at.join("out/checkpoint").exists());
    // What reads the folder.
    let states: Value =
        serde_json::from_str(&succeeds(at, "codebook states out --patches 2")).unwrap();
    assert!(states["patched"]["mass"].is_number(), "{states}");
    assert!(
        states["codes"][0]["neuron_precision"].is_number(),
        "{states}"
    );
    // Neurons of a model without codebooks, on the same machine and on another.
    succeeds(
        at,
        "codebook train tiny.toml --set codebook.places=[] --out dense",
    );
    succeeds(at, "codebook states out --patches 0 --neurons-of dense");
    succeeds(
        at,
        "codebook train tiny.toml --set data.sequence_states=2 --out short",
    );
    refused(
        at,
        "codebook states out --neurons-of short",
        &["--neurons-of short", "another TokFSM"],
    );
    // A sequence of two states has only its first state to patch.
    succeeds(at, "codebook states short --patches 2");
    let free = succeeds(at, "codebook generate out 0311 --tokens 6 --temperature 0");
    assert!(
        free.starts_with("0311") && free.trim().len() == 10,
        "{free}"
    );
    succeeds(at, "codebook generate out 0311 --set 1.0=-1 --set 0.1=3");
    for (set, parts) in [
        ("2.0=1", ["0 codebooks in layer 2", "blocks.1.attn.hook_z"]),
        ("1.2=1", ["found head 2", "expected 0 to 1"]),
        ("1.0=16", ["found code 16", "expected -1 to 15"]),
        ("1=16", ["LAYER.HEAD=CODE", "--set 1=16"]),
    ] {
        refused(at, &format!("codebook generate out 03 --set {set}"), &parts);
    }
    refused(
        at,
        "codebook generate out 0x",
        &["found 'x'", "digits below 10"],
    );
    refused(
        at,
        "codebook states .",
        &["config.toml", "lapidary codebook train"],
    );
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("tiny.toml"), CONFIG).unwrap();
    succeeds(at, "codebook train tiny.toml --out whole");
    // As if it was killed after the checkpoint of step 6.
    succeeds(
        at,
        "codebook train tiny.toml --out cut --keep-checkpoint --set training.checkpoint_every=6",
    );
    let manifest = at.join("cut/run.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replace("\"finished\": true", "\"finished\": false");
    std::fs::write(&manifest, text).unwrap();
    refused(
        at,
        "codebook train tiny.toml --out cut --resume --set training.lr=0.5",
        &["training.lr", "0.001 in the run", "0.5 in the config"],
    );
    succeeds(at, "codebook train tiny.toml --out cut --resume");
    for file in [
        "model.safetensors",
        "codebooks.safetensors",
        "metrics.jsonl",
        "metrics.json",
    ] {
        let [cut, whole] = ["cut", "whole"].map(|d| std::fs::read(at.join(d).join(file)).unwrap());
        assert_eq!(cut, whole, "{file}");
    }
}

#[test]
fn key_value_bottlenecks_write_their_result() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let config =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/codebook/key-value-blobs.toml");
    let config = config.to_str().unwrap();
    let few = "--set training.epochs=2 --set data.per_class=20";
    succeeds(at, &format!("dkvb {config} {few} --out result.json"));
    let result: Value = lapidary_io::read_json(&at.join("result.json")).unwrap();
    assert!(result["accuracy_dkvb"].is_number() && result["accuracy_probe"].is_number());
    assert_eq!(result["retention"].as_array().unwrap().len(), 5);
    refused(
        at,
        &format!("dkvb {config} --set bottleneck.key=3 --out result.json"),
        &["bottleneck.key", "did you mean `bottleneck.keys`"],
    );
}
