//! `lapidary circuit` writes its tables, and says what is wrong with a task.

use polars::prelude::*;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn lapidary(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("circuit").args(arguments);
    command.args(["--device", "cpu"]).output().unwrap()
}

fn read(path: &Path) -> DataFrame {
    let file = fs::File::open(path).unwrap();
    ParquetReader::new(file).finish().unwrap()
}

fn numbers(table: &DataFrame, name: &str) -> Vec<Option<f64>> {
    let column = table
        .column(name)
        .unwrap()
        .cast(&DataType::Float64)
        .unwrap();
    column.f64().unwrap().iter().collect()
}

#[test]
fn compare_writes_a_row_for_each_method_and_a_score_for_each_head() {
    let folder = tempfile::tempdir().unwrap();
    let (out, truth) = (
        folder.path().join("table.parquet"),
        folder.path().join("t.json"),
    );
    let circuit = r#"{"heads": [[0, 1], [1, 2]], "edges": ["a0.h1->a1.h2<k>", "a1.h2->logits"]}"#;
    fs::write(&truth, circuit).unwrap();
    let output = lapidary(&[
        "compare",
        "--task",
        "induction",
        "--prompts",
        "4",
        "--methods",
        "discrete-sae,discrete-sae-pairs,relp,patching,information-flow",
        "--truth",
        truth.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{output:?}");
    let table = read(&out);
    let names: Vec<&str> = table
        .get_column_names()
        .iter()
        .map(|n| n.as_str())
        .collect();
    let expected = "method task level auc correlation_exact cpr cmd seconds peak_bytes n_heads";
    assert_eq!(names.join(" "), expected);
    let level = table.column("level").unwrap().str().unwrap();
    let levels: Vec<&str> = level.iter().flatten().collect();
    let expected = ["node", "node", "node", "edge", "node", "node", "edge"];
    assert_eq!(levels, expected);
    // Patching correlates with itself.
    assert!((numbers(&table, "correlation_exact")[4].unwrap() - 1.0).abs() < 1e-9);
    // The exact effects of edges were not asked for.
    assert_eq!(numbers(&table, "correlation_exact")[3], None);
    assert!(
        numbers(&table, "auc")
            .iter()
            .all(|auc| (0.0..=1.0).contains(&auc.unwrap()))
    );

    let scores = read(&folder.path().join("table.scores.parquet"));
    assert_eq!(scores.height(), 5 * 16);
    let edges = read(&folder.path().join("table.edges.parquet"));
    let columns = edges
        .get_column_names()
        .iter()
        .map(|n| n.as_str())
        .collect::<Vec<_>>();
    assert_eq!(columns, ["method", "source", "target", "score"]);
    // 4 layers of 4 heads.
    assert_eq!(edges.height(), 2 * 479);
    let of = |name: &str| {
        edges
            .column(name)
            .unwrap()
            .str()
            .unwrap()
            .get(0)
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (of("source"), of("target")),
        ("input".into(), "a0.h0<q>".into())
    );
    let heads = folder.path().join("heads.parquet");
    let output = lapidary(&[
        "heads",
        "--task",
        "induction",
        "--prompts",
        "4",
        "--method",
        "patching",
        "--out",
        heads.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{output:?}");
    let heads = read(&heads);
    assert_eq!(numbers(&heads, "score"), numbers(&scores, "score")[48..64]);
}

/// Rankings of heads alone, with other ablations: scores stay, faithfulness does not.
#[test]
fn compare_writes_curves_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let compare = |name: &str, more: &[&str]| {
        let out = folder.path().join(format!("{name}.parquet"));
        let fixed = ["compare", "--task", "induction", "--prompts", "4"];
        let fixed = [&fixed[..], &["--out", out.to_str().unwrap()], more].concat();
        lapidary(&fixed)
    };
    let mut curves = vec![];
    for ablation in ["corrupted", "mean", "zero"] {
        let methods = [
            "--methods",
            "relp,acdc-heads,discrete-sae-positions",
            "--level",
            "node",
        ];
        let more = [&methods[..], &["--ablation", ablation]].concat();
        let output = compare(ablation, &more);
        assert!(output.status.success(), "{output:?}");
        let table = read(&folder.path().join(format!("{ablation}.curves.parquet")));
        // Three methods, ten sizes, no edges.
        assert_eq!(table.height(), 30);
        let (sizes, heads) = (numbers(&table, "size"), numbers(&table, "n_heads"));
        assert_eq!(sizes, heads);
        assert_eq!(sizes[7..10], [Some(3.0), Some(8.0), Some(16.0)]);
        let kept = numbers(&table, "faithfulness");
        assert_eq!((kept[0], kept[9]), (Some(0.0), Some(1.0)));
        let metric = numbers(&table, "metric");
        let printed = String::from_utf8(output.stderr).unwrap();
        let [none, all] = [0, 9].map(|at| metric[at].unwrap());
        for expected in [
            format!("on 4 prompts: metric {all:.3}"),
            format!(", {none:.3} with all heads ablated"),
        ] {
            assert!(printed.contains(&expected), "{printed}, {expected}");
        }
        curves.push(kept);
        let page = folder.path().join(format!("{ablation}.html"));
        let page = fs::read_to_string(page).unwrap();
        assert!(page.contains(&format!(r#""ablation":"{ablation}""#)));
        assert!(!page.contains("{{"));
        assert!(
            !folder
                .path()
                .join(format!("{ablation}.edges.parquet"))
                .exists()
        );
    }
    assert!(curves[0] != curves[1] && curves[1] != curves[2] && curves[0] != curves[2]);
    // The files of an earlier table under the same name do not stay.
    let edges = folder.path().join("again.edges.parquet");
    for (level, is_there) in [("edge", true), ("node", false)] {
        let output = compare("again", &["--methods", "relp", "--level", level]);
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stderr).unwrap();
        let parts = if is_there { "edges" } else { "heads" };
        let expected = format!("with all {parts} ablated");
        assert!(printed.contains(&expected), "{printed}, {expected}");
        // Ablated by the outputs on corrupted prompts, no edge is left of the clean prompt.
        if let Some((_, rest)) = printed.split_once("metric ").filter(|_| is_there) {
            let numbers: Vec<&str> = rest
                .split([',', ' '])
                .filter(|w| w.parse::<f64>().is_ok())
                .collect();
            assert_eq!(numbers[1], numbers[2], "{printed}");
        }
        assert_eq!(edges.exists(), is_there, "{level}");
        let scores = folder.path().join("again.scores.parquet");
        assert_eq!(scores.exists(), !is_there, "{level}");
    }
    // The page does not replace a table with another ending.
    let table = folder.path().join("table.html");
    let small = [
        "compare",
        "--task",
        "induction",
        "--prompts",
        "2",
        "--methods",
    ];
    let more = ["relp", "--level", "node", "--out", table.to_str().unwrap()];
    assert!(lapidary(&[&small[..], &more].concat()).status.success());
    assert_eq!(read(&table).height(), 1);
    assert!(folder.path().join("table.html.html").exists());
    for (more, expected) in [
        (
            ["--methods", "patching", "--level", "edge"],
            "patching ranks heads alone, found --level edge",
        ),
        (
            ["--methods", "patching", "--ablation", "median"],
            "expected one of corrupted, mean, zero",
        ),
    ] {
        let output = compare("refused", &more);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains(expected),
            "{told}"
        );
    }
}

#[test]
fn forced_attention_changes_what_a_model_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("forced.json");
    let force = |heads: &str, look_at: &str| {
        let arguments = ["force", "--task", "induction", "--prompts", "8"];
        let more = ["--heads", heads, "--look-at", look_at, "--out"];
        lapidary(&[&arguments[..], &more, &[out.to_str().unwrap()]].concat())
    };
    let mut metrics = vec![];
    for look_at in ["answer", "wrong"] {
        let output = force("3.0,3.1,3.2,3.3", look_at);
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(&out).unwrap();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&found["prompts"], &found["left_out"]),
            (&8.into(), &0.into())
        );
        let of = |when: &str| found[when]["metric"].as_f64().unwrap();
        metrics.push([of("before"), of("after")]);
        assert!(of("random") != of("after"));
        assert!((0.0..=1.0).contains(&found["after"]["accuracy"].as_f64().unwrap()));
    }
    assert_eq!(metrics[0][0], metrics[1][0]);
    assert!(metrics[0][1] != metrics[1][1]);
    for (heads, expected) in [
        ("9.0", "the head 9.0: expected a layer below 4"),
        ("1.2,1.2", "found 1.2 twice"),
        ("1", "expected a layer and a number"),
    ] {
        let output = force(heads, "answer");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains(expected),
            "{told}"
        );
    }
}

