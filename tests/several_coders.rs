//! `lapidary train` with several coders on one pass: each folder holds what a single run leaves,
//! bit for bit, a killed run goes on with all of them, and one table says what came of each.

use crate::training_log::without_clock;
use polars::prelude::{AnyValue, DataFrame, ParquetReader, SerReader};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SMALL: [&str; 10] = [
    "coder.d_sae=256",
    "coder.k=8",
    "corpus.context=32",
    "training.tokens=5120",
    "training.batch_tokens=256",
    "training.checkpoint_every_steps=4",
    "training.log_every_steps=5",
    "activations.buffer_tokens=1024",
    "evaluation.tokens=128",
    "features.tokens=0",
];

fn train(recipes: &[PathBuf], out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("train").args(recipes);
    command.args(["--device", "cpu", "--out"]).arg(out);
    for setting in SMALL {
        command.args(["--set", setting]);
    }
    command.args(more);
    command
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    (output.status.success(), text)
}

fn succeeds(command: &mut Command) -> String {
    let (success, text) = run(command);
    assert!(success, "{command:?}\n{text}");
    text
}

fn fails(command: &mut Command) -> String {
    let (success, text) = run(command);
    assert!(!success, "{command:?} succeeded");
    text
}

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/quickstart.toml")
}

fn same(a: &Path, b: &Path) {
    for file in [
        "dictionary/sae_weights.safetensors",
        "dictionary/cfg.json",
        "metrics.jsonl",
        "metrics.json",
        "config.toml",
        "first_batch.json",
    ] {
        let read = |folder: &Path| {
            let bytes = std::fs::read(folder.join(file)).unwrap();
            match file {
                "metrics.jsonl" => without_clock(&bytes),
                _ => bytes,
            }
        };
        assert!(read(a) == read(b), "{file} of {} differs", a.display());
    }
}

fn table(out: &Path) -> DataFrame {
    let file = File::open(out.join("runs.parquet")).unwrap();
    ParquetReader::new(file).finish().unwrap()
}

#[test]
fn a_sweep_leaves_the_folders_of_single_runs_and_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweep");
    let recipe = [quickstart()];
    let sweep = ["--sweep", "coder.k=4,8", "--seeds", "0,7"];
    let said = succeeds(&mut train(&recipe, &out, &sweep));
    assert!(said.contains("20 steps of 4 coders"), "{said}");
    for (name, settings) in [
        ("k-4_seed-0", ["coder.k=4", "seed=0"]),
        ("k-8_seed-7", ["coder.k=8", "seed=7"]),
    ] {
        let alone = folder.path().join(name);
        let more = settings.map(|setting| ["--set", setting]);
        let order = ["--set", "activations.seed=0"];
        let more: Vec<&str> = more.into_iter().chain([order]).flatten().collect();
        succeeds(&mut train(&recipe, &alone, &more));
        same(&alone, &out.join(name));
    }
    let table = table(&out);
    assert_eq!(table.height(), 4);
    let cell = |column: &str, row: usize| table.column(column).unwrap().get(row).unwrap();
    assert_eq!(cell("name", 3), AnyValue::String("k-8_seed-7"));
    assert_eq!(
        (cell("coder.k", 3), cell("seed", 3)),
        (AnyValue::Int64(8), AnyValue::Int64(7))
    );
    assert_eq!(cell("steps", 0), AnyValue::Int64(20));
    for column in [
        "training_loss",
        "fvu",
        "l0",
        "ce_loss_score",
        "evaluation_tokens",
    ] {
        assert!(table.column(column).unwrap().null_count() == 0, "{column}");
    }
    // What all agree in is no column.
    assert!(table.column("training.lr").is_err() && table.column("activations.seed").is_err());
    // The folder is taken now.
    assert!(fails(&mut train(&recipe, &out, &sweep)).contains("--overwrite"));
}

