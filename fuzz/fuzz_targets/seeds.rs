//! No target: writes the first inputs of all others to `corpus/` and ends. It is built as they are, so that nothing is compiled
//! twice.

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        lapidary_fuzz::seeds::write(std::path::Path::new(env!("CARGO_MANIFEST_DIR")));
        std::process::exit(0);
    },
    |_bytes: &[u8]| {}
);
