//! The sparse coder: activations `[n, d_in]` to a few latents each, and from these to `[n, d_out]`, mostly the same again. What is common to all architectures is
//! here; what makes each stands in its file in `coders/`.

use burn::tensor::{Device, Tensor};
use lapidary_kernels::{SparseCodes, decode_sparse};

pub use crate::coders::Architecture;
use crate::cross_layer::{self, whole_decoder};
use crate::error::SaeError;
pub use crate::weights::{Weight, Weights};

/// The weight of a skip connection.
pub(crate) const SKIP: &str = "w_skip";

/// A sparse coder.
#[derive(Clone, Debug)]
pub struct SparseCoder {
    /// How it chooses its latents.
    pub architecture: Architecture,
    /// TopK: active latents per token. BatchTopK: their average. Matching pursuit: steps, which may differ from
    /// training. Other architectures do not use it. For a cross-layer transcoder it counts per layer.
    pub k: usize,
    /// Whether `b_dec` is subtracted before encoding.
    pub apply_b_dec_to_input: bool,
    /// The weights that its architecture has: always `w_dec` `[d_sae, d_out]` and `b_dec` `[d_out]`, mostly `w_enc` `[d_sae, d_in]` and
    /// `b_enc` `[d_sae]`. One row of `w_enc` and one of `w_dec` belong to each latent. `w_skip` `[d_out, d_in]` is there if a
    /// linear map of the input is part of the reconstruction. A cross-layer transcoder has those of each layer ([`SparseCoder::layer`]).
    pub weights: Weights,
}

impl SparseCoder {
    fn matrix(&self, name: &str) -> Tensor<2> {
        let found = self.weights.matrix(name);
        found.expect("an architecture has its weights").clone()
    }

    pub(crate) fn vector(&self, name: &str) -> Tensor<1> {
        let found = self.weights.vector(name);
        found.expect("an architecture has its weights").clone()
    }

    /// The encoder, `[d_sae, d_in]`; matching pursuit reads with its decoder rows. For a cross-layer transcoder it is `[d_sae, d]`, layer after layer:
    /// a latent's row is about the hook point of its layer.
    #[must_use]
    pub fn w_enc(&self) -> Tensor<2> {
        if let Some(layers) = self.each_layer() {
            return Tensor::cat(layers.iter().map(Self::w_enc).collect(), 0);
        }
        let own = self.weights.matrix("w_enc").cloned();
        own.unwrap_or_else(|| self.w_dec())
    }

    /// The encoder's bias, `[d_sae]`.
    #[must_use]
    pub fn b_enc(&self) -> Tensor<1> {
        if let Some(layers) = self.each_layer() {
            return Tensor::cat(layers.iter().map(Self::b_enc).collect(), 0);
        }
        self.vector("b_enc")
    }

    /// The decoder, `[d_sae, d_out]`. That of a cross-layer transcoder is put together here, with zeros where a latent writes nothing.
    #[must_use]
    pub fn w_dec(&self) -> Tensor<2> {
        if let Some(layers) = self.each_layer() {
            return whole_decoder(&layers);
        }
        self.matrix("w_dec")
    }

    /// The decoder's bias, `[d_out]`.
    #[must_use]
    pub fn b_dec(&self) -> Tensor<1> {
        self.vector("b_dec")
    }

    /// JumpReLU: smallest pre-activation (exclusive) at which a latent is active, `[d_sae]`, none below 0.
    #[must_use]
    pub fn threshold(&self) -> Option<Tensor<1>> {
        if let Some(layers) = self.each_layer() {
            let each: Option<Vec<_>> = layers.iter().map(Self::threshold).collect();
            return each.map(|each| Tensor::cat(each, 0));
        }
        self.weights.vector("threshold").cloned()
    }

    /// The skip connection, `[d_out, d_in]`, if there is one.
    #[must_use]
    pub fn w_skip(&self) -> Option<Tensor<2>> {
        self.weights.matrix(SKIP).cloned()
    }

