//! Any bytes as a file of tensors, PyTorch's, NumPy's or safetensors by the first byte: an error, or tensors that can all be asked
//! for; and as the one file of a dictionary.

#![no_main]

use burn::tensor::Device;
use lapidary_formats::{container::Container, open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let name = ["ae.pt", "params.npz", "layer_0.safetensors"][usize::from(*first) % 3];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Ok(file) = Container::open(&path)
        && let Ok(tensors) = file.tensors()
    {
        for name in tensors.names() {
            let shape = tensors.shape(name).unwrap_or_default();
            let _ = tensors.f32_or_infinite(name, &shape);
            let _ = tensors.whole(name);
        }
    }
    let _ = open(folder.path(), None, &Device::flex());
});
