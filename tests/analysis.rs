//! What a user asks about trained latents: where they fire, what they are called, whether another
//! dictionary has them, which texts have them, and how other viewers get them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use polars::prelude::*;
use safetensors::SafeTensors;
use serde_json::{Value, json};

pub(crate) fn lapidary(arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).current_dir(root);
    command
}

pub(crate) fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded");
    assert!(!errors.contains("panicked"), "{command:?}\n{errors}");
    errors
}

/// Two small runs with tables that differ in their seed only, made once.
pub(crate) struct Runs {
    folder: tempfile::TempDir,
}

impl Runs {
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub(crate) static RUNS: LazyLock<Runs> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for seed in ["0", "1"] {
        let mut train = lapidary(&["train", "configs/quickstart.toml", "--device", "cpu"]);
        let settings = [
            "training.tokens=65536",
            "coder.d_sae=256",
            "coder.k=8",
            "activations.buffer_tokens=16384",
            "evaluation.tokens=4096",
            "features.tokens=16384",
        ];
        train.args(settings.iter().flat_map(|setting| ["--set", setting]));
        train.args(["--set", &format!("seed={seed}"), "--out"]);
        succeeds(train.arg(folder.path().join(format!("run{seed}"))));
    }
    Runs { folder }
});

pub(crate) fn table(path: &Path) -> DataFrame {
    let file = fs::File::open(path).unwrap();
    ParquetReader::new(file).finish().unwrap()
}

pub(crate) fn numbers(table: &DataFrame, column: &str) -> Vec<u32> {
    table
        .column(column)
        .unwrap()
        .u32()
        .unwrap()
        .iter()
        .flatten()
        .collect()
}

pub(crate) fn floats(table: &DataFrame, column: &str) -> Vec<Option<f64>> {
    table
        .column(column)
        .unwrap()
        .f64()
        .unwrap()
        .iter()
        .collect()
}

pub(crate) fn texts(table: &DataFrame, column: &str) -> Vec<String> {
    let column = table.column(column).unwrap();
    column
        .str()
        .unwrap()
        .iter()
        .flatten()
        .map(str::to_owned)
        .collect()
}

