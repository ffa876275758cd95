//! Any bytes as the manifest of a store of activations: an error, or a store's manifest.

#![no_main]

use lapidary_activations::{Store, StoreManifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("manifest.json"), bytes).expect("a temporary file");
    let _ = StoreManifest::read(folder.path());
    let _ = Store::open(folder.path());
});
