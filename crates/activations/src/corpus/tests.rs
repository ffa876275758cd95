use super::*;
use polars::prelude::ParquetWriter;
use std::path::Path;

#[test]
fn the_embedded_corpus_keeps_its_heldout_speeches_apart() {
    let all = |name: &str| {
        Corpus::open(name, TEXT_FIELD)
            .unwrap()
            .documents()
            .map(|document| document.unwrap().text)
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
    let texts: Vec<_> = corpus.documents().map(|d| d.unwrap().text).collect();
    assert_eq!(texts, ["first", "one and a half", "second\n"]);
}

#[test]
fn a_parquet_file_that_claims_rows_it_does_not_have_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let mut frame = polars::df!("text" => ["one", "two", "three"]).unwrap();
    let mut sound = vec![];
    ParquetWriter::new(&mut sound).finish(&mut frame).unwrap();
    // The description at the end, before its length and four letters, says `num_rows` before the
    // list of row groups.
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

/// polars would reserve memory for 2^64 values less three, and end the process.
#[test]
fn a_parquet_page_that_claims_fewer_than_no_values_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let mut frame = polars::df!("text" => ["one", "two", "three"]).unwrap();
    let mut bytes = vec![];
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    // A page's header says `num_values` first. Thrift writes 3 as 6 and -3 as 5.
    let three = bytes.windows(3).position(|w| w == [0x2c, 0x15, 6]).unwrap();
    bytes[three + 2] = 5;
    std::fs::write(&path, bytes).unwrap();
    let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD).unwrap();
    let error = corpus.documents().find_map(Result::err).unwrap();
    let expected = "column `text`: found a page of -3 values, expected at most 3";
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

#[test]
fn a_missing_field_is_named_with_the_option_that_names_another() {
    let labels = Corpus::labels("embedded", "label").unwrap();
    let error = labels.rows().next().unwrap().unwrap_err().to_string();
    assert!(
        error.starts_with("corpus embedded: found the columns text, title, president"),
        "{error}"
    );
    assert!(
        error.ends_with(
            "expected `label`: name the one with the class with --label-field (in a config of dkvb: data.label_field)"
        ),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, "{\"body\": \"x\"}\n").unwrap();
    let error = texts(path.to_str().unwrap()).unwrap_err();
    assert!(
        error.ends_with(
            "found the fields body, expected `text`: name the one with the text with --text-field, or corpus.text_field in a recipe"
        ),
        "{error}"
    );
}

#[test]
fn classes_may_be_numbers_and_texts_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let lines =
        "{\"c\": 1}\n{\"c\": \"1\"}\n{\"c\": -2.5}\n{\"c\": true}\n{\"c\": NaN}\n{\"c\": null}\n";
    let lines = write(folder.path(), "a.jsonl", lines.as_bytes());
    let classes = |source: &str| -> Vec<Option<String>> {
        let rows = Corpus::labels(source, "c").unwrap().rows();
        rows.map(Result::unwrap).collect()
    };
    let some = |text: &str| Some(text.to_owned());
    let expected = [some("1"), some("1"), some("-2.5"), some("true"), None, None];
    assert_eq!(classes(&lines), expected);
    let as_text = Corpus::open(&lines, "c").unwrap().rows().next().unwrap();
    let error = as_text.unwrap_err().to_string();
    assert!(
        error.contains("found a number, expected a string"),
        "{error}"
    );
    let parquet = |mut frame: polars::prelude::DataFrame| {
        let mut bytes = vec![];
        ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
        write(folder.path(), "a.parquet", &bytes)
    };
    let whole = parquet(polars::df!("c" => [Some(0_i64), None, Some(7)]).unwrap());
    assert_eq!(classes(&whole), [some("0"), None, some("7")]);
    let error = texts_of(&whole, "c").unwrap_err();
    assert!(error.contains("found i64, expected strings"), "{error}");
    let broken = parquet(polars::df!("c" => [Some(1.0_f32), Some(f32::NAN), Some(0.5)]).unwrap());
    assert_eq!(classes(&broken), [some("1"), None, some("0.5")]);
    let single = parquet(polars::df!("c" => [0.1_f32, -0.0]).unwrap());
    assert_eq!(classes(&single), [some("0.1"), some("0")]);
    let truth = parquet(polars::df!("c" => [true, false]).unwrap());
    assert_eq!(classes(&truth), [some("true"), some("false")]);
}