#[test]
fn fire_says_which_latents_fire_on_which_tokens() {
    let run = RUNS.at("run0");
    let text = "The people of the United States";
    let mut fire = lapidary(&["fire", "--device", "cpu", "--text", text, "--json"]);
    let found: Value = serde_json::from_str(&succeeds(fire.arg(&run))).unwrap();
    let tokens = found.as_array().unwrap();
    let joined: String = tokens
        .iter()
        .map(|t| t["token"].as_str().unwrap())
        .collect();
    assert_eq!(joined, text);
    for token in tokens {
        let latents = token["latents"].as_array().unwrap();
        assert!(!latents.is_empty() && latents.len() <= 5);
        let values: Vec<f64> = latents
            .iter()
            .map(|l| l["activation"].as_f64().unwrap())
            .collect();
        assert!(values.is_sorted_by(|a, b| a >= b) && values[values.len() - 1] > 0.0);
    }
    let about = tokens[1]["latents"][0]["about"].as_str().unwrap();
    assert!(
        !about.starts_with('"'),
        "the peak token of the tables as it is: {about}"
    );

    // The codes are those of `encode`, the first row of which is BOS.
    let x = RUNS.at("x.safetensors");
    let hook = "blocks.2.hook_resid_post";
    let mut capture = lapidary(&["run", "--device", "cpu", "--text", text, "--capture", hook]);
    succeeds(capture.arg("--out").arg(&x));
    let out = RUNS.at("codes.safetensors");
    let mut encode = lapidary(&["encode", "--device", "cpu", "--dictionary"]);
    succeeds(
        encode
            .arg(&run)
            .arg("--activations")
            .arg(&x)
            .arg("--out")
            .arg(&out),
    );
    let bytes = fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let indices = file.tensor("indices").unwrap();
    let k = indices.shape()[1];
    let first = |row: usize| {
        let bytes = &indices.data()[4 * row * k..][..4];
        i64::from(i32::from_le_bytes(bytes.try_into().unwrap()))
    };
    for (row, token) in tokens.iter().enumerate() {
        assert_eq!(
            token["latents"][0]["feature_id"].as_i64().unwrap(),
            first(row + 1)
        );
    }

    // Of several labels the one that is detected best is shown, wherever it stands.
    let labelled = RUNS.at("labelled");
    copy_run("run0", &labelled);
    let mut label = lapidary(&["label", "--device", "cpu", "--tokens", "65536"]);
    label.args(["--method", "pmi,top-token,lens", "--out"]);
    succeeds(label.arg(labelled.join("labels.parquet")).arg(&labelled));
    let labels = table(&labelled.join("labels.parquet"));
    let latent = tokens[1]["latents"][0]["feature_id"].as_u64().unwrap() as u32;
    let (ids, names) = (numbers(&labels, "feature_id"), texts(&labels, "label"));
    let scores = floats(&labels, "detection");
    let own = (0..labels.height()).filter(|row| ids[*row] == latent);
    let best = own.max_by(|a, b| {
        scores[*a]
            .unwrap_or(0.0)
            .total_cmp(&scores[*b].unwrap_or(0.0))
    });
    let mut fire = lapidary(&["fire", "--device", "cpu", "--text", text, "--json"]);
    let found: Value = serde_json::from_str(&succeeds(fire.arg(&labelled))).unwrap();
    let shown = found[1]["latents"][0]["about"].as_str().unwrap();
    let score = |label: &str| {
        let mut rows = (0..labels.height()).filter(|row| ids[*row] == latent);
        rows.find(|row| names[*row] == label)
            .and_then(|row| scores[row])
    };
    assert_eq!(score(shown), scores[best.unwrap()], "{shown}");
    // The tables can be made again beside the labels, and say of which text they are.
    let mut features = lapidary(&["features", "--device", "cpu", "--tokens", "4096", "--codes"]);
    succeeds(
        features
            .arg("--corpus")
            .arg("embedded:heldout")
            .arg(&labelled),
    );
    assert!(labelled.join("labels.parquet").is_file());
    assert!(table(&labelled.join("features/codes.parquet")).height() > 4000);
    for name in [
        "features",
        "examples",
        "histograms",
        "coactivations",
        "codes",
    ] {
        let file = labelled.join(format!("features/{name}.parquet"));
        let bytes = fs::read(file).unwrap();
        let said = b"\"Text\":\"embedded:heldout\"";
        assert!(
            bytes.windows(said.len()).any(|window| window == said),
            "{name}"
        );
    }

    let mut only = lapidary(&["fire", "--device", "cpu", "--text", text, "--latent", "256"]);
    let error = fails(only.arg(&run));
    assert!(
        error.contains("found latent 256, expected one below 256"),
        "{error}"
    );
    let mut none = lapidary(&["fire", "--device", "cpu", "--text", ""]);
    assert!(fails(none.arg(&run)).contains("no token"));
}

