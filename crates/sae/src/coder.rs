//! The sparse coder: activations `[n, d]` to a few latents each and back. What is common to all architectures is
//! here; how each chooses its latents stands in `standard.rs`, `topk.rs`, `batchtopk.rs` and `jumprelu.rs`.

use std::fmt;

use burn::tensor::{Device, Tensor};
use lapidary_kernels::{SparseCodes, decode_sparse};

use crate::{batchtopk, jumprelu, topk};

/// How a coder chooses which latents are active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Every latent with a positive pre-activation; sparse because of an L1 penalty in training.
    Standard,
    /// The k largest pre-activations of each token, if positive.
    TopK,
    /// The n·k largest positive pre-activations of a batch of n tokens: only in training. Finished, it is a [`Self::JumpRelu`].
    BatchTopK,
    /// Every latent whose pre-activation is above its threshold.
    JumpRelu,
}

impl Architecture {
    /// The name in recipes and in `cfg.json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::TopK => "topk",
            Self::BatchTopK => "batchtopk",
            Self::JumpRelu => "jumprelu",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A sparse coder. One row of `w_enc` and one of `w_dec` belong to each latent.
#[derive(Clone, Debug)]
pub struct SparseCoder {
    /// How latents are chosen.
    pub architecture: Architecture,
    /// TopK: active latents a token; BatchTopK: on average. Standard and JumpReLU have as many as they have.
    pub k: usize,
    /// Whether `b_dec` is subtracted before encoding.
    pub apply_b_dec_to_input: bool,
    /// Encoder, `[d_sae, d_in]`.
    pub w_enc: Tensor<2>,
    /// Encoder bias, `[d_sae]`.
    pub b_enc: Tensor<1>,
    /// Decoder, `[d_sae, d_in]`.
    pub w_dec: Tensor<2>,
    /// Decoder bias, `[d_in]`.
    pub b_dec: Tensor<1>,
    /// JumpReLU: smallest pre-activation (exclusive) at which a latent is active, `[d_sae]`, none below 0.
    pub threshold: Option<Tensor<1>>,
}

impl SparseCoder {
    /// Width of the activations.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.w_dec.dims()[1]
    }

    /// Number of latents.
    #[must_use]
    pub fn d_sae(&self) -> usize {
        self.w_dec.dims()[0]
    }

    /// The device that holds the weights.
    #[must_use]
    pub fn device(&self) -> Device {
        self.w_dec.device()
    }

    /// Active latents of each row of `x` `[n, d_in]`, descending by value, inactive places filled with value 0 (their
    /// indices are valid). The width is `k` for TopK and as large as the densest row needs otherwise.
    #[must_use]
    pub fn encode(&self, x: Tensor<2>) -> SparseCodes {
        let x = self.centre(x);
        match self.architecture {
            Architecture::TopK => topk::encode(self, x),
            Architecture::BatchTopK => batchtopk::encode(self, x).codes,
            Architecture::Standard | Architecture::JumpRelu => jumprelu::encode(self, x),
        }
    }

    /// The activations that `codes` stand for: `sum_j values_j * w_dec[indices_j] + b_dec`, `[n, d_in]`.
    #[must_use]
    pub fn decode(&self, codes: SparseCodes) -> Tensor<2> {
        decode_sparse(codes, self.w_dec.clone()) + self.b_dec.clone().unsqueeze()
    }

    /// `x - b_dec` if this coder encodes that, otherwise `x`.
    pub(crate) fn centre(&self, x: Tensor<2>) -> Tensor<2> {
        if self.apply_b_dec_to_input {
            x - self.b_dec.clone().unsqueeze()
        } else {
            x
        }
    }

    /// The same weights as leaves of a gradient graph.
    pub(crate) fn tracked(&self) -> Self {
        let mut coder = self.clone();
        coder.w_enc = coder.w_enc.autodiff().require_grad();
        coder.b_enc = coder.b_enc.autodiff().require_grad();
        coder.w_dec = coder.w_dec.autodiff().require_grad();
        coder.b_dec = coder.b_dec.autodiff().require_grad();
        coder
    }

    /// The same coder on another device.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            w_enc: self.w_enc.to_device(device),
            b_enc: self.b_enc.to_device(device),
            w_dec: self.w_dec.to_device(device),
            b_dec: self.b_dec.to_device(device),
            threshold: self.threshold.map(|t| t.to_device(device)),
            ..self
        }
    }
}

/// What a training step needs from an architecture.
pub(crate) struct Forward {
    /// `[n, d_in]`
    pub(crate) reconstruction: Tensor<2>,
    /// What fired.
    pub(crate) codes: Codes,
}

/// Activations of latents, in the form in which an architecture has them.
#[allow(clippy::large_enum_variant)] // one lives at a time, and both are handles to a device's memory
pub(crate) enum Codes {
    /// `[n, k]` values and indices.
    Sparse(SparseCodes),
    /// `[n, d_sae]`
    Dense(Tensor<2>),
}
