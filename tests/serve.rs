//! `lapidary serve`, asked as its page asks it, over a small run.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn lapidary(arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).current_dir(root);
    command
}

/// A run with tables, and labels beside them.
fn run(folder: &Path) -> String {
    let out = folder.join("out").to_str().unwrap().to_owned();
    let settings = [
        "coder.d_sae=256",
        "coder.k=8",
        "training.tokens=32768",
        "features.tokens=16384",
        "evaluation.tokens=0",
    ];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let mut command = lapidary(&["train", "configs/quickstart.toml", "--device", "cpu", "-q"]);
    let output = command
        .args(["--out", &out])
        .args(settings)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    out
}

/// The command, and the address that it printed.
fn serve(folder: &str, more: &[&str]) -> (Child, String) {
    let mut command = lapidary(&["serve", folder, "--device", "cpu"]);
    let command = command
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    (child, line.trim_end().to_owned())
}

/// Status and body.
fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, String) {
    let mut response = response.unwrap();
    let body = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), body)
}

struct Client(ureq::Agent, String);

impl Client {
    fn new(address: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None);
        Client(config.build().into(), address.trim_end_matches('/').into())
    }

    fn get(&self, path: &str) -> (u16, String) {
        answer(self.0.get(format!("{}{path}", self.1)).call())
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.0.post(format!("{}{path}", self.1));
        let request = request
            .header("Content-Type", "application/json")
            .header("Origin", &self.1);
        let (status, body) = answer(request.send(body.to_string()));
        (status, serde_json::from_str(&body).unwrap())
    }
}

#[test]
fn a_run_is_searched_read_and_steered_until_the_command_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let out = run(folder.path());
    let (mut child, address) = serve(&out, &["--port", "0"]);
    assert!(
        address.starts_with("http://127.0.0.1:") && address.ends_with('/'),
        "{address}"
    );
    let client = Client::new(&address);
    let (status, page) = client.get("/");
    assert!(status == 200 && page.starts_with("<!doctype html>"));

    let about = client.json("/api/dictionary");
    assert_eq!(about["latents"], 256);
    assert_eq!(about["provenance"][0], json!(["Model", "embedded"]));
    assert!(about["model_missing"].is_null());

    let list = client.json("/api/features?sort=density&dead=hide&limit=2");
    let first = list["features"][0]["id"].as_u64().unwrap();
    let token = list["features"][0]["top_tokens"][0]
        .as_str()
        .unwrap()
        .trim();
    let found = client.json(&format!(
        "/api/features?search={}&limit=500",
        escaped(token)
    ));
    let found = found["features"].as_array().unwrap();
    assert!(found.iter().any(|line| line["id"] == first), "{token}");

    let detail = client.json(&format!("/api/features/{first}"));
    assert!(!detail["contexts"].as_array().unwrap().is_empty());
    assert!(!detail["histogram"].as_array().unwrap().is_empty());
    assert_eq!(detail["similar"].as_array().unwrap().len(), 10);
    assert_eq!(client.get("/api/features/256").0, 404);

    let text = "The <b>people</b> of the United States";
    let (status, fired) = client.post("/api/fire", &json!({"text": text, "top": 3}));
    let tokens = fired["tokens"].as_array().unwrap();
    let texts: String = tokens.iter().filter_map(|t| t["token"].as_str()).collect();
    assert_eq!((status, texts.as_str()), (200, text));
    let latents = tokens
        .iter()
        .map(|t| t["latents"].as_array().unwrap().len());
    assert!(latents.clone().all(|n| n <= 3) && latents.sum::<usize>() > 0);

    let asked = json!({"latent": first, "strength": 0, "prompt": "My fellow", "tokens": 8});
    let (status, steered) = client.post("/api/steer", &asked);
    assert_eq!(status, 200, "{steered}");
    // Nothing is added, so nothing changes.
    assert_eq!(steered["plain"], steered["steered"]);
    let asked = json!({"latent": first, "strength": 20, "prompt": "My fellow", "tokens": 8});
    let (_, steered) = client.post("/api/steer", &asked);
    assert_ne!(steered["plain"], steered["steered"]);

    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_folder_without_tables_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = lapidary(&["serve"]).arg(folder.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(
        errors.contains("error:") && errors.contains("lapidary features"),
        "{errors}"
    );
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