#[test]
fn a_dictionary_compared_with_itself_matches_latent_by_latent() {
    let run = RUNS.at("run0");
    let out = RUNS.at("self.parquet");
    let mut compare = lapidary(&["compare", "--device", "cpu", "--tokens", "8192"]);
    let printed = succeeds(compare.arg(&run).arg(&run).arg("--out").arg(&out));
    assert!(
        printed.contains("correlation, shuffled, greedy"),
        "{printed}"
    );
    let pairs = table(&out);
    let methods = texts(&pairs, "method");
    let (a, b) = (numbers(&pairs, "feature_a"), numbers(&pairs, "feature_b"));
    let cosines = floats(&pairs, "cosine");
    for row in (0..pairs.height()).filter(|row| methods[*row].ends_with("cosine")) {
        assert_eq!(a[row], b[row]);
        assert!((cosines[row].unwrap() - 1.0).abs() < 1e-6);
    }
    let count = |method: &str| methods.iter().filter(|found| *found == method).count();
    assert_eq!(count("greedy-cosine"), 256);
    assert_eq!(count("bipartite-cosine"), 256);
    // A latent that never fires on the text has no partner by correlation.
    let varying = count("greedy-correlation");
    assert!((200..256).contains(&varying), "{varying}");
    let correlations = floats(&pairs, "correlation");
    for row in (0..pairs.height()).filter(|row| methods[*row].ends_with("correlation")) {
        assert_eq!(a[row], b[row]);
        assert!(correlations[row].unwrap() > 0.999);
    }
    let summary: Value =
        serde_json::from_slice(&fs::read(out.with_extension("json")).unwrap()).unwrap();
    let mean = |of: &str| {
        summary["correlation"][of]["bipartite_mean"]
            .as_f64()
            .unwrap()
    };
    assert!(mean("observed") > 0.999 && mean("null") < 0.3, "{summary}");

    let mut three = lapidary(&["compare", "--device", "cpu", "--by", "correlation", "--out"]);
    let error = fails(three.arg(&out).args([&run, &run, &run]));
    assert!(
        error.contains("found 3 dictionaries, expected 2"),
        "{error}"
    );
    let error = fails(lapidary(&["compare", "--out", "x.json", "a", "b"]).arg("c"));
    assert!(error.contains("pairs.parquet"), "{error}");
}

#[test]
fn other_seeds_share_some_latents_and_three_dictionaries_have_a_stability() {
    let out = RUNS.at("pairs.parquet");
    let mut compare = lapidary(&["compare", "--device", "cpu", "--by", "cosine"]);
    compare
        .arg(RUNS.at("run0"))
        .arg(RUNS.at("run1"))
        .arg(RUNS.at("run0"));
    let printed = succeeds(compare.arg("--out").arg(&out));
    assert!(printed.contains("in all 2 others"), "{printed}");
    let pairs = table(&out);
    assert!(floats(&pairs, "correlation").iter().all(Option::is_none));
    let summary: Value =
        serde_json::from_slice(&fs::read(out.with_extension("json")).unwrap()).unwrap();
    let shares = &summary["stability"]["share_per_dictionary"];
    assert!(
        shares[0].as_f64().unwrap() < 1.0 && shares[1].as_f64().unwrap() == 1.0,
        "{shares}"
    );

    let out = RUNS.at("more.parquet");
    let mut compare = lapidary(&["compare", "--device", "cpu", "--by", "correlation"]);
    compare.args(["--prediction", "--clusters", "4", "--tokens", "8192"]);
    compare.arg(RUNS.at("run0")).arg(RUNS.at("run1"));
    let printed = succeeds(compare.arg("--out").arg(&out));
    assert!(
        printed.contains("4 clusters") && printed.contains("of the variance"),
        "{printed}"
    );
    // The page shows the same pairs, with what the tables of the runs say of both latents.
    let page = data_in(&out.with_extension("html"));
    assert_eq!(
        page["pairs"]["a"].as_array().unwrap().len(),
        table(&out).height()
    );
    assert_eq!(page["clusters"].as_array().unwrap().len(), 4);
    for side in page["sides"].as_array().unwrap() {
        assert_eq!(side["density"].as_array().unwrap().len(), 256);
    }
    let matchings = page["matchings"].as_array().unwrap();
    let latents = |kind: &str| {
        let mut found = matchings.iter().filter(|m| m["kind"] == kind);
        let observed = found.find(|m| m["shuffled"] == false).unwrap();
        let counts = observed["counts"].as_array().unwrap().iter();
        let sum: u64 = counts.map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(Some(sum), observed["latents"].as_u64());
        sum
    };
    assert!(latents("greedy") > 200 && latents("bipartite") > 200);
}

