//! GGUF files give the numbers that llama.cpp's own package and transformers find in them.

use crate::fixtures::fixture;
use burn::tensor::Device;
use lapidary_model::{GgufDescription, HookedRun, LanguageModel};
use safetensors::SafeTensors;

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