fn texts_of(corpus: &str, field: &str) -> Result<Vec<Option<String>>, String> {
    let rows = Corpus::open(corpus, field)
        .map_err(|e| e.to_string())?
        .rows();
    rows.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn texts(corpus: &str) -> Result<Vec<String>, String> {
    let corpus = Corpus::open(corpus, TEXT_FIELD).map_err(|e| e.to_string())?;
    let texts: Result<Vec<_>, _> = corpus.documents().map(|d| d.map(|d| d.text)).collect();
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
    refused(
        "x.json",
        b"[{\"text\": \"a\"} {\"text\": \"b\"}]",
        "object 2",
    );
    refused("x.json", b"[{\"text\": \"a\"}", "object 2");
    refused("x.json", b"[{\"text\": \"a\"},]", "object 2");
    refused("x.json", b"[,{\"text\": \"a\"}]", "object 1");
    refused("x.jsonl", b"{\"text\": 7}", "a number");
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
            let texts: Result<Vec<_>, _> = corpus.documents().map(|d| d.map(|d| d.text)).collect();
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

/// The documents with their numbers, and the rows that were skipped.
fn numbered(corpus: &str) -> (Vec<(u64, String)>, u64) {
    let corpus = Corpus::open(corpus, TEXT_FIELD).unwrap();
    // Twice: passes do not add up.
    let read = || corpus.documents().map(Result::unwrap);
    let once: Vec<_> = read().map(|d| (d.number, d.text)).collect();
    assert_eq!(read().count(), once.len());
    (once, corpus.skipped_rows().count())
}

#[test]
fn rows_without_text_are_skipped_and_counted_and_numbers_stay_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"text\": null}\n{\"text\": \"one\"}\n{\"text\": NaN}\n\n{\"text\": \"\"}\n{\"text\": null}\n{\"text\": \"NaN\"}\n";
    let rows: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
    let array = format!("[{}]", rows.join(",\n"));
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
    let texts = [None, Some("one"), None, Some(""), None, Some("NaN")];
    let mut frame = polars::df!("text" => texts).unwrap();
    let mut parquet = vec![];
    ParquetWriter::new(&mut parquet).finish(&mut frame).unwrap();
    let expected: Vec<(u64, String)> =
        vec![(1, "one".into()), (3, String::new()), (5, "NaN".into())];
    for (name, bytes) in [
        ("a.jsonl", lines.as_bytes().to_vec()),
        ("b.json", array.as_bytes().to_vec()),
        ("c.jsonl.zst", zstd(lines)),
        ("d.json.zst", zstd(&array)),
        ("e.parquet", parquet),
    ] {
        let path = write(folder.path(), name, &bytes);
        assert_eq!(numbered(&path), (expected.clone(), 3), "{name}");
    }
    // Over all files of a folder, rows are counted on.
    let (all, skipped) = numbered(folder.path().to_str().unwrap());
    let numbers: Vec<u64> = all.iter().map(|(number, _)| *number).collect();
    let expected: Vec<u64> = (0..5)
        .flat_map(|file| [1, 3, 5].map(|n| 6 * file + n))
        .collect();
    assert_eq!((numbers, skipped), (expected, 15));
}

#[test]
fn numbers_that_json_does_not_have_are_read_as_python_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"text\": \"one\", \"score\": NaN}\n{\"score\": -Infinity, \"deep\": [{\"x\": Infinity}], \"text\": \"NaN \\\"NaN\\\"\"}\n{\"text\":\"NaN\",\"score\":NaN}";
    let array = format!("[{}]", lines.lines().collect::<Vec<_>>().join(","));
    for (name, text) in [("a.jsonl", lines), ("b.json", array.as_str())] {
        let path = write(folder.path(), name, text.as_bytes());
        assert_eq!(
            texts(&path).unwrap(),
            ["one", "NaN \"NaN\"", "NaN"],
            "{name}"
        );
    }
    let path = write(folder.path(), "c.jsonl", b"{\"text\": -Infinity}");
    let error = texts(&path).unwrap_err();
    assert!(
        error.contains("line 1") && error.contains("a number"),
        "{error}"
    );
    let path = write(
        folder.path(),
        "d.jsonl",
        b"{\"text\": \"a\"}\n{\"text\": Nan}",
    );
    assert!(texts(&path).unwrap_err().contains("line 2"));
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let gzip = |text: &str| {
        let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, text.as_bytes()).unwrap();
        packed.finish().unwrap()
    };
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
    let plain = |text: &str| text.as_bytes().to_vec();
    for (name, content) in [
        ("txt", "\u{feff}one"),
        ("jsonl", "\u{feff}{\"text\": \"one\"}\n"),
        ("json", "\u{feff}[{\"text\": \"one\"}]"),
    ] {
        let packed = [
            (name.to_owned(), plain(content)),
            (format!("{name}.gz"), gzip(content)),
            (format!("{name}.zst"), zstd(content)),
        ];
        for (extension, bytes) in packed {
            let path = write(folder.path(), &format!("a.{extension}"), &bytes);
            assert_eq!(texts(&path).unwrap(), ["one"], "{extension}");
        }
    }
    assert_eq!(texts(folder.path().to_str().unwrap()).unwrap(), ["one"; 9]);
    // Elsewhere it is a character as any other; files of a byte or two are read too.
    for text in ["", "a", "ab", "a\u{feff}b"] {
        let path = write(folder.path(), "b.txt", text.as_bytes());
        assert_eq!(texts(&path).unwrap().concat(), text);
    }
    let path = write(folder.path(), "c.txt", b"\xff\xfea\0");
    let error = texts(&path).unwrap_err();
    assert!(
        error.contains("UTF-16") && error.contains("c.txt"),
        "{error}"
    );
}

