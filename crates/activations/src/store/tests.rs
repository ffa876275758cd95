use super::manifest::StoreManifest;
use super::settings::{StoreSettings, StoredHook};
use super::*;
use crate::{BatchSource, Excluded, Exclusion, NormalizationKind};
use burn::tensor::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const HOOKS: [&str; 2] = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"];

fn settings(dtype: StoreDtype, shard_tokens: u64) -> StoreSettings {
    let hook = |(name, d_in): (&str, usize)| StoredHook {
        name: name.into(),
        d_in,
    };
    StoreSettings {
        model: "m".into(),
        model_digest: "0".repeat(16),
        tokenizer_digest: "0".repeat(16),
        corpus: "c".into(),
        text_field: "text".into(),
        context: 8,
        prepend_bos: false,
        bos_token: None,
        attend_across_documents: false,
        batch_blocks: 2,
        hook_points: vec![hook((HOOKS[0], 3)), hook((HOOKS[1], 5))],
        dtype,
        shard_tokens,
        exclude: Exclusion {
            special_tokens: false,
            first_positions: 0,
            norm_multiple: None,
        },
    }
}

/// Row `i` is `[i, i, i]` and `[-i; 5]`; its token is `i`.
fn filled(folder: &Path, dtype: StoreDtype, rows: u32, shard_tokens: u64) -> Arc<Store> {
    let mut writer = StoreWriter::open(folder, settings(dtype, shard_tokens)).unwrap();
    for i in 0..rows {
        let x = i as f32;
        let place = RowPlace {
            token: i,
            document: i / 10,
            position: i % 10,
        };
        writer.push(&[place], &[&[x; 3], &[-x; 5]]).unwrap();
        if writer.room() == 0 || i + 1 == rows {
            writer
                .close_shard(u64::from(i) + 1, 0, 7, Excluded::default())
                .unwrap();
        }
    }
    writer.finish().unwrap();
    Arc::new(Store::open(folder).unwrap())
}

fn numbers(source: &mut StoreBatches, batches: usize) -> Vec<usize> {
    let mut out = vec![];
    for _ in 0..batches {
        let rows: Vec<f32> = source
            .next_batch()
            .unwrap()
            .remove(0)
            .into_data()
            .try_to_vec()
            .unwrap();
        out.extend(rows.chunks_exact(3).map(|row| {
            assert_eq!((row[0], row[1]), (row[1], row[2]));
            row[0] as usize
        }));
    }
    out
}

fn batches(store: &Arc<Store>, batch: usize, window: usize, seed: u64) -> StoreBatches {
    StoreBatches::new(
        store.clone(),
        &HOOKS[..1],
        batch,
        window,
        NormalizationKind::None,
        seed,
        &Device::flex(),
    )
    .unwrap()
}

#[test]
fn rows_come_back_across_shards_with_their_places() {
    for dtype in [
        StoreDtype::F32,
        StoreDtype::Bf16,
        StoreDtype::F16,
        StoreDtype::Int8,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path(), dtype, 100, 30);
        let read = store.read(HOOKS[1], 25..65).unwrap();
        for (i, row) in read.chunks_exact(5).enumerate() {
            assert!(
                row.iter().all(|x| (x + (25 + i) as f32).abs() < 1e-4),
                "{dtype:?} {row:?}"
            );
        }
        let places = store.places(59..61).unwrap();
        assert_eq!(
            places,
            [
                RowPlace {
                    token: 59,
                    document: 5,
                    position: 9
                },
                RowPlace {
                    token: 60,
                    document: 6,
                    position: 0
                },
            ]
        );
        assert!(
            store
                .read(HOOKS[0], 90..101)
                .unwrap_err()
                .to_string()
                .contains("within 100")
        );
        let absent = store
            .read("blocks.2.hook_mlp_out", 0..1)
            .unwrap_err()
            .to_string();
        assert!(
            absent.contains(HOOKS[0]) && absent.contains(HOOKS[1]),
            "{absent}"
        );
    }
}

