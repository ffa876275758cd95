//! What a user does at the command line: from a recipe to a dictionary, tables and a report;
//! stopping and going on; batch jobs over files; and what each kind of bad input is told.

use crate::training_log::without_clock;
use lapidary_io::tensors::TensorWriter;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn lapidary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).current_dir(root());
    command
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one error line of a command that must fail, without a panic.
fn fails(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded");
    assert!(!errors.contains("panicked"), "{command:?}\n{errors}");
    assert!(
        errors.lines().any(|line| line.starts_with("error:")),
        "{command:?}\n{errors}"
    );
    errors
}

/// A recipe small enough for a test.
const SMALL: [&str; 9] = [
    "coder.d_sae=512",
    "coder.k=16",
    "corpus.context=64",
    "training.tokens=10240",
    "training.batch_tokens=512",
    "training.checkpoint_every_steps=4",
    "training.log_every_steps=1",
    "activations.buffer_tokens=2048",
    "evaluation.tokens=256",
];

fn small_train(out: &Path, more: &[&str]) -> Command {
    let mut command = lapidary(&[
        "train",
        "configs/quickstart.toml",
        "--device",
        "cpu",
        "--out",
    ]);
    command.arg(out);
    for setting in SMALL
        .iter()
        .chain(["features.tokens=2048", "features.examples_per_feature=2"].iter())
    {
        command.args(["--set", setting]);
    }
    command.args(more);
    command
}

