use super::*;
use crate::progress::Silent;
use lapidary_features::{
    Band, ExampleRow, FeatureRow, FiringToken, TableSource, write_examples, write_features,
};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

const HOSTILE: &str = "</script><b>x</b>";

/// Tables of 300 latents without a dictionary.
fn tables() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let row = |feature_id: u32| FeatureRow {
        feature_id,
        hook_point: "blocks.0.hook_resid_post".into(),
        firing_density: 0.01,
        firing_count: 100,
        mean_activation: 1.0,
        max_activation: feature_id as f32,
        std_activation: 0.0,
        quantiles: [0.0; 5],
        mean_position: None,
        decoder_norm: 1.0,
        relative_decoder_norms: vec![],
        encoder_decoder_cosine: None,
        logit_kurtosis: None,
        nearest: vec![],
        promoted: vec![],
        suppressed: vec![],
        top_tokens: vec![FiringToken {
            text: if feature_id == 7 { HOSTILE } else { " war" }.into(),
            id: 0,
            count: u64::from(feature_id),
            mean_activation: 1.0,
            lift: None,
        }],
        peak_token: None,
        dead: false,
        code: None,
    };
    let example = |feature_id: u32| ExampleRow {
        feature_id,
        rank: 0,
        band: Band::Top,
        max_activation: 1.0,
        tokens: vec!["a".into(), HOSTILE.into()],
        token_ids: vec![0, 1],
        activations: vec![0.0, 1.0],
        peak_index: 1,
        document: 0,
        position: 1,
    };
    let path = folder.path().join("features");
    std::fs::create_dir(&path).unwrap();
    let features: Vec<FeatureRow> = (0..300).map(row).collect();
    let examples: Vec<ExampleRow> = (0..300).map(example).collect();
    let source = TableSource::default();
    write_features(&path.join("features.parquet"), &features, &source).unwrap();
    write_examples(&path.join("examples.parquet"), &examples, &source).unwrap();
    folder
}

/// A server that runs until it is dropped.
struct Running(Arc<Server>);

impl Running {
    fn new(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ServeOptions::default();
        let server = Server::open(folder, listener, options, &Device::flex(), &Silent).unwrap();
        let server = Arc::new(server);
        let running = Arc::clone(&server);
        thread::spawn(move || running.run().unwrap());
        Running(server)
    }

