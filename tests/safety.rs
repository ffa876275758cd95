//! People's data under rough handling: foreign files in the way, kills, signals, two processes on
//! one folder, damaged files, names that are no regular files, readers that have gone.

use crate::training_log::without_clock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn lapidary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).current_dir(root());
    command
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    output
}

/// The error of a command that must fail with one line, exit code 1 and without a panic.
fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{errors}");
    assert!(!errors.contains("panicked"), "{command:?}\n{errors}");
    let lines: Vec<&str> = errors.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(lines.len(), 1, "{command:?}\n{errors}");
    lines[0].to_owned()
}

/// A run of 20 steps in under a second.
const SMALL: [&str; 11] = [
    "coder.d_sae=128",
    "coder.k=8",
    "corpus.context=32",
    "training.tokens=2560",
    "training.batch_tokens=128",
    "training.checkpoint_every_steps=4",
    "training.log_every_steps=1",
    "activations.buffer_tokens=512",
    "evaluation.tokens=256",
    "features.tokens=512",
    "features.examples_per_feature=2",
];

fn train(out: &Path, more: &[&str]) -> Command {
    let mut command = lapidary(&["train", "configs/quickstart.toml", "--device", "cpu"]);
    command.arg("--out").arg(out);
    for setting in SMALL {
        command.args(["--set", setting]);
    }
    command.args(more);
    command
}

/// The same with so many steps that it can be interrupted.
fn long_train(out: &Path, more: &[&str]) -> Command {
    let mut command = train(out, &["--set", "training.tokens=25600"]);
    command
        .args(["--set", "training.checkpoint_every_steps=3"])
        .args(more);
    command
}

/// Every file below a folder with its bytes; of a log without its clock.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(below) = folders.pop() {
        for entry in std::fs::read_dir(below).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            let mut bytes = std::fs::read(&path).unwrap();
            if name.ends_with("metrics.jsonl") {
                bytes = without_clock(&bytes);
            }
            found.insert(name, bytes);
        }
    }
    found
}

fn same(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) {
    let names = |m: &BTreeMap<String, Vec<u8>>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(a), names(b));
    for (name, bytes) in a {
        assert!(*bytes == b[name], "{name} differs");
    }
}

fn wait_for(child: &mut Child, what: &str, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before {what}"
        );
        assert!(start.elapsed() < Duration::from_secs(300), "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn foreign_files_in_the_way_are_refused_by_name_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = [
        "config.toml",
        "features/mydata.csv",
        "checkpoint/epoch10.pt",
        "dictionary/notes.txt",
        "report.html",
        "metrics.json",
    ];
    for (number, file) in foreign.iter().enumerate() {
        let out = folder.path().join(number.to_string());
        let path = out.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let before = contents(&out);
        for way in [&[][..], &["--overwrite"], &["--resume"]] {
            let error = fails(&mut train(&out, way));
            assert!(
                error.contains(file) && error.contains("in the way"),
                "{error}"
            );
            same(&before, &contents(&out));
        }
    }
    // Beside a finished run, to which `--resume`, `--overwrite` and `features` come back.
    let out = folder.path().join("run");
    let keep = ["--keep-checkpoint"];
    succeeds(&mut train(&out, &keep));
    std::fs::write(out.join("notes.md"), "mine").unwrap();
    for file in [
        "features/mydata.csv",
        "checkpoint/epoch10.pt",
        "dictionary/mine.txt",
    ] {
        std::fs::write(out.join(file), "mine").unwrap();
        let before = contents(&out);
        for way in [["--overwrite"], ["--resume"], ["--extend"]] {
            let error = fails(&mut train(&out, &way));
            assert!(error.contains(file), "{error}");
        }
        if file.starts_with("features") {
            let mut tables = lapidary(&["features", "--tokens", "256", "--device", "cpu"]);
            let error = fails(tables.arg(&out));
            assert!(error.contains(file), "{error}");
        }
        same(&before, &contents(&out));
        std::fs::remove_file(out.join(file)).unwrap();
    }
    // `features --out` into a folder of somebody else's.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("report.html"), "mine").unwrap();
    let mut tables = lapidary(&["features", "--tokens", "256", "--device", "cpu"]);
    let error = fails(tables.arg(&out).arg("--out").arg(&other));
    assert!(error.contains("report.html"), "{error}");
    std::fs::remove_file(other.join("report.html")).unwrap();
    std::fs::write(other.join("notes.md"), "mine").unwrap();
    for _ in 0..2 {
        let mut tables = lapidary(&["features", "--tokens", "256", "--device", "cpu"]);
        succeeds(tables.arg(&out).arg("--out").arg(&other));
    }
    assert_eq!(std::fs::read(other.join("notes.md")).unwrap(), b"mine");
    succeeds(&mut train(&out, &["--overwrite"]));
    assert_eq!(std::fs::read(out.join("notes.md")).unwrap(), b"mine");
}

