//! A hub server that misbehaves: each way ends in one clear line, exit code 1, nothing outside the
//! cache and no file under its final name; the token goes to the endpoint alone.
//! `scripts/hub_server.py` does the same for other programs, and by hand.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKEN: &str = "hf_do_not_tell";

/// A request as a server saw it.
#[derive(Debug, Clone)]
struct Request {
    /// `hub`, or `storage`: the host where large files lie.
    host: &'static str,
    path: String,
    headers: BTreeMap<String, String>,
}

/// The files of one model, on loopback, and what was asked for.
struct Hub {
    endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// What is served, and how.
struct Served {
    files: BTreeMap<String, Vec<u8>>,
    mode: &'static str,
    /// The file that the mode concerns.
    target: &'static str,
    endpoint: String,
    storage: String,
}

impl Hub {
    fn start(files: BTreeMap<String, Vec<u8>>, mode: &'static str, target: &'static str) -> Self {
        let (hub, storage) = (listener(), listener());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let endpoint = format!("http://127.0.0.1:{}", port(&hub));
        let served = Arc::new(Served {
            files,
            mode,
            target,
            endpoint: endpoint.clone(),
            storage: format!("http://localhost:{}", port(&storage)),
        });
        let requests = Arc::new(Mutex::new(vec![]));
        for (host, listener) in [("hub", hub), ("storage", storage)] {
            let (served, requests) = (served.clone(), requests.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (served, requests) = (served.clone(), requests.clone());
                    // A client that hangs up is no matter.
                    std::thread::spawn(move || drop(served.answer(&stream, host, &requests)));
                }
            });
        }
        Self { endpoint, requests }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

impl Served {
    fn answer(
        &self,
        stream: &TcpStream,
        host: &'static str,
        requests: &Mutex<Vec<Request>>,
    ) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or("").to_owned();
        let mut headers = BTreeMap::new();
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let request = Request {
            host,
            path,
            headers,
        };
        requests.lock().unwrap().push(request.clone());
        self.reply(&request, stream)
    }

    fn reply(&self, request: &Request, mut out: &TcpStream) -> std::io::Result<()> {
        let empty = |status: u16, fields: &str| {
            format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n{fields}connection: close\r\n\r\n")
        };
        let path = request.path.as_str();
        if let Some(n) = path.strip_prefix("/again/") {
            let next: u32 = n.parse::<u32>().unwrap() + 1;
            return out.write_all(empty(302, &format!("location: /again/{next}\r\n")).as_bytes());
        }
        let name = path.rsplit('/').next().unwrap();
        let mode = if name == self.target { self.mode } else { "" };
        let entry_absent = format!("x-repo-commit: {COMMIT}\r\nx-error-code: EntryNotFound\r\n");
        let Some(data) = self.files.get(name) else {
            return out.write_all(empty(404, &entry_absent).as_bytes());
        };
        if request.host == "storage" {
            return self.body(request, data, mode, "etag: \"of-the-storage\"\r\n", out);
        }
        let large = name.ends_with(".safetensors");
        let mut etag = match large {
            true => hex(&Sha256::digest(data)),
            // The server's word counts: an ETag that is no digest promises a length alone.
            false => format!("etag-of-{name}"),
        };
        let mut commit = COMMIT.to_owned();
        match mode {
            "etag ../" => etag = "../../../../escaped".into(),
            "etag /" => etag = "/tmp/escaped".into(),
            "etag of 5000 letters" => etag = "a".repeat(5000),
            "commit ../" => commit = "../../../escaped".into(),
            "commit .." => commit = "..".into(),
            "hang" => {
                std::thread::sleep(Duration::from_secs(600));
                return Ok(());
            }
            "close" => return Ok(()),
            "no HTTP" => return out.write_all(&b"SSH-2.0-OpenSSH\r\n".repeat(99)),
            _ => {}
        }
        let mut fields = String::new();
        if mode != "no commit" {
            fields += &format!("x-repo-commit: {commit}\r\n");
        }
        let tag = if large { "x-linked-etag" } else { "etag" };
        if mode != "no etag" {
            fields += &format!("{tag}: \"{etag}\"\r\n");
        }
        if large {
            fields += &format!("x-linked-size: {}\r\n", data.len());
        }
        let to = |location: &str| empty(302, &format!("{fields}location: {location}\r\n"));
        let head = match mode {
            "redirect nowhere" => empty(302, &fields),
            "redirect to itself" => to(&format!("{}{path}", self.endpoint)),
            "redirects without end" => to("/again/0"),
            "redirect to a file" => to("file:///etc/passwd"),
            _ if mode.starts_with("status ") => {
                let status = mode["status ".len()..].parse().unwrap();
                empty(status, &format!("x-repo-commit: {COMMIT}\r\n"))
            }
            _ if large => to(&format!("{}/stored/{name}", self.storage)),
            _ => return self.body(request, data, mode, &fields, out),
        };
        out.write_all(head.as_bytes())
    }

