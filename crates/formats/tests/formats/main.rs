//! Dictionaries of other programs: told apart, read right or refused with the reason. The libraries
//! themselves are asked by `scripts/check_formats.py`.

#![allow(clippy::unwrap_used)]

mod circuit_tracer;
mod cross_layer;
mod detection;
mod dictionary_learning;
mod folder;
mod mutations;
mod places;
mod quantized;
mod releases;
mod round_trip;
mod saelens;
mod sparsify;
