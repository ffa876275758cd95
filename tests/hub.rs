//! A model or a dataset by its hub name: fetched once from a server, then found in the hub's cache
//! without one. The server here is our own, on loopback, and answers as the hub does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Serves a folder's files under any repository's `resolve` path until the listener is dropped with
/// the test.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            std::thread::spawn(move || answer(stream, &folder));
        }
    });
    address
}

fn answer(stream: TcpStream, folder: &Path) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut range = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
                let (from, to) = value.trim().split_once('-').unwrap();
                range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
            }
        }
        let name = request
            .split(' ')
            .nth(1)
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap();
        let response = match std::fs::read(folder.join(name)) {
            Err(_) => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
            Ok(body) => {
                let (from, to) = range.unwrap_or((0, None));
                let to = to.unwrap_or(body.len() - 1).min(body.len() - 1);
                let status = if range.is_some() {
                    "206 Partial Content"
                } else {
                    "200 OK"
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{to}/{}\r\n\
                     etag: \"{name}\"\r\nx-repo-commit: 0123456789abcdef\r\n\r\n",
                    to + 1 - from,
                    body.len()
                );
                [head.as_bytes(), &body[from..=to]].concat()
            }
        };
        if writer.write_all(&response).is_err() {
            return;
        }
    }
}

fn run(model: &str, home: &Path, endpoint: &str, offline: bool) -> Output {
    let command = ["run", "--tokens", "1,2,3", "--capture", "logits"];
    let mut command = lapidary(&command, home, endpoint, offline);
    command
        .args(["--model", model])
        .arg("--out")
        .arg(home.join("x.safetensors"));
    command.output().unwrap()
}

/// The command with an environment of its own.
fn lapidary(arguments: &[&str], home: &Path, endpoint: &str, offline: bool) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command
        .args(arguments)
        .args(["--device", "cpu"])
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env_remove("HF_HUB_OFFLINE");
    if offline {
        command.env("HF_HUB_OFFLINE", "1");
    }
    command
}

fn fetches_once_and_then_works_offline(fixture: &str) {
    let home = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/models")
        .join(fixture);
    let endpoint = serve(folder);
    let errors = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let before = run("someone/tiny", home.path(), &endpoint, true);
    assert!(
        !before.status.success() && errors(&before).contains("HF_HUB_OFFLINE"),
        "{}",
        errors(&before)
    );
    let fetched = run("someone/tiny", home.path(), &endpoint, false);
    assert!(fetched.status.success(), "{}", errors(&fetched));
    let logits = std::fs::read(home.path().join("x.safetensors")).unwrap();
    // Nobody listens at this port any more than at the hub's when there is no network.
    let cached = run("someone/tiny", home.path(), "http://127.0.0.1:9", true);
    assert!(cached.status.success(), "{}", errors(&cached));
    assert!(std::fs::read(home.path().join("x.safetensors")).unwrap() == logits);
}

#[test]
fn a_hub_model_is_fetched_once_and_then_works_offline() {
    fetches_once_and_then_works_offline("gpt2");
}

#[test]
fn a_sharded_hub_model_is_fetched_with_all_its_shards() {
    fetches_once_and_then_works_offline("gpt2-sharded");
}

#[test]
fn a_shard_outside_the_model_is_never_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/gpt2");
    std::fs::copy(
        fixture.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    std::fs::write(
        folder.path().join("model.safetensors.index.json"),
        r#"{"weight_map": {"wte.weight": "../../escaped.safetensors"}}"#,
    )
    .unwrap();
    let endpoint = serve(folder.path().into());
    let output = run("someone/hostile", home.path(), &endpoint, false);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("weight_map") && errors.contains("escaped"),
        "{errors}"
    );
}

#[test]
fn a_name_that_the_hub_does_not_know_is_one_clear_error() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = serve(home.path().join("nothing"));
    let output = run("someone/unknown", home.path(), &endpoint, false);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success()
            && errors.contains("someone/unknown")
            && errors.contains("config.json"),
        "{errors}"
    );
    assert!(!errors.contains("panicked"), "{errors}");
}

/// The first shard of a harvest of the corpus, or the error.
fn harvest(corpus: &str, home: &Path, endpoint: &str, offline: bool) -> Result<Vec<u8>, String> {
    let out = home.join("store");
    drop(std::fs::remove_dir_all(&out));
    let command = [
        "harvest",
        "--hook",
        "blocks.0.hook_resid_pre",
        "--context",
        "8",
    ];
    let mut command = lapidary(&command, home, endpoint, offline);
    let output = command
        .args(["--corpus", corpus, "--out"])
        .arg(&out)
        .output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{errors}");
    match output.status.success() {
        true => Ok(std::fs::read(out.join("shard-000000.safetensors")).unwrap()),
        false => Err(errors),
    }
}

/// A server of a dataset with these files, all in one folder; the hub lists them under `names`.
fn dataset(folder: &Path, names: &[&str]) -> String {
    for name in names {
        let text = format!("This is what the file {name} of the dataset says. ").repeat(9);
        let line = serde_json::json!({ "text": text }).to_string();
        std::fs::write(folder.join(name.rsplit('/').next().unwrap()), line).unwrap();
    }
    let siblings: Vec<_> = names
        .iter()
        .map(|name| serde_json::json!({ "rfilename": name }))
        .collect();
    let info = serde_json::json!({ "siblings": siblings, "sha": "0123456789abcdef" });
    // .../api/datasets/OWNER/NAME/revision/main
    std::fs::write(folder.join("main"), info.to_string()).unwrap();
    serve(folder.into())
}

