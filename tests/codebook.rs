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
    // Evaluations in between leave the training as it is, and the last one is that of the run.
    succeeds(
        at,
        "codebook train tiny.toml --out curve --set evaluation.every=4",
    );
    let log = std::fs::read_to_string(at.join("curve/metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert!(lines[0]["evaluation"].is_null() && lines[1]["evaluation"]["loss"].is_number());
    assert_ne!(lines[1]["evaluation"], lines[3]["evaluation"]);
    assert_eq!(lines[3]["evaluation"], metrics);
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
fn an_interrupted_run_goes_on_and_an_extended_one_has_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("tiny.toml"), CONFIG).unwrap();
    succeeds(at, "codebook train tiny.toml --out whole");
    // A run of 6 steps, as if it was killed after its last checkpoint.
    let cut = "codebook train tiny.toml --out cut --set training.steps=6";
    succeeds(at, &format!("{cut} --keep-checkpoint"));
    let manifest = at.join("cut/run.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replace("\"finished\": true", "\"finished\": false");
    std::fs::write(&manifest, text).unwrap();
    refused(
        at,
        &format!("{cut} --resume --set training.lr=0.5"),
        &["training.lr", "0.001 in the run", "0.5 in the config"],
    );
    succeeds(at, &format!("{cut} --resume --keep-checkpoint"));
    // It goes on to the 8 steps of the config only if it is told to.
    let longer = "codebook train tiny.toml --out cut";
    refused(
        at,
        &format!("{longer} --resume"),
        &["training.steps", "6 in the run", "--extend"],
    );
    refused(
        at,
        "codebook train tiny.toml --out whole --extend",
        &["no checkpoint to extend", "--keep-checkpoint"],
    );
    for command in ["generate whole 0", "steer whole --on-topic 0 --set 0.0=1"] {
        refused(
            at,
            &format!("codebook {command} --top-p 2"),
            &["top-p", "found 2", "from 0 to 1"],
        );
    }
    refused(
        at,
        "codebook train tiny.toml --out nowhere --extend",
        &["nowhere: found no folder", "a run to extend"],
    );
    assert!(!at.join("nowhere").exists());
    succeeds(at, "codebook features cut");
    // As if the extension was killed before its first checkpoint: it is resumed as it is.
    let text = std::fs::read_to_string(&manifest).unwrap();
    let unfinished = text.replace("\"finished\": true", "\"finished\": false");
    std::fs::write(&manifest, unfinished).unwrap();
    let config = at.join("whole/config.toml");
    std::fs::copy(config, at.join("cut/config.toml")).unwrap();
    succeeds(at, &format!("{longer} --resume --keep-checkpoint"));
    succeeds(at, &format!("{longer} --extend"));
    // The tables were those of 6 steps; a finished run does not get shorter, and keeps going on.
    assert!(!at.join("cut/features").exists() && !at.join("cut/report.html").exists());
    refused(
        at,
        &format!("{longer} --extend --set training.steps=7"),
        &["training.steps", "found 7", "at least 8"],
    );
    let again = format!("{longer} --resume --set evaluation.sequences=3");
    let few: Value = serde_json::from_str(&succeeds(at, &again)).unwrap();
    let tokens = |metrics: &Value| metrics["tokens"].as_u64().unwrap();
    succeeds(at, &format!("{longer} --resume"));
    let all: Value = lapidary_io::read_json(&at.join("cut/metrics.json")).unwrap();
    assert_eq!(4 * tokens(&few), 3 * tokens(&all));
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

#[test]
fn codes_are_found_tabulated_and_set() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("tiny.toml"), CONFIG).unwrap();
    succeeds(at, "codebook train tiny.toml --out out");
    let find = "codebook find out --tokens 800 --out codes.parquet";
    let printed = succeeds(at, &format!("{find} --predicate regex:[01] --recall 0"));
    assert!(printed.contains("blocks.0.attn.hook_z"), "{printed}");
    let rows = lapidary_features::read_runs(&at.join("codes.parquet")).unwrap();
    let cell = |row: &lapidary_features::RunRow, name: &str| {
        let found = row.iter().find(|(column, _)| column == name);
        found.unwrap().1.as_f64().unwrap()
    };
    let precisions: Vec<f64> = rows.iter().map(|row| cell(row, "precision")).collect();
    assert!(precisions.is_sorted_by(|a, b| a >= b), "{precisions:?}");
    // One code per head at each position: what the codes of a head have right are all matches.
    let of_head = |layer: f64, head: f64| {
        let own = rows
            .iter()
            .filter(move |row| (cell(row, "layer"), cell(row, "head")) == (layer, head));
        own.map(|row| cell(row, "recall")).sum::<f64>()
    };
    for (layer, head) in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)] {
        assert!((of_head(layer, head) - 1.0).abs() < 1e-9, "{layer}.{head}");
    }
    for (predicate, parts) in [
        ("regex:77777", &["the predicate", "no match at any of"][..]),
        (
            "topic:none.txt",
            &["--predicate topic:none.txt", "expected one of text"],
        ),
    ] {
        refused(at, &format!("{find} --predicate {predicate}"), parts);
    }
    refused(
        at,
        &format!("{find} --predicate regex:0 --recall 1"),
        &["--recall 1", "a lower --recall"],
    );
    let output = lapidary(at, &format!("{find} --predicate word:0"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("regex:PATTERN, next:PATTERN or topic:FILE"),
        "{told}"
    );

    succeeds(
        at,
        "codebook features out --tokens 800 --examples 2 --out tables",
    );
    let features = at.join("tables/features/features.parquet");
    let features = lapidary_features::read_features(&features).unwrap();
    assert_eq!(features.len(), 2 * 2 * 16);
    let place = features[16 + 5].code.unwrap();
    assert_eq!((place.layer, place.head, place.code), (0, 1, 5));
    let place = features[32 + 15].code.unwrap();
    assert_eq!((place.layer, place.head, place.code), (1, 0, 15));
    // Every position chooses one code of every head.
    let counts = features
        .iter()
        .map(|row| row.firing_count)
        .collect::<Vec<u64>>();
    let of_heads: Vec<u64> = counts.chunks(16).map(|head| head.iter().sum()).collect();
    assert!(
        of_heads[0] > 0 && of_heads.iter().all(|n| *n == of_heads[0]),
        "{of_heads:?}"
    );
    let largest = features.iter().map(|row| row.max_activation);
    assert!(largest.clone().all(|a| a <= 1.0 + 1e-5), "a cosine");
    assert!(features.iter().any(|row| row.promoted.len() > 1));
    let report = std::fs::read_to_string(at.join("tables/report.html")).unwrap();
    assert!(report.contains("blocks.1.attn.hook_z, head 1"));
    // Into the run's own folder, which then is replaced as a whole.
    succeeds(at, "codebook features out --tokens 800");
    succeeds(at, "codebook train tiny.toml --out out --overwrite");
    assert!(!at.join("out/report.html").exists());

    let steer = "codebook steer out --on-topic 0 --generations 3 --tokens 5 --out steered.json";
    let printed = succeeds(at, &format!("{steer} --codes codes.parquet --top 2"));
    assert!(printed.contains("% on topic"), "{printed}");
    let steered: Value = lapidary_io::read_json(&at.join("steered.json")).unwrap();
    assert_eq!(steered["codes"].as_array().unwrap().len(), 2);
    for side in ["before", "after"] {
        let texts = steered[side]["texts"].as_array().unwrap();
        let hits = texts
            .iter()
            .filter(|t| t.as_str().unwrap().contains('0'))
            .count();
        assert_eq!(steered[side]["share"].as_f64().unwrap(), hits as f64 / 3.0);
    }
    // One code has one place in each head of this run.
    refused(
        at,
        &format!("{steer} --set 0.0=1 --set 0.0=2"),
        &["--set 0.0=2", "2 codes for this head", "at most 1"],
    );
    succeeds(at, &format!("{steer} --codes codes.parquet --top 1000"));
    let steered: Value = lapidary_io::read_json(&at.join("steered.json")).unwrap();
    assert_eq!(
        steered["codes"].as_array().unwrap().len(),
        4,
        "one per head"
    );
    refused(
        at,
        "codebook generate out 03 --set 0.0=1 --set 0.0=2",
        &["two codes for head 0"],
    );
    for out in ["out/config.json", "out/new.parquet"] {
        refused(
            at,
            &format!("codebook find out --predicate regex:0 --out {out}"),
            &[out, "in the folder of the run"],
        );
    }
    refused(
        at,
        "codebook find out --predicate regex:0 --tokens 99999999999 --out x.parquet",
        &["--tokens: found 99999999999", "100000 sequences"],
    );
    // The codes of this run's layer 0 are 16.
    refused(
        at,
        &format!("{steer} --set 0.0=16"),
        &["the code 0.0=16", "expected -1 to 15"],
    );
    refused(
        at,
        &format!("{steer} --set 0.0=1 --slots 2"),
        &["--slots: found 2", "1 to k = 1"],
    );
    let tables = "--codes tables/features/examples.parquet";
    refused(
        at,
        &format!("{steer} {tables}"),
        &["examples.parquet", "a table of `lapidary codebook find`"],
    );
}

