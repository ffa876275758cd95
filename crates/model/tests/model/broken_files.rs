//! No broken GGUF or safetensors file does more than fail with a message.

use crate::fixtures::fixture;
use burn::tensor::Device;
use lapidary_model::{LanguageModel, TensorFile};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

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
