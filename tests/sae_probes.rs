//! Probes on data sets in the layout of the Python package sae-probes.

use std::fs;
use std::path::Path;

use crate::analysis::{RUNS, fails, lapidary, succeeds, table, texts};

fn packed(path: &Path, text: &str) {
    fs::write(path, zstd::encode_all(text.as_bytes(), 0).unwrap()).unwrap();
}

/// A folder with one data set of two classes, which end in different words, and one of numbers.
fn data(folder: &Path) {
    let cleaned = folder.join("data/cleaned_data");
    fs::create_dir_all(&cleaned).unwrap();
    packed(
        &folder.join("data/probing_datasets_MASTER.csv.zst"),
        "Dataset save name,Data type\ncleaned_data/1_words.csv,Binary Classification\n\
         cleaned_data/2_numbers.csv,Continuous Data\n",
    );
    let openings = [
        "We thank the",
        "I saw the",
        "They \"know\", all, the",
        "This is the",
    ];
    let rows = (0..240).map(|i| {
        let (word, class) = match i % 2 {
            0 => ("war", "fight"),
            _ => ("treaty", "peace"),
        };
        let opening = format!("{} {}", openings[i % 4], ["old", "new", "long"][i % 3]);
        format!("\"{} {word}\",{class}\n", opening.replace('"', "\"\""))
    });
    let text = format!("prompt,target\n{}", rows.collect::<String>());
    packed(&cleaned.join("1_words.csv.zst"), &text);
}

#[test]
fn probes_of_latents_tell_two_words_apart_and_the_cache_is_used() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let (out, cache) = (
        folder.path().join("probes.parquet"),
        folder.path().join("cache"),
    );
    let probe = |more: &[&str]| {
        let mut probe = lapidary(&["sae-probes", "--device", "cpu", "--k", "1,8", "--data"]);
        probe.arg(folder.path()).arg("--cache").arg(&cache);
        succeeds(probe.arg(RUNS.at("run0")).args(more).arg("--out").arg(&out))
    };
    let printed = probe(&["--seeds", "2"]);
    assert!(
        printed.starts_with("2 seeds: mean over data sets"),
        "{printed}"
    );
    let rows = table(&out);
    assert_eq!(texts(&rows, "method"), ["sae", "sae", "logreg"].repeat(2));
    let numbers = |name: &str| -> Vec<i64> {
        let column = rows.column(name).unwrap().i64().unwrap();
        column.iter().flatten().collect()
    };
    assert_eq!(numbers("seed"), [42, 42, 42, 43, 43, 43]);
    assert_eq!(numbers("num_train"), [140; 6]); // 240 - 100
    assert_eq!(numbers("num_test"), [99; 6]); // 240 - 140 - 1
    let auc = |row: usize| {
        rows.column("test_auc")
            .unwrap()
            .get(row)
            .unwrap()
            .try_extract::<f64>()
    };
    for row in [1, 2, 4, 5] {
        // Eight latents, and the whole activation, tell the last words apart.
        assert!(auc(row).unwrap() > 0.99, "{rows}");
    }
    // Few rows: the sizes that leave 100 of the 240 rows for testing.
    let mut few = lapidary(&[
        "sae-probes",
        "--device",
        "cpu",
        "--k",
        "4",
        "--setting",
        "scarcity",
    ]);
    few.arg("--data")
        .arg(folder.path())
        .arg("--cache")
        .arg(&cache)
        .arg("--out")
        .arg(&out);
    succeeds(few.arg(RUNS.at("run0")).arg("--no-baseline"));
    let sizes: Vec<i64> = {
        let rows = table(&out);
        let column = rows.column("num_train").unwrap().i64().unwrap().clone();
        column.iter().flatten().collect()
    };
    assert_eq!(sizes, [2, 3, 4, 5, 7, 10, 14, 20, 28, 38, 53, 74, 103]);
    let printed = probe(&["--seeds", "2"]);
    // The same again, from the cache alone.
    let kept = cache.join("1_words.safetensors");
    let before = fs::metadata(&kept).unwrap().modified().unwrap();
    assert_eq!(probe(&["--seeds", "2"]), printed);
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), before);
    // Another dictionary does not take it.
    let mut other = lapidary(&["sae-probes", "--device", "cpu", "--data"]);
    other.arg(folder.path()).arg("--cache").arg(&cache);
    let error = fails(other.arg(RUNS.at("run1")));
    assert!(
        error.contains("1_words.safetensors: found activations of another"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_with_the_data_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let probe = |more: &[&str]| {
        let mut probe = lapidary(&["sae-probes", "--device", "cpu", "--data"]);
        fails(probe.arg(folder.path()).arg(RUNS.at("run0")).args(more))
    };
    assert!(probe(&[]).contains("probing_datasets_MASTER.csv.zst"));
    data(folder.path());
    for (options, expected) in [
        (&["--only", "3_nothing"][..], "3_nothing"),
        (
            &["--only", "2_numbers"],
            "2_numbers: found a data set with numbers",
        ),
        (&["--k", "0"], "--k: found 0, expected 1 to 256"),
        (
            &["--max-tokens", "1"],
            "--max-tokens: found 1, expected at least 2",
        ),
        (
            &["--setting", "label-noise", "--no-baseline"],
            "--no-baseline",
        ),
    ] {
        let error = probe(options);
        assert!(error.contains(expected), "{options:?}: {error}");
    }
    let file = folder.path().join("data/cleaned_data/1_words.csv.zst");
    for (damage, expected) in [
        (b"no zstd".to_vec(), "1_words.csv.zst"),
        (
            zstd::encode_all(&b"text,target\na,b\n"[..], 0).unwrap(),
            "prompt",
        ),
        (
            zstd::encode_all(&b"prompt,target\na,b\nc,b\n"[..], 0).unwrap(),
            "target",
        ),
    ] {
        fs::write(&file, damage).unwrap();
        let error = probe(&[]);
        assert!(error.contains(expected), "{error}");
    }
}