    fn body(
        &self,
        request: &Request,
        data: &[u8],
        mode: &str,
        fields: &str,
        mut out: &TcpStream,
    ) -> std::io::Result<()> {
        let (whole, mut data) = (data.len(), data.to_vec());
        let mut status = 200;
        let mut fields = fields.to_owned();
        let range = request.headers.get("range").map(|range| {
            let from = range.strip_prefix("bytes=").unwrap().trim_end_matches('-');
            from.parse::<usize>().unwrap()
        });
        if let Some(from) = range {
            status = 206;
            data.drain(..from);
            fields += &format!("content-range: bytes {from}-{}/{whole}\r\n", whole - 1);
        }
        let mut length = data.len().to_string();
        match mode {
            "half a body" | "half a body, then silence" => data.truncate(data.len() / 2),
            "shorter" => {
                data.truncate(whole - 3);
                length = data.len().to_string();
            }
            "longer" => {
                data.extend(b"more");
                length = data.len().to_string();
            }
            "another body" => data.iter_mut().for_each(|byte| *byte ^= 1),
            "huge length" => length = (u64::MAX / 2).to_string(),
            "length of 30 digits" => length = "9".repeat(30),
            "length in words" => length = "plenty".into(),
            "another range" => {
                status = 206;
                fields += &format!("content-range: bytes 7-{}/{}\r\n", whole + 6, whole + 7);
            }
            _ => {}
        }
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{fields}connection: close\r\n\r\n"
        );
        out.write_all(head.as_bytes())?;
        out.write_all(&data)?;
        if mode == "half a body, then silence" {
            std::thread::sleep(Duration::from_secs(600));
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The smallest model of the fixtures.
fn model() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/gpt2");
    let read = |name: &str| (name.to_owned(), std::fs::read(folder.join(name)).unwrap());
    [read(CONFIG), read(WEIGHTS)].into()
}

/// `lapidary run` of the model, in a folder of its own.
fn command(home: &Path, endpoint: &str) -> Command {
    run("someone/tiny", "x.safetensors", home, endpoint)
}

fn run(model: &str, out: &str, home: &Path, endpoint: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command
        .args(["run", "--tokens", "1,2,3", "--capture", "logits"])
        .args(["--device", "cpu", "--model", model, "--out", out]);
    environment(&mut command, home, endpoint);
    command
}

/// The variables of a process that knows this hub and no other, nor a proxy.
fn environment(command: &mut Command, home: &Path, endpoint: &str) {
    for (name, _) in std::env::vars() {
        if name.starts_with("HF_")
            || name.starts_with("HUGGING")
            || name.to_lowercase().ends_with("_proxy")
        {
            command.env_remove(name);
        }
    }
    command
        .current_dir(home)
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_TOKEN", TOKEN)
        .env("HF_HUB_ETAG_TIMEOUT", "1")
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every file and link below a folder, relative.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path().strip_prefix(folder).unwrap().to_path_buf()),
            }
        }
    }
    found.sort();
    found
}

