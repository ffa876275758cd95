//! What a user sees of training, for every kind of coder: in one program, since each links
//! everything.

#![allow(clippy::unwrap_used)]

mod cross_layer_transcoders;
mod crosscoders;
mod divergence;
mod end_to_end;
mod normalized;
mod planted;
mod several_coders;
mod steering;
mod transcoders;