#[test]
fn a_run_leaves_dictionary_figures_tables_and_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    succeeds(&mut small_train(&out, &[]));
    let metrics: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("metrics.json")).unwrap()).unwrap();
    for key in [
        "fvu",
        "explained_variance",
        "explained_variance_legacy",
        "l0",
        "ce_loss_score",
        "kl_div_score",
        "frac_alive",
    ] {
        assert!(metrics[key].is_f64(), "{key}: {}", metrics[key]);
    }
    let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 20);
    assert!(out.join("config.toml").exists());
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("ce_loss_score") && !report.contains("src=\"http"));
    let described = succeeds(lapidary(&["inspect"]).arg(&out));
    assert!(
        described.contains("512 on 256 dimensions") && described.contains("ce_loss_score"),
        "{described}"
    );
    assert!(
        succeeds(lapidary(&["inspect"]).arg(out.join("features/features.parquet")))
            .contains("512 latents")
    );

    // A second run does not walk over the first.
    assert!(fails(&mut small_train(&out, &[])).contains("--overwrite"));

    // Nor does one that may overwrite it but comes to nothing.
    let impossible = [
        "--overwrite",
        "--set",
        "activations.buffer_tokens=1000000000000000",
    ];
    let error = fails(&mut small_train(&out, &impossible));
    assert!(error.contains("activations.buffer_tokens"), "{error}");
    assert!(out.join("dictionary/cfg.json").exists() && out.join("metrics.jsonl").exists());

    // A dictionary that does not fit its hook point is refused by every command that joins the two.
    let moved = folder.path().join("moved");
    std::fs::create_dir(&moved).unwrap();
    std::fs::copy(
        out.join("dictionary/sae_weights.safetensors"),
        moved.join("sae_weights.safetensors"),
    )
    .unwrap();
    let cfg = std::fs::read_to_string(out.join("dictionary/cfg.json")).unwrap();
    std::fs::write(
        moved.join("cfg.json"),
        cfg.replace("blocks.2.hook_resid_post", "blocks.2.mlp.hook_post"),
    )
    .unwrap();
    for name in ["eval", "features"] {
        let mut command = lapidary(&[
            name, "--device", "cpu", "--corpus", "embedded", "--tokens", "256",
        ]);
        let error = fails(command.arg(&moved));
        assert!(error.contains("688") && error.contains("256"), "{error}");
    }

    // Evaluating again gives the same figures, also if the program once died while it replaced the
    // dictionary.
    std::fs::rename(out.join("dictionary"), out.join(".dictionary.previous")).unwrap();
    let again = succeeds(lapidary(&["eval", "--json", "--device", "cpu"]).arg(&out));
    let mut again: serde_json::Value = serde_json::from_str(&again).unwrap();
    let again = again.as_object_mut().unwrap();
    // Those of a run have no date, so that the same run gives the same bytes.
    assert!(again.remove("date").unwrap().is_string());
    assert_eq!(again.remove("dictionary").unwrap(), out.to_str().unwrap());
    assert_eq!(serde_json::Value::from(again.clone()), metrics);

    std::fs::rename(out.join(".dictionary.previous"), out.join("dictionary")).unwrap();

    // Batch jobs: activations out of the model, codes out of the dictionary.
    let (x, codes) = (
        folder.path().join("x.safetensors"),
        folder.path().join("codes.safetensors"),
    );
    let capture = "blocks.2.hook_resid_post,logits";
    succeeds(
        lapidary(&[
            "run",
            "--device",
            "cpu",
            "--text",
            "My fellow citizens",
            "--capture",
            capture,
            "--out",
        ])
        .arg(&x),
    );
    succeeds(
        lapidary(&["encode", "--device", "cpu", "--dictionary"])
            .arg(out.join("dictionary"))
            .arg("--activations")
            .arg(&x)
            .arg("--out")
            .arg(&codes),
    );
    let (x, codes) = (std::fs::read(x).unwrap(), std::fs::read(codes).unwrap());
    let (x, codes) = (
        SafeTensors::deserialize(&x).unwrap(),
        SafeTensors::deserialize(&codes).unwrap(),
    );
    let n = x.tensor("blocks.2.hook_resid_post").unwrap().shape()[0];
    assert_eq!(x.tensor("logits").unwrap().shape(), [n, 4096]);
    assert_eq!(codes.tensor("values").unwrap().shape(), [n, 16]);
    assert_eq!(codes.tensor("indices").unwrap().shape(), [n, 16]);
    assert_eq!(codes.tensor("reconstruction").unwrap().shape(), [n, 256]);
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let quick = ["--set", "evaluation.tokens=0", "--set", "features.tokens=0"];
    succeeds(&mut small_train(&whole, &quick));

    let mut child = small_train(&cut, &quick)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let manifest = cut.join("checkpoint/manifest.json");
    let start = Instant::now();
    while !manifest.exists() && child.try_wait().unwrap().is_none() {
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "no checkpoint appeared"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if !cut.join("dictionary").exists() {
        println!("killed after the first checkpoint");
    }
    let mut resume = small_train(&cut, &quick);
    succeeds(resume.arg("--resume"));
    for file in [
        "dictionary/sae_weights.safetensors",
        "dictionary/cfg.json",
        "metrics.jsonl",
    ] {
        let read = |folder: &Path| {
            let bytes = std::fs::read(folder.join(file)).unwrap();
            match file {
                "metrics.jsonl" => without_clock(&bytes),
                _ => bytes,
            }
        };
        assert!(read(&whole) == read(&cut), "{file} differs after resuming");
    }
    // A text that has changed cannot go on, though its name is the same.
    let text = folder.path().join("text.txt");
    let line = "the cat sat on the mat and the dog sat on the log\n";
    std::fs::write(&text, line.repeat(2000)).unwrap();
    let path = format!("corpus.path=\"{}\"", text.display());
    let other = folder.path().join("other");
    succeeds(small_train(&other, &quick).args(["--keep-checkpoint", "--set", &path]));
    std::fs::write(&text, line.repeat(2000).replace("log", "dog")).unwrap();
    let longer = ["--extend", "--set", "training.tokens=20480", "--set", &path];
    let error = fails(small_train(&other, &quick).args(longer));
    assert!(error.contains("has changed"), "{error}");
    // Nothing is made where there is no run to extend.
    let nowhere = folder.path().join("nowhere");
    let error = fails(small_train(&nowhere, &quick).arg("--extend"));
    assert!(error.contains("found no folder"), "{error}");
    assert!(!nowhere.exists());
    // Another recipe cannot go on from this checkpoint.
    let error = fails(small_train(&cut, &quick).args(["--resume", "--set", "coder.k=8"]));
    assert!(error.contains("coder.k"), "{error}");
}

