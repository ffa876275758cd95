//! Loss and gradients of TopK and BatchTopK coders, written out: their gradients are sparse by latent, and automatic
//! differentiation would make them dense. The tests hold them against automatic differentiation of the same loss.

use burn::tensor::Tensor;
use lapidary_kernels::{
    SparseCodes, SparseGradient, encode_topk, latent_sums, reconstruct, weighted_sum,
};

use crate::coder::{SKIP, SparseCoder};
use crate::coders::{Codes, Gradient, Learned, Now, Terms};
use crate::ends::Batch;
use crate::losses;
use crate::revival::Revival;

/// One of the reconstructions that a loss compares with the batch.
pub(crate) struct Part {
    /// 1 for the codes that take part, `[n, k]`; `None`: all do.
    pub(crate) on: Option<Tensor<2>>,
    /// What its fraction of variance unexplained is multiplied with.
    pub(crate) weight: f64,
}

impl Part {
    /// All codes, once.
    pub(crate) const WHOLE: Self = Self {
        on: None,
        weight: 1.0,
    };

    fn of(&self, codes: &SparseCodes) -> SparseCodes {
        match &self.on {
            None => codes.clone(),
            Some(on) => SparseCodes {
                values: codes.values.clone() * on.clone(),
                indices: codes.indices.clone(),
            },
        }
    }
}

