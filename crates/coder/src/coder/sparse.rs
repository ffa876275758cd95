//! The sparse coder of one layer: activations `[n, d_in]` to a few latents per token, and from
//! these to `[n, d_out]`.

use burn::tensor::{Device, Tensor};
use lapidary_kernels::{BatchTopK, EncoderState, SparseCodes, decode_sparse};

use super::Coder;
use crate::architectures::{Architecture, encode_batch};
use crate::error::CoderError;
use crate::fold::Normalized;
use crate::scaling::Scaling;
use crate::weights::{SKIP, Weights};

/// A sparse coder of one layer.
#[derive(Clone, Debug)]
pub struct SparseCoder {
    /// How it chooses its latents.
    pub architecture: Architecture,
    /// Whether `b_dec` is subtracted before encoding.
    pub apply_b_dec_to_input: bool,
    /// The weights that its architecture has: always `w_dec` `[d_sae, d_out]` and `b_dec`
    /// `[d_out]`, mostly `w_enc` `[d_sae, d_in]` and `b_enc` `[d_sae]`. One row of `w_enc` and one
    /// of `w_dec` belong to each latent. `w_skip` `[d_out, d_in]` is there if a linear map of the
    /// input is part of the reconstruction.
    pub weights: Weights,
}

impl SparseCoder {
    /// The vector of this name.
    ///
    /// # Panics
    /// The architecture has none.
    #[must_use]
    pub fn vector(&self, name: &str) -> Tensor<1> {
        self.weights.the_vector(name)
    }

    /// The encoder's bias, `[d_sae]`.
    ///
    /// # Panics
    /// The architecture has none: a gated coder or matching pursuit.
    #[must_use]
    pub fn b_enc(&self) -> Tensor<1> {
        self.vector("b_enc")
    }

    /// JumpReLU: the pre-activation above which a latent is active, `[d_sae]`, none below 0.
    #[must_use]
    pub fn threshold(&self) -> Option<Tensor<1>> {
        self.weights.vector("threshold").cloned()
    }

    /// The skip connection, `[d_out, d_in]`, if there is one.
    #[must_use]
    pub fn w_skip(&self) -> Option<Tensor<2>> {
        self.weights.matrix(SKIP).cloned()
    }

    /// Active latents per token, or steps, of architectures that have such a number.
    #[must_use]
    pub const fn k(&self) -> Option<usize> {
        self.architecture.k()
    }

    /// The same coder with another `k`: TopK's active latents, or matching pursuit's steps.
    ///
    /// # Errors
    /// Its architecture has no `k`, or not so large a one.
    pub fn with_k(self, k: usize) -> Result<Self, CoderError> {
        let kind = self.architecture.kind();
        let refuse = |message: String| {
            let place = "--k".to_owned();
            Err(CoderError::Invalid { place, message })
        };
        if !kind.takes_k() {
            return refuse(format!(
                "found {k}, but a {kind} coder has no fixed number of active latents"
            ));
        }
        let most = kind.most_k(self.d_sae());
        if k == 0 || k > most {
            let what = match kind.counts_steps() {
                true => " steps",
                false => ", the number of latents",
            };
            return refuse(format!("found {k}, expected 1 to {most}{what}"));
        }
        let architecture = self.architecture.at_k(k);
        Ok(Self {
            architecture,
            ..self
        })
    }

    /// `x - b_dec` if this coder encodes that, otherwise `x`.
    #[must_use]
    pub fn centre(&self, x: Tensor<2>) -> Tensor<2> {
        match self.apply_b_dec_to_input {
            true => x - self.b_dec().unsqueeze(),
            false => x,
        }
    }

    /// As [`Coder::encode`], for `x` that is already centred ([`SparseCoder::centre`]).
    #[must_use]
    pub fn encode_centred(&self, x: Tensor<2>) -> SparseCodes {
        self.architecture.rule().encode(&self.weights, x)
    }

    /// The codes of `x` `[n, d_in]`, centred: the n·k largest positive pre-activations of all rows
    /// together, with the smallest value that was kept.
    #[must_use]
    pub fn encode_batch(&self, x: Tensor<2>, k: usize) -> BatchTopK {
        encode_batch(&self.weights, x, k)
    }

    /// `decoded` with what the skip connection makes of `x`.
    #[must_use]
    pub fn with_skip(&self, decoded: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        match self.w_skip() {
            Some(w_skip) => decoded + x.matmul(w_skip.transpose()),
            None => decoded,
        }
    }

    /// The same coder, whose encoder goes on with this state.
    pub(super) fn with_encoder_state(self, state: &EncoderState) -> Self {
        Self {
            weights: self.weights.with_encoder_state(state.clone()),
            ..self
        }
    }

    /// The same weights as leaves of a gradient graph.
    #[must_use]
    pub fn tracked(&self) -> Self {
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

    /// The coder for raw activations that does what this one does for activations normalized as
    /// `scaling` says. `threshold` is the running average of the smallest value that a training
    /// batch kept, of an architecture that has one.
    ///
    /// # Errors
    /// The device fails, or `scaling` has another width.
    pub fn finish(&self, threshold: f64, scaling: &Scaling) -> Result<Self, CoderError> {
        let normalized = Normalized {
            weights: &self.weights,
            apply_b_dec_to_input: self.apply_b_dec_to_input,
            scaling,
        };
        let (architecture, weights) = self.architecture.rule().finish(&normalized, threshold)?;
        Ok(Self {
            architecture,
            weights,
            ..*self
        })
    }
}

impl Coder for SparseCoder {
    fn architecture(&self) -> Architecture {
        self.architecture
    }

    fn d_in(&self) -> usize {
        self.w_enc().dims()[1]
    }

    fn d_out(&self) -> usize {
        self.w_dec().dims()[1]
    }

    fn d_sae(&self) -> usize {
        self.w_dec().dims()[0]
    }

    fn layers(&self) -> &[SparseCoder] {
        std::slice::from_ref(self)
    }

    /// Matching pursuit reads with its decoder rows.
    fn w_enc(&self) -> Tensor<2> {
        self.weights.encoder()
    }

    fn w_dec(&self) -> Tensor<2> {
        self.weights.decoder()
    }

    fn b_dec(&self) -> Tensor<1> {
        self.vector("b_dec")
    }

    fn latent_vector(&self, name: &str) -> Option<Tensor<1>> {
        self.weights.vector(name).cloned()
    }

    fn encode(&self, x: Tensor<2>) -> SparseCodes {
        self.encode_centred(self.centre(x))
    }

    fn decode(&self, codes: SparseCodes) -> Tensor<2> {
        decode_sparse(codes, self.w_dec()) + self.b_dec().unsqueeze()
    }

    fn reconstruct(&self, codes: SparseCodes, x: Tensor<2>) -> Tensor<2> {
        self.with_skip(self.decode(codes), x)
    }
}
