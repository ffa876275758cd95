use super::*;
use polars::prelude::ParquetWriter;
use std::path::Path;

#[test]
fn the_embedded_corpus_keeps_its_heldout_speeches_apart() {
    let all = |name: &str| {
        Corpus::open(name, TEXT_FIELD)
            .unwrap()
            .documents()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    let (train, heldout) = (all("embedded"), all("embedded:heldout"));
    assert!(train.len() > 200 && heldout.len() > 5);
    assert!(heldout.iter().all(|speech| !train.contains(speech)));
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("b.txt"), "second\n").unwrap();
    std::fs::write(
        folder.path().join("a.jsonl"),
        "{\"text\": \"first\"}\n\n{\"text\": \"one and a half\"}",
    )
    .unwrap();
    std::fs::write(folder.path().join("ignored.bin"), [0xff]).unwrap();
    let corpus = Corpus::open(folder.path().to_str().unwrap(), TEXT_FIELD).unwrap();
    let texts: Vec<_> = corpus.documents().map(Result::unwrap).collect();
    assert_eq!(texts, ["first", "one and a half", "second\n"]);
}

#[test]
fn a_parquet_file_that_claims_rows_it_does_not_have_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let mut frame = polars::df!("text" => ["one", "two", "three"]).unwrap();
    let mut sound = vec![];
    ParquetWriter::new(&mut sound).finish(&mut frame).unwrap();
    // The description at the end, before its length and four letters, says `num_rows` before the list of row groups.
    let end = sound.len() - 8;
    let length = u32::from_le_bytes(sound[end..end + 4].try_into().unwrap()) as usize;
    let (pages, description) = sound[..end].split_at(end - length);
    let three = description.windows(3).position(|w| w == [0x16, 6, 0x19]);
    let (before, after) = description.split_at(three.unwrap() + 1);
    // 2^40, in Thrift's variable length, twice as large as it is.
    let rows = [0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    let description = [before, &rows, &after[1..]].concat();
    let length = u32::try_from(description.len()).unwrap().to_le_bytes();
    let bytes = [pages, &description[..], &length, b"PAR1"].concat();
    std::fs::write(&path, bytes).unwrap();
    let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD).unwrap();
    let error = corpus.documents().find_map(Result::err).unwrap();
    let expected = "found 3 rows from row 0 on, expected 256 of 1099511627776";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_parquet_file_with_any_byte_damaged_is_read_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let mut frame = polars::df!("text" => ["one", "two", "three"]).unwrap();
    let mut sound = vec![];
    ParquetWriter::new(&mut sound).finish(&mut frame).unwrap();
    for i in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[i] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD).unwrap();
        if let Err(error) = corpus.documents().collect::<Result<Vec<_>, _>>() {
            assert!(error.to_string().contains("a.parquet"), "{error}");
        }
    }
}

#[test]
fn unreadable_corpora_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD);
        let error = corpus
            .and_then(|c| c.documents().collect::<Result<Vec<_>, _>>())
            .unwrap_err()
            .to_string();
        assert!(error.contains(name), "{error}");
        error
    };
    assert!(error("latin.txt", b"caf\xe9").contains("byte 3"));
    assert!(error("a.jsonl", b"{\"text\": \"x\"}\n{\"txt\": 1}\n").contains("line 2"));
    assert!(error("broken.jsonl", b"{").contains("line 1"));
    assert!(error("a.parquet", b"PAR1not really").contains("Parquet"));
    assert!(error("a.pdf", b"%PDF").contains(".parquet"));
    assert!(
        Corpus::open("no/such/place", TEXT_FIELD)
            .unwrap_err()
            .to_string()
            .contains("no/such/place")
    );
}

