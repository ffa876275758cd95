//! Tables beside those of latents: evaluations, and the documents with their own ids.

use std::fs;

use serde_json::Value;

use crate::analysis::{RUNS, fails, lapidary, numbers, succeeds, table, texts};

#[test]
fn an_evaluation_is_a_row_of_a_table() {
    let (run, folder) = (RUNS.at("run0"), tempfile::tempdir().unwrap());
    let out = folder.path().join("evaluation.parquet");
    let mut eval = lapidary(&["eval", "--device", "cpu", "--tokens", "4096", "--json"]);
    let printed = succeeds(eval.arg(&run).arg("--out").arg(&out));
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let row = table(&out);
    assert_eq!(row.height(), 1);
    assert_eq!(texts(&row, "corpus"), ["embedded:heldout"]);
    for name in ["fvu", "l0", "ce_loss_score"] {
        let found = row.column(name).unwrap().get(0).unwrap();
        let found = found.try_extract::<f64>().unwrap();
        let expected = printed[name].as_f64().unwrap(); // read with a rounding of its own
        assert!(
            (found - expected).abs() <= 1e-14 * expected.abs(),
            "{name}: {found} {expected}"
        );
    }
}

#[test]
fn documents_have_their_own_ids() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("letters.jsonl");
    let words = "The people of the United States thank the Congress for the peace. ".repeat(12);
    let line = |id: &str| format!("{{\"text\": \"{words}\", \"name\": {id}}}\n");
    let lines = [line("\"first\""), line("null"), line("3")].concat();
    fs::write(&corpus, lines).unwrap();
    let features = |corpus: &std::path::Path, out: &str| {
        let mut features = lapidary(&["features", "--device", "cpu", "--tokens", "4096"]);
        features
            .arg(RUNS.at("run0"))
            .args(["--id-field", "name", "--corpus"]);
        features
            .arg(corpus)
            .arg("--out")
            .arg(folder.path().join(out));
        features
    };
    succeeds(&mut features(&corpus, "out"));
    let documents = table(&folder.path().join("out/features/documents.parquet"));
    assert_eq!(numbers(&documents, "document"), [0, 1, 2]);
    let ids = documents.column("id").unwrap().str().unwrap();
    assert_eq!(
        ids.iter().collect::<Vec<_>>(),
        [Some("first"), None, Some("3")]
    );
    assert!(texts(&documents, "start")[0].starts_with("The people"));
    // Plain text has no fields.
    let plain = folder.path().join("book.txt");
    fs::write(&plain, &words).unwrap();
    let error = fails(&mut features(&plain, "other"));
    assert!(
        error.contains("book.txt") && error.contains("no field `name`"),
        "{error}"
    );
}