#[cfg(unix)]
#[test]
fn one_command_starts_goes_on_and_finds_the_work_done() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, out] = ["whole", "out"].map(|name| folder.path().join(name));
    succeeds(&mut long_train(&whole, &[]));
    assert!(!whole.join("checkpoint").exists(), "the run is finished");
    let mut child = long_train(&out, &["--resume"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let manifest = out.join("checkpoint/manifest.json");
    wait_for(&mut child, "checkpoint", || manifest.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    succeeds(&mut long_train(&out, &["--resume"]));
    same(&contents(&whole), &contents(&out));
    let output = succeeds(&mut long_train(&out, &["--resume"]));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("finished already"), "{errors}");
    same(&contents(&whole), &contents(&out));
    // The key that the user changed, not one that follows from it.
    let error = fails(&mut long_train(
        &out,
        &["--resume", "--set", "training.tokens=38400"],
    ));
    assert!(error.contains("training.tokens = 25600"), "{error}");
    assert!(error.contains("--extend"), "{error}");
    let error = fails(&mut long_train(
        &out,
        &["--extend", "--set", "training.tokens=38400"],
    ));
    assert!(error.contains("--keep-checkpoint"), "{error}");
    // Other tables of a finished run need no training. Where they cannot be written, the next
    // command writes them.
    let other = ["--resume", "--set", "features.examples_per_feature=1"];
    let command = long_train(&out, &other);
    let mut full = Command::new("sh");
    full.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]);
    full.arg(command.get_program()).args(command.get_args());
    let error = fails(full.current_dir(root()));
    assert!(error.contains("written"), "{error}");
    let output = succeeds(&mut long_train(&out, &other));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("finished already"), "{errors}");
    let file = "dictionary/sae_weights.safetensors";
    assert_eq!(contents(&whole)[file], contents(&out)[file]);
    assert_ne!(
        contents(&whole)["features/examples.parquet"],
        contents(&out)["features/examples.parquet"]
    );
}

#[test]
fn a_finished_run_whose_checkpoint_was_kept_can_be_made_longer() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    succeeds(&mut train(&out, &["--keep-checkpoint"]));
    assert!(out.join("checkpoint/manifest.json").exists());
    let longer = ["--extend", "--set", "training.tokens=3840"];
    succeeds(&mut train(&out, &longer));
    let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 30, "of 20 steps and 10 more");
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(config.contains("tokens = 3840"), "{config}");
    let error = fails(&mut train(&out, &["--extend"]));
    assert!(error.contains("3840"), "{error}");
    // Nothing but the length may change.
    let error = fails(&mut train(
        &out,
        &["--extend", "--set", "training.adam_beta1=0.8"],
    ));
    assert!(error.contains("training.adam_beta1"), "{error}");
}