#[test]
fn labels_have_scores_on_other_documents() {
    let out = RUNS.at("labels.parquet");
    let mut label = lapidary(&["label", "--device", "cpu", "--tokens", "65536"]);
    label
        .args(["--method", "pmi,top-token,lens", "--out"])
        .arg(&out);
    let printed = succeeds(label.arg(RUNS.at("run0")));
    assert!(
        printed.contains("detection") && printed.contains("top-token"),
        "{printed}"
    );
    let labels = table(&out);
    assert!(numbers(&labels, "feature_id").is_sorted());
    let scored: Vec<f64> = floats(&labels, "detection").into_iter().flatten().collect();
    assert!(scored.len() > 100 && scored.iter().all(|score| (0.0..=1.0).contains(score)));
    let mean = scored.iter().sum::<f64>() / scored.len() as f64;
    assert!(mean > 0.5, "better than chance: {mean}");

    let mut bad = lapidary(&["label", "--device", "cpu", "--lambda", "nan", "--out"]);
    let error = fails(bad.arg(&out).arg(RUNS.at("run0")));
    assert!(
        error.contains("lambda") && !error.contains("codes "),
        "refused first: {error}"
    );

    let one = RUNS.at("one.txt");
    fs::write(&one, "The people of the United States. ".repeat(100)).unwrap();
    let mut label = lapidary(&["label", "--device", "cpu", "--corpus"]);
    label.arg(&one).arg("--out").arg(&out);
    let error = fails(label.arg(RUNS.at("run0")));
    assert!(error.contains("the text has 1 document;"), "{error}");
}

/// Copies the folder of a run.
fn copy_run(name: &str, to: &Path) {
    let mut copy = Command::new("cp");
    let copied = copy.arg("-r").arg(RUNS.at(name)).arg(to).status().unwrap();
    assert!(copied.success());
}

