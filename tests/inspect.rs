//! `inspect` says what lies somewhere, by headers alone, and prints nothing that a terminal would
//! act on.

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn lapidary(arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).current_dir(root);
    command
}

/// Success, and both outputs.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!text.contains("panicked"), "{command:?}\n{text}");
    (output.status.success(), text)
}

fn inspect(path: &Path, more: &[&str]) -> String {
    let (done, text) = run(lapidary(&["inspect"]).arg(path).args(more));
    assert!(done, "{text}");
    text
}

fn as_json(path: &Path) -> Value {
    serde_json::from_str(&inspect(path, &["--json"])).unwrap()
}

#[test]
fn a_file_of_a_hundred_gigabytes_answers_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let header = json!({
        "half": {"dtype": "BF16", "shape": [25_000_000_000u64], "data_offsets": [0u64, 50_000_000_000u64]},
        "other": {"dtype": "F64", "shape": [2, 3_125_000_000u64], "data_offsets": [50_000_000_000u64, 100_000_000_000u64]},
    });
    let header = header.to_string();
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + 100_000_000_000)
        .unwrap();
    let started = Instant::now();
    let text = inspect(&path, &[]);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(text.contains("BF16  [25000000000]  half"), "{text}");
    assert!(text.contains("F64   [2, 3125000000]  other"), "{text}");
    assert_eq!(as_json(&path)["tensors"][1]["name"], "other");
}

#[test]
fn a_line_of_json_is_cut_and_its_fields_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts.jsonl");
    let first = json!({"id": 7, "text": "x".repeat(300_000), "escape": "\u{1b}]0;owned\u{7}", "list": (0..99).collect::<Vec<_>>()});
    fs::write(&path, format!("\u{feff}{first}\n{{\"id\": NaN}}\n")).unwrap();
    let text = inspect(&path, &[]);
    assert!(text.len() < 1000, "{}", text.len());
    for said in [
        "fields       4",
        "300000 characters",
        "a list of 99",
        r"\u{1b}]0;owned\u{7}",
    ] {
        assert!(text.contains(said), "{text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'));
    assert_eq!(as_json(&path)["fields"], 4);

    // A line without an end is not read to it.
    let endless = folder.path().join("endless.jsonl");
    let mut file = fs::File::create(&endless).unwrap();
    file.write_all(b"{\"text\": \"").unwrap();
    file.write_all(&vec![b'y'; 3 << 20]).unwrap();
    let text = inspect(&endless, &[]);
    assert!(
        text.contains("the first line is longer than 1.0 MB") && text.len() < 1000,
        "{text}"
    );
}

#[test]
fn a_table_says_its_columns_and_rows() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("crates/activations/corpus/state_of_the_union.parquet");
    let text = inspect(&path, &[]);
    assert!(text.contains("rows ") && text.contains("text"), "{text}");
    let read = as_json(&path);
    assert!(read["rows"].as_u64().unwrap() > 100, "{read}");
    assert!(
        read["columns"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["name"] == "text")
    );

    let damaged = folder.path().join("damaged.parquet");
    fs::write(&damaged, "PAR1 and no more").unwrap();
    let (done, text) = run(lapidary(&["inspect"]).arg(&damaged));
    assert!(
        !done && text.contains("not a readable Parquet table"),
        "{text}"
    );
}

#[test]
fn recipes_and_other_settings_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = inspect(&root.join("configs/quickstart.toml"), &[]);
    for said in [
        "architecture topk",
        "model        embedded",
        "hook point   blocks.",
    ] {
        assert!(text.contains(said), "{text}");
    }
    let text = inspect(&root.join("configs/pretrain/embedded.toml"), &[]);
    assert!(
        text.contains("not a recipe of `train`") && text.contains("fields"),
        "{text}"
    );
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("x.toml");
    fs::write(&wrong, "a = ").unwrap();
    let (done, text) = run(lapidary(&["inspect"]).arg(&wrong));
    assert!(!done && text.contains("x.toml: not valid TOML"), "{text}");
    assert_eq!(
        text.trim_end()
            .lines()
            .filter(|l| l.contains("x.toml"))
            .count(),
        1,
        "{text}"
    );
}

