//! A dictionary in other programs' formats: converted, and used by every command where it lies.

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::process::Command;

fn lapidary(arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).current_dir(root);
    command
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded");
    assert!(!errors.contains("panicked"), "{command:?}\n{errors}");
    errors
}

fn convert(from: &Path, to: &Path, format: &str) -> Command {
    let mut command = lapidary(&["convert", "--format", format, "--from"]);
    command.arg(from).arg("--to").arg(to);
    command
}

/// Values of a tensor in a file, as bytes.
fn bytes(file: &Path, name: &str) -> Vec<u8> {
    let file = std::fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    file.tensor(name).unwrap().data().to_vec()
}

#[test]
fn every_command_takes_a_converted_dictionary() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let mut train = lapidary(&[
        "train",
        "configs/quickstart.toml",
        "--device",
        "cpu",
        "--out",
    ]);
    train.arg(at("run"));
    for setting in [
        "coder.d_sae=512",
        "coder.k=16",
        "corpus.context=64",
        "training.tokens=10240",
        "training.batch_tokens=512",
        "activations.buffer_tokens=2048",
        "evaluation.tokens=256",
        "features.tokens=0",
    ] {
        train.args(["--set", setting]);
    }
    succeeds(&mut train);
    let mut run = lapidary(&[
        "run",
        "--device",
        "cpu",
        "--text",
        "My fellow citizens",
        "--out",
    ]);
    run.arg(at("x"))
        .args(["--capture", "blocks.2.hook_resid_post"]);
    succeeds(&mut run);
    let codes = |dictionary: &Path, more: &[&str]| {
        let mut encode = lapidary(&["encode", "--device", "cpu", "--dictionary"]);
        encode.arg(dictionary).arg("--activations").arg(at("x"));
        succeeds(encode.arg("--out").arg(at("codes")).args(more));
        ["values", "indices", "reconstruction"].map(|name| bytes(&at("codes"), name))
    };
    let before = codes(&at("run"), &[]);

    let said = succeeds(&mut convert(&at("run"), &at("layers.2"), "sparsify"));
    assert!(
        said.starts_with("topk coder, 512 latents on 256 dimensions, written to"),
        "{said}"
    );
    succeeds(&mut convert(
        &at("layers.2"),
        &at("trainer_0"),
        "dictionary_learning",
    ));
    succeeds(&mut convert(
        &at("trainer_0/ae.pt"),
        &at("saelens"),
        "saelens",
    ));
    for name in ["layers.2", "trainer_0", "saelens"] {
        assert!(codes(&at(name), &[]) == before, "{name}");
    }
    assert!(codes(&at("trainer_0/ae.pt"), &["--format", "dictionary_learning"]) == before);

    // What it was trained on went along.
    let seen = succeeds(lapidary(&["inspect"]).arg(at("trainer_0")));
    for line in [
        "format       dictionary_learning",
        "hook point   blocks.2.hook_resid_post",
        "tokens       10240",
    ] {
        assert!(seen.contains(line), "{seen}");
    }
    let figures = |dictionary: &Path| {
        let mut eval = lapidary(&[
            "eval", "--device", "cpu", "--tokens", "256", "--model", "embedded", "--json",
        ]);
        let text = succeeds(eval.arg(dictionary));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(figures(&at("trainer_0"))["fvu"], figures(&at("run"))["fvu"]);
    let mut features = lapidary(&[
        "features",
        "--device",
        "cpu",
        "--tokens",
        "1024",
        "--examples",
        "2",
    ]);
    succeeds(features.arg(at("layers.2")).arg("--out").arg(at("tables")));
    assert!(at("tables/features/features.parquet").exists() && at("tables/report.html").exists());
    let mut generate = lapidary(&[
        "generate",
        "My fellow",
        "--device",
        "cpu",
        "--tokens",
        "3",
        "--latent",
        "7",
        "--dictionary",
    ]);
    succeeds(generate.arg(at("layers.2")));

    let error = fails(&mut convert(&at("run"), &at("layers.2"), "sparsify"));
    assert!(
        error.contains("holds a dictionary already: give --overwrite"),
        "{error}"
    );
    succeeds(convert(&at("run"), &at("layers.2"), "saelens").arg("--overwrite"));
    assert!(codes(&at("layers.2"), &[]) == before);
    let error = fails(&mut convert(&at("run"), &at("new"), "sparsfy"));
    assert!(error.contains("did you mean sparsify?"), "{error}");
    let error = fails(&mut convert(&at("run"), &at("new"), "gemma_scope"));
    assert!(
        error.contains("the format gemma_scope cannot hold anything written here"),
        "{error}"
    );
    let error = fails(&mut convert(&at("tables"), &at("new"), "saelens"));
    assert!(
        error.contains(
            "expected the files of a dictionary: cfg.json with sae_weights.safetensors for saelens"
        ),
        "{error}"
    );
}

#[test]
fn a_dictionary_that_names_no_hook_point_is_told_one() {
    let folder = tempfile::tempdir().unwrap();
    let gemma = "tests/fixtures/dictionaries/gemma_scope.npz";
    let (plain, placed) = (folder.path().join("plain"), folder.path().join("placed"));
    succeeds(&mut convert(Path::new(gemma), &plain, "saelens"));
    let error = fails(
        lapidary(&[
            "eval",
            "--model",
            "embedded",
            "--corpus",
            "README.md",
            "--device",
            "cpu",
        ])
        .arg(&plain),
    );
    assert!(
        error.contains("do not name its hook point") && error.contains("--hook-point"),
        "{error}"
    );
    let hook = ["--hook-point", "blocks.1.hook_mlp_out"];
    succeeds(convert(Path::new(gemma), &placed, "saelens").args(hook));
    let seen = succeeds(lapidary(&["inspect"]).arg(&placed));
    assert!(
        seen.contains("hook point   blocks.1.hook_mlp_out"),
        "{seen}"
    );
}

#[test]
fn two_conversions_into_one_folder_are_one_and_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a/out");
    let from = Path::new("tests/fixtures/dictionaries/gemma_scope.npz");
    let nothing = dir.path().join("nothing");
    let refused = |from: &Path| fails(convert(from, &out, "saelens").arg("--overwrite"));
    let error = refused(&nothing);
    assert!(error.contains("nothing"), "{error}");
    assert!(!dir.path().join("a").exists(), "a folder is left");

    // This process is the other one: while it writes, and while it looks at what it has written.
    let staged = lapidary_io::StagedFolder::begin(&out).unwrap();
    let error = refused(&nothing);
    assert!(error.contains("another process is writing"), "{error}");
    let lock = staged.commit().unwrap();
    let error = refused(from);
    assert!(error.contains("another process is writing"), "{error}");
    drop(lock);
    succeeds(convert(from, &out, "saelens").arg("--overwrite"));
}