#[test]
fn an_old_run_stands_until_the_new_one_has_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    succeeds(&mut train(&out, &[]));
    let before = contents(&out);
    let fails_early = ["--overwrite", "--set", "training.lr=1e30"];
    let error = fails(&mut train(&out, &fails_early));
    assert!(error.contains("loss"), "{error}");
    // What is left of the failed one is cleared by whoever comes next.
    succeeds(&mut train(&out, &["--resume"]));
    same(&before, &contents(&out));
    // Killed before its first checkpoint.
    let none = ["--overwrite", "--set", "training.checkpoint_every_steps=0"];
    let mut child = train(&out, &none)
        .args(["--set", "training.tokens=9999999"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = out.join(".run.writing/metrics.jsonl");
    wait_for(&mut child, "log", || log.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    succeeds(&mut train(&out, &["--resume"]));
    same(&before, &contents(&out));
    // And one that goes through.
    succeeds(&mut train(&out, &["--overwrite", "--set", "seed=1"]));
    let after = contents(&out);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    let weights = "dictionary/sae_weights.safetensors";
    assert!(before[weights] != after[weights]);
}

#[cfg(unix)]
#[test]
fn a_run_that_is_asked_to_stop_finishes_its_step_with_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, out] = ["whole", "out"].map(|name| folder.path().join(name));
    succeeds(&mut long_train(&whole, &[]));
    for signal in ["TERM", "INT"] {
        let _ = std::fs::remove_dir_all(&out);
        let mut child = train(&out, &["--set", "training.tokens=25600"])
            .args(["--set", "training.checkpoint_every_steps=0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = out.join("metrics.jsonl");
        wait_for(&mut child, "log", || {
            std::fs::read(&log).is_ok_and(|log| !log.is_empty())
        });
        let id = child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{errors}");
        assert!(errors.contains("--resume goes on"), "{errors}");
        assert!(out.join("checkpoint/manifest.json").exists());
        succeeds(&mut long_train(&out, &["--resume"]));
        let (a, b) = (contents(&whole), contents(&out));
        for file in [
            "dictionary/sae_weights.safetensors",
            "features/features.parquet",
        ] {
            assert!(a[file] == b[file], "{file} differs");
        }
    }
}

#[test]
fn two_processes_on_one_folder_are_one_and_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut first = long_train(&out, &[]).stderr(Stdio::null()).spawn().unwrap();
    let config = out.join("config.toml");
    wait_for(&mut first, "recipe", || config.exists());
    for mut second in [
        long_train(&out, &["--resume"]),
        long_train(&out, &["--overwrite"]),
        long_train(&out, &["--set", "seed=1"]),
    ] {
        let error = fails(&mut second);
        assert!(error.contains("another process is writing"), "{error}");
    }
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_flipped_bit_in_a_checkpoint_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut child = long_train(&out, &[]).stderr(Stdio::null()).spawn().unwrap();
    let manifest = out.join("checkpoint/manifest.json");
    wait_for(&mut child, "checkpoint", || manifest.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let checkpoint = out.join("checkpoint");
    let files = contents(&checkpoint);
    assert_eq!(
        files.keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "coder-0/config.toml",
            "coder-0/state.safetensors",
            "manifest.json",
            "source/buffer.safetensors",
            "source/stream.json"
        ]
    );
    for (name, bytes) in &files {
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 4;
        std::fs::write(checkpoint.join(name), &damaged).unwrap();
        let error = fails(&mut long_train(&out, &["--resume"]));
        let last = Path::new(name).file_name().unwrap().to_str().unwrap();
        assert!(error.contains(last), "{name}: {error}");
        std::fs::write(checkpoint.join(name), bytes).unwrap();
    }
    // As it was, it is good.
    succeeds(&mut long_train(&out, &["--resume"]));
}

#[cfg(unix)]
#[test]
fn results_go_through_links_and_never_replace_what_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeeds(&mut train(&run, &[]));
    let x = folder.path().join("x.safetensors");
    let capture = [
        "run",
        "--text",
        "The people",
        "--capture",
        "blocks.2.hook_resid_post",
    ];
    succeeds(
        lapidary(&capture)
            .args(["--device", "cpu", "--out"])
            .arg(&x),
    );
    let latents = folder.path().join("latents.parquet");
    type WritesTo<'a> = Box<dyn Fn(&Path) -> Command + 'a>;
    let each: [(&str, WritesTo<'_>); 4] = [
        (
            "run",
            Box::new(|out: &Path| {
                let mut command = lapidary(&capture);
                command.args(["--device", "cpu", "--out"]).arg(out);
                command
            }),
        ),
        (
            "encode",
            Box::new(|out: &Path| {
                let mut command = lapidary(&["encode", "--device", "cpu", "--dictionary"]);
                command
                    .arg(&run)
                    .arg("--activations")
                    .arg(&x)
                    .arg("--out")
                    .arg(out);
                command
            }),
        ),
        (
            "eval --out",
            Box::new(|out: &Path| {
                let mut command = lapidary(&["eval", "--device", "cpu", "--tokens", "64", "--out"]);
                command.arg(out).arg(&run);
                command
            }),
        ),
        (
            "eval --latents",
            Box::new(|out: &Path| {
                let mut command =
                    lapidary(&["eval", "--device", "cpu", "--tokens", "64", "--latents"]);
                command.arg(out).arg(&run);
                command
            }),
        ),
    ];
    for (number, (name, command)) in each.iter().enumerate() {
        let fifo = folder.path().join(format!("fifo{number}"));
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let null = folder.path().join(format!("null{number}"));
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        for (path, what) in [
            (fifo.as_path(), "a FIFO"),
            (&null, "a device"),
            (folder.path(), "a folder"),
        ] {
            let error = fails(&mut command(path));
            assert!(error.contains(what), "{name}: {error}");
        }
        use std::os::unix::fs::FileTypeExt;
        assert!(fifo.metadata().unwrap().file_type().is_fifo());
        assert!(
            Path::new("/dev/null")
                .metadata()
                .unwrap()
                .file_type()
                .is_char_device()
        );
        let real = folder.path().join(format!("real{number}"));
        let link = folder.path().join(format!("link{number}"));
        std::os::unix::fs::symlink(&real, &link).unwrap();
        succeeds(&mut command(&link));
        assert!(link.symlink_metadata().unwrap().is_symlink(), "{name}");
        assert!(real.metadata().unwrap().len() > 0, "{name}");
    }
    assert!(!latents.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn progress_that_cannot_be_printed_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let full = || {
        std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let run = folder.path().join("full");
    let status = train(&run, &[]).stderr(full()).status().unwrap();
    assert!(status.success());
    assert!(run.join("report.html").exists());
    // A reader that has gone, as `head -1` has, and no standard error at all.
    let gone = folder.path().join("gone");
    let mut child = train(&gone, &[]).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    same(&contents(&run), &contents(&gone));
    let model = tests_model();
    let (run, model) = (run.to_str().unwrap(), model.to_str().unwrap());
    let commands: [&[&str]; 8] = [
        &["eval", run, "--tokens", "64"],
        &["features", run, "--tokens", "64"],
        &["inspect", run],
        &["devices"],
        &["generate", "The", "--tokens", "2"],
        &[
            "run",
            "--text",
            "a",
            "--capture",
            "logits",
            "--out",
            "/tmp/never/x",
        ],
        &["train", "no/such.toml"],
        &["inspect", model],
    ];
    for arguments in commands {
        for shut in [false, true] {
            let mut command = match shut {
                false => lapidary(arguments),
                true => {
                    let mut command = Command::new("sh");
                    command.args(["-c", "exec \"$0\" \"$@\" 2>&-"]);
                    command.arg(env!("CARGO_BIN_EXE_lapidary")).args(arguments);
                    command.current_dir(root());
                    command
                }
            };
            if !shut {
                command.stderr(full());
            }
            let status = command.stdout(Stdio::null()).status().unwrap();
            let code = status.code().unwrap();
            assert!([0, 1].contains(&code), "{arguments:?}: {code}");
        }
    }
}

fn tests_model() -> PathBuf {
    root().join("tests/fixtures/models/gpt2")
}

#[test]
fn a_quiet_run_prints_its_result_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = succeeds(&mut train(&out, &["-q"]));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        printed.trim(),
        out.join("report.html").display().to_string()
    );
    let error = fails(&mut train(&out, &["-q"]));
    assert!(error.contains("--overwrite"), "{error}");
}

#[test]
fn other_commands_that_write_folders_lose_nothing_either() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (command, file)) in [
        (&["pretrain", "configs/pretrain/embedded.toml"], "README.md"),
        (
            &["pretrain", "configs/pretrain/embedded.toml"],
            "config.json",
        ),
        (
            &["synthetic", "configs/synthetic/topk.toml"],
            "recovery.json",
        ),
        (
            &["synthetic", "configs/synthetic/topk.toml"],
            "dictionary/notes.md",
        ),
    ]
    .iter()
    .enumerate()
    {
        let out = folder.path().join(number.to_string());
        let path = out.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let mut command = lapidary(*command);
        let error = fails(command.args(["--device", "cpu", "--out"]).arg(&out));
        assert!(
            error.contains(file) && error.contains("in the way"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
    // What one command made is not another's to replace, whatever it is told.
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("model.safetensors"), "weights of an hour").unwrap();
    let manifest = serde_json::json!({
        "format": "lapidary run", "format_version": 1, "lapidary_version": "0.1.0",
        "made_by": "pretrain", "finished": false, "files": ["model.safetensors"],
    });
    std::fs::write(model.join("run.json"), manifest.to_string()).unwrap();
    let tables = folder.path().join("tables");
    let mut command = lapidary(&["features", "--tokens", "256", "--device", "cpu"]);
    let source = folder.path().join("source");
    succeeds(&mut train(&source, &[]));
    succeeds(command.arg(&source).arg("--out").arg(&tables));
    for (out, maker) in [(&model, "pretrain"), (&tables, "features")] {
        let before = contents(out);
        for way in [&[][..], &["--overwrite"], &["--resume"]] {
            let error = fails(&mut train(out, way));
            assert!(
                error.contains(&format!(
                    "was written by `lapidary {maker}`; `lapidary train` does not replace it"
                )),
                "{error}"
            );
            same(&before, &contents(out));
        }
    }
    // A run of `train` is not overwritten by `synthetic`.
    let run = folder.path().join("run");
    succeeds(&mut train(&run, &[]));
    let before = contents(&run);
    let mut command = lapidary(&[
        "synthetic",
        "configs/synthetic/topk.toml",
        "--device",
        "cpu",
    ]);
    let error = fails(command.arg("--out").arg(&run));
    assert!(
        error.contains("was written by `lapidary train`; `lapidary synthetic` does not replace it"),
        "{error}"
    );
    same(&before, &contents(&run));
}