#[test]
fn every_row_comes_once_a_pass_and_from_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), StoreDtype::F32, 10_000, 777);
    let mut source = batches(&store, 100, 1000, 3);
    let (first, second) = (numbers(&mut source, 100), numbers(&mut source, 100));
    assert_eq!(source.passes(), 1);
    for pass in [&first, &second] {
        let mut sorted = pass.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..10_000));
    }
    assert_ne!(first, second);
    // Of ten tenths of the text, a batch of 100 random rows would miss none (probability 2.7e-4
    // each).
    for batch in first.chunks(100) {
        let tenths: BTreeSet<usize> = batch.iter().map(|i| i / 1000).collect();
        assert!(tenths.len() >= 8, "{tenths:?}");
    }
    // Nor do rows that stand together in the text come together.
    let neighbours = first
        .windows(2)
        .filter(|w| w[0].abs_diff(w[1]) == 1)
        .count();
    assert!(neighbours < 200, "{neighbours}");
    assert_eq!(first, numbers(&mut batches(&store, 100, 1000, 3), 100));
    assert_ne!(first, numbers(&mut batches(&store, 100, 1000, 4), 100));
}

#[test]
fn a_batch_may_cross_windows_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), StoreDtype::F32, 130, 64);
    let mut source = batches(&store, 48, 60, 0);
    let mut rows = numbers(&mut source, 130 / 2); // 24 passes
    while !rows.is_empty() {
        let mut pass: Vec<usize> = rows.drain(..130).collect();
        pass.sort_unstable();
        assert!(pass.into_iter().eq(0..130));
    }
}

#[test]
fn what_a_store_or_memory_cannot_give_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), StoreDtype::F32, 130, 64);
    let error = |batch, window| {
        let device = Device::flex();
        let opened = StoreBatches::unread(store.clone(), &HOOKS[..1], batch, window, 0, &device);
        opened.err().unwrap().to_string()
    };
    assert!(error(131, 0).contains("found 130, expected at least a batch, 131"));
    assert!(error(0, 9).contains("rows"));
}

#[test]
fn batches_resume_to_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), StoreDtype::Int8, 1000, 256);
    let new = |kind| {
        StoreBatches::new(
            store.clone(),
            &HOOKS[1..],
            70,
            200,
            kind,
            5,
            &Device::flex(),
        )
        .unwrap()
    };
    for stop in [0, 1, 20] {
        let mut source = new(NormalizationKind::MeanCentred);
        for _ in 0..stop {
            source.next_batch().unwrap();
        }
        let state = tempfile::tempdir().unwrap();
        source.save(state.path()).unwrap();
        let unread = |seed| {
            StoreBatches::unread(store.clone(), &HOOKS[1..], 70, 200, seed, &Device::flex())
                .unwrap()
        };
        let mut resumed = unread(5);
        resumed.restore(state.path()).unwrap();
        for _ in 0..20 {
            let data = |mut source: Vec<burn::tensor::Tensor<2>>| source.remove(0).into_data();
            assert_eq!(
                data(source.next_batch().unwrap()),
                data(resumed.next_batch().unwrap())
            );
        }
        let error = unread(6).restore(state.path()).unwrap_err().to_string();
        assert!(error.contains("stream.json"), "{error}");
    }
}

#[test]
fn verify_names_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), StoreDtype::F32, 100, 30);
    let verify = || Store::verify(folder.path(), &mut |_| {}).map_err(|e| e.to_string());
    assert_eq!(verify().unwrap().rows, 100);
    let shard = folder.path().join("shard-000001.safetensors");
    let sound = std::fs::read(&shard).unwrap();
    // Any bit of the data and of the header.
    for at in [9, 700, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        std::fs::write(&shard, &bytes).unwrap();
        let error = verify().unwrap_err();
        assert!(error.contains("shard-000001"), "{error}");
    }
    std::fs::write(&shard, &sound[..sound.len() - 1]).unwrap();
    assert!(verify().unwrap_err().contains("size"));
    assert!(
        Store::open(folder.path())
            .unwrap_err()
            .to_string()
            .contains("size")
    );
    std::fs::remove_file(folder.path().join("shard-000003.safetensors")).unwrap();
    let error = verify().unwrap_err();
    assert!(
        error.contains("2 of 4")
            && error.contains("shard-000003")
            && error.contains("shard-000001"),
        "{error}"
    );
}