#[test]
fn a_model_that_is_damaged_is_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = root().join("tests/fixtures/models/gpt2");
    let broken = |name: &str, damage: &dyn Fn(&Path)| {
        let model = folder.path().join(name);
        std::fs::create_dir(&model).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture.join(file), model.join(file)).unwrap();
        }
        damage(&model);
        let out = folder.path().join("x.safetensors");
        let error = fails(
            lapidary(&[
                "run",
                "--device",
                "cpu",
                "--tokens",
                "1,2",
                "--capture",
                "logits",
                "--model",
            ])
            .arg(&model)
            .arg("--out")
            .arg(&out),
        );
        assert!(!out.exists(), "{name}: a failed run left {}", out.display());
        error
    };
    let edit = |model: &Path, from: &str, to: &str| {
        let path = model.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    let error = broken("missing", &|m| {
        std::fs::remove_file(m.join("model.safetensors")).unwrap()
    });
    assert!(error.contains("model.safetensors"), "{error}");
    let error = broken("truncated", &|m| {
        let path = m.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(
        error.contains("model.safetensors") && error.contains("truncated"),
        "{error}"
    );
    let error = broken("reshaped", &|m| edit(m, "\"n_embd\": 48", "\"n_embd\": 52"));
    assert!(
        error.contains("wte.weight") && error.contains("48") && error.contains("52"),
        "{error}"
    );
    let error = broken("unknown", &|m| {
        edit(m, "\"model_type\": \"gpt2\"", "\"model_type\": \"mamba\"")
    });
    assert!(
        error.contains("config.json") && error.contains("mamba") && error.contains("llama"),
        "{error}"
    );
    let error = broken("huge", &|m| {
        edit(m, "\"n_layer\": 2", "\"n_layer\": 18446744073709551615")
    });
    assert!(
        error.contains("n_layer") || error.contains("layers"),
        "{error}"
    );
    let error = broken("prose", &|m| {
        std::fs::write(m.join("config.json"), "once upon a time").unwrap()
    });
    assert!(
        error.contains("config.json") && error.contains("JSON"),
        "{error}"
    );
    let error = fails(&mut lapidary(&[
        "generate",
        "x",
        "--device",
        "cpu",
        "--model",
        "no/such/model/anywhere",
    ]));
    assert!(error.contains("no/such/model/anywhere"), "{error}");
    let error = fails(
        lapidary(&[
            "generate",
            "x",
            "--device",
            "cpu",
            "--model",
            "no/such-model",
        ])
        .env("HF_HUB_OFFLINE", "1"),
    );
    assert!(
        error.contains("no/such-model") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
}

#[test]
fn a_dictionary_that_is_not_there_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let of = |path: &str| {
        let expected = "not found; expected a dictionary, a run's folder, or hf:OWNER/NAME/PATH";
        format!("{path}: {expected}")
    };
    let absolute = folder.path().join("absent");
    for path in ["absent", "absent/dictionary", absolute.to_str().unwrap()] {
        for command in [
            &["eval", path, "--device", "cpu"][..],
            &["features", path, "--device", "cpu"],
            &[
                "convert", "--from", path, "--to", "x", "--format", "saelens",
            ],
        ] {
            let error = fails(lapidary(command).current_dir(folder.path()));
            assert!(error.contains(&of(path)), "{command:?}: {error}");
        }
    }
    let error = fails(&mut lapidary(&["eval", "absent", "--tokens", "0"]));
    assert!(
        error.contains("--tokens: found 0, expected at least 1"),
        "{error}"
    );
}

#[test]
fn a_recipe_or_corpus_that_cannot_be_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refused = |more: &[&str]| {
        let error = fails(&mut small_train(&out, more));
        assert!(!out.exists(), "{more:?} left {}", out.display());
        error
    };
    let error = refused(&["--set", "training.learning_rate=1e-3"]);
    assert!(
        error.contains("training.learning_rate") && error.contains("training.lr"),
        "{error}"
    );
    let error = refused(&["--set", "coder.dsae=64"]);
    assert!(error.contains("did you mean `coder.d_sae`"), "{error}");
    let error = refused(&["--set", "coder.k=4096"]);
    assert!(error.contains("4096") && error.contains("512"), "{error}");
    // What cannot fit into memory is refused before the model runs on any text.
    let pursuit = "coder.architecture=matching_pursuit";
    let error = refused(&["--set", pursuit, "--set", "coder.k=1000000000"]);
    assert!(
        error.contains("`coder.k`: found 1000000000, expected at most 65536 steps"),
        "{error}"
    );
    let error = refused(&[
        "--set",
        pursuit,
        "--set",
        "coder.k=65536",
        "--set",
        "training.batch_tokens=100000000",
        "--set",
        "training.tokens=100000000",
        "--set",
        "activations.buffer_tokens=100000000",
    ]);
    assert!(
        error.contains("`coder.k`: found 65536, expected fewer steps") && error.contains("GiB"),
        "{error}"
    );
    assert!(!error.contains("activations"), "{error}");
    let error = refused(&["--set", "coder.d_sae=2000000000"]);
    assert!(
        error.contains("`coder.d_sae`: found 2000000000, expected fewer") && error.contains("GiB"),
        "{error}"
    );
    let error = refused(&["--set", "coder.k=many"]);
    assert!(
        error.contains("coder.k") && error.contains("many"),
        "{error}"
    );
    let error = refused(&["--set", "hook_point=blocks.2.hook_resid_pots"]);
    assert!(error.contains("blocks.2.hook_resid_post"), "{error}");
    let error = refused(&["--set", "hook_point=blocks.9.hook_resid_post"]);
    assert!(error.contains("0 to 3"), "{error}");
    let error = refused(&["--set", "corpus.context=100000"]);
    assert!(error.contains("100000") && error.contains("256"), "{error}");
    let error = refused(&["--set", "corpus.path=no/such/text.txt"]);
    assert!(error.contains("no/such/text.txt"), "{error}");
    let error = fails(&mut lapidary(&["train", "no/such/recipe.toml"]));
    assert!(error.contains("no/such/recipe.toml"), "{error}");
    let error = fails(
        lapidary(&[
            "pretrain",
            "configs/pretrain/embedded.toml",
            "--set",
            "n_headz=3",
            "--out",
        ])
        .arg(&out),
    );
    assert!(error.contains("did you mean `n_heads`"), "{error}");

    // Text that turns out unreadable once training has begun.
    let text = folder.path().join("latin.txt");
    std::fs::write(&text, b"caf\xe9 au lait").unwrap();
    let path = format!("corpus.path=\"{}\"", text.display());
    let error = fails(&mut small_train(
        &out,
        &["--set", &path, "--set", "evaluation.tokens=0"],
    ));
    assert!(
        error.contains("latin.txt") && error.contains("byte 3"),
        "{error}"
    );
    assert!(!out.join("dictionary").exists() && !out.join("report.html").exists());
}

#[test]
fn the_version_is_that_of_lapidary() {
    let expected = concat!("lapidary ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(succeeds(&mut lapidary(&["--version"])), expected);
}

#[test]
fn a_device_that_is_not_there_is_one_clear_line() {
    let command = |device: &str| lapidary(&["generate", "x", "--device", device]);
    if !cfg!(feature = "cuda") {
        let error = fails(&mut command("cuda"));
        assert!(error.contains("CUDA"), "{error}");
    }
    // The Vulkan loader finds no driver, as on a machine without one.
    let error = fails(
        command("wgpu")
            .env("VK_DRIVER_FILES", "/nonexistent")
            .env("VK_ICD_FILENAMES", "/nonexistent")
            .env("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent"),
    );
    assert!(error.contains("wgpu"), "{error}");
    let output = command("gpu").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("wgpu:N") && !output.status.success());
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_told_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let command = small_train(&out, &["--set", "training.checkpoint_every_steps=0"]);
    // A limit on the size of files stops writes in the middle, as a full disk does.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\"", "sh"]);
    limited
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(root());
    let error = fails(&mut limited);
    assert!(
        error.contains("written") || error.contains("write"),
        "{error}"
    );
    let left: Vec<_> = walk(&out);
    for file in &left {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            [
                "run.json",
                "config.toml",
                "first_batch.json",
                "metrics.jsonl"
            ]
            .contains(&name.as_str()),
            "{left:?}"
        );
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return vec![];
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn a_benchmark_prints_one_json_object() {
    let text = succeeds(&mut lapidary(&[
        "bench", "--device", "cpu", "--config", "tiny", "--steps", "1", "--json",
    ]));
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in ["step_seconds", "encode_seconds", "floor_ratio"] {
        assert!(found[key].as_f64().is_some_and(|s| s > 0.0), "{found}");
    }
    let parts = found["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 8, "{found}");
    for part in parts {
        assert!(part["seconds"].as_f64().is_some_and(|s| s > 0.0), "{part}");
    }
    let text = succeeds(&mut lapidary(&[
        "bench",
        "--device",
        "cpu",
        "--config",
        "tiny-pursuit",
        "--steps",
        "1",
        "--json",
    ]));
    let pursuit: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in [
        "step_seconds",
        "encode_seconds",
        "topk_step_seconds",
        "step_over_topk",
    ] {
        assert!(pursuit[key].as_f64().is_some_and(|s| s > 0.0), "{pursuit}");
    }
    // Nobody to compare with unless asked.
    for key in ["step_vs_sparsify", "encode_vs_best_peer"] {
        assert!(found[key].is_null(), "{found}");
    }
    let error = fails(&mut lapidary(&[
        "bench",
        "--device",
        "cpu",
        "--vs-peers",
        "--scripts",
        "no/such/folder",
    ]));
    assert!(error.contains("no/such/folder"), "{error}");
}

#[test]
fn a_benchmark_on_stored_activations_compares_with_random_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut harvest = lapidary(&["harvest", "--device", "cpu", "--tokens", "4096"]);
    harvest.args([
        "--hook",
        "blocks.1.hook_resid_post,blocks.2.hook_resid_post",
    ]);
    succeeds(harvest.arg("--out").arg(&store));
    let bench = || {
        let mut bench = lapidary(&["bench", "--device", "cpu", "--steps", "1", "--json"]);
        bench.args(["--d-sae", "64", "-k", "4", "--activations"]);
        bench.arg(&store);
        bench
    };
    let error = fails(&mut bench());
    assert!(
        error.contains("found 2 hook points") && error.contains("--hook"),
        "{error}"
    );
    let text = succeeds(bench().args(["--hook", "blocks.2.hook_resid_post"]));
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&found["d_in"], &found["d_sae"], &found["k"]),
        (&256.into(), &64.into(), &4.into())
    );
    for key in [
        "step_seconds",
        "random_encode_seconds",
        "encode_over_random",
    ] {
        assert!(found[key].as_f64().is_some_and(|s| s > 0.0), "{found}");
    }
    let error = fails(&mut lapidary(&[
        "bench",
        "--hook",
        "blocks.2.hook_resid_post",
    ]));
    assert!(error.contains("--activations"), "{error}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    for arguments in [&["devices"][..], &["generate", "The", "--tokens", "4"]] {
        let mut child = lapidary(arguments)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let errors = child.wait_with_output().unwrap().stderr;
        let errors = String::from_utf8_lossy(&errors);
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    }
}

