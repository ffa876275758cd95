//! No target: writes the first inputs of all others to `corpus/` and ends. It is built as they are,
//! so that nothing is compiled twice.

#![no_main]

use std::path::Path;
use std::process::exit;

libfuzzer_sys::fuzz_target!(init: write_and_end(), |_bytes: &[u8]| {});

fn write_and_end() {
    lapidary_fuzz::seeds::write(Path::new(env!("CARGO_MANIFEST_DIR")));
    exit(0)
}