fn manifest_text() -> String {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), StoreDtype::F32, 100, 30);
    std::fs::read_to_string(folder.path().join("manifest.json")).unwrap()
}

#[test]
fn hostile_manifests_are_refused_by_the_field() {
    let text = manifest_text();
    let refused = |from: &str, to: &str, named: &str| {
        let hostile = text.replacen(from, to, 1);
        assert_ne!(text, hostile, "{from}");
        let error = StoreManifest::parse(Path::new("s/manifest.json"), hostile.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(named) && error.contains("s/manifest.json"),
            "{error}"
        );
    };
    refused(
        "shard-000001.safetensors",
        "../shard-000001.safetensors",
        "shards[1].file",
    );
    refused("shard-000001.safetensors", "/etc/passwd", "shards[1].file");
    refused(
        "shard-000001.safetensors",
        "shard-000000.safetensors",
        "shards[1].file",
    );
    refused(
        "\"rows\": 30",
        "\"rows\": 18446744073709551615",
        "shards[0].rows",
    );
    refused("\"rows\": 30", "\"rows\": 29", "shards[0].bytes");
    refused("\"rows\": 100", "\"rows\": 101", "field `rows`");
    refused(
        "\"d_in\": 3",
        "\"d_in\": 9223372036854775807",
        "shards[0].bytes",
    );
    refused("\"d_in\": 3", "\"d_in\": 0", "d_in");
    refused("\"d_in\": 3", "\"d_in\": -3", "manifest");
    refused(
        "\"shard_tokens\": 30",
        "\"shard_tokens\": 0",
        "settings.shard_tokens",
    );
    refused("\"f32\"", "\"f64\"", "f64");
    refused("\"f32\"", "\"bf16\"", "shards[0].bytes");
    refused(HOOKS[0], HOOKS[1], "settings.hook_points[1]");
    refused(HOOKS[0], "token_ids", "settings.hook_points[0]");
    refused(
        "\"format_version\": 2",
        "\"format_version\": 3",
        "format_version",
    );
    refused("\"blocks\": 60", "\"blocks\": 30", "shards[1].end");
    refused("\"rows\": 30", "\"sneaky\": 1, \"rows\": 30", "sneaky");
}

#[test]
fn hostile_headers_are_refused_by_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), StoreDtype::F32, 100, 30);
    let shard = folder.path().join("shard-000000.safetensors");
    let sound = std::fs::read(&shard).unwrap();
    let refused = |from: &str, to: &str, named: &str| {
        let at = sound
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap();
        let mut bytes = sound.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&shard, &bytes).unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(named) && error.contains("shard-000000"),
            "{error}"
        );
    };
    refused("token_ids", "token_idz", "tensor `token_ids`");
    refused("U32", "I32", "tensor `token_ids`");
    refused("[30,", "[31,", "tensor `blocks");
    refused("[120,240]", "[000,120]", "header"); // no number begins with two zeros
    refused("[120,240]", "[100,220]", "tensor `documents`"); // overlaps token_ids
    std::fs::write(&shard, [&u64::MAX.to_le_bytes()[..], &sound[8..]].concat()).unwrap();
    assert!(
        Store::open(folder.path())
            .unwrap_err()
            .to_string()
            .contains("a length of")
    );
}

#[test]
fn no_manifest_makes_the_reader_panic() {
    let text = manifest_text();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let pieces = [
        "0",
        "-1",
        "18446744073709551615",
        "1e308",
        "null",
        "{",
        "}",
        "[",
        "]",
        "\"",
        ",",
        "..",
        "\\u0000",
        "\u{fffd}",
    ];
    let (mut refused, mut read) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes[at] = rng.random(),
                1 => drop(bytes.remove(at)),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let piece = pieces[rng.random_range(0..pieces.len())];
                    let end = (at + rng.random_range(0..4)).min(bytes.len());
                    bytes.splice(at..end, piece.bytes());
                }
            }
        }
        match StoreManifest::parse(Path::new("manifest.json"), &bytes) {
            Ok(_) => read += 1,
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("manifest.json"));
            }
        }
    }
    assert!(
        refused > 10_000 && read > 0,
        "{refused} refused, {read} read"
    );
}