#[test]
fn generating_twice_with_one_seed_gives_one_text() {
    let run = || {
        succeeds(&mut lapidary(&[
            "generate",
            "The people of",
            "--tokens",
            "12",
            "--device",
            "cpu",
            "--seed",
            "5",
        ]))
    };
    let text = run();
    assert!(
        text.starts_with("The people of ") && text.len() > 20,
        "{text}"
    );
    assert_eq!(text, run());
}

#[test]
fn a_tiny_pretraining_makes_a_model_that_loads() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(
        &text,
        "the cat sat on the mat and the dog sat on the log\n".repeat(200),
    )
    .unwrap();
    let corpus = format!("corpus=\"{}\"", text.display());
    let heldout = format!("heldout=\"{}\"", text.display());
    let model = folder.path().join("model");
    let mut command = lapidary(&[
        "pretrain",
        "configs/pretrain/embedded.toml",
        "--device",
        "cpu",
        "--out",
    ]);
    command.arg(&model);
    let sizes = [
        "d_vocab=300",
        "d_model=32",
        "n_layers=1",
        "n_heads=2",
        "d_mlp=64",
        "n_ctx=32",
        "tokens=20000",
        "warmup_steps=5",
    ];
    for setting in sizes
        .iter()
        .chain([corpus.as_str(), heldout.as_str()].iter())
    {
        command.args(["--set", setting]);
    }
    let card = succeeds(&mut command);
    assert!(card.contains("held-out loss"), "{card}");
    assert!(fails(&mut command).contains("--overwrite"));
    let text = succeeds(
        lapidary(&[
            "generate",
            "the cat",
            "--device",
            "cpu",
            "--temperature",
            "0",
            "--tokens",
            "5",
            "--model",
        ])
        .arg(&model),
    );
    assert!(text.starts_with("the cat sat on"), "{text}");
}