#[test]
fn what_is_not_there_or_not_known_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (done, text) = run(&mut lapidary(&["inspect", "nothing"]));
    assert!(
        !done && text == "error: nothing: not found; a repository on the hub is hf:OWNER/NAME\n",
        "{text}"
    );
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("README.md"), "").unwrap();
    let (done, text) = run(lapidary(&["inspect"]).arg(folder.path()));
    assert!(
        !done && text.contains("found [README.md] and the folders [sub]"),
        "{text}"
    );
    let (done, text) = run(lapidary(&["inspect"]).arg(folder.path().join("README.md")));
    assert!(!done && text.contains("found another extension"), "{text}");
    // A directory that ends as a file does.
    let named = folder.path().join("x.json");
    fs::create_dir(&named).unwrap();
    let (done, text) = run(lapidary(&["inspect"]).arg(&named));
    assert!(!done && text.contains("found no file"), "{text}");
}

#[test]
fn a_checkpoint_says_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    let coder = json!({"step": 12, "tokens": 6144, "d_in": 256, "d_out": 256, "d_sae": 512});
    let manifest = json!({"format": "lapidary checkpoint", "format_version": 2, "lapidary_version": "0.1.0", "coders": [coder]});
    fs::write(folder.path().join("manifest.json"), manifest.to_string()).unwrap();
    let text = inspect(folder.path(), &[]);
    assert!(
        text.contains("coder 0: step 12, 6144 tokens, 512 latents on 256 dimensions"),
        "{text}"
    );
    assert_eq!(as_json(folder.path())["coders"][0]["step"], 12);
}

#[test]
fn a_folder_that_could_be_several_dictionaries_is_read_as_the_format_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = folder
        .path()
        .join("hub/models--someone--both/snapshots/0123");
    let (both, other) = (snapshot.join("d"), folder.path().join("other"));
    for (to, format) in [(&both, "saelens"), (&other, "dictionary_learning")] {
        let from = "tests/fixtures/dictionaries/gemma_scope.npz";
        let mut convert = lapidary(&["convert", "--from", from, "--format", format, "--to"]);
        let (done, text) = run(convert.arg(to));
        assert!(done, "{text}");
    }
    for file in ["ae.pt", "config.json"] {
        fs::copy(other.join(file), both.join(file)).unwrap();
    }
    let (done, text) = run(lapidary(&["inspect"]).arg(&both));
    assert!(!done && text.contains("name the format"), "{text}");
    for format in ["saelens", "dictionary_learning"] {
        let text = inspect(&both, &["--format", format]);
        assert!(text.contains(&format!("format       {format}\n")), "{text}");
        assert!(text.contains("latents      6 on 4 dimensions"), "{text}");
    }
    // A file, and an address on the hub, are dictionaries too where the format is named.
    let text = inspect(&both.join("ae.pt"), &["--format", "dictionary_learning"]);
    assert!(text.contains("latents      6 on 4 dimensions"), "{text}");
    let mut of_hub = lapidary(&["inspect", "hf:someone/both@0123/d", "--format", "saelens"]);
    of_hub.env("HF_HOME", folder.path());
    let (done, text) = run(of_hub.env("HF_HUB_OFFLINE", "1"));
    assert!(
        done && text.contains("latents      6 on 4 dimensions"),
        "{text}"
    );
}