#[test]
fn states_of_a_run_with_several_codes_are_not_patched_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("tiny.toml"), CONFIG).unwrap();
    succeeds(at, "codebook train tiny.toml --set codebook.k=2 --out two");
    let states: Value = serde_json::from_str(&succeeds(at, "codebook states two")).unwrap();
    assert!(states["patched"].is_null(), "{states}");
    refused(
        at,
        "codebook states two --patches 3",
        &["codebook.k", "1, to patch"],
    );
}

#[test]
fn key_value_bottlenecks_learn_classes_of_texts() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let words = [
        "war army navy",
        "tax duty debt",
        "school child book",
        "farm crop land",
    ];
    let mut lines = String::new();
    for i in 0..32 {
        let (class, n) = (i % 4, 3 + i % 5);
        let text = words[class].repeat(n);
        lines += &serde_json::json!({ "text": text, "label": format!("c{class}") }).to_string();
        lines.push('\n');
    }
    std::fs::write(at.join("texts.jsonl"), lines).unwrap();
    let config = "
        data.kind = 'text'
        data.corpus = 'texts.jsonl'
        data.hook_point = 'blocks.1.hook_resid_post'
        data.context = 16
        data.classes = 3
        data.classes_per_split = 1
        bottleneck.codebooks = 8
        bottleneck.keys = 8
        training.epochs = 2
    ";
    std::fs::write(at.join("text.toml"), config).unwrap();
    succeeds(at, "dkvb text.toml --out result.json");
    let result: Value = lapidary_io::read_json(&at.join("result.json")).unwrap();
    assert_eq!(result["retention"].as_array().unwrap().len(), 3);
    for (set, parts) in [
        (
            "data.classes=9",
            &["texts.jsonl: `label`: found 4 classes", "expected 9"][..],
        ),
        (
            "data.context=5000",
            &["`data.context`: found 5000", "at most 256"],
        ),
        ("training.lr=1e308", &["training.lr", "stay finite"]),
        ("data.hook_point=blocks", &["data.hook_point", "\"blocks\""]),
        ("data.label_field=none", &["texts.jsonl", "none"]),
        ("data.test_share=1.0", &["data.test_share", "less than 1"]),
        ("data.radius=2.0", &["data.radius"]),
    ] {
        refused(
            at,
            &format!("dkvb text.toml --set {set} --out result.json"),
            parts,
        );
    }
}
