//! The backward pass of one layer, by how its codes are differentiated.

use burn::tensor::{Int, Tensor};
use lapidary_coder::{Coder, SKIP, SparseCoder, Weight, WeightKey};
use lapidary_kernels::{
    Pursued, SparseCodes, SparseGradient, decode_sparse, latent_sums, pursuit_gradient,
    reconstruct, weighted_sum,
};

use super::aux_k::auxiliary;
use super::{Scales, Slope, to_code};
use crate::architectures::StepContext;
use crate::encoded::{Codes, Encoded, Weighted, masked};
use crate::losses;
use crate::parameters::Gradient;

/// What the layers add up to.
pub(super) struct Sums {
    pub(super) total: Tensor<1>,
    pub(super) penalty: Option<Tensor<1>>,
    pub(super) aux: Option<Tensor<1>>,
    /// The gradient of the shared `b_dec`, `[1, d_out]`.
    pub(super) b_dec: Tensor<2>,
    pub(super) gradients: Vec<(WeightKey, Gradient)>,
}

impl Sums {
    fn add_aux(&mut self, term: Tensor<1>) {
        self.aux = Some(match self.aux.take() {
            Some(sum) => sum + term,
            None => term,
        });
    }
}

/// The backward pass of one layer.
pub(super) struct LayerStep<'a, K: Fn(&'static str) -> WeightKey> {
    /// What a weight of this layer is called.
    pub(super) key: K,
    pub(super) layer: &'a SparseCoder,
    pub(super) x: Tensor<2>,
    pub(super) dead: Option<Tensor<1, Int>>,
    pub(super) encoded: &'a Encoded,
    /// That of what the layer writes.
    pub(super) slope: Slope,
    /// The error of what it writes at, `[n, d]`.
    pub(super) error: Tensor<2>,
    /// Whether the layer is the whole coder.
    pub(super) is_whole: bool,
    pub(super) context: &'a StepContext<'a>,
}