#[test]
fn generation_is_steered_by_a_direction_and_says_what_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, width: usize| {
        let path = folder.path().join(name);
        let direction: Vec<f32> = (0..width).map(|i| (i as f32).sin()).collect();
        let mut file = TensorWriter::default();
        file.f32("direction", &[width], &direction);
        file.write(&path, None).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (fits, wide) = (
        write("fits.safetensors", 256),
        write("wide.safetensors", 257),
    );
    let command = |direction: &str, strength: &str| {
        lapidary(&[
            "generate",
            "The people",
            "--device",
            "cpu",
            "--temperature",
            "0",
            "--tokens",
            "12",
            "--hook",
            "blocks.2.hook_resid_post",
            "--direction",
            direction,
            "--strength",
            strength,
        ])
    };
    let text = |strength: &str| {
        let output = command(&fits, strength).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = text("0");
    assert!(plain.starts_with("The people"));
    assert_ne!(text("-40"), plain);
    let error = fails(&mut command(&wide, "1"));
    assert!(
        error.contains("[1, 1, 257]") && error.contains("hook_resid_post"),
        "{error}"
    );
}

#[test]
fn generation_is_steered_by_a_latent_of_a_dictionary() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeeds(&mut small_train(&run, &[]));
    let dictionary = run.join("dictionary");
    let command = |more: &[&str]| {
        let fixed = ["--device", "cpu", "--temperature", "0", "--tokens", "12"];
        let mut command = lapidary(&["generate", "The people of"]);
        command.args(fixed).args(more);
        command
    };
    let text = |latent: &str, more: &[&str]| {
        let mut command = command(more);
        command.arg("--dictionary").arg(&dictionary);
        succeeds(command.args(["--latent", latent]))
    };
    let plain = succeeds(&mut command(&[]));
    assert_eq!(text("3", &["--strength", "0"]), plain);
    assert_ne!(text("3", &["--strength", "-400"]), plain);
    assert_ne!(text("3", &["--clamp", "400"]), plain);
    // A latent off the text is not on: switching it off changes nothing for at least one of many.
    let off = (0..8).filter(|i| text(&i.to_string(), &["--clamp", "0"]) == plain);
    assert!(off.count() > 0);
    let mut wrong = command(&["--latent", "512"]);
    let error = fails(wrong.arg("--dictionary").arg(&dictionary));
    assert!(
        error.contains("--latent: found 512, expected 0 to 511"),
        "{error}"
    );
    let mut both = command(&["--latent", "1", "--clamp", "1", "--strength", "2"]);
    assert!(
        !both
            .arg("--dictionary")
            .arg(&dictionary)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn run_names_both_ways_to_give_it_tokens() {
    let mut command = lapidary(&["run", "--capture", "hook_embed", "--out", "x.safetensors"]);
    let output = command.args(["--device", "cpu"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("--tokens") && told.contains("--text"),
        "{told}"
    );
    assert_eq!(output.status.code(), Some(2));
}
