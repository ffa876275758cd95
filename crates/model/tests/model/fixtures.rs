//! Small random models (`scripts/make_model_fixtures.py`), and values compared.

use burn::tensor::Device;
use lapidary_model::{HookPoint, HookedRun, LanguageModel};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file or folder of `tests/fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

/// The folder of a model.
pub fn model_folder(name: &str) -> PathBuf {
    fixture("models").join(name)
}

pub fn model(name: &str) -> LanguageModel {
    LanguageModel::load(model_folder(name).to_str().unwrap(), &Device::flex()).unwrap()
}

/// What a folder's `expected.safetensors` holds: tokens, sequence by sequence, and values by name.
pub struct Expected {
    pub tokens: Vec<Vec<u32>>,
    pub values: BTreeMap<String, Vec<f32>>,
    pub positions: Vec<usize>,
}

pub fn expected(name: &str) -> Expected {
    let bytes = std::fs::read(model_folder(name).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let whole = |name: &str| -> Vec<i64> {
        let Ok(tensor) = file.tensor(name) else {
            return vec![];
        };
        let numbers = tensor.data().chunks_exact(8);
        numbers
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let tokens: Vec<u32> = whole("tokens").iter().map(|t| *t as u32).collect();
    let length = file.tensor("tokens").unwrap().shape()[1];
    let mut values = BTreeMap::new();
    for (name, tensor) in file.tensors() {
        if tensor.dtype() == Dtype::F32 {
            let numbers = tensor.data().chunks_exact(4);
            let numbers = numbers.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            values.insert(name, numbers.collect());
        }
    }
    Expected {
        tokens: tokens.chunks(length).map(<[u32]>::to_vec).collect(),
        values,
        positions: whole("positions").iter().map(|p| *p as usize).collect(),
    }
}

/// Values at a hook point, or logits.
pub fn at(model: &LanguageModel, tokens: &[Vec<u32>], name: &str) -> Vec<f32> {
    let hook: HookPoint = name.parse().unwrap();
    let run = HookedRun {
        capture: &[hook],
        ..Default::default()
    };
    let output = model.run(model.tokens(tokens).unwrap(), &run).unwrap();
    output.captured[&hook].to_data().iter::<f32>().collect()
}

/// Equal numbers, or differences up to `tolerance` times the largest finite magnitude.
pub fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-6_f32, |m, v| match v.is_finite() {
        true => m.max(v.abs()),
        false => m,
    });
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            a == b || (a - b).abs() <= tolerance * scale,
            "{what}: at {i} found {a}, expected {b}"
        );
    }
}