    /// Width of the activations that it reads.
    #[must_use]
    pub fn d_in(&self) -> usize {
        match self.each_layer() {
            Some(layers) => layers.iter().map(Self::d_in).sum(),
            None => self.w_enc().dims()[1],
        }
    }

    /// Width of those that it reconstructs.
    #[must_use]
    pub fn d_out(&self) -> usize {
        match self.layers() {
            Some(_) => self.b_dec().dims()[0],
            None => self.w_dec().dims()[1],
        }
    }

    /// Number of latents, of a cross-layer transcoder those of all layers.
    #[must_use]
    pub fn d_sae(&self) -> usize {
        match self.each_layer() {
            Some(layers) => layers.iter().map(Self::d_sae).sum(),
            None => self.w_dec().dims()[0],
        }
    }

    /// The device that holds the weights.
    #[must_use]
    pub fn device(&self) -> Device {
        self.b_dec().device()
    }

    /// Active latents of each row of `x` `[n, d_in]`, descending by value (in a cross-layer transcoder within each layer), inactive places filled with value 0 (their
    /// indices are valid). The width is `k` for TopK and as large as the densest row needs otherwise.
    #[must_use]
    pub fn encode(&self, x: Tensor<2>) -> SparseCodes {
        if let Some(layers) = self.each_layer() {
            return cross_layer::encode(&layers, &x);
        }
        let x = self.centre(x);
        self.architecture.method().encode(self, x)
    }

    /// The activations that `codes` stand for: `sum_j values_j * w_dec[indices_j] + b_dec`, `[n, d_out]`.
    #[must_use]
    pub fn decode(&self, codes: SparseCodes) -> Tensor<2> {
        let layers = self.each_layer();
        let written = layers.and_then(|layers| cross_layer::decode(&layers, &codes));
        written.unwrap_or_else(|| decode_sparse(codes, self.w_dec())) + self.b_dec().unsqueeze()
    }

    /// What it makes of `x` `[n, d_in]`, whose codes are `codes`: these decoded, and `x` through the skip connection if
    /// there is one, `[n, d_out]`.
    #[must_use]
    pub fn reconstruct(&self, codes: SparseCodes, x: Tensor<2>) -> Tensor<2> {
        self.with_skip(self.decode(codes), x)
    }

    /// `decoded` with what the skip connection makes of `x`.
    pub(crate) fn with_skip(&self, decoded: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        match self.w_skip() {
            Some(w_skip) => decoded + x.matmul(w_skip.transpose()),
            None => decoded,
        }
    }

    /// The same coder with another `k`: TopK's active latents, or matching pursuit's steps.
    ///
    /// # Errors
    /// Its architecture has no `k`, or not so large a one.
    pub fn with_k(self, k: usize) -> Result<Self, SaeError> {
        let method = self.architecture.method();
        let refuse = |message: String| {
            let place = "k".to_owned();
            Err(SaeError::Config { place, message })
        };
        if !method.takes_k() {
            return refuse(format!(
                "a {} coder has as many active latents as it has",
                self.architecture
            ));
        }
        let most = method.most_k(self.layer(0).d_sae());
        if k == 0 || k > most {
            let what = if method.repeats() { "steps" } else { "latents" };
            return refuse(format!("found {k}, expected 1 to {most} {what}"));
        }
        Ok(Self { k, ..self })
    }

    /// `x - b_dec` if this coder encodes that, otherwise `x`.
    pub(crate) fn centre(&self, x: Tensor<2>) -> Tensor<2> {
        if self.apply_b_dec_to_input {
            x - self.b_dec().unsqueeze()
        } else {
            x
        }
    }

    /// The same weights as leaves of a gradient graph.
    pub(crate) fn tracked(&self) -> Self {
        Self {
            weights: self.weights.tracked(),
            ..*self
        }
    }

    /// The same coder on another device.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            weights: self.weights.to_device(device),
            ..self
        }
    }
}
