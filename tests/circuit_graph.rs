//! `lapidary circuit graph` and `circuit paths` at the command line, and what they refuse.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn lapidary(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(arguments).args(["--device", "cpu"]);
    command.current_dir(folder).output().unwrap()
}

/// What a refused command says.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = lapidary(folder, arguments);
    assert!(!output.status.success(), "{arguments:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// Small transcoders of all layers of the embedded model, in `transcoders`.
fn transcoders(folder: &Path) {
    let recipe =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/transcoder-embedded.toml");
    let output = lapidary(
        folder,
        &[
            "train",
            recipe.to_str().unwrap(),
            "--layers",
            "0-1,2,3",
            "--out",
            "transcoders",
            "--set=coder.d_sae=64",
            "--set=coder.k=4",
            "--set=training.tokens=4096",
            "--set=training.batch_tokens=512",
            "--set=evaluation.tokens=0",
            "--set=features.tokens=0",
        ],
    );
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_graph_is_made_of_runs_and_bad_input_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    transcoders(folder);
    let graph = |more: &[&str]| {
        let mut all = vec!["circuit", "graph", "--transcoders", "transcoders"];
        all.extend(more);
        all.iter()
            .map(|part| (*part).to_owned())
            .collect::<Vec<String>>()
    };
    let run = |arguments: Vec<String>| {
        let parts: Vec<&str> = arguments.iter().map(String::as_str).collect();
        lapidary(folder, &parts)
    };
    let refuse = |arguments: Vec<String>| {
        let parts: Vec<&str> = arguments.iter().map(String::as_str).collect();
        refused(folder, &parts)
    };
    let output = run(graph(&["--prompt", "We the people", "--out", "graph"]));
    assert!(output.status.success(), "{output:?}");
    let json = std::fs::read_to_string(folder.join("graph/graph.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["metadata"]["slug"], "graph");
    let names = json["metadata"]["transcoder_list"].as_array().unwrap();
    assert_eq!(names.len(), 4, "{names:?}");
    let tokens = json["metadata"]["prompt_tokens"].as_array().unwrap();
    assert_eq!(tokens[0], "<|endoftext|>");
    assert_eq!(json["metadata"]["prompt"], "<|endoftext|>We the people");

    // Several prompts: each graph is that of the prompt alone.
    std::fs::write(folder.join("prompts.txt"), "We the people\nThe Congress\n").unwrap();
    let output = run(graph(&["--prompts", "prompts.txt", "--out", "graphs"]));
    assert!(output.status.success(), "{output:?}");
    let all = std::fs::read(folder.join("graphs/0000/graph.safetensors")).unwrap();
    let alone = std::fs::read(folder.join("graph/graph.safetensors")).unwrap();
    assert_eq!(all, alone);
    let second = std::fs::read_to_string(folder.join("graphs/0001/graph.json")).unwrap();
    let second: Value = serde_json::from_str(&second).unwrap();
    assert_eq!(second["metadata"]["slug"], "0001");
    let error = refuse(graph(&["--prompts", "prompts.txt", "--out", "graphs"]));
    assert!(error.contains("0000 holds a graph already"), "{error}");
    let error = refuse(graph(&[
        "--prompts",
        "prompts.txt",
        "--prompt",
        "We",
        "--out",
        "x",
    ]));
    assert!(error.contains("expected one of them"), "{error}");
    std::fs::write(folder.join("gap.txt"), "We\n\nthe\n").unwrap();
    let error = refuse(graph(&["--prompts", "gap.txt", "--out", "x"]));
    assert!(
        error.contains("gap.txt: line 2: found an empty line"),
        "{error}"
    );
    let long = format!("We\n{}\n", "the ".repeat(300));
    std::fs::write(folder.join("long.txt"), long).unwrap();
    let error = refuse(graph(&["--prompts", "long.txt", "--out", "x"]));
    assert!(error.contains("long.txt: line 2: found 30"), "{error}");
    assert!(
        !folder.join("x").exists(),
        "no graph before all prompts fit"
    );
    let error = refuse(graph(&["--out", "x"]));
    assert!(
        error.contains("expected --prompt or --prompt-file"),
        "{error}"
    );

    // A path to one of its features.
    let nodes = json["nodes"].as_array().unwrap();
    let of_layer = |layer: &str| {
        let mut features = nodes.iter().filter(|node| {
            node["feature_type"] == "cross layer transcoder" && node["layer"] == layer
        });
        features.next().unwrap()["node_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let id = of_layer("3");
    let parts: Vec<&str> = id.split('_').collect();
    let feature = format!("{}.{}", parts[0], parts[1]);
    let paths = |feature: &str, more: &[&str]| {
        let mut all: Vec<String> = ["circuit", "paths", "--transcoders", "transcoders"]
            .map(str::to_owned)
            .into();
        all.extend(["--prompt", "We the people", "--feature", feature].map(str::to_owned));
        all.extend(more.iter().map(|part| (*part).to_owned()));
        all
    };
    let output = run(paths(
        &feature,
        &["--position", parts[2], "--out", "paths.json"],
    ));
    assert!(output.status.success(), "{output:?}");
    let tree = std::fs::read_to_string(folder.join("paths.json")).unwrap();
    let tree: Value = serde_json::from_str(&tree).unwrap();
    assert_eq!(tree["type"], "feature");
    let sum: f64 = tree["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["contribution"].as_f64().unwrap())
        .sum();
    let sum = sum + tree["rest"].as_f64().unwrap();
    assert!(
        (sum - tree["contribution"].as_f64().unwrap()).abs() < 1e-3,
        "{tree}"
    );
    assert!(refuse(paths("3", &[])).contains("expected a layer and a number"));
    assert!(refuse(paths("9.1", &[])).contains("layers are 0 to 3"));
    assert!(refuse(paths("0.64", &[])).contains("latents of layer 0 are 0 to 63"));
    let error = refuse(paths(&feature, &["--position", "0"]));
    assert!(error.contains("not active at position 0"), "{error}");

    // A head.
    let attention = |head: &str, query: &str, key: &str| {
        let parts = [
            "circuit",
            "attention",
            "--transcoders",
            "transcoders",
            "--prompt",
            "We the people",
        ];
        let more = [
            "--head",
            head,
            "--query",
            query,
            "--key",
            key,
            "--out",
            "score.json",
        ];
        parts
            .into_iter()
            .chain(more)
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    assert!(run(attention("1.2", "3", "1")).status.success());
    let score = std::fs::read_to_string(folder.join("score.json")).unwrap();
    let score: Value = serde_json::from_str(&score).unwrap();
    let parts = score["by_key"].as_array().unwrap().len();
    assert!((2..=10).contains(&parts), "{score}");
    assert!(refuse(attention("1", "3", "1")).contains("expected a layer and a number"));
    assert!(refuse(attention("1.9", "3", "1")).contains("heads are 0 to 3"));
    assert!(refuse(attention("1.2", "1", "3")).contains("a key not after it"));

    // An intervention on the feature.
    let intervene = |change: &str, more: &[&str]| {
        let parts = ["circuit", "intervene", "--transcoders", "transcoders"];
        let parts = [&parts[..], &["--prompt", "We the people", "--set", change]].concat();
        let all = parts.iter().chain(more);
        all.map(|part| (*part).to_owned()).collect::<Vec<String>>()
    };
    let early = of_layer("0");
    let early: Vec<&str> = early.split('_').collect();
    let change = format!("{}.{}@{}=50", early[0], early[1], early[2]);
    for (propagation, changes) in [
        ("full", true),
        ("frozen-attention", true),
        ("direct", false),
    ] {
        let more = ["--propagation", propagation, "--out", "changed.json"];
        let output = run(intervene(&change, &more));
        assert!(output.status.success(), "{output:?}");
        let changed = std::fs::read_to_string(folder.join("changed.json")).unwrap();
        let changed: Value = serde_json::from_str(&changed).unwrap();
        assert_eq!(changed["changes"][0]["activation"], 50.0);
        let token = &changed["tokens"][0];
        assert!(token["logit_before"] != token["logit_after"], "{token}");
        let features = changed["features"].as_array().unwrap();
        assert!(features.iter().all(|f| f["layer"].as_u64().unwrap() > 0));
        assert!(!features.is_empty() || !changes);
    }
    assert!(refuse(intervene("1.2", &[])).contains("such as 2.1845=0"));
    assert!(refuse(intervene("0.64@1=2", &[])).contains("expected a latent below 64"));
    assert!(refuse(intervene("0.3@0=2", &[])).contains("position from 1 on"));
    assert!(refuse(intervene("0.3@9=2", &[])).contains("the number of tokens"));
    assert!(refuse(intervene("4.2=3", &[])).contains("expected a layer below 4"));
    assert!(refuse(intervene("0.1@1=3e38", &[])).contains("a magnitude of at most 1e15"));
    let idle = (0..64).find(|latent| {
        let id = format!("_{latent}_1");
        !nodes
            .iter()
            .any(|node| node["node_id"].as_str().unwrap().ends_with(&id))
    });
    let idle = format!("0.{}@1=3", idle.unwrap());
    let told = refuse(intervene(&change, &["--scale", &idle]));
    assert!(
        told.contains("use --set") || told.contains("changed twice"),
        "{told}"
    );
    let twice = ["--scale", &change.replace("=50", "=2")];
    assert!(refuse(intervene(&change, &twice)).contains("changed twice"));

    // Logits by name.
    let named = [
        "--prompt",
        "We the people",
        "--target",
        " of",
        "--out",
        "named",
    ];
    assert!(run(graph(&named)).status.success());
    let named = std::fs::read_to_string(folder.join("named/graph.json")).unwrap();
    let named: Value = serde_json::from_str(&named).unwrap();
    let logits: Vec<&Value> = named["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|node| node["feature_type"] == "logit")
        .collect();
    assert_eq!(logits.len(), 1, "{logits:?}");
    assert!(
        logits[0]["clerp"].as_str().unwrap().contains(" of"),
        "{logits:?}"
    );
    let target = |texts: &[&str]| {
        let mut all = vec!["--prompt", "We", "--out", "new"];
        texts.iter().for_each(|text| all.extend(["--target", text]));
        refuse(graph(&all))
    };
    assert!(target(&[" of the people"]).contains("is 3 tokens, expected one"));
    assert!(target(&[" of", " of"]).contains("found  of twice"));

    // Folders.
    let error = refuse(graph(&["--prompt", "We", "--out", "graph"]));
    assert!(error.contains("--overwrite"), "{error}");
    assert!(
        run(graph(&["--prompt", "We", "--out", "graph", "--overwrite"]))
            .status
            .success()
    );
    std::fs::write(folder.join("graph/mine.txt"), "mine").unwrap();
    let error = refuse(graph(&["--prompt", "We", "--out", "graph", "--overwrite"]));
    assert!(error.contains("mine.txt"), "{error}");
    assert!(folder.join("graph/mine.txt").exists() && folder.join("graph/graph.json").exists());

    // Prompts.
    let error = refuse(graph(&["--prompt", "", "--out", "new"]));
    assert!(error.contains("the prompt is empty"), "{error}");
    let long = "We the people ".repeat(200);
    let error = refuse(graph(&["--prompt", &long, "--out", "new"]));
    assert!(error.contains("256"), "{error}");
    let error = refuse(graph(&["--prompt-file", "absent.txt", "--out", "new"]));
    assert!(error.contains("absent.txt"), "{error}");
    assert!(refuse(graph(&["--out", "new"])).contains("--prompt"));

    // Memory.
    let error = refuse(graph(&[
        "--prompt", "We", "--out", "new", "--memory", "1MB",
    ]));
    assert!(
        error.contains("--memory") && error.contains("MB already"),
        "{error}"
    );
    let error = refuse(graph(&[
        "--prompt", "We", "--out", "new", "--memory", "lots",
    ]));
    assert!(error.contains("8GB"), "{error}");

    // Transcoders.
    let layer = |l: usize| format!("transcoders/layer-{l}");
    let some = [layer(0), layer(2)].join(",");
    let of = |places: &str| {
        let parts = [
            "circuit",
            "graph",
            "--transcoders",
            places,
            "--prompt",
            "We",
            "--out",
            "new",
        ];
        parts.map(str::to_owned).to_vec()
    };
    let error = refuse(of(&some));
    assert!(error.contains("have no transcoder: 1, 3"), "{error}");
    let twice = format!("transcoders,{}", layer(1));
    let error = refuse(of(&twice));
    assert!(error.contains("layer 1 has the transcoder"), "{error}");
    assert!(refuse(of("nowhere")).contains("nowhere"));
    let gpt2 = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/models/gpt2"
    );
    let mut other = graph(&["--prompt", "We", "--out", "new"]);
    other.extend(["--model".to_owned(), gpt2.to_owned()]);
    let error = refuse(other);
    assert!(error.contains("256"), "{error}");
    assert!(!folder.join("new").exists());
}

#[test]
fn layers_move_the_hook_points_and_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let config = |name: &str| {
        let place = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../configs")
            .join(name);
        place.to_str().unwrap().to_owned()
    };
    let train = |recipe: &str, layers: &str| {
        let recipe = config(recipe);
        refused(
            folder.path(),
            &["train", &recipe, "--layers", layers, "--out", "x"],
        )
    };
    for wrong in ["", "a", "3-1", "1,,2", "1-"] {
        let error = train("transcoder-embedded.toml", wrong);
        assert!(error.contains("expected layers such as 0-3"), "{error}");
    }
    let error = train("transcoder-embedded.toml", "1,1");
    assert!(error.contains("layer-1"), "{error}");
    let error = train("transcoder-embedded.toml", "7");
    assert!(error.contains("blocks.7"), "{error}");
    let error = train("cross-layer-transcoder-embedded.toml", "1");
    assert!(error.contains("expected one of one layer"), "{error}");
}
