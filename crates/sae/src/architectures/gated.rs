//! Training of gated coders (Rajamanoharan et al. 2024, "Improving dictionary learning with gated
//! sparse autoencoders", arXiv 2404.16014). The gates are trained by an L1 penalty and by a
//! reconstruction of their own, through a decoder that this term does not move.

use burn::tensor::{Int, Tensor, activation::relu};
use lapidary_coder::{Coder, SparseCoder, Weights};
use lapidary_kernels::{SparseCodes, decode_sparse, encode_threshold};

use super::start::lowered;
use super::{Method, ResolvedTables, StartContext, StepContext};
use crate::encoded::{Backward, Codes, Encoded, LayerInput, Weighted};
use crate::keys::Facts;
use crate::losses;

pub(crate) struct Gated;

impl Method for Gated {
    fn facts(&self) -> Facts {
        Facts {
            penalty_weight: Some("training.l1_coefficient"),
            lr_factor: 1.5,
            ..Facts::DEFAULT
        }
    }

    fn init(
        &self,
        w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        _tables: &ResolvedTables,
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

    fn start(&self, coder: SparseCoder, x: Tensor<2>, given: &StartContext<'_>) -> SparseCoder {
        lowered(coder, x, "b_gate", given.target_l0)
    }

    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded {
        let coder = layer.coder.tracked();
        let x = coder.centre(layer.x.clone().autodiff());
        let latents = Latents::of(&coder, x.clone());
        let by_gates = latents.by_gates(&coder, x);
        let own_aux = losses::mse(layer.y.clone().autodiff(), by_gates);
        let codes = SparseCodes {
            values: latents.values.clone().inner(),
            indices: latents.indices.clone().inner(),
        };
        let weight = context.training.l1_coefficient * context.penalty_factor();
        Encoded {
            penalty: Some(Weighted {
                term: latents.penalty(),
                weight,
            }),
            own_aux: Some(Weighted {
                term: own_aux,
                weight: 1.0,
            }),
            ..Encoded::new(
                Codes::Sparse(codes),
                Backward::Tracked {
                    coder,
                    values: latents.values,
                },
            )
        }
    }
}

/// The latents of a batch whose gates are positive, `[n, k]` each.
struct Latents {
    /// What the gates say, 0 in places that are not used.
    gates: Tensor<2>,
    /// 0 where not active.
    values: Tensor<2>,
    indices: Tensor<2, Int>,
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