fn texts(corpus: &str) -> Result<Vec<String>, String> {
    let corpus = Corpus::open(corpus, TEXT_FIELD).map_err(|e| e.to_string())?;
    let texts: Result<Vec<_>, _> = corpus.documents().collect();
    texts.map_err(|e| e.to_string())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn json_comes_by_line_or_as_an_array_and_may_be_packed() {
    let folder = tempfile::tempdir().unwrap();
    let lines = b"{\"text\": \"one\", \"n\": [1]}\n \n{\"text\": \"two\"}\n";
    let array = br#" [ {"text": "one", "deep": [{"text": "]"}]} ,
        {"text": "two"}] "#;
    let gzip = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, bytes).unwrap();
        packed.finish().unwrap()
    };
    for (name, bytes) in [
        ("a.jsonl", lines.to_vec()),
        ("b.json", lines.to_vec()),
        ("c.json", array.to_vec()),
        ("d.jsonl.gz", gzip(lines)),
        // Two members one after the other are one file, as gzip has it.
        (
            "e.jsonl.gz",
            [gzip(&lines[..30]), gzip(&lines[30..])].concat(),
        ),
        ("f.json.zst", zstd::encode_all(&array[..], 3).unwrap()),
        ("g.ndjson.ZST", zstd::encode_all(&lines[..], 3).unwrap()),
    ] {
        let path = write(folder.path(), name, &bytes);
        assert_eq!(texts(&path).unwrap(), ["one", "two"], "{name}");
    }
    let path = write(folder.path(), "t.txt.gz", &gzip(b"a\nb\n"));
    assert_eq!(texts(&path).unwrap(), ["a\nb\n"]);
    let path = write(folder.path(), "empty.json", b"[]");
    assert!(texts(&path).unwrap().is_empty());

    let refused = |name: &str, bytes: &[u8], named: &str| {
        let error = texts(&write(folder.path(), name, bytes)).unwrap_err();
        assert!(error.contains(name) && error.contains(named), "{error}");
    };
    refused("x.json", b"[1]", "array of objects");
    refused("x.json", b"[{\"text\": \"a\"} {\"text\": \"b\"}]", "line 2");
    refused("x.json", b"[{\"text\": \"a\"}", "line 2");
    refused("x.json", b"[{\"text\": \"a\"},]", "line 2");
    refused("x.json", b"[,{\"text\": \"a\"}]", "line 1");
    refused("x.jsonl", b"{\"text\": null}", "null");
    refused("x.jsonl.gz", &gzip(lines)[..20], "cannot be read");
    refused("x.jsonl.zst", b"not packed at all", "cannot be read");
}

#[test]
fn another_field_is_named_and_an_absent_one_lists_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let json = write(folder.path(), "a.jsonl", b"{\"content\": \"x\", \"id\": 7}");
    let mut frame = polars::df!("content" => ["x"], "id" => [7]).unwrap();
    let mut bytes = vec![];
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    let parquet = write(folder.path(), "a.parquet", &bytes);
    for path in [json, parquet] {
        let read = |field: &str| {
            let corpus = Corpus::open(&path, field).unwrap();
            let texts: Result<Vec<_>, _> = corpus.documents().collect();
            texts.map_err(|e| e.to_string())
        };
        assert_eq!(read("content").unwrap(), ["x"]);
        let error = read("text").unwrap_err();
        assert!(
            error.contains("content, id") && error.contains("`text`"),
            "{error}"
        );
        let error = read("id").unwrap_err();
        assert!(
            error.contains("`id`") && error.contains("string"),
            "{error}"
        );
    }
}

#[test]
fn a_folder_gives_its_corpus_files_and_a_split_only_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str| {
        let line = format!("{{\"text\": {name:?}}}");
        write(folder.path(), name, line.as_bytes());
    };
    for name in [
        "README.md",
        "LICENSE.txt",
        "dataset_infos.json",
        ".git/x.jsonl",
        "data/.cache.jsonl",
        "data/notes.pdf",
    ] {
        put(name);
    }
    let whole = folder.path().to_str().unwrap();
    assert!(texts(whole).unwrap_err().contains(".parquet"));
    for name in ["data/part-b.jsonl", "data/part-a.jsonl"] {
        put(name);
    }
    assert_eq!(
        texts(whole).unwrap(),
        ["data/part-a.jsonl", "data/part-b.jsonl"]
    );
    for name in [
        "data/train-00001-of-00002-a1b2.jsonl",
        "data/train-00000-of-00002-a1b2.jsonl",
        "data/train_sft-00000-of-00001.jsonl",
        "test/x.jsonl",
        "test/validation.json",
        "my_dev_set.jsonl",
    ] {
        put(name);
    }
    let split = |split: &str| texts(&format!("{whole}{split}"));
    let train = [
        "data/train-00000-of-00002-a1b2.jsonl",
        "data/train-00001-of-00002-a1b2.jsonl",
    ];
    assert_eq!(split("").unwrap(), train);
    assert_eq!(split(":train").unwrap(), train);
    assert_eq!(
        split(":train_sft").unwrap(),
        ["data/train_sft-00000-of-00001.jsonl"]
    );
    assert_eq!(split(":test").unwrap(), ["test/x.jsonl"]);
    assert_eq!(
        split(":validation").unwrap(),
        ["my_dev_set.jsonl", "test/validation.json"]
    );
    let error = split(":heldout").unwrap_err();
    assert!(
        error.contains("test, train, train_sft, validation") && error.contains("heldout"),
        "{error}"
    );
}

#[test]
fn a_folder_of_the_hubs_cache_is_read_at_its_revision() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "refs/main", b"new\n");
    write(folder.path(), "snapshots/old/a.txt", b"old");
    write(folder.path(), "snapshots/new/a.txt", b"new");
    write(folder.path(), "blobs/a.txt", b"blob");
    let corpus = folder.path().to_str().unwrap();
    assert_eq!(texts(corpus).unwrap(), ["new"]);
    write(folder.path(), "refs/main", b"../../secret");
    assert!(texts(corpus).unwrap_err().contains("refs/main"));
}
