//! A model by its hub name: fetched once from a server, then found in the hub's cache without one. The server here is
//! our own, on loopback, and answers as the hub does.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Serves a folder's files under any repository's `resolve` path until the listener is dropped with the test.
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

fn run(model: &str, home: &Path, endpoint: &str, offline: bool) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command
        .args([
            "run",
            "--device",
            "cpu",
            "--tokens",
            "1,2,3",
            "--capture",
            "logits",
            "--model",
            model,
        ])
        .arg("--out")
        .arg(home.join("x.safetensors"))
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env_remove("HF_HUB_OFFLINE");
    if offline {
        command.env("HF_HUB_OFFLINE", "1");
    }
    command.output().unwrap()
}

fn fetches_once_and_then_works_offline(fixture: &str) {
    let home = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/models")
        .join(fixture);
    let endpoint = serve(folder);
    let errors =
        |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();

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
