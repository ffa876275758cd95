//! The command, end to end: in one program, since each links everything.

#![allow(clippy::unwrap_used)]

mod analysis;
#[path = "support/changed_model.rs"]
mod changed_model;
mod circuit;
mod circuit_graph;
mod codebook;
mod command_line;
mod convert;
mod dictionary_model;
mod evaluation;
mod feature_tables;
mod generate;
mod harvest;
mod hub;
mod hub_misbehaving;
mod inspect;
mod neurons;
mod plot;
mod quantize;
mod sae_probes;
mod safety;
mod serve;
mod several_coders;
#[path = "support/training_log.rs"]
mod training_log;
mod transcoders;
mod tutorial;