#[test]
fn a_repository_of_the_hubs_cache_is_listed_and_not_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("hub/models--someone--coders");
    let snapshot = repository.join("snapshots/0123");
    for layer in ["layer_0", "layer_1"] {
        fs::create_dir_all(snapshot.join(layer)).unwrap();
        fs::write(snapshot.join(layer).join("sae_weights.safetensors"), "").unwrap();
        let cfg = json!({"architecture": "topk", "d_sae": 99, "escape": "\u{1b}[2J"});
        fs::write(snapshot.join(layer).join("cfg.json"), cfg.to_string()).unwrap();
    }
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123").unwrap();
    let inspect = |address: &str| {
        let mut command = lapidary(&["inspect", address]);
        run(command
            .env("HF_HOME", folder.path())
            .env("HF_HUB_OFFLINE", "1"))
    };
    let (done, text) = inspect("hf:someone/coders");
    assert!(
        done && text.contains("dictionaries 2, in the folders\n  layer_0\n  layer_1"),
        "{text}"
    );
    let (done, text) = inspect("hf:someone/coders/layer_1");
    assert!(
        done && text.contains("\"architecture\":\"topk\"") && !text.contains('\u{1b}'),
        "{text}"
    );
    let (done, text) = inspect("hf:someone/coders/layer_7");
    assert!(
        !done && text.contains("neither a folder nor a file layer_7"),
        "{text}"
    );
    let (done, text) = inspect("hf:someone/others");
    assert!(
        !done && text.contains("repository `someone/others` of the hub"),
        "{text}"
    );
}

#[test]
fn a_run_shows_six_figures_first_and_a_sweep_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let train = |out: &Path, more: &[&str]| {
        let mut command = lapidary(&[
            "train",
            "configs/quickstart.toml",
            "--device",
            "cpu",
            "--out",
        ]);
        command.arg(out);
        for setting in [
            "coder.d_sae=64",
            "coder.k=8",
            "corpus.context=64",
            "training.tokens=2048",
            "training.batch_tokens=512",
            "activations.buffer_tokens=1024",
            "evaluation.tokens=256",
            "features.tokens=256",
        ] {
            command.args(["--set", setting]);
        }
        let (done, text) = run(command.args(more));
        assert!(done, "{text}");
    };
    let out: PathBuf = folder.path().join("run");
    train(&out, &[]);
    let text = inspect(&out, &[]);
    let names = |text: &str| -> Vec<String> {
        let words = text
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        words.map(str::to_owned).collect()
    };
    assert_eq!(
        names(&text)[..7],
        [
            "ce_loss_score",
            "kl_div_score",
            "explained_variance_legacy",
            "fvu",
            "l0",
            "frac_alive",
            "dictionary"
        ]
    );
    assert!(
        text.lines().count() < 25 && text.contains("all metrics: --all"),
        "{text}"
    );
    let all = inspect(&out, &["--all"]);
    assert!(
        all.contains("relative_reconstruction_bias")
            && !text.contains("relative_reconstruction_bias")
    );
    let read = as_json(&out);
    assert!(
        read["metrics"]["fvu"].is_f64() && read["latents"] == 64,
        "{read}"
    );
    assert_eq!(read["kind"], "run");
    let text = inspect(&out.join("metrics.jsonl"), &[]);
    assert!(
        text.contains("of the first line:") && text.contains("of the last line:"),
        "{text}"
    );
    let text = inspect(&out.join("metrics.json"), &[]);
    assert!(text.starts_with("  ce_loss_score"), "{text}");
    let text = inspect(&out.join("features"), &[]);
    assert!(
        text.contains("features.parquet") && text.contains("64 rows"),
        "{text}"
    );

    let sweep = folder.path().join("sweep");
    train(&sweep, &["--seeds", "0,1"]);
    for place in [sweep.clone(), sweep.join("runs.parquet")] {
        let text = inspect(&place, &[]);
        assert!(
            text.starts_with("2 runs in ") && text.contains("ce_loss_score"),
            "{text}"
        );
        let read = as_json(&place);
        assert_eq!(read["runs"].as_array().unwrap().len(), 2, "{read}");
        assert!(read["runs"][1]["fvu"].is_f64(), "{read}");
    }
}
