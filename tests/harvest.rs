//! `lapidary harvest` as a user meets it: killed at any moment and started again, it leaves the
//! store of a run that was never killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn harvest(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(["harvest", "--device", "cpu", "--context", "32", "--out"]);
    command.arg(out).args(more);
    command
}

fn run(command: &mut Command) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(!text.contains("panicked"), "{text}");
    (status.success(), text)
}

fn inspect(store: &Path, more: &[&str]) -> (bool, String) {
    run(Command::new(env!("CARGO_BIN_EXE_lapidary"))
        .arg("inspect")
        .arg(store)
        .args(more))
}

/// Every file of a folder by its name.
fn bytes(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    files
        .map(|f| {
            (
                f.file_name().into_string().unwrap(),
                std::fs::read(f.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn killed_at_ten_moments_it_leaves_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "--hook",
        "blocks.0.hook_resid_post,blocks.1.hook_mlp_out",
        "--tokens",
        "40000",
        "--shard-tokens",
        "700",
        "--batch-blocks",
        "8",
        "--skip-first",
        "2",
        "--max-norm",
        "1.5",
    ];
    let whole = folder.path().join("whole");
    let start = Instant::now();
    assert!(run(&mut harvest(&whole, &settings)).0);
    let time = start.elapsed();

    let killed = folder.path().join("killed");
    let mut kills = 0;
    let mut grew = 0;
    let mut rows = 0;
    // A Weyl sequence: moments spread evenly over a part of the time that a run takes, in no order.
    // On a busy machine a run may take longer than it did: the part grows until new rows were seen
    // before two kills at least.
    for i in 1..=40_u32 {
        if i > 10 && grew >= 2 {
            break;
        }
        let share = (f64::from(i) * 0.618_033_988_75).fract() * f64::from(i.max(10)) / 10.0;
        let mut child = harvest(&killed, &settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs_f64(time.as_secs_f64() * share * 0.3));
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        if killed.join("manifest.json").exists() {
            // At every moment what the manifest names is there, whole.
            let (sound, text) = inspect(&killed, &["--verify"]);
            assert!(sound, "{text}");
            let manifest: serde_json::Value =
                serde_json::from_slice(&std::fs::read(killed.join("manifest.json")).unwrap())
                    .unwrap();
            let now = manifest["rows"].as_u64().unwrap();
            assert!(now >= rows, "rows were lost: {rows}, then {now}");
            grew += usize::from(now > rows);
            rows = now;
        }
    }
    let (done, text) = run(&mut harvest(&killed, &settings));
    assert!(done && text.contains("resume"), "{text}");
    println!(
        "{kills} kills found it running, {grew} of them after a new shard; {rows} rows before the last run"
    );
    assert!(
        kills >= 5 && grew >= 2,
        "{kills} kills, {grew} with new rows: too fast to test anything"
    );
    let (whole, killed) = (bytes(&whole), bytes(&killed));
    assert_eq!(
        whole.keys().collect::<Vec<_>>(),
        killed.keys().collect::<Vec<_>>()
    );
    for (name, content) in &whole {
        assert!(*content == killed[name], "{name} differs");
    }
}

#[test]
fn a_store_grows_but_never_mixes_settings() {
    let folder = tempfile::tempdir().unwrap();
    let (grown, straight) = (folder.path().join("grown"), folder.path().join("straight"));
    let settings = |tokens: &'static str| {
        [
            "--hook",
            "blocks.1.attn.hook_z",
            "--shard-tokens",
            "500",
            "--tokens",
            tokens,
        ]
    };
    // 1,000 rows are two whole shards, so growing makes the same files as asking for all at once.
    assert!(run(&mut harvest(&grown, &settings("1000"))).0);
    let (done, text) = run(&mut harvest(&grown, &settings("1700")));
    assert!(
        done && text.contains("holds 1000 activations already"),
        "{text}"
    );
    assert!(run(&mut harvest(&straight, &settings("1700"))).0);
    assert!(bytes(&grown) == bytes(&straight));
    // Fewer than there are: nothing to do.
    assert!(run(&mut harvest(&grown, &settings("800"))).0);
    assert!(bytes(&grown) == bytes(&straight));

    for (more, named) in [
        (["--dtype", "f32"], "dtype"),
        (["--corpus", "embedded:heldout"], "corpus"),
        (["--skip-first", "1"], "exclude"),
        (["--batch-blocks", "3"], "batch_blocks"),
    ] {
        let (done, text) = run(harvest(&grown, &settings("2000")).args(more));
        assert!(!done && text.contains(named), "{text}");
    }
    let (_, text) = inspect(&grown, &[]);
    assert!(
        text.contains("1700 in 4 shards") && text.contains("blocks.1.attn.hook_z (256 wide)"),
        "{text}"
    );

    let shard = grown.join("shard-000002.safetensors");
    let mut damaged = std::fs::read(&shard).unwrap();
    *damaged.last_mut().unwrap() ^= 4;
    std::fs::write(&shard, damaged).unwrap();
    let (sound, text) = inspect(&grown, &["--verify"]);
    assert!(
        !sound && text.contains("shard-000002") && text.contains("xxh64"),
        "{text}"
    );
}

#[test]
fn a_corpus_that_ends_or_changes_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    let line = "The people of the United States have confided their trust to the Congress.\n";
    std::fs::write(&text, line.repeat(100)).unwrap();
    let store = folder.path().join("store");
    let corpus = text.to_str().unwrap();
    let settings = [
        "--hook",
        "blocks.0.hook_resid_post",
        "--corpus",
        corpus,
        "--tokens",
        "100000",
    ];
    let (done, text_) = run(&mut harvest(&store, &settings));
    assert!(done && text_.contains("the corpus ended"), "{text_}");
    let before = bytes(&store);
    assert!(run(&mut harvest(&store, &settings)).0);
    assert!(bytes(&store) == before);
    std::fs::write(&text, line.replace("people", "states").repeat(100)).unwrap();
    let (done, text_) = run(&mut harvest(&store, &settings));
    assert!(!done && text_.contains("has changed"), "{text_}");
}

/// Trains on a store by an empty recipe: model, text and context are the store's.
fn train(store: &Path, out: &Path, more: &[&str]) -> Command {
    let recipe = store.with_extension("toml");
    std::fs::write(
        &recipe,
        format!("activations.store = {:?}", store.to_str().unwrap()),
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command
        .arg("train")
        .arg(&recipe)
        .args(["--device", "cpu", "--out"])
        .arg(out);
    for setting in [
        "coder.d_sae=256",
        "coder.k=8",
        "training.batch_tokens=256",
        "training.checkpoint_every_steps=5",
        "training.tokens=5120",
        "activations.buffer_tokens=1024",
        "evaluation.tokens=0",
        "features.tokens=1024",
        "features.examples_per_feature=1",
    ] {
        command.args(["--set", setting]);
    }
    command.args(more);
    command
}

#[test]
fn training_reads_a_store_and_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let hook = "blocks.2.hook_resid_post"; // the recipe's own
    assert!(
        run(&mut harvest(
            &store,
            &[
                "--hook",
                hook,
                "--tokens",
                "3000",
                "--corpus",
                "embedded:heldout",
                "--skip-first",
                "2"
            ]
        ))
        .0
    );
    let whole = folder.path().join("whole");
    let (done, text) = run(&mut train(&store, &whole, &[])); // 5,120 rows are more than a pass
    assert!(done, "{text}");
    let config = std::fs::read_to_string(whole.join("config.toml")).unwrap();
    assert!(
        config.contains("path = \"embedded:heldout\"")
            && config.contains("context = 32")
            && config.contains("first_positions = 2"),
        "{config}"
    );

    // Killed as soon as there is a checkpoint, then resumed.
    let halted = folder.path().join("halted");
    let mut child = train(&store, &halted, &[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !halted.join("checkpoint/manifest.json").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (done, text) = run(train(&store, &halted, &[]).arg("--resume"));
    assert!(done, "{text}");
    assert!(bytes(&whole.join("dictionary")) == bytes(&halted.join("dictionary")));

    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/gpt2");
    let model = format!("model={}", fixture.display());
    for (more, named) in [
        (["--set", "corpus.context=64"], "corpus.context = 32"),
        (
            ["--set", "corpus.path=embedded"],
            "corpus.path = \"embedded:heldout\"",
        ),
        (
            ["--set", "activations.exclude.first_positions=0"],
            "first_positions = 2",
        ),
        (
            ["--set", "corpus.attend_across_documents=true"],
            "attend_across_documents = false",
        ),
        (["--set", "hook_point=blocks.1.hook_resid_post"], hook),
        (["--set", &model], "settings.model_digest"),
    ] {
        let (done, text) = run(&mut train(&store, &folder.path().join("refused"), &more));
        assert!(!done && text.contains(named), "{more:?}: {text}");
    }
}

#[test]
fn training_reads_a_cache_that_saelens_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = |name: &str| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        root.join("../../tests/fixtures").join(name)
    };
    let store = folder.path().join("cache");
    std::fs::create_dir(&store).unwrap();
    for file in bytes(&fixture("saelens_cache/float32")) {
        std::fs::write(store.join(file.0), file.1).unwrap();
    }
    let (told, text) = inspect(&store, &[]);
    assert!(
        told && text.contains("(8 wide)") && text.contains("128 as f32"),
        "{text}"
    );

    // The embedded model has another width: it cannot be the cache's.
    let out = folder.path().join("out");
    let (done, text) = run(&mut train(&store, &out, &[]));
    assert!(
        !done && text.contains("8 wide") && text.contains("256"),
        "{text}"
    );

    let (done, text) = run(&mut train(&store, &out, &["--set", "corpus.context=9"]));
    assert!(!done && text.contains("corpus.context = 8"), "{text}");
}

/// A corpus in a file, harvested from `blocks.0.hook_resid_post`: the store, and what was printed.
fn harvested(folder: &Path, name: &str, corpus: &[u8]) -> (std::path::PathBuf, String) {
    let (path, store) = (folder.join(name), folder.join(format!("{name}.store")));
    std::fs::write(&path, corpus).unwrap();
    let hook = ["--hook", "blocks.0.hook_resid_post", "--tokens", "100000"];
    let mut command = harvest(&store, &hook);
    let (done, text) = run(command.arg("--corpus").arg(&path));
    assert!(done, "{text}");
    (store, text)
}

/// A column of four-byte numbers of a store's only shard.
fn column(store: &Path, name: &str) -> Vec<u32> {
    let shard = std::fs::read(store.join("shard-000000.safetensors")).unwrap();
    let length = u64::from_le_bytes(shard[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&shard[8..8 + length]).unwrap();
    let at = |i: usize| 8 + length + header[name]["data_offsets"][i].as_u64().unwrap() as usize;
    let numbers = shard[at(0)..at(1)].chunks_exact(4);
    numbers
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

const SENTENCE: &str =
    "The people of the United States have confided their trust to the Congress. ";

#[test]
fn rows_without_text_are_counted_and_documents_are_numbered_by_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let text = SENTENCE.repeat(4);
    let line = |text: Option<&str>| serde_json::json!({ "text": text }).to_string() + "\n";
    let lines = |rows: &[bool]| {
        let lines = rows.iter().map(|has| line(has.then_some(text.as_str())));
        lines.collect::<String>()
    };
    let (store, told) = harvested(
        folder.path(),
        "nulls.jsonl",
        lines(&[true, false, true, false, true]).as_bytes(),
    );
    let note = "note 2 rows without text were skipped";
    assert_eq!(told.matches(note).count(), 1, "{told}");
    let mut documents = column(&store, "documents");
    documents.dedup();
    assert_eq!(documents, [0, 2, 4]);
    let (other, told) = harvested(folder.path(), "all.jsonl", lines(&[true; 3]).as_bytes());
    assert!(!told.contains("note:"), "{told}");
    assert_eq!(column(&store, "token_ids"), column(&other, "token_ids"));
    assert_eq!(column(&store, "positions"), column(&other, "positions"));
}

#[test]
fn a_byte_order_mark_and_numbers_that_json_lacks_change_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let text = SENTENCE.repeat(6);
    let tokens = |name: &str, corpus: String| {
        let (store, _) = harvested(folder.path(), name, corpus.as_bytes());
        column(&store, "token_ids")
    };
    let plain = tokens("plain.txt", text.clone());
    assert_eq!(tokens("bom.txt", format!("\u{feff}{text}")), plain);
    let line = format!("{{\"text\": {text:?}}}\n");
    assert_eq!(tokens("bom.jsonl", format!("\u{feff}{line}")), plain);
    let line = format!("{{\"score\": NaN, \"text\": {text:?}, \"other\": -Infinity}}\n");
    assert_eq!(tokens("nan.jsonl", line), plain);
}

#[test]
fn what_leaves_nothing_or_is_given_twice_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let hook = "blocks.0.hook_resid_post";
    let refused = |more: &[&str], named: &[&str]| {
        let (done, text) = run(&mut harvest(&store, more));
        assert!(!done && !store.exists(), "{text}");
        for name in named {
            assert!(text.contains(name), "{text}");
        }
    };
    let twice = format!("{hook},blocks.1.hook_resid_post,{hook}");
    refused(&["--hook", &twice], &["--hook", hook, "twice"]);
    let few = ["--hook", hook, "--skip-first", "40"]; // the context is 32
    refused(&few, &["--skip-first", "40", "32"]);
    let out = folder.path().join("x.safetensors");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.args(["run", "--tokens", "1,2", "--capture", &twice, "--out"]);
    let (done, text) = run(command.arg(&out));
    assert!(
        !done && text.contains("--capture") && text.contains(hook),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn a_corpus_folder_with_links_to_itself_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus");
    std::fs::create_dir(&corpus).unwrap();
    std::fs::write(corpus.join("text.txt"), SENTENCE.repeat(40)).unwrap();
    for name in ["a", "b"] {
        std::os::unix::fs::symlink(".", corpus.join(name)).unwrap();
    }
    let store = folder.path().join("store");
    let hook = ["--hook", "blocks.0.hook_resid_post", "--tokens", "100000"];
    let (done, text) = run(harvest(&store, &hook).arg("--corpus").arg(&corpus));
    assert!(done, "{text}");
    let (other, _) = harvested(folder.path(), "text.txt", SENTENCE.repeat(40).as_bytes());
    assert_eq!(column(&store, "token_ids"), column(&other, "token_ids"));
}

#[test]
fn training_and_encoding_refuse_a_store_with_a_flipped_bit() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let hook = "blocks.2.hook_resid_post"; // the recipe's own
    let settings = ["--hook", hook, "--tokens", "3000", "--shard-tokens", "1000"];
    assert!(run(&mut harvest(&store, &settings)).0);
    let flip = |file: &str, from_end: usize| {
        let path = store.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    let out = folder.path().join("out");
    flip("shard-000001.safetensors", 1);
    let (done, text) = run(&mut train(&store, &folder.path().join("first"), &[]));
    assert!(
        !done && text.contains("shard-000001") && text.contains("xxh64"),
        "{text}"
    );
    let mut encode = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    let dictionary = folder.path().join("dictionary");
    encode.arg("encode").arg("--dictionary").arg(&dictionary);
    encode
        .arg("--activations")
        .arg(store.join("shard-000001.safetensors"));
    encode.arg("--out").arg(folder.path().join("codes"));
    flip("shard-000001.safetensors", 1);
    let (done, text) = run(&mut train(&store, &out, &[]));
    assert!(done, "{text}");
    let (check, buffer) = (
        text.find("     check 3 shards of "),
        text.find("    buffer "),
    );
    assert!(check.is_some() && check < buffer, "{text}");
    std::fs::rename(out.join("dictionary"), &dictionary).unwrap();
    encode.args(["--tensor", hook, "--device", "cpu"]);
    let (done, text) = run(&mut encode);
    assert!(done, "{text}");
    flip("shard-000001.safetensors", 1);
    let (done, text) = run(&mut encode);
    assert!(
        !done && text.contains("shard-000001") && text.contains("xxh64"),
        "{text}"
    );
    flip("shard-000001.safetensors", 1);
    flip("manifest.json", 10); // a digit of its checksum
    let (done, text) = run(&mut train(&store, &folder.path().join("other"), &[]));
    assert!(!done && text.contains("manifest.json"), "{text}");
}