#[test]
fn a_hub_dataset_is_fetched_once_and_then_works_offline() {
    let (home, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names = [
        "README.md",
        "data/train-00000-of-00001.jsonl",
        "data/test-00000-of-00001.jsonl",
    ];
    let endpoint = dataset(folder.path(), &names);
    let read = |corpus: &str, offline| harvest(corpus, home.path(), &endpoint, offline);
    let error = read("hf:someone/texts", true).unwrap_err();
    assert!(
        error.contains("someone/texts") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    let train = read("hf:someone/texts", false).unwrap();
    // Only what is read is fetched.
    let cache = home
        .path()
        .join("hub/datasets--someone--texts/snapshots/0123456789abcdef/data");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);
    let test = read("hf:someone/texts:test", false).unwrap();
    assert!(train != test);
    let nobody = "http://127.0.0.1:9";
    let cached = |corpus: &str| harvest(corpus, home.path(), nobody, true).unwrap();
    assert!(cached("hf:someone/texts:train") == train);
    assert!(cached("hf:someone/texts/data:test") == test);
    // The cache's folder is a corpus too.
    assert!(cached(cache.to_str().unwrap()) == train);

    let error = read("hf:someone/texts:dev", false).unwrap_err();
    assert!(error.contains("the splits test, train"), "{error}");
    let error = read("hf:someone/texts/no", false).unwrap_err();
    assert!(error.contains("no corpus file"), "{error}");
    let error = read("hf:../texts", false).unwrap_err();
    assert!(error.contains("no name of the hub"), "{error}");
}

#[test]
fn a_dataset_file_outside_the_dataset_is_never_asked_for() {
    let (home, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let endpoint = dataset(folder.path(), &["../../../escaped.jsonl"]);
    let error = harvest("hf:someone/texts", home.path(), &endpoint, false).unwrap_err();
    assert!(
        error.contains("escaped.jsonl") && error.contains("below"),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    let error = harvest(
        "hf:some/one",
        home.path(),
        &serve(empty.path().into()),
        false,
    );
    assert!(error.unwrap_err().contains("some/one"));
}

/// A server of a repository whose files lie in one folder; the hub lists them under `names`.
fn repository(folder: &Path, names: &[&str]) -> String {
    let siblings: Vec<_> = names
        .iter()
        .map(|name| serde_json::json!({ "rfilename": name }))
        .collect();
    let info = serde_json::json!({ "siblings": siblings, "sha": "0123456789abcdef" });
    std::fs::write(folder.join("main"), info.to_string()).unwrap();
    serve(folder.into())
}

#[test]
fn a_hub_dictionary_is_fetched_once_and_then_works_offline() {
    let (home, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dictionaries");
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put(
        "params.npz",
        &std::fs::read(fixtures.join("gemma_scope.npz")).unwrap(),
    );
    put(
        "ae.pt",
        &std::fs::read(fixtures.join("jumprelu.pt")).unwrap(),
    );
    put("layer_0.safetensors", b"");
    put(
        "config.json",
        b"{\"trainer\": {\"dict_class\": \"JumpReluAutoEncoder\"}}",
    );
    let endpoint = repository(
        folder.path(),
        &[
            "README.md",
            "layer_3/width_16k/average_l0_71/params.npz",
            "trainer_0/config.json",
            "trainer_0/checkpoints/ae_100.pt",
            "trainer_0/ae.pt",
            "set/layer_0.safetensors",
            "set/layer_1.safetensors",
        ],
    );
    let convert = |from: &str, offline: bool| {
        let out = home.path().join("converted");
        drop(std::fs::remove_dir_all(&out));
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        command
            .args(["convert", "--format", "saelens", "--from", from, "--to"])
            .arg(&out)
            .env("HF_HOME", home.path())
            .env(
                "HF_ENDPOINT",
                if offline {
                    "http://127.0.0.1:9"
                } else {
                    &endpoint
                },
            )
            .env_remove("HF_HUB_OFFLINE");
        if offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains("panicked"), "{errors}");
        match output.status.success() {
            true => Ok(std::fs::read(out.join("cfg.json")).unwrap()),
            false => Err(errors),
        }
    };
    let scope = "hf:someone/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_71";
    let error = convert(scope, true).unwrap_err();
    assert!(error.contains("HF_HUB_OFFLINE forbids"), "{error}");
    let fetched = convert(scope, false).unwrap();
    let text = String::from_utf8(fetched.clone()).unwrap();
    assert!(text.contains("blocks.3.hook_resid_post") && text.contains("google/gemma-2-2b"));
    // Only what is read is fetched.
    let cache = home
        .path()
        .join("hub/models--someone--gemma-scope-2b-pt-res/snapshots/0123456789abcdef");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);
    assert!(convert(scope, true).unwrap() == fetched);
    let file = format!("hf://{}/params.npz", &scope[3..]);
    assert!(convert(&file, true).unwrap() == fetched);

    convert("hf:someone/other/trainer_0", false).unwrap();
    let error = convert("hf:someone/other/set", false).unwrap_err();
    assert!(
        error.contains("found 2 of weights, set/layer_0.safetensors among them"),
        "{error}"
    );
    let error = convert("hf:someone/other/nothing", false).unwrap_err();
    assert!(error.contains("found none of weights"), "{error}");
    let error = convert("hf:someone/other@../../x", false).unwrap_err();
    assert!(error.contains("is no name of a revision"), "{error}");
}