#[test]
fn a_task_that_does_not_fit_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let good = r#"{"clean": "the law", "corrupted": "the war", "answer": " is", "wrong": " was"}"#;
    for (name, line, expected) in [
        (
            "no-corrupted",
            r#"{"clean": "the law", "answer": " is", "wrong": " was"}"#,
            "missing field `corrupted`",
        ),
        (
            "lengths",
            r#"{"clean": "the law", "corrupted": "the law of the land", "answer": " is", "wrong": " was"}"#,
            "corrupted: found",
        ),
        (
            "answer",
            r#"{"clean": "the law", "corrupted": "the war", "answer": " is not it", "wrong": " was"}"#,
            "expected one token",
        ),
        ("json", "the law", "line 2"),
        (
            "empty",
            r#"{"clean": "the law", "corrupted": "the war", "answer": [], "wrong": " was"}"#,
            "found an empty list",
        ),
        (
            "both",
            r#"{"clean": "the law", "corrupted": "the war", "answer": [" is", " was"], "wrong": " was"}"#,
            "wrong: found \" was\", which is an answer too",
        ),
        (
            "null",
            r#"{"clean": "the law", "corrupted": "the war", "answer": " is", "wrong": null}"#,
            "`answer` and `wrong` must each be a text or a list of texts",
        ),
    ] {
        let file = path(&format!("{name}.jsonl"));
        fs::write(&file, format!("{good}\n{line}\n")).unwrap();
        let out = path("out.parquet");
        let output = lapidary(&["heads", "--task", &file, "--out", &out]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(
            told.contains(expected) && told.contains(&file),
            "{name}: {told}"
        );
        assert!(!Path::new(&out).exists());
    }
    let fails = |arguments: &[&str], expected: &str| {
        let output = lapidary(arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains(expected),
            "{told}"
        );
    };
    let out = path("out.parquet");
    fails(
        &["heads", "--task", "nonsense", "--out", &out],
        "unknown task nonsense",
    );
    fails(
        &["heads", "--task", "ioi", "--out", &out],
        "names as single tokens",
    );
    let truth = path("truth.json");
    fs::write(&truth, "[[0, 1], [9, 2]]").unwrap();
    let arguments = [
        "compare",
        "--task",
        "induction",
        "--truth",
        &truth,
        "--out",
        &out,
    ];
    fails(&arguments, "head 2 of layer 9, expected layers 0 to 3");
    fs::write(&truth, "{}").unwrap();
    fails(&arguments, "expected a JSON list");
    let with = |truth: &str, more: &[&str]| -> Vec<String> {
        let arguments = [
            "compare",
            "--task",
            "induction",
            "--truth",
            truth,
            "--out",
            &out,
        ];
        arguments
            .iter()
            .chain(more)
            .map(|a| (*a).to_owned())
            .collect()
    };
    let all_fail = |arguments: Vec<String>, expected: &str| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        fails(&arguments, expected);
    };
    let flat = path("flat.jsonl");
    let same = r#"{"clean": "the law", "corrupted": "the law", "answer": " is", "wrong": " was"}"#;
    fs::write(&flat, same).unwrap();
    let of_zero = [
        "compare",
        "--task",
        &flat,
        "--ablation",
        "zero",
        "--out",
        &out,
    ];
    fails(&of_zero, "so no head can matter");
    all_fail(with("ioi_wang", &[]), "expected layers 0 to 3");
    all_fail(with("ioi_wong", &[]), "expected ioi_wang, ioi_oneill");
    fs::write(
        &truth,
        r#"{"heads": [[0, 1]], "edges": ["a1.h0->a0.h1<q>"]}"#,
    )
    .unwrap();
    all_fail(with(&truth, &[]), "the edge a1.h0->a0.h1<q>");
    fs::write(&truth, "[[0, 1]]").unwrap();
    let few = ["--methods", "acdc", "--most-edges", "100"];
    all_fail(with(&truth, &few), "has 479 edges: expected at most 100");
    fails(
        &[
            "heads",
            "--task",
            "induction",
            "--method",
            "exact-edges",
            "--out",
            &out,
        ],
        "exact-edges: it scores edges alone",
    );
}