#[test]
fn a_store_is_continued_by_one_writer_with_the_same_settings() {
    let folder = tempfile::tempdir().unwrap();
    let open = |s| StoreWriter::open(folder.path(), s).map_err(|e| e.to_string());
    let writer = open(settings(StoreDtype::F32, 30)).unwrap();
    assert!(
        open(settings(StoreDtype::F32, 30))
            .err()
            .unwrap()
            .contains("another process")
    );
    drop(writer);
    let error = open(settings(StoreDtype::Int8, 30)).err().unwrap();
    assert!(
        error.contains("dtype") && error.contains("int8") && error.contains("f32"),
        "{error}"
    );
    assert!(open(settings(StoreDtype::F32, 30)).is_ok());

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("thesis.tex"), "x").unwrap();
    let error = StoreWriter::open(other.path(), settings(StoreDtype::F32, 30))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("thesis.tex"), "{error}");
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1);
}

#[test]
fn a_store_of_the_first_version_is_read_but_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), StoreDtype::F32, 100, 30);
    let path = folder.path().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let old = text
        .replace("\"format_version\": 2", "\"format_version\": 1")
        .replace("    \"attend_across_documents\": false,\n", "")
        .replace("    \"text_field\": \"text\",\n", "");
    // Nor had it a checksum.
    let end = old.rfind(",\n  \"checksum\"").unwrap();
    let old = old[..end].to_owned() + "\n}\n";
    assert_eq!(old.lines().count() + 3, text.lines().count());
    std::fs::write(&path, old).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(store.manifest().unwrap().settings.attend_across_documents);
    assert_eq!(store.read(HOOKS[0], 7..8).unwrap(), [7.0; 3]);
    let error = StoreWriter::open(folder.path(), settings(StoreDtype::F32, 30));
    let error = error.err().unwrap().to_string();
    assert!(error.contains("format_version"), "{error}");
}

/// The digest of a model for a hook point once a byte of a tensor has changed.
fn digest_after(tensor: &str, hook: &str) -> String {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/gpt2");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::copy(fixture.join("config.json"), config).unwrap();
    let mut bytes = std::fs::read(fixture.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    if !tensor.is_empty() {
        let begin = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[8 + length + begin] ^= 1;
    }
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let path = folder.path().to_str().unwrap();
    let model = lapidary_model::LanguageModel::load(path, &Device::flex()).unwrap();
    harvest::model_digest(&model, &[hook.parse().unwrap()])
}

#[test]
fn a_models_digest_is_of_the_weights_that_the_hook_point_depends_on() {
    let [embed, first, second] = [
        "transformer.wte.weight",
        "transformer.h.0.mlp.c_proj.weight",
        "transformer.h.1.attn.c_attn.weight",
    ];
    for (hook, of) in [
        ("hook_embed", [true, false, false]),
        ("blocks.0.hook_resid_pre", [true, false, false]),
        ("blocks.0.hook_mlp_out", [true, true, false]),
        ("blocks.1.hook_resid_pre", [true, true, false]),
        ("blocks.1.attn.hook_q", [true, true, true]),
        ("ln_final.hook_normalized", [true, true, true]),
    ] {
        let sound = digest_after("", hook);
        for (tensor, changes) in [embed, first, second].into_iter().zip(of) {
            assert_eq!(
                digest_after(tensor, hook) != sound,
                changes,
                "{hook} {tensor}"
            );
        }
    }
}

/// Everything that a run reads of a store: its manifest, rows at every hook point, tokens and
/// places.
fn read_all(folder: &Path) -> Result<(), String> {
    let read = || {
        let store = Store::open(folder)?;
        for hook in HOOKS {
            store.read(hook, 0..store.rows())?;
        }
        store.places(0..store.rows())?;
        Ok(())
    };
    read().map_err(|e: crate::ActivationsError| e.to_string())
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_when_the_store_is_read() {
    for dtype in [StoreDtype::Bf16, StoreDtype::Int8] {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), dtype, 10, 5);
        assert_eq!(read_all(folder.path()), Ok(()));
        for file in [
            "manifest.json",
            "shard-000000.safetensors",
            "shard-000001.safetensors",
        ] {
            let path = folder.path().join(file);
            let sound = std::fs::read(&path).unwrap();
            for at in 0..sound.len() {
                let mut bytes = sound.clone();
                bytes[at] ^= 1 << (at % 8);
                std::fs::write(&path, &bytes).unwrap();
                let error = read_all(folder.path()).expect_err(&format!("{file}, byte {at}"));
                assert!(error.contains(file), "{file}, byte {at}: {error}");
            }
            std::fs::write(&path, &sound).unwrap();
        }
    }
}