    /// The status and the body of the answer to these very bytes.
    fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.0.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn host(&self) -> String {
        self.0.address.to_string()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let host = self.host();
        // Without chunks, and the connection ends with the answer.
        self.raw(&format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n"))
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let (host, length) = (self.host(), body.len());
        self.raw(&format!(
            "POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\
             Content-Type: application/json\r\n{headers}\r\n{body}"
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[test]
fn a_folder_without_tables_or_dictionary_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let open = |path: &Path| {
        let options = ServeOptions::default();
        Server::open(path, listener(), options, &Device::flex(), &Silent).map(drop)
    };
    let problem = open(folder.path()).unwrap_err().to_string();
    assert!(problem.contains("lapidary features"), "{problem}");
    assert!(open(tables().path()).is_ok());
}

#[test]
fn the_list_comes_in_parts_that_fit_together() {
    let folder = tables();
    let server = Running::new(folder.path());
    let mut ids = vec![];
    for offset in [0, 100, 200, 300] {
        let path = format!("/api/features?search=war&sort=relevance&offset={offset}&limit=100");
        let part = server.json(&path);
        assert_eq!(part["total"], 299);
        let features = part["features"].as_array().unwrap();
        ids.extend(features.iter().map(|line| line["id"].as_u64().unwrap()));
    }
    // All but the one without the token, the most activation mass first.
    let expected = (0..300).rev().filter(|id| *id != 7);
    assert_eq!(ids, expected.collect::<Vec<u64>>());
    let located = server.json("/api/features?search=war&limit=0&locate=299");
    assert_eq!(located["located"], 0);
    assert_eq!(located["features"], json!([]));
    let missing = server.json("/api/features?search=war&limit=0&locate=7");
    assert!(missing["located"].is_null());
}

#[test]
fn only_known_paths_and_the_served_address_are_answered() {
    let folder = tables();
    let server = Running::new(folder.path());
    assert_eq!(server.get("/").0, 200);
    for path in [
        "/../features/features.parquet",
        "/features/features.parquet",
        "/api",
        "/api/features/",
        "/api/features/../dictionary",
        "/api/features/1/2",
        "/api/features/-1",
        "//",
        "/%2e%2e/x",
        "/api/features/300",
        "/api/features/99999999999",
    ] {
        assert_eq!(server.get(path).0, 404, "{path}");
    }
    let port = server.0.address.port();
    for host in [
        format!("evil.example:{port}"),
        "127.0.0.1".into(),
        String::new(),
    ] {
        let request = format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n");
        assert_eq!(server.raw(&request).0, 403, "{host}");
    }
    assert_eq!(server.raw("GET / HTTP/1.0\r\n\r\n").0, 403);
    let body = r#"{"text": "a"}"#;
    assert_eq!(
        server
            .post("/api/fire", "Origin: http://evil.example\r\n", body)
            .0,
        403
    );
    assert_eq!(server.post("/api/fire", "Origin: null\r\n", body).0, 403);
    assert_eq!(server.post("/api/features", "", body).0, 405);
    assert_eq!(server.get("/api/steer").0, 405);
}

#[test]
fn wrong_and_huge_requests_are_refused_and_the_field_is_named() {
    let folder = tables();
    let server = Running::new(folder.path());
    for (query, field) in [
        ("sort=best", "sort"),
        ("offset=-1", "offset"),
        ("limit=501", "limit"),
        ("dead=x", "dead"),
        ("density_from=NaN", "density_from"),
        ("path=/etc/passwd", "path"),
        ("search=%ff", "query"),
    ] {
        let (status, body) = server.get(&format!("/api/features?{query}"));
        assert!(
            status == 400 && body.contains(field),
            "{query}: {status} {body}"
        );
    }
    let long = format!(r#"{{"text": "{}"}}"#, "a".repeat(20_001));
    for (path, body, field) in [
        ("/api/fire", "{", "body"),
        ("/api/fire", "{}", "text: missing"),
        ("/api/fire", r#"{"text": 5}"#, "text: found 5"),
        ("/api/fire", r#"{"text": "a", "top": "x"}"#, "top: found"),
        ("/api/fire", &*long, "text: found 20001 characters"),
        (
            "/api/steer",
            r#"{"latent": 1, "strength": 1, "prompt": "a", "tokens": 201}"#,
            "tokens",
        ),
        (
            "/api/steer",
            r#"{"latent": 300, "strength": 1, "prompt": "a"}"#,
            "latent",
        ),
        (
            "/api/steer",
            r#"{"latent": 1, "strength": 1, "prompt": "a", "x": 1}"#,
            "x",
        ),
    ] {
        let (status, answer) = server.post(path, "", body);
        assert!(
            status == 400 && answer.contains(field),
            "{field}: {status} {answer}"
        );
    }
    let huge = format!(r#"{{"text": "{}"}}"#, "a".repeat(70_000));
    assert_eq!(server.post("/api/fire", "", &huge).0, 413);
    // Without a model the tables are still there, and it says why.
    let (status, answer) = server.post("/api/fire", "", r#"{"text": "a"}"#);
    assert!(
        status == 503 && answer.contains("no dictionary"),
        "{status} {answer}"
    );
    assert_eq!(server.json("/api/dictionary")["latents"], 300);
}

#[test]
fn markup_in_tokens_stays_text_in_json() {
    let folder = tables();
    let server = Running::new(folder.path());
    let detail = server.json("/api/features/7");
    assert_eq!(detail["top_tokens"][0]["token"], HOSTILE);
    assert_eq!(detail["contexts"][0]["tokens"], json!(["a", HOSTILE]));
    let (_, page) = server.get("/");
    assert!(!page.contains(HOSTILE));
}

#[test]
fn a_damaged_table_is_an_error_answer_and_the_server_lives() {
    let folder = tables();
    let path = folder.path().join("features/examples.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[..middle].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();
    let server = Running::new(folder.path());
    for latent in [0, 1, 250] {
        let (status, body) = server.get(&format!("/api/features/{latent}"));
        assert!(
            status == 500 && body.contains("examples.parquet"),
            "{status} {body}"
        );
    }
    assert_eq!(server.json("/api/features?limit=3")["total"], 300);
}
