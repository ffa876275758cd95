//! The hot operations of sparse autoencoders, each with its own CPU and GPU kernel and gradient,
//! and the choice of the device they run on.
//!
//! [`encode_topk`] and [`decode_sparse`] are a TopK coder's forward pass (Gao et al. 2024) without
//! the `[n, d_sae]` matrix of pre-activations; [`encode_batch_topk`] is the same for BatchTopK
//! (Bussmann et al. 2024) and [`encode_threshold`] for JumpReLU (Rajamanoharan et al. 2024);
//! [`adam_step`] updates parameters in one pass; [`causal_attention`] and its kin are what a
//! transformer does beside products. Every operation has its folder: the contract in `mod.rs`, then
//! `cpu.rs`, `cube.rs` (WGPU and CUDA alike) and `gradient.rs`, but for a language model's forward
//! pass, which is on the CPU only. Floats may be stored in f32, bf16 or f16; they are computed
//! with, added up and returned (gradients too) in f32. What Adam updates is stored in f32. Indices
//! are i32. On one machine the same input gives the same bits on every run, and on the CPU with any
//! number of threads.
//!
//! ```
//! use burn::tensor::{Tensor, Device};
//! use lapidary_kernels::{EncoderState, decode_sparse, encode_topk};
//!
//! let device = Device::flex();
//! let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device); // [n, d]
//! let w_enc = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], &device); // [F, d]
//! let b_enc = Tensor::<1>::zeros([3], &device);
//! let codes = encode_topk(x, w_enc.clone(), b_enc, 2, &EncoderState::default());
//! assert_eq!(codes.indices.to_data().try_to_vec::<i32>()?, [2, 1]);
//! assert_eq!(codes.values.to_data().try_to_vec::<f32>()?, [3.0, 2.0]);
//! let y = decode_sparse(codes, w_enc); // [n, d]
//! assert_eq!(y.to_data().try_to_vec::<f32>()?, [3.0, 5.0]);
//! # Ok::<(), burn::tensor::DataError>(())
//! ```

#![allow(unsafe_code)] // here, and in no other crate
#![warn(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]

mod adam_step;
mod decode_sparse;
pub mod device;
mod encode_batch_topk;
mod encode_threshold;
mod encode_topk;
mod encoder_state;
mod forward_pass;
mod gpu;
mod host;
mod huge_pages;
#[cfg(target_arch = "x86_64")]
mod integers;
mod mapped_file;
mod matching_pursuit;
mod norms;
mod sparse_products;
mod sparse_training;
mod threads;
mod weighted_sum;

use burn::tensor::{Int, Tensor};

pub use adam_step::{AdamStep, Moments, adam_step};
pub use decode_sparse::decode_sparse;
pub use encode_batch_topk::{BatchTopK, encode_batch_topk};
pub use encode_threshold::encode_threshold;
pub use encode_topk::encode_topk;
pub use encoder_state::EncoderState;
pub use forward_pass::{
    Angles, CausalAttention, Nonlinearity, RowNorm, activate, causal_attention, fused_on,
    normalize_rows, rotate_heads, wide_product,
};
pub use huge_pages::HugePages;
pub use mapped_file::MappedFile;
pub use matching_pursuit::{Pursued, Pursuit, pursue, pursuit_gradient};
pub use sparse_products::sparse_dot;
pub use sparse_training::{
    Reconstruction, RowUpdate, SparseGradient, latent_sums, reconstruct, sparse_adam_step,
    squared_norm,
};
pub use weighted_sum::weighted_sum;

/// The `k` latents of each row that are on, and how strongly.
///
/// Indices are always valid rows of the dictionary and distinct within a row, also where the value
/// is 0.
#[derive(Debug, Clone)]
pub struct SparseCodes {
    /// Activations, descending within a row. `[n, k]`
    pub values: Tensor<2>,
    /// Which latent each value belongs to; equal values list the lower index first. `[n, k]`
    pub indices: Tensor<2, Int>,
}