impl<K: Fn(&'static str) -> WeightKey> LayerStep<'_, K> {
    /// Of codes that are pre-activations: gradients sparse by latent. `products` are those of the
    /// slope with the decoder rows of the codes, if they are known.
    pub(super) fn sparse(
        self,
        y: &Tensor<2>,
        products: Option<Tensor<2>>,
        scales: &Scales,
        sums: &mut Sums,
    ) {
        let variance = &scales.variance;
        let (layer, encoded) = (self.layer, self.encoded);
        let Codes::Sparse(all) = &encoded.codes else {
            unreachable!("pre-activations are sparse");
        };
        let codes = masked(all, encoded.own.as_ref());
        let n = y.dims()[0].max(1) as f64;
        let centred = layer.centre(self.x.clone());
        let Slope { slope, factor } = self.slope;
        let products = products.unwrap_or_else(|| {
            // Against this target the error is the slope.
            let decoded = match self.is_whole {
                true => self.error.clone() + to_code(layer, &self.x, y),
                false => decode_sparse(codes.clone(), layer.w_dec()), // its own b_dec is 0
            };
            let target = decoded - slope.clone();
            reconstruct(&codes, layer.w_dec(), layer.b_dec(), target).along
        });
        // A latent that is off passes nothing on.
        let active = |values: &Tensor<2>| values.clone().greater_elem(0.0).float();
        let on = active(&codes.values);
        let skips = layer.w_skip().is_some();
        // The gradient of the loss in the whole reconstruction, where a skip connection needs it.
        let mut in_output = skips.then(|| slope.clone() * factor.clone()); // [n, d_out]
        let mut w_dec = SparseGradient {
            codes: SparseCodes {
                values: codes.values * factor.clone(),
                indices: codes.indices.clone(),
            },
            rows: slope,
        };
        let mut w_enc = SparseGradient {
            codes: SparseCodes {
                values: products * on * factor,
                indices: codes.indices,
            },
            rows: centred.clone(),
        };

        for subset in &encoded.subsets {
            let codes = masked(all, subset.active.as_ref());
            let target = to_code(layer, &self.x, y);
            let found = reconstruct(&codes, layer.w_dec(), layer.b_dec(), target);
            let term = found.squares.sum() / n / variance.clone() * subset.weight;
            sums.total = sums.total.clone() + term;
            let factor = variance.clone().recip() * (2.0 / n * subset.weight);
            let factor = factor.unsqueeze::<2>();
            sums.b_dec = sums.b_dec.clone() + found.error.clone().sum_dim(0) * factor.clone();
            in_output = in_output.map(|all| all + found.error.clone() * factor.clone());
            let on = active(&codes.values);
            w_enc.codes.values = w_enc.codes.values + found.along * on * factor.clone();
            w_dec = both(
                &w_dec,
                SparseGradient {
                    codes: SparseCodes {
                        values: codes.values * factor,
                        indices: codes.indices,
                    },
                    rows: found.error,
                },
            );
        }
        let w_skip = in_output.map(|all| all.transpose().matmul(centred.clone())); // [d_out, d_in]

        let residual = self.error.neg();
        let found = auxiliary(layer, centred, residual, self.dead, scales, self.context);
        if let Some(found) = found {
            let coefficient = self.context.training.aux_k_coefficient;
            sums.total = sums.total.clone() + found.term.clone() * coefficient;
            sums.add_aux(found.term);
            w_dec = both(&w_dec, found.w_dec);
            w_enc = both(&w_enc, found.w_enc);
        }

        let b_enc = latent_sums(&w_enc.codes, layer.d_sae());
        if layer.apply_b_dec_to_input {
            // The input is x - b_dec: each pre-activation's gradient comes back through its encoder
            // row.
            let back = weighted_sum(b_enc.clone(), layer.w_enc()).unsqueeze::<2>();
            sums.b_dec = sums.b_dec.clone() - back;
        }
        let key = self.key;
        sums.gradients.extend([
            (key("w_enc"), Gradient::Rows(w_enc)),
            (key("b_enc"), Gradient::Vector(b_enc)),
            (key("w_dec"), Gradient::Rows(w_dec)),
        ]);
        sums.gradients
            .extend(w_skip.map(|gradient| (key(SKIP), Gradient::Matrix(gradient))));
    }

    /// Of codes in a gradient graph. `coder` is the layer there, `written` what it writes.
    pub(super) fn tracked(
        self,
        coder: &SparseCoder,
        written: Option<Tensor<2>>,
        scales: &Scales,
        sums: &mut Sums,
    ) {
        let slope = self.slope.whole();
        let written = written.expect("codes in a graph are decoded there");
        // Its gradient is that of the loss in the reconstruction.
        let mut surrogate = (written * slope.clone().autodiff()).sum();
        let mut weighted = |term: &Weighted| {
            surrogate = surrogate.clone() + term.term.clone() * term.weight;
            let value = term.term.clone().inner();
            sums.total = sums.total.clone() + value.clone() * term.weight;
            value
        };
        if let Some(penalty) = &self.encoded.penalty {
            let value = weighted(penalty);
            sums.penalty = Some(match sums.penalty.take() {
                Some(sum) => sum + value,
                None => value,
            });
        }
        let own_aux = self.encoded.own_aux.as_ref().map(&mut weighted);
        let training = &self.context.training;
        if let Some(dead) = self.dead {
            let x = coder.centre(self.x.clone().autodiff());
            let residual = self.error.neg().autodiff();
            if scales.ghosts > 0 {
                let miss = losses::ghost(coder, x, residual, dead);
                // As large as the squared error.
                let weight = scales.mse.clone() / (miss.clone().inner() + 1e-6);
                let ghost = miss * weight.autodiff() / scales.ghosts as f64;
                surrogate = surrogate + ghost.clone();
                let value = ghost.inner();
                sums.total = sums.total.clone() + value.clone();
                sums.add_aux(value);
            } else if self.context.has_aux_k() {
                let term = losses::aux_k(coder, x, residual, dead, training.aux_k) * scales.share;
                // The term is a share of a variance; beside a squared error it counts as one.
                let unit = match self.context.local_weight() > 0.0 {
                    true => scales.variance.clone(),
                    false => scales.variance.ones_like(),
                };
                let weight = unit * training.aux_k_coefficient;
                surrogate = surrogate + term.clone() * weight.clone().autodiff();
                let value = term.inner();
                sums.total = sums.total.clone() + value.clone() * weight;
                sums.add_aux(value);
            }
        }
        if let Some(value) = own_aux {
            sums.add_aux(value);
        }

        let mut found = surrogate.backward();
        let key = self.key;
        for (name, weight) in coder.weights.iter() {
            let gradient = match weight {
                Weight::Matrix(_) if name == SKIP => {
                    let centred = self.layer.centre(self.x.clone());
                    Gradient::Matrix(slope.clone().transpose().matmul(centred)) // [d_out, d_in]
                }
                Weight::Matrix(t) => Gradient::Matrix(
                    t.grad_remove(&mut found)
                        .unwrap_or_else(|| t.clone().inner().zeros_like()),
                ),
                Weight::Vector(t) if name == "b_dec" => {
                    // Through the input; what the output gives is there already.
                    if let Some(gradient) = t.grad_remove(&mut found)
                        && key(name).layer.is_none()
                    {
                        sums.b_dec = sums.b_dec.clone() + gradient.unsqueeze::<2>();
                    }
                    continue;
                }
                Weight::Vector(t) => Gradient::Vector(
                    t.grad_remove(&mut found)
                        .unwrap_or_else(|| t.clone().inner().zeros_like()),
                ),
            };
            sums.gradients.push((key(name), gradient));
        }
    }

    /// Of a pursuit, whose gradient goes back through its steps.
    pub(super) fn pursuit(self, pursued: &Pursued, refit: bool, sums: &mut Sums) {
        let (w_dec, starts) = pursuit_gradient(pursued, self.layer.w_dec(), refit, 1.0);
        let factor = self.slope.factor / 2.0; // that of the squared error
        let w_dec = w_dec * factor.clone();
        // What is pursued is x − b_dec.
        sums.b_dec = (starts.neg() * factor.squeeze_dim::<1>(0)).unsqueeze();
        sums.gradients
            .push(((self.key)("w_dec"), Gradient::Matrix(w_dec)));
    }
}

/// The sum of two gradients: rows under rows, the narrower codes filled with zeros, which add
/// nothing.
fn both(a: &SparseGradient, b: SparseGradient) -> SparseGradient {
    let wide = a.codes.values.dims()[1].max(b.codes.values.dims()[1]);
    let widened = |codes: SparseCodes| {
        let [n, k] = codes.values.dims();
        if k == wide {
            return codes;
        }
        let device = codes.values.device();
        SparseCodes {
            values: Tensor::cat(vec![codes.values, Tensor::zeros([n, wide - k], &device)], 1),
            indices: Tensor::cat(
                vec![codes.indices, Tensor::zeros([n, wide - k], &device)],
                1,
            ),
        }
    };
    let (a_codes, b_codes) = (widened(a.codes.clone()), widened(b.codes));
    SparseGradient {
        codes: SparseCodes {
            values: Tensor::cat(vec![a_codes.values, b_codes.values], 0),
            indices: Tensor::cat(vec![a_codes.indices, b_codes.indices], 0),
        },
        rows: Tensor::cat(vec![a.rows.clone(), b.rows], 0),
    }
}