/// The data in a page.
fn data_in(page: &Path) -> Value {
    let page = fs::read_to_string(page).unwrap();
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn labels_are_added_to_those_of_the_run_and_shown_in_its_report() {
    let run = RUNS.at("with_labels");
    copy_run("run0", &run);
    let report = run.join("report.html");
    let labels_in_report = || data_in(&report)["features"]["labels"].clone();
    assert_eq!(labels_in_report(), json!([]));
    let label = |method: &str| {
        let mut label = lapidary(&["label", "--device", "cpu", "--tokens", "16384"]);
        label.args(["--clamp", "0", "--method", method]).arg(&run);
        label
    };
    succeeds(&mut label("top-token"));
    succeeds(&mut label("lens"));
    let labels = table(&run.join("labels.parquet"));
    let methods = texts(&labels, "method");
    let count = |method: &str| methods.iter().filter(|found| *found == method).count();
    assert!(count("lens") > 100 && count("lens") == count("top-token"));
    let ids = numbers(&labels, "feature_id");
    let shown = labels_in_report();
    let of_first = shown[ids[0] as usize].as_array().unwrap();
    let shown_methods = of_first.iter().map(|label| label[1].as_str().unwrap());
    let mut shown_methods: Vec<&str> = shown_methods.collect();
    shown_methods.sort_unstable();
    assert_eq!(shown_methods, ["lens", "top-token"]);
    // The page has what the tables say of other latents and of activations.
    let features = data_in(&report)["features"].clone();
    let nearest = features["nearest"][ids[0] as usize].as_array().unwrap();
    assert!(nearest.len() == 8 && nearest[0][1].as_f64() >= nearest[7][1].as_f64());
    let fired = features["count"].as_array().unwrap().iter();
    for (fired, bins) in fired.zip(features["histogram"].as_array().unwrap()) {
        let bins = bins.as_array().unwrap().iter().skip(1);
        let sum: u64 = bins.map(|bin| bin.as_u64().unwrap()).sum();
        assert_eq!(Some(sum), fired.as_u64());
    }

    // Labels of another dictionary are neither shown nor mixed in.
    let other = RUNS.at("of_run1.parquet");
    let mut of_other = lapidary(&["label", "--device", "cpu", "--tokens", "16384"]);
    of_other.args(["--clamp", "0", "--method", "lens", "--out"]);
    succeeds(of_other.arg(&other).arg(RUNS.at("run1")));
    fs::copy(&other, run.join("labels.parquet")).unwrap();
    let error = fails(&mut label("lens"));
    assert!(
        error.contains("labels of another dictionary (Weights: found "),
        "{error}"
    );
    let output = lapidary(&["report"]).arg(&run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("is left out"),
        "{said}"
    );
    assert_eq!(labels_in_report(), json!([]));

    // Rows in another order and whole numbers of another type, as other programs write them.
    let path = run.join("features/features.parquet");
    let by_density = SortMultipleOptions::default().with_order_descending(true);
    let mut features = table(&path).sort(["firing_density"], by_density).unwrap();
    let file = fs::File::create(&path).unwrap();
    ParquetWriter::new(file).finish(&mut features).unwrap();
    let mut own = df!(
        "feature_id" => [3i64, 5],
        "label" => ["by hand", "<b>too</b>"],
        "method" => ["me", "me"],
    );
    let own = own.as_mut().unwrap();
    let file = fs::File::create(run.join("labels.parquet")).unwrap();
    ParquetWriter::new(file).finish(own).unwrap();
    succeeds(lapidary(&["report"]).arg(&run));
    let features = &data_in(&report)["features"];
    assert_eq!(features["labels"][5][0][0], "<b>too</b>");
    for (latent, fired) in features["count"].as_array().unwrap().iter().enumerate() {
        assert_eq!(features["id"][latent], latent);
        let bins = features["histogram"][latent].as_array().unwrap();
        let counts = bins.iter().skip(1).map(|count| count.as_u64().unwrap());
        assert_eq!(Some(counts.sum()), fired.as_u64());
    }

    let empty = RUNS.at("no_tables");
    fs::create_dir_all(&empty).unwrap();
    let error = fails(lapidary(&["report"]).arg(&empty));
    assert!(
        error.contains("found no features/features.parquet"),
        "{error}"
    );
}

/// An endpoint that explains every latent alike and finds a firing in every window; it counts its
/// requests and ends with the test program.
fn endpoint() -> (String, &'static AtomicUsize) {
    static REQUESTS: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            REQUESTS.fetch_add(1, Ordering::SeqCst);
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            loop {
                let read = stream.read(&mut chunk).unwrap();
                request.extend_from_slice(&chunk[..read]);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                if read == 0 || body.len() >= length {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            let body: Value = serde_json::from_str(body).unwrap();
            let last = body["messages"].as_array().unwrap().last().unwrap();
            let asked = last["content"].as_str().unwrap();
            // The last message of a test says how many windows it has.
            let exactly = asked.split("a list of exactly ").nth(1);
            let windows = exactly.map(|rest| rest.split('.').next().unwrap().parse().unwrap());
            let reply = match windows {
                Some(windows) => format!("[{}]", vec!["1"; windows].join(", ")),
                None => "[EXPLANATION]: words about people".to_owned(),
            };
            let answer = json!({
                "choices": [{"message": {"role": "assistant", "content": reply}}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 3},
            })
            .to_string();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
                answer.len()
            )
            .unwrap();
        }
    });
    (address, &REQUESTS)
}