#[test]
fn reuse_writes_the_heads_that_two_tasks_share_at_each_stage() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, out) = (path("law.jsonl"), path("reuse.json"));
    let prompt =
        r#"{"clean": "the law", "corrupted": "the war", "answer": " is", "wrong": " was"}"#;
    fs::write(&file, prompt).unwrap();
    let reuse = |tasks: &str| {
        lapidary(&[
            "reuse",
            "--tasks",
            tasks,
            "--prompts",
            "4",
            "--top",
            "0.1",
            "--out",
            &out,
        ])
    };
    let output = reuse(&format!("induction,{file}"));
    assert!(output.status.success(), "{output:?}");
    let found: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(found["tasks"], serde_json::json!(["induction", "law"]));
    let first = &found["stages"][0];
    assert_eq!(first["first"]["receivers"], serde_json::json!(["logits"]));
    // A tenth of 16 heads is two of them.
    let heads = |task: &str| -> Vec<(u64, u64)> {
        let heads = first[task]["heads"].as_array().unwrap();
        let place =
            |head: &serde_json::Value| (head[0].as_u64().unwrap(), head[1].as_u64().unwrap());
        heads.iter().map(place).collect()
    };
    let (a, b) = (heads("first"), heads("second"));
    assert_eq!((a.len(), b.len()), (2, 2));
    let shared = a.iter().filter(|head| b.contains(head)).count() as f64;
    assert_eq!(
        first["overlap"]["of_first"],
        serde_json::json!(shared / 2.0)
    );
    for (tasks, expected) in [
        ("induction", "found 1, expected two tasks"),
        ("induction,induction", "found induction twice"),
        ("induction,nonsense", "unknown task nonsense"),
    ] {
        let output = reuse(tasks);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && told.contains(expected),
            "{told}"
        );
    }
}
