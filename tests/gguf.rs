//! GGUF files give the numbers that llama.cpp's own package and transformers find in them, and no
//! broken file of either format does more than fail with a message.

#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use lapidary_model::{GgufDescription, HookedRun, LanguageModel, TensorFile};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

fn agrees(architecture: &str) -> LanguageModel {
    let file = fixture(&format!("gguf/{architecture}.gguf"));
    let model = LanguageModel::load(file.to_str().unwrap(), &Device::flex()).unwrap();
    let bytes = std::fs::read(fixture(&format!(
        "gguf/{architecture}.expected.safetensors"
    )))
    .unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = expected.tensor("tokens").unwrap();
    let words = |name: &str, size| {
        expected
            .tensor(name)
            .unwrap()
            .data()
            .chunks(size)
            .map(<[u8]>::to_vec)
            .collect()
    };
    let ids: Vec<Vec<u8>> = words("tokens", 8);
    let ids: Vec<u32> = ids.iter().map(|b| u32::from(b[0])).collect();
    let sequences: Vec<&[u32]> = ids.chunks(tokens.shape()[1]).collect();
    let run = HookedRun {
        logits: true,
        ..Default::default()
    };
    let logits = model
        .run(model.tokens(&sequences).unwrap(), &run)
        .unwrap()
        .logits
        .unwrap();
    let wanted: Vec<Vec<u8>> = words("logits", 4);
    let wanted: Vec<f32> = wanted
        .iter()
        .map(|b| f32::from_le_bytes(b[..].try_into().unwrap()))
        .collect();
    let scale = wanted.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (found, wanted) in logits.into_data().iter::<f32>().zip(&wanted) {
        assert!((found - wanted).abs() < 1e-4 * scale, "{found} {wanted}");
    }
    model
}

#[test]
fn a_llama_in_nine_encodings_agrees_with_transformers() {
    let model = agrees("llama");
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.encode("ab ba").unwrap(), [23, 22, 2, 1]);
    assert_eq!(tokenizer.decode(&[23, 22, 2, 1]), "ab ba");
    assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [0]);
}

#[test]
fn a_qwen2_agrees_with_transformers() {
    agrees("qwen2");
}

#[test]
fn other_architectures_agree_with_transformers() {
    for architecture in ["gpt2", "gptneox", "phi2", "gemma2", "gemma3"] {
        let model = agrees(architecture);
        assert!(model.tokenizer().is_err(), "{architecture}");
    }
}

#[test]
fn a_file_describes_itself() {
    let description = GgufDescription::read(&fixture("gguf/gptneox.gguf")).unwrap();
    assert_eq!(description.architecture, "gptneox");
    let field = |name: &str| {
        let found = description.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(field("gptneox.block_count"), Some("2"));
    assert_eq!(field("gptneox.use_parallel_residual"), Some("true"));
    let qkv = (
        "blk.1.attn_qkv.weight".to_owned(),
        "F32".to_owned(),
        vec![96, 32],
    );
    assert!(
        description.tensors.contains(&qkv),
        "{:?}",
        description.tensors
    );
}

/// What comes of a file: a message, or something that can be read; never a panic, never memory that
/// the file does not fill.
fn survives(path: &Path) -> bool {
    if path.extension().unwrap() == "gguf" {
        return LanguageModel::load(path.to_str().unwrap(), &Device::flex()).is_ok();
    }
    let Ok(file) = TensorFile::open(path) else {
        return false;
    };
    let names: Vec<String> = file.tensors().map(|(name, ..)| name.to_owned()).collect();
    names.iter().all(|name| file.read(name).is_ok())
}

/// Bits flipped, bytes replaced by extremes, lengths made huge, ends cut off: mostly in the header,
/// where the structure is.
fn mutate(bytes: &mut Vec<u8>, header: usize, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..4) {
        let reach = if rng.random_bool(0.9) {
            header
        } else {
            bytes.len()
        };
        let at = rng.random_range(0..reach.min(bytes.len()));
        match rng.random_range(0..5) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => {
                bytes[at] = *[0, 1, 0x7f, 0x80, 0xff, b'"', b'9', b'-']
                    .get(rng.random_range(0..8))
                    .unwrap()
            }
            2 => {
                let end = bytes.len().min(at + 8);
                let value =
                    [u64::MAX, 1 << 63, 1 << 40, u64::MAX / 4 + 1, 0][rng.random_range(0..5)];
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            3 => {
                let count = rng.random_range(1..16).min(bytes.len() - at);
                bytes.drain(at..at + count);
            }
            _ => bytes.truncate(at.max(1)),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

#[test]
fn thousands_of_broken_files_end_in_messages() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("gguf/llama.gguf", 1600),
        ("gguf/qwen2.gguf", 1600),
        ("gguf/phi2.gguf", 2200),
        ("gguf/gemma2.gguf", 2200),
        ("models/llama-bf16/model.safetensors", 2200),
        ("models/gpt2-sharded/model-00001-of-00002.safetensors", 2200),
    ];
    for (seed, (name, header)) in files.into_iter().enumerate() {
        let whole = std::fs::read(fixture(name)).unwrap();
        let target = folder.path().join(Path::new(name).file_name().unwrap());
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let mut refused = 0;
        for _ in 0..1200 {
            let mut bytes = whole.clone();
            mutate(&mut bytes, header, &mut rng);
            std::fs::write(&target, bytes).unwrap();
            refused += u32::from(!survives(&target));
        }
        assert!(refused > 400, "{name}: {refused} of 1200 refused");
    }
}

#[test]
fn a_hostile_gguf_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = LanguageModel::load(path.to_str().unwrap(), &Device::flex())
            .err()
            .unwrap();
        error.to_string()
    };
    let start = |tensors: u64, fields: u64| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(fields.to_le_bytes());
        bytes
    };
    assert!(error(b"PK\x03\x04").contains("hostile.gguf"));
    assert!(error(b"GGUF\x63\0\0\0").contains("version 99"));
    // A field's name of 2^60 bytes.
    let mut long = start(0, 1);
    long.extend((1_u64 << 60).to_le_bytes());
    assert!(error(&long).contains("1152921504606846976 bytes"));
    // A list of 2^61 numbers.
    let mut list = start(0, 1);
    list.extend(1_u64.to_le_bytes());
    list.push(b'x');
    list.extend(9_u32.to_le_bytes());
    list.extend(5_u32.to_le_bytes());
    list.extend((1_u64 << 61).to_le_bytes());
    assert!(error(&list).contains("`x`") || error(&list).contains("x lists 2305843009213693952"));
    assert!(error(&start(u64::MAX, 0)).contains("a tensor's name"));
    // A tensor whose size overflows.
    let mut tensor = start(1, 0);
    tensor.extend(1_u64.to_le_bytes());
    tensor.push(b't');
    tensor.extend(2_u32.to_le_bytes());
    tensor.extend((1_u64 << 40).to_le_bytes());
    tensor.extend((1_u64 << 40).to_le_bytes());
    tensor.extend(0_u32.to_le_bytes());
    tensor.extend(0_u64.to_le_bytes());
    assert!(error(&tensor).contains("tensor `t`"));
}