/// What is wrong with how the program took a mode; none if nothing is.
fn fault(mode: &'static str, target: &'static str, expected: &[&str]) -> Option<String> {
    let outer = tempfile::tempdir().unwrap();
    let home = outer.path().join("a/b/c/home");
    std::fs::create_dir_all(&home).unwrap();
    let hub = Hub::start(model(), mode, target);
    let output = command(&home, &hub.endpoint).output().unwrap();
    let error = errors(&output);
    let wrong = |what: &str| Some(format!("{mode}, {target}: {what}: {error}"));
    if output.status.code() != Some(1) {
        return wrong("the exit code is not 1");
    }
    if error.lines().count() != 1 || !error.starts_with("error: ") || error.contains("panicked") {
        return wrong("the error is not one line");
    }
    if !error.contains("someone/tiny") {
        return wrong("the error does not name the model");
    }
    if !expected.iter().any(|part| error.contains(part)) {
        return wrong(&format!("the error has none of {expected:?}"));
    }
    if error.contains(TOKEN) {
        return wrong("the token is shown");
    }
    for path in below(outer.path()) {
        let path = path.strip_prefix("a/b/c/home").unwrap_or(&path);
        if !path.starts_with("hub") {
            return wrong(&format!("{} is outside the cache", path.display()));
        }
        let is_lock = path.starts_with("hub/.locks");
        if path.file_name().unwrap() == target && !is_lock {
            return wrong(&format!("{} has its final name", path.display()));
        }
    }
    let blobs = below(&home.join("hub/models--someone--tiny/blobs"));
    let is_whole = |blob: &&PathBuf| !blob.to_string_lossy().ends_with(".incomplete");
    let others = usize::from(target != CONFIG);
    if blobs.iter().filter(is_whole).count() > others {
        return wrong(&format!("{blobs:?} have their final names"));
    }
    if Path::new("/tmp/escaped").exists() {
        return wrong("/tmp/escaped was written");
    }
    let told = |r: &Request| r.host == "storage" && r.headers.contains_key("authorization");
    if hub.requests().iter().any(told) {
        return wrong("the token went to the storage");
    }
    None
}

#[test]
fn each_misbehaviour_ends_in_one_line_and_nothing_outside_the_cache() {
    let both = [CONFIG, WEIGHTS].as_slice();
    let (small, large) = ([CONFIG].as_slice(), [WEIGHTS].as_slice());
    let modes: Vec<(&str, &[&str], &[&str])> = vec![
        ("etag ../", both, &["Etag: found", "ETag: found"]),
        ("etag /", both, &["Etag: found", "ETag: found"]),
        (
            "etag of 5000 letters",
            both,
            &["Etag: found", "ETag: found"],
        ),
        ("no etag", both, &["ETag: found none"]),
        (
            "commit ../",
            both,
            &["X-Repo-Commit: found \"../../../escaped\""],
        ),
        ("commit ..", both, &["X-Repo-Commit: found \"..\""]),
        ("no commit", both, &["X-Repo-Commit: found none"]),
        ("redirect nowhere", both, &["a redirect without a Location"]),
        ("redirect to itself", both, &["a redirect in a circle"]),
        ("redirects without end", both, &["more than 10"]),
        (
            "redirect to a file",
            both,
            &["file:///etc/passwd\", which is no address"],
        ),
        ("half a body", both, &["bytes, expected"]),
        ("half a body, then silence", both, &["nothing came for 1 s"]),
        ("shorter", large, &["253949 bytes, expected 253952"]),
        ("longer", large, &["253956 bytes, expected 253952"]),
        ("another body", large, &["SHA-256 of what came is"]),
        (
            "huge length",
            small,
            &["9223372036854775807 bytes, expected at most"],
        ),
        (
            "huge length",
            large,
            &["9223372036854775807 bytes, expected 253952"],
        ),
        ("length of 30 digits", both, &["not HTTP as expected"]),
        ("length in words", both, &["not HTTP as expected"]),
        ("another range", both, &["Content-Range: found \"bytes 7-"]),
        ("status 401", both, &["401", "HF_TOKEN"]),
        ("status 403", both, &["accept the repository's terms"]),
        ("status 404", both, &["answered 404"]),
        ("status 429", both, &["too many requests"]),
        (
            "status 500",
            both,
            &["answered 500: the server has a problem"],
        ),
        ("status 418", both, &["answered 418"]),
        ("hang", both, &["nothing came for 1 s"]),
        ("close", both, &["the connection broke"]),
        ("no HTTP", both, &["not HTTP as expected"]),
    ];
    let cases = modes.into_iter().flat_map(|(mode, targets, expected)| {
        let case = move |target: &&'static str| (mode, *target, expected);
        targets.iter().map(case).collect::<Vec<_>>()
    });
    let cases = Mutex::new(cases);
    let faults = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        // Most of them wait.
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let case = cases.lock().unwrap().next();
                    let Some((mode, target, expected)) = case else {
                        return;
                    };
                    faults.lock().unwrap().extend(fault(mode, target, expected));
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_token_goes_to_the_endpoint_and_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(model(), "", "");
    let output = command(home.path(), &hub.endpoint).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    let requests = hub.requests();
    let at = |host: &str| {
        requests
            .iter()
            .filter(|r| r.host == host)
            .collect::<Vec<_>>()
    };
    assert!(!at("storage").is_empty());
    for request in at("hub") {
        assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
    }
    for request in at("storage") {
        assert!(
            !request.headers.contains_key("authorization"),
            "{request:?}"
        );
    }
    // Files that the model does not have are not asked for again.
    let before = hub.requests().len();
    let output = command(home.path(), &hub.endpoint).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(hub.requests().len(), before);
}

