//! Any bytes as a safetensors file: an error, or tensors that can all be asked for.

#![no_main]

use lapidary_model::TensorFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Ok(file) = TensorFile::open(&path) {
        let names: Vec<String> = file.tensors().map(|(name, ..)| name.to_owned()).collect();
        for name in names {
            let _ = file.read(&name);
        }
    }
});