#[test]
fn each_kind_of_damage_to_a_manifests_numbers_is_noticed() {
    let text = manifest_text();
    let parse = |text: &str| StoreManifest::parse(Path::new("s/manifest.json"), text.as_bytes());
    assert!(parse(&text).is_ok());
    // Every digit of the file, made another one.
    for (at, digit) in text.char_indices().filter(|(_, c)| c.is_ascii_digit()) {
        let other = if digit == '9' { "8" } else { "9" };
        let mut damaged = text.clone();
        damaged.replace_range(at..=at, other);
        let error = parse(&damaged).unwrap_err().to_string();
        assert!(error.contains("manifest.json"), "{error}");
    }
    // One without a checksum, as earlier versions wrote it, is read.
    let begins = text.rfind(",\n  \"checksum\"").unwrap();
    let old = text[..begins].to_owned() + "\n}\n";
    assert_eq!(parse(&old).unwrap().rows, 100);
}

#[test]
fn shards_are_read_against_their_checksums_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), StoreDtype::F32, 1000, 256);
    let damage = |number: usize| {
        let path = folder.path().join(format!("shard-{number:06}.safetensors"));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    // Rows of the first shard are all that is asked for.
    store.read(HOOKS[0], 0..10).unwrap();
    damage(0);
    damage(2);
    store.read(HOOKS[0], 10..20).unwrap();
    let error = store.read(HOOKS[0], 500..600).unwrap_err().to_string();
    assert!(
        error.contains("shard-000002") && error.contains("xxh64"),
        "{error}"
    );
    // Batches need all shards.
    let store = Arc::new(Store::open(folder.path()).unwrap());
    let kind = NormalizationKind::None;
    let device = Device::flex();
    let opened = StoreBatches::new(store, &HOOKS[..1], 10, 1000, kind, 0, &device);
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("shard-00000"), "{error}");
}

#[test]
fn all_shards_are_checked_at_once_and_progress_ends_at_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), StoreDtype::F32, 1000, 30);
    let shards = &store.manifest().unwrap().shards;
    let total: u64 = shards.iter().map(|shard| shard.bytes).sum();
    let path = folder.path().join("shard-000020.safetensors");
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let error = store.check_shards(&mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains("shard-000020") && error.contains("xxh64"),
        "{error}"
    );
    std::fs::write(&path, sound).unwrap();

    let store = Store::open(folder.path()).unwrap();
    let mut heard = vec![];
    store.check_shards(&mut |bytes| heard.push(bytes)).unwrap();
    assert!(
        heard.is_sorted() && heard.last() == Some(&total),
        "{heard:?}"
    );
    let mut again = vec![];
    store.check_shards(&mut |bytes| again.push(bytes)).unwrap();
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn what_a_killed_writer_left_is_gone_once_the_store_is_opened_for_writing() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), StoreDtype::F32, 100, 30);
    let names = || {
        let files = std::fs::read_dir(folder.path()).unwrap();
        let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<_>>()
    };
    let sound = names();
    let own = [
        ".manifest.json.writing",
        ".manifest.json.writing-Ab12Cd",
        ".shard-000004.safetensors.writing-Ef34Gh",
        ".shard-000001.safetensors.writing",
        ".shard-000004.safetensors.writing",
        "shard-000004.safetensors", // renamed, but not yet named by the manifest
    ];
    let foreign = [
        "notes.txt",
        ".notes.writing",
        "shard-000007.safetensors",
        ".shard-1.safetensors.writing",
    ];
    for name in own.iter().chain(&foreign) {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    drop(StoreWriter::open(folder.path(), settings(StoreDtype::F32, 30)).unwrap());
    let foreign = foreign.iter().map(ToString::to_string);
    assert_eq!(names(), sound.into_iter().chain(foreign).collect());
}