#[test]
fn a_download_that_broke_goes_on_where_it_stopped() {
    let home = tempfile::tempdir().unwrap();
    let half = Hub::start(model(), "half a body, then silence", WEIGHTS);
    let mut child = command(home.path(), &half.endpoint)
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "60")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let blobs = home.path().join("hub/models--someone--tiny/blobs");
    let part = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut parts =
            entries.filter(|e| e.file_name().to_string_lossy().ends_with(".incomplete"));
        parts.next().map(|e| e.path())
    };
    let half_length = 253_952 / 2;
    for _ in 0..600 {
        let length = part(&blobs).map(|path| std::fs::metadata(path).unwrap().len());
        if length == Some(half_length) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let path = part(&blobs).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), half_length);

    let whole = Hub::start(model(), "", "");
    let output = command(home.path(), &whole.endpoint).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    let ranges: Vec<_> = whole
        .requests()
        .iter()
        .filter_map(|r| r.headers.get("range").cloned())
        .collect();
    assert!(
        ranges.contains(&format!("bytes={half_length}-")),
        "{ranges:?}"
    );
    assert!(!path.exists());
    let fetched = path.with_extension("");
    assert!(std::fs::read(fetched).unwrap() == model()[WEIGHTS]);

    // What was left is no part of the file: it is fetched anew.
    let home = tempfile::tempdir().unwrap();
    let blobs = home.path().join("hub/models--someone--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let left = blobs.join(path.file_name().unwrap());
    std::fs::write(&left, vec![7; 1000]).unwrap();
    let output = command(home.path(), &whole.endpoint).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert!(std::fs::read(left.with_extension("")).unwrap() == model()[WEIGHTS]);
}

#[test]
fn processes_that_fetch_one_model_do_not_disturb_each_other() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(model(), "", "");
    let start = |n: usize| {
        let out = format!("{n}.safetensors");
        let mut command = run("someone/tiny", &out, home.path(), &hub.endpoint);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<_> = (0..4).map(start).collect();
    for child in all {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
    }
    let bodies = hub
        .requests()
        .iter()
        .filter(|r| r.host == "storage")
        .count();
    assert!(bodies <= 4, "{bodies}");
    let blobs = below(&home.path().join("hub/models--someone--tiny/blobs"));
    assert_eq!(blobs.len(), 2, "{blobs:?}");
}

