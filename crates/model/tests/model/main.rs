//! The model as a library: it computes what other libraries compute with the same files, and broken
//! files end in messages.

#![allow(clippy::unwrap_used)]

mod broken_files;
#[path = "../../../../tests/support/changed_model.rs"]
mod changed_model;
mod checkpoints;
mod config;
mod fixtures;
mod gguf;
mod hooks;
mod parity;
mod relevance;
mod tokenizer;
mod transformer_lens;