/// The weighted sum of the parts' `fvu`, plus `coefficient * aux`, and its gradients, for the batch to reconstruct from codes that are those of `centred`
/// `[n, d_in]`, what the encoder reads; nothing tracks gradients. The first part is the coder's own reconstruction: what is reported, and what AuxK, the auxiliary loss
/// where there are dead latents, takes the rest of. A loss through the model is added to what then is only a share of the first part.
pub(crate) fn sparse_step(
    coder: &SparseCoder,
    batch: &Batch,
    centred: Tensor<2>,
    codes: SparseCodes,
    parts: &[Part],
    now: &Now<'_>,
) -> Learned {
    let (own, others) = parts.split_first().expect("a loss has a reconstruction");
    let all = codes;
    let codes = own.of(&all);
    let y = batch.y.clone();
    let n = y.dims()[0].max(1) as f64;
    let variance = losses::batch_variance(y.clone());
    // What the codes are to reconstruct.
    let left = match coder.w_skip() {
        Some(w_skip) => y - centred.clone().matmul(w_skip.transpose()),
        None => y,
    };
    let found = reconstruct(&codes, coder.w_dec(), coder.b_dec(), left.clone());
    let mse = found.squares.sum() / n;
    let fvu = mse.clone() / variance.clone();
    // The gradient of fvu in the reconstruction is `error · factor`.
    let local = now.local_weight();
    let factor = (variance.clone().recip() * (2.0 / n * local)).unsqueeze::<2>(); // [1, 1]
    let mut total = fvu.clone() * local;
    // Times `factor` the gradient in the reconstruction, and that in the codes.
    let (slope, along, factor) = match &batch.pull {
        None => (found.error.clone(), found.along, factor),
        Some(pull) => {
            total = total + pull.loss.clone();
            let slope = found.error.clone() * factor.clone() + pull.gradient.clone();
            // Against this target the error is the slope.
            let target = found.error.clone() + left.clone() - slope.clone();
            let along = reconstruct(&codes, coder.w_dec(), coder.b_dec(), target).along;
            (slope, along, factor.ones_like())
        }
    };
    let mut b_dec = slope.clone().sum_dim(0) * factor.clone(); // [1, d_out]
    // Of the loss in the whole reconstruction, where a skip connection needs it.
    let skips = coder.w_skip().is_some();
    let mut in_output = skips.then(|| slope.clone() * factor.clone()); // [n, d_out]
    // A latent that is off passes nothing on.
    let on = codes.values.clone().greater_elem(0.0).float();
    let mut w_dec = SparseGradient {
        codes: SparseCodes {
            values: codes.values.clone() * factor.clone(),
            indices: codes.indices.clone(),
        },
        rows: slope,
    };
    let mut w_enc = SparseGradient {
        codes: SparseCodes {
            values: along * on * factor,
            indices: codes.indices.clone(),
        },
        rows: centred.clone(),
    };

    for part in others {
        let codes = part.of(&all);
        let found = reconstruct(&codes, coder.w_dec(), coder.b_dec(), left.clone());
        total = total + found.squares.sum() / n / variance.clone() * part.weight;
        let factor = (variance.clone().recip() * (2.0 / n * part.weight)).unsqueeze::<2>();
        b_dec = b_dec + found.error.clone().sum_dim(0) * factor.clone();
        in_output = in_output.map(|all| all + found.error.clone() * factor.clone());
        let on = codes.values.clone().greater_elem(0.0).float();
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

    let found = auxiliary(coder, centred, found.error.neg(), 0, 1.0, now);
    let aux = found.map(|found| {
        total = total.clone() + found.term.clone() * now.config.training.aux_k_coefficient;
        w_dec = both(&w_dec, found.w_dec);
        w_enc = both(&w_enc, found.w_enc);
        found.term
    });

    let b_enc = latent_sums(&w_enc.codes, coder.d_sae());
    if coder.apply_b_dec_to_input {
        // The input is x - b_dec: each pre-activation's gradient comes back through its encoder row.
        b_dec = b_dec - weighted_sum(b_enc.clone(), coder.w_enc()).unsqueeze::<2>();
    }
    let mut gradients = vec![
        ("w_enc", Gradient::Rows(w_enc)),
        ("b_enc", Gradient::Vector(b_enc)),
        ("w_dec", Gradient::Rows(w_dec)),
        ("b_dec", Gradient::Vector(b_dec.squeeze_dim(0))),
    ];
    gradients.extend(w_skip.map(|gradient| (SKIP, Gradient::Matrix(gradient))));
    Learned {
        terms: Terms {
            total,
            mse,
            fvu,
            penalty: None,
            aux,
            codes: Codes::Sparse(codes),
            threshold: None,
        },
        gradients,
    }
}

/// AuxK of one layer.
pub(crate) struct Auxiliary {
    /// Before its coefficient, `[1]`.
    pub(crate) term: Tensor<1>,
    /// What it adds, coefficient and all, to the gradients of the layer's weights.
    pub(crate) w_dec: SparseGradient,
    pub(crate) w_enc: SparseGradient,
}

/// What the dead latents of `coder`, the layer of this number, make of the `residual` `[n, d_out]` of what it writes at, times `share`; see
/// [`losses::aux_k`]. None if nothing is dead or the recipe does not want it. `centred` is what the encoder reads.
pub(crate) fn auxiliary(
    coder: &SparseCoder,
    centred: Tensor<2>,
    residual: Tensor<2>,
    layer: usize,
    share: f64,
    now: &Now<'_>,
) -> Option<Auxiliary> {
    let training = &now.config.training;
    let (k_aux, coefficient) = (training.aux_k.unwrap_or(0), training.aux_k_coefficient);
    let wanted = Revival::of(now.config) == Revival::AuxK && k_aux > 0 && coefficient > 0.0;
    let dead = now.dead_of_layer(layer).filter(|_| wanted)?;
    let n = residual.dims()[0].max(1) as f64;
    let n_dead = dead.dims()[0];
    let k = k_aux.min(n_dead);
    let scale = (n_dead as f64 / k_aux as f64).min(1.0) * share;
    let w_dead = coder.w_dec().select(0, dead.clone()); // [n_dead, d_out]
    let codes = encode_topk(
        centred.clone(),
        coder.w_enc().select(0, dead.clone()),
        coder.b_enc().select(0, dead.clone()),
        k,
    );
    let none = coder.b_dec().zeros_like();
    let miss = reconstruct(&codes, w_dead, none, residual.clone());
    let variance = losses::batch_variance(residual);
    let term = miss.squares.sum() / n / variance.clone() * scale;
    let factor = (variance.recip() * (2.0 / n * scale * coefficient)).unsqueeze::<2>();
    let [rows, k] = codes.indices.dims();
    let indices = dead.select(0, codes.indices.reshape([rows * k]));
    let of_dead = |values: Tensor<2>| SparseCodes {
        values,
        indices: indices.clone().reshape([rows, k]),
    };
    Some(Auxiliary {
        term,
        w_dec: SparseGradient {
            codes: of_dead(codes.values * factor.clone()),
            rows: miss.error,
        },
        w_enc: SparseGradient {
            codes: of_dead(miss.along * factor),
            rows: centred,
        },
    })
}

/// The sum of two gradients: rows under rows, the narrower codes filled with zeros, which add nothing.
pub(crate) fn both(a: &SparseGradient, b: SparseGradient) -> SparseGradient {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coder::{Architecture, Weights};
    use crate::config::RunConfig;
    use burn::tensor::{Device, Distribution, Int};

    const N: usize = 24;
    const D: usize = 20;
    const F: usize = 70;

    /// `Sᵀ·rows`, entry by entry.
    fn dense(gradient: &SparseGradient) -> Vec<f32> {
        let values: Vec<f32> = gradient.codes.values.to_data().iter().collect();
        let indices: Vec<i64> = gradient.codes.indices.to_data().iter().collect();
        let rows: Vec<f32> = gradient.rows.to_data().iter().collect();
        let k = gradient.codes.values.dims()[1];
        let mut out = vec![0.0; F * D];
        for (at, (value, latent)) in values.iter().zip(indices).enumerate() {
            for j in 0..D {
                out[latent as usize * D + j] += value * rows[at / k * D + j];
            }
        }
        out
    }

    fn close(what: &str, found: &[f32], expected: &[f32]) {
        let largest = expected.iter().fold(0.0f32, |m, e| m.max(e.abs()));
        assert!(largest > 1e-6, "{what}: nothing to compare");
        for (at, (f, e)) in found.iter().zip(expected).enumerate() {
            assert!(
                (f - e).abs() <= 1e-5 * largest,
                "{what}[{at}]: {f}, automatic differentiation {e}"
            );
        }
    }

    #[test]
    fn gradients_are_those_of_automatic_differentiation() {
        let device = Device::flex();
        for (architecture, centred, with_aux) in [
            (Architecture::TopK, true, false),
            (Architecture::TopK, true, true),
            (Architecture::TopK, false, true),
            (Architecture::BatchTopK, true, true),
        ] {
            device.seed(3);
            let normal =
                |shape, s| Tensor::<2>::random(shape, Distribution::Normal(0.0, s), &device);
            let coder = SparseCoder {
                architecture,
                k: 4,
                apply_b_dec_to_input: centred,
                weights: Weights::new([
                    ("w_enc", normal([F, D], 0.3).into()),
                    ("b_enc", normal([1, F], 0.2).squeeze_dim::<1>(0).into()),
                    ("w_dec", normal([F, D], 0.3).into()),
                    ("b_dec", normal([1, D], 0.2).squeeze_dim::<1>(0).into()),
                ]),
            };
            let x = normal([N, D], 1.0);
            let dead = Tensor::<1, Int>::from_ints([3, 9, 11, 40, 41, 42, 69], &device);
            let mut config = RunConfig::with_defaults(&[]).unwrap();
            config.training.aux_k = Some(9);
            config.training.aux_k_coefficient = 0.4;
            let now = Now {
                config: &config,
                step: 0,
                dead: &[with_aux.then(|| dead.clone())],
            };
            let method = architecture.method();
            let step = method.learn(&coder, &Batch::of(x.clone()), &now);

            let tracked = coder.tracked();
            let x = x.autodiff();
            let input = tracked.centre(x.clone());
            let reconstruction = tracked.decode(method.encode(&tracked, input.clone()));
            let mut total =
                losses::mse(x.clone(), reconstruction.clone()) / losses::batch_variance(x.clone());
            if with_aux {
                let residual = (x - reconstruction).detach();
                let term = losses::aux_k(&tracked, input, residual, dead.clone(), 9);
                total = total + term * 0.4;
            }
            let gradients = total.backward();
            let what = format!("{architecture}, centred {centred}, aux {with_aux}");
            let host = |t: &Tensor<1>| -> Vec<f32> { t.to_data().iter().collect() };
            close(
                &format!("{what}: loss"),
                &host(&step.terms.total),
                &host(&total.inner()),
            );
            for (name, gradient) in &step.gradients {
                let found = match gradient {
                    Gradient::Rows(rows) => dense(rows),
                    Gradient::Vector(t) => host(t),
                    Gradient::Matrix(_) => panic!("{what}: {name} is dense"),
                };
                let expected: Vec<f32> =
                    match (tracked.weights.matrix(name), tracked.weights.vector(name)) {
                        (Some(t), _) => t.grad(&gradients).unwrap().to_data().iter().collect(),
                        (_, Some(t)) => t.grad(&gradients).unwrap().to_data().iter().collect(),
                        _ => panic!("{name} is no weight"),
                    };
                close(&format!("{what}: {name}"), &found, &expected);
            }
            assert_eq!(step.gradients.len(), 4);
        }
    }
}