#[test]
fn a_language_model_labels_latents_once() {
    let (url, requests) = endpoint();
    let out = RUNS.at("written.parquet");
    let command = |more: &[&str]| {
        let mut label = lapidary(&[
            "label", "--device", "cpu", "--tokens", "65536", "--sample", "2",
        ]);
        label.args([
            "--method",
            "llm",
            "--endpoint",
            &url,
            "--endpoint-model",
            "stub",
        ]);
        label.env_remove("OPENAI_API_KEY").args(more);
        label.arg("--out").arg(&out).arg(RUNS.at("run0"));
        label
    };
    let output = command(&["--estimate", "--prices", "1,2"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("costs about"),
        "{said}"
    );
    assert!(
        !out.exists() && requests.load(Ordering::SeqCst) == 0,
        "an estimate sends nothing"
    );

    let printed = succeeds(&mut command(&[]));
    assert!(printed.contains("llm"), "{printed}");
    let labels = table(&out);
    assert_eq!(texts(&labels, "label"), ["words about people"; 2]);
    assert_eq!(
        floats(&labels, "detection"),
        [Some(0.5); 2],
        "it always says yes"
    );
    let sent = requests.load(Ordering::SeqCst);
    assert!(sent >= 2 * 21, "{sent}");
    succeeds(&mut command(&[]));
    assert_eq!(
        requests.load(Ordering::SeqCst),
        sent,
        "finished requests are kept"
    );

    // An endpoint that answers nonsense keeps nothing, and does not cost the other labels.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nonsense = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 65536]);
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhtml";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let both = RUNS.at("both.parquet");
    let mut label = lapidary(&[
        "label", "--device", "cpu", "--tokens", "65536", "--sample", "1",
    ]);
    label.args([
        "--method",
        "pmi,llm",
        "--endpoint",
        &nonsense,
        "--endpoint-model",
        "stub",
    ]);
    label.env_remove("OPENAI_API_KEY").arg("--out").arg(&both);
    let error = fails(label.arg(RUNS.at("run0")));
    assert!(error.contains("stub gave no label for 1 latent"), "{error}");
    assert!(
        table(&both).height() > 100,
        "the labels by tokens are there"
    );
    let kept = fs::read_to_string(RUNS.at("both.parquet.requests.jsonl")).unwrap();
    assert!(kept.is_empty(), "{kept}");

    let mut without = lapidary(&["label", "--method", "llm", "--out"]);
    let error = fails(without.arg(&out).arg(RUNS.at("run0")));
    assert!(error.contains("--method llm needs --endpoint"), "{error}");
}

#[test]
fn select_ranks_the_documents_that_resemble_the_examples() {
    let topic = [
        "The war with the enemy and the armies of the nation in the field of battle.",
        "Our army and navy fought the battles of the war, and the enemy retreated.",
        "The treaty of peace ended the war between the armies of both nations.",
    ];
    let other = [
        "The revenue of the Treasury and the tariff duties on imports of the fiscal year.",
        "Appropriations for the public debt, the currency and the national banks.",
        "The post office received more letters, and its receipts exceed its expenses.",
        "Public lands were sold to settlers, and schools were built for their children.",
        "The canal and the railroad carry the products of the farms to the markets.",
    ];
    let line = |text: &str| json!({ "text": text }).to_string();
    let pool: Vec<String> = other.iter().chain(&topic).map(|text| line(text)).collect();
    let (pool_file, examples) = (RUNS.at("pool.jsonl"), RUNS.at("examples.jsonl"));
    // A document without a text keeps its number and has no row.
    fs::write(&pool_file, format!("{}\n{}\n", line(""), pool.join("\n"))).unwrap();
    fs::write(&examples, line(topic[2])).unwrap();
    let (out, ids) = (RUNS.at("ranked.parquet"), RUNS.at("ids.txt"));
    let select = |top: &str| {
        let mut select = lapidary(&["select", "--device", "cpu", "--top", top, "--dictionary"]);
        select
            .arg(RUNS.at("run0"))
            .arg("--pool")
            .arg(&pool_file)
            .arg("--examples")
            .arg(&examples);
        select.arg("--out").arg(&out).arg("--ids").arg(&ids);
        select
    };
    let printed = succeeds(&mut select("2"));
    assert!(
        printed.starts_with("2 of 8 documents selected"),
        "{printed}"
    );
    let ranked = table(&out);
    assert_eq!(numbers(&ranked, "rank"), [0, 1, 2, 3, 4, 5, 6, 7]);
    // The example itself is the last document of the pool.
    assert_eq!(numbers(&ranked, "document")[0], 8, "{ranked}");
    let scores: Vec<f64> = floats(&ranked, "score").into_iter().flatten().collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert!(
        (scores[0] - 1.0).abs() < 1e-6 && scores[1] < 0.9,
        "{scores:?}"
    );
    assert_eq!(fs::read_to_string(&ids).unwrap().lines().count(), 2);

    let printed = succeeds(&mut select("9"));
    assert!(printed.starts_with("8 of 8 documents"), "{printed}");
    for top in ["0%", "101%", "0", "some"] {
        assert!(!fails(&mut select(top)).is_empty(), "{top}");
    }
    fs::write(&examples, "").unwrap();
    let error = fails(&mut select("2"));
    assert!(error.contains("examples.jsonl"), "{error}");
}

#[test]
fn measures_print_json() {
    let measured = |arguments: &[&str], run: bool| -> Value {
        let mut measure = lapidary(&["measure"]);
        measure.args(arguments);
        if run {
            measure.args(["--device", "cpu"]).arg(RUNS.at("run0"));
        }
        serde_json::from_str(&succeeds(&mut measure)).unwrap()
    };
    let texts = [
        "--texts",
        "embedded",
        "--label-field",
        "president",
        "--classes",
        "3",
        "--samples",
        "30",
    ];
    let on = |kind: &'static str, more: &[&'static str]| {
        let arguments = [&[kind][..], &texts, &["--passages", "20"], more].concat();
        measured(&arguments, true)
    };
    let found = on("information", &["--top", "3", "--permutations", "5"]);
    let bits = |at: usize, of: &str| found["latents"][at][of].as_f64().unwrap();
    assert!(bits(0, "information") >= bits(1, "information"));
    assert!(
        bits(0, "information") > 2.0 * bits(0, "by_chance"),
        "{found}"
    );
    assert!(bits(0, "information") <= found["label_entropy"].as_f64().unwrap());

    let found = on("gdv", &[]);
    let ratio = found["activations"]["ratio"].as_f64().unwrap();
    assert!(ratio > 0.0 && ratio < 1.0, "{found}");

    let found = on("hash", &["-k", "16"]);
    let accuracy = found["knn_accuracy"].as_f64().unwrap();
    assert!(accuracy > 1.0 / 3.0, "{found}");

    // Ahmad and Hawkins 2016: n = 1024, w = 20, unions of 20 patterns.
    let found = measured(
        &["sdr", "--d-sae", "1024", "-k", "20", "--level", "1.9e-10"],
        false,
    );
    assert_eq!(found["largest_union"], 20, "{found}");

    let text = "The people of the United States and the armies of the enemy met in battle.";
    let found = measured(&["core", "--text", text, "--beta", "0.3"], true);
    let of = |name: &str| found[name].as_f64().unwrap();
    assert!(
        of("perplexity_core") > of("perplexity_reconstructed") && of("perplexity") > 1.0,
        "{found}"
    );
    let all = measured(
        &["core", "--text", text, "--alpha", "1", "--beta", "1"],
        true,
    );
    let of = |name: &str| all[name].as_f64().unwrap();
    let gap = of("perplexity_core") / of("perplexity_reconstructed") - 1.0;
    assert!(
        gap.abs() < 1e-5,
        "with all latents the core is the reconstruction: {all}"
    );
}

