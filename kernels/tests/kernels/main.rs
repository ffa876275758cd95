//! Each operation against a scalar reference in f64, on the CPU and on a graphics adapter where
//! there is one (lavapipe will do), and its gradient against the dense one and finite differences.

#![allow(clippy::unwrap_used)]

mod adam_step;
mod decode_sparse;
mod encode_batch_topk;
mod encode_threshold;
mod encode_topk;
mod forward_pass;
mod matching_pursuit;
mod reference;
mod sparse_training;
mod storage;
mod weighted_sum;
