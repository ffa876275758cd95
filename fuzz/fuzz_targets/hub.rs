//! What a hub's server says of files: a list of them, headers, redirects.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lapidary_model::read_hub_answer(bytes));
