//! Gated: whether a latent is active and how strongly are decided by two affine maps that share directions (Rajamanoharan
//! et al. 2024, "Improving dictionary learning with gated sparse autoencoders", arXiv 2404.16014). With h = ⟨w_enc, x⟩ a latent is
//! active where the gate h + b_gate is positive; its value is then ReLU(exp(r_mag) h + b_mag). The gates are trained by an L1
//! penalty and by a reconstruction of their own, through a decoder that this term does not move.

use burn::tensor::{Tensor, activation::relu};
use lapidary_kernels::{SparseCodes, decode_sparse, encode_threshold};

use crate::coder::{SparseCoder, Weights};
use crate::coders::{Codes, Learned, Method, Now, Terms, differentiate};
use crate::config::RunConfig;
use crate::ends::{Batch, Scaling};
use crate::error::SaeError;
use crate::fold::{Fold, fold};
use crate::losses;
use crate::schedule::rise;

pub(crate) struct Gated;

impl Method for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn takes_k(&self) -> bool {
        false
    }

    fn shapes(&self, d_in: usize, d_out: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![
            ("w_enc", vec![d_sae, d_in]),
            ("b_gate", vec![d_sae]),
            ("b_mag", vec![d_sae]),
            ("r_mag", vec![d_sae]),
            ("w_dec", vec![d_sae, d_out]),
            ("b_dec", vec![d_out]),
        ]
    }

    fn init(
        &self,
        w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        _config: &RunConfig,
    ) -> Weights {
        let zeros = || Tensor::<1>::zeros([w_dec.dims()[0]], &w_dec.device()).into();
        Weights::new([
            ("w_enc", w_enc.into()),
            ("b_gate", zeros()),
            ("b_mag", zeros()),
            ("r_mag", zeros()),
            ("w_dec", w_dec.clone().into()),
            ("b_dec", b_dec.into()),
        ])
    }

    /// A JumpReLU: the gate is positive where the value exceeds b_mag − exp(r_mag) b_gate.
    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let factor = coder.vector("r_mag").exp();
        let b_mag = coder.vector("b_mag");
        let threshold = b_mag.clone() - factor.clone() * coder.vector("b_gate");
        let w_mag = coder.w_enc() * factor.unsqueeze_dim::<2>(1);
        encode_threshold(x, w_mag, b_mag, threshold)
    }

    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned {
        let coder = coder.tracked();
        let (x, y) = (batch.x.clone().autodiff(), batch.y.clone().autodiff());
        let centred = coder.centre(x);
        let latents = Latents::of(&coder, centred.clone());
        let mse = losses::mse(
            y.clone(),
            coder.reconstruct(latents.codes(), centred.clone()),
        );
        let fvu = mse.clone() / losses::batch_variance(y.clone());
        let penalty = latents.penalty();
        let aux = losses::mse(y, latents.by_gates(&coder, centred));
        let training = &now.config.training;
        let warmup = training.sparsity_warmup_steps.expect("resolved");
        let weight = training.l1_coefficient * rise(now.step, warmup);
        let total = mse.clone() + penalty.clone() * weight + aux.clone();
        Learned {
            gradients: differentiate(&coder, &total),
            terms: Terms {
                total,
                mse,
                fvu,
                penalty: Some(penalty),
                aux: Some(aux),
                codes: Codes::Sparse(latents.codes()),
                threshold: None,
            },
        }
    }

    fn finish(
        &self,
        coder: &SparseCoder,
        _threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, SaeError> {
        let how = Fold {
            factors: &["r_mag"],
            ..Fold::default()
        };
        let mut folded = fold(coder, scaling, how)?;
        if !coder.apply_b_dec_to_input {
            // Both maps read x without its mean.
            let mean = scaling.mean_read();
            let mean =
                Tensor::<1>::from_floats(mean.as_slice(), &coder.device()).unsqueeze_dim::<2>(1);
            let shift = folded.w_enc().matmul(mean).squeeze_dim::<1>(1); // [d_sae]
            let b_gate = folded.vector("b_gate") - shift.clone();
            let b_mag = folded.vector("b_mag") - shift * folded.vector("r_mag").exp();
            folded.weights = folded.weights.with("b_gate", b_gate).with("b_mag", b_mag);
        }
        Ok(folded)
    }
}

/// The latents of a batch whose gates are positive, `[n, k]` each.
struct Latents {
    /// What the gates say, 0 in places that are not used.
    gates: Tensor<2>,
    /// 0 where not active.
    values: Tensor<2>,
    indices: Tensor<2, burn::tensor::Int>,
}

impl Latents {
    /// Of `x`, centred.
    fn of(coder: &SparseCoder, x: Tensor<2>) -> Self {
        let b_gate = coder.vector("b_gate");
        let found = encode_threshold(x, coder.w_enc(), b_gate.clone(), b_gate.zeros_like());
        let shape = found.indices.dims();
        let places = found.indices.clone().reshape([shape[0] * shape[1]]);
        let of = |t: Tensor<1>| t.select(0, places.clone()).reshape(shape); // [n, k]
        let on = found.values.clone().detach().greater_elem(0.0).float();
        let h = found.values.clone() - of(b_gate);
        let magnitudes = relu(h * of(coder.vector("r_mag").exp()) + of(coder.vector("b_mag")));
        Self {
            values: magnitudes * on,
            gates: found.values,
            indices: found.indices,
        }
    }

    fn codes(&self) -> SparseCodes {
        SparseCodes {
            values: self.values.clone(),
            indices: self.indices.clone(),
        }
    }

    /// Sum of positive gates, mean over tokens. Decoder rows have norm 1.
    fn penalty(&self) -> Tensor<1> {
        self.gates.clone().sum() / self.gates.dims()[0].max(1) as f64
    }

    /// What the gates themselves reconstruct of `x`, centred, through the decoder as a constant.
    fn by_gates(&self, coder: &SparseCoder, x: Tensor<2>) -> Tensor<2> {
        let codes = SparseCodes {
            values: self.gates.clone(),
            indices: self.indices.clone(),
        };
        let decoded =
            decode_sparse(codes, coder.w_dec().detach()) + coder.b_dec().detach().unsqueeze();
        match coder.w_skip() {
            Some(w_skip) => decoded + x.matmul(w_skip.detach().transpose()),
            None => decoded,
        }
    }
}
