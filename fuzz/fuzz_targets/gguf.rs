//! Any bytes as a GGUF file: an error, or a model.

#![no_main]

use burn::tensor::Device;
use lapidary_model::LanguageModel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("a temporary file");
    let _ = LanguageModel::load(&path.to_string_lossy(), &Device::flex());
});