#[test]
fn recipes_at_other_hook_points_share_a_pass() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(quickstart()).unwrap();
    let point = "blocks.2.hook_resid_post";
    assert!(text.contains(point), "{text}");
    let write = |name: &str, hook: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text.replace(point, hook)).unwrap();
        path
    };
    let recipes = [
        write("early.toml", "blocks.0.hook_resid_post"),
        write("late.toml", point),
    ];
    let out = folder.path().join("both");
    succeeds(&mut train(&recipes, &out, &[]));
    for (recipe, name) in recipes.iter().zip(["early", "late"]) {
        let alone = folder.path().join(name);
        succeeds(&mut train(std::slice::from_ref(recipe), &alone, &[]));
        same(&alone, &out.join(name));
    }
    // So they do from a store.
    let store = folder.path().join("store");
    let mut harvest = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    harvest.args([
        "harvest",
        "--device",
        "cpu",
        "--context",
        "32",
        "--tokens",
        "4000",
    ]);
    harvest.args([
        "--hook",
        "blocks.2.hook_resid_post,blocks.0.hook_resid_post",
        "--out",
    ]);
    succeeds(harvest.arg(&store));
    let from = format!("activations.store={}", store.display());
    let from = ["--set", from.as_str()];
    let stored = folder.path().join("stored");
    succeeds(&mut train(&recipes, &stored, &from));
    let alone = folder.path().join("late-stored");
    succeeds(&mut train(&recipes[1..], &alone, &from));
    same(&alone, &stored.join("late"));
}

#[test]
fn a_killed_run_of_several_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let more = ["--sweep", "coder.architecture=topk,batchtopk"];
    let recipe = [quickstart()];
    succeeds(&mut train(&recipe, &whole, &more));
    let mut child = train(&recipe, &cut, &more)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let manifest = cut.join("checkpoint/manifest.json");
    let start = Instant::now();
    while !manifest.exists() && child.try_wait().unwrap().is_none() {
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "no checkpoint appeared"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resume = |more: &[&str]| {
        let mut command = train(&recipe, &cut, more);
        command.arg("--resume");
        command
    };
    succeeds(&mut resume(&more));
    for name in ["architecture-topk", "architecture-batchtopk"] {
        same(&whole.join(name), &cut.join(name));
    }
    assert_eq!(table(&whole), table(&cut));
    let error = fails(&mut resume(&["--sweep", "coder.architecture=topk,gated"]));
    assert!(
        error.contains("of architecture-batchtopk, architecture-topk, here are architecture-gated"),
        "{error}"
    );
    let error = fails(&mut resume(&["--seeds", "1"]));
    assert!(error.contains("here are seed-1"), "{error}");
    assert!(!cut.join("architecture-gated").exists() && !cut.join("seed-1").exists());
}

#[test]
fn coders_that_cannot_share_a_pass_are_refused_by_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let recipe = [quickstart()];
    for (more, expected) in [
        (
            &["--sweep", "corpus.context=32,64"][..],
            "corpus.context = 32",
        ),
        (
            &["--sweep", "training.batch_tokens=256,512"],
            "batch_tokens-512 has 512",
        ),
        (&["--sweep", "activations.seed=1,2"], "activations.seed = 1"),
        (&["--sweep", "coder.k=4,4"], "two coders have the name k-4"),
        (
            &["--sweep", "coder.k=4", "--sweep", "coder.k=8"],
            "coder.k is swept twice",
        ),
        (&["--sweep", "coder.kk=4,8"], "did you mean `coder.k`"),
        (&["--sweep", "coder.k"], "KEY=VALUE,VALUE"),
    ] {
        let error = fails(&mut train(&recipe, &out, more));
        assert!(error.contains(expected), "{more:?}: {error}");
        assert!(!out.exists(), "{more:?} left something");
    }
    let both = [quickstart(), quickstart()];
    let error = fails(&mut train(&both, &out, &[]));
    assert!(
        error.contains("two coders have the name quickstart"),
        "{error}"
    );
    let error = fails(&mut train(
        &recipe,
        &out,
        &["--sweep", "training.lr=1e-3,1e30"],
    ));
    assert!(error.contains("coder lr-1e30: step "), "{error}");
}