#[test]
fn without_a_network_the_error_says_where_it_looked_and_what_will_do() {
    let home = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let output = command(home.path(), "http://127.0.0.1:9").output().unwrap();
    let error = errors(&output);
    let cache = home.path().join("hub/models--someone--tiny");
    for part in [
        "model `someone/tiny` was not found: there is no folder or GGUF file of this name here",
        "no model of this name in the hub's cache",
        "no network: 127.0.0.1:9 cannot be reached",
        cache.to_str().unwrap(),
        "a folder with its files will do",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let elsewhere = home.path().join("elsewhere");
    let mut command = command(home.path(), "http://no-such-host.invalid");
    let output = command.env("HF_HUB_CACHE", &elsewhere).output().unwrap();
    let error = errors(&output);
    let cache = elsewhere.join("models--someone--tiny");
    assert!(
        error.contains("no network: no-such-host.invalid"),
        "{error}"
    );
    assert!(error.contains(cache.to_str().unwrap()), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn the_cache_is_where_hf_hub_cache_says() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = home.path().join("elsewhere");
    let hub = Hub::start(model(), "", "");
    let mut first = command(home.path(), &hub.endpoint);
    let output = first.env("HF_HUB_CACHE", &elsewhere).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert!(!home.path().join("hub").exists());
    let snapshot = elsewhere
        .join("models--someone--tiny/snapshots")
        .join(COMMIT);
    assert!(std::fs::read(snapshot.join(WEIGHTS)).unwrap() == model()[WEIGHTS]);
    let logits = std::fs::read(home.path().join("x.safetensors")).unwrap();
    // The folder itself is a model too, and so is it by its name.
    let offline = |model: &str| {
        let mut command = run(model, "y.safetensors", home.path(), "http://127.0.0.1:9");
        command
            .env("HF_HUB_CACHE", &elsewhere)
            .env("HF_HUB_OFFLINE", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        assert!(std::fs::read(home.path().join("y.safetensors")).unwrap() == logits);
    };
    offline("someone/tiny");
    offline(elsewhere.join("models--someone--tiny").to_str().unwrap());
}

#[test]
fn a_cached_dictionary_is_read_by_the_folder_of_its_repository() {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("hub/models--someone--dictionaries");
    let trainer = repository.join("snapshots/c0ffee/trainer_0");
    std::fs::create_dir_all(&trainer).unwrap();
    std::fs::create_dir(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), "c0ffee").unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dictionaries");
    std::fs::copy(fixtures.join("jumprelu.pt"), trainer.join("ae.pt")).unwrap();
    let config = "{\"trainer\": {\"dict_class\": \"JumpReluAutoEncoder\"}}";
    std::fs::write(trainer.join("config.json"), config).unwrap();
    let convert = |from: &str, to: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        command.args(["convert", "--format", "saelens", "--from"]);
        command
            .arg(repository.join(from))
            .arg("--to")
            .arg(home.path().join(to));
        environment(&mut command, home.path(), "http://127.0.0.1:9");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        std::fs::read(home.path().join(to).join("sae_weights.safetensors")).unwrap()
    };
    let named = convert("trainer_0", "a");
    assert!(named == convert("snapshots/c0ffee/trainer_0", "b"));
}

#[test]
fn a_hub_that_cannot_be_reached_does_not_stop_a_cached_model() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(model(), "", "");
    let output = command(home.path(), &hub.endpoint).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    // As a cache that knows nothing of the files that the model does not have.
    std::fs::remove_dir_all(home.path().join("hub/models--someone--tiny/.no_exist")).unwrap();
    let output = command(home.path(), "http://127.0.0.1:9").output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    // A cache that lacks something says what.
    let snapshot = home
        .path()
        .join("hub/models--someone--tiny/snapshots")
        .join(COMMIT);
    std::fs::remove_file(snapshot.join(WEIGHTS)).unwrap();
    let output = command(home.path(), "http://127.0.0.1:9").output().unwrap();
    let error = errors(&output);
    let lacks = format!("{} lacks model.safetensors", snapshot.display());
    assert!(
        error.contains("no network") && error.contains(&lacks),
        "{error}"
    );
    let mut offline = command(home.path(), "http://127.0.0.1:9");
    let error = errors(&offline.env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert!(
        error.contains("HF_HUB_OFFLINE forbids") && error.contains(&lacks),
        "{error}"
    );
}

#[test]
fn an_old_token_variable_and_a_token_file_count() {
    let token_of = |set: &dyn Fn(&mut Command, &Path)| {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::start(model(), "", "");
        let mut command = command(home.path(), &hub.endpoint);
        command
            .env_remove("HF_TOKEN")
            .env_remove("HUGGING_FACE_HUB_TOKEN");
        set(&mut command, home.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        hub.requests()[0].headers.get("authorization").cloned()
    };
    let stored = token_of(&|_, home| std::fs::write(home.join("token"), "stored\n").unwrap());
    assert_eq!(stored.as_deref(), Some("Bearer stored"));
    let old = token_of(&|command, _| {
        command.env("HUGGING_FACE_HUB_TOKEN", "old");
    });
    assert_eq!(old.as_deref(), Some("Bearer old"));
    assert_eq!(token_of(&|_, _| {}), None);
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path(), "http://127.0.0.1:9");
    let output = command.env("HF_TOKEN", "two\u{7}words").output().unwrap();
    let error = errors(&output);
    assert!(
        error.contains("HF_TOKEN") && !error.contains("words"),
        "{error}"
    );
}