#[test]
fn links_that_lead_back_are_not_followed_for_ever() {
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("corpus");
        write(&folder, "b/x.txt", b"one");
        write(&folder, "c.txt", b"two");
        write(outside.path(), "beside/y.txt", b"three");
        write(outside.path(), "above.txt", b"no part of the corpus");
        for (to, name) in [
            (".", "here"),
            (".", "there"),
            ("b", "a"),
            ("..", "up"),
            ("/", "root"),
            ("../beside", "linked"),
            ("../beside", "linked_again"),
            ("../../corpus/b", "b/back"),
            ("c.txt", "d.txt"),
        ] {
            symlink(to, folder.join(name)).unwrap();
        }
        // A folder has its own name before a link's; a link to a file is a file.
        let found = texts(folder.to_str().unwrap()).unwrap();
        assert_eq!(found, ["one", "two", "two", "three"]);
    }
}

#[test]
fn categories_and_bytes_are_strings() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/corpora");
    let expected = ["one", "two", "one", "<null>", "three"];
    for name in [
        "strings",
        "large_strings",
        "views",
        "binary",
        "categories",
        "polars_categories",
    ] {
        let path = fixtures.join(format!("{name}.parquet"));
        let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD).unwrap();
        let rows: Vec<String> = corpus
            .rows()
            .map(|row| row.unwrap().unwrap_or_else(|| "<null>".into()))
            .collect();
        assert_eq!(rows, expected, "{name}");
    }
    let path = fixtures.join("no_text.parquet");
    let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD).unwrap();
    let error = corpus.rows().find_map(Result::err).unwrap().to_string();
    assert!(
        error.contains("row 1") && error.contains("UTF-8"),
        "{error}"
    );
    let path = fixtures.join("all_null.parquet");
    let corpus = Corpus::open(path.to_str().unwrap(), TEXT_FIELD).unwrap();
    assert_eq!(corpus.documents().count(), 0);
    assert_eq!(corpus.skipped_rows().count(), 2);
}