#[test]
fn exports_have_the_files_that_viewers_read() {
    let export = |viewer: &str, out: &Path| {
        let mut export = lapidary(&[
            "export",
            "--device",
            "cpu",
            "--to",
            viewer,
            "--source-set",
            "res-256",
        ]);
        export.args([
            "--creator-id",
            "u1",
            "--creator-name",
            "Lab",
            "--release",
            "r1",
            "--out",
        ]);
        export.arg(out).arg(RUNS.at("run0"));
        export
    };
    let out = RUNS.at("neuronpedia");
    succeeds(&mut export("neuronpedia", &out));
    let folder = out.join("embedded/2-res-256");
    let source: Value =
        serde_json::from_slice(&fs::read(folder.join("source.jsonl")).unwrap()).unwrap();
    assert_eq!(
        (&source["id"], &source["setName"]),
        (&json!("2-res-256"), &json!("res-256"))
    );
    assert!(folder.join("features/batch-0.jsonl.gz").is_file());
    assert!(folder.join("activations/batch-0.jsonl.gz").is_file());
    let error = fails(&mut export("neuronpedia", &out));
    assert!(error.contains("expected a new or empty folder"), "{error}");

    let out = RUNS.at("dashboard");
    succeeds(&mut export("sae-dashboard", &out));
    let batch: Value =
        serde_json::from_slice(&fs::read(out.join("batch-0.json")).unwrap()).unwrap();
    assert_eq!(batch["features"].as_array().unwrap().len(), 256);
}
