//! Loss and gradients of TopK and BatchTopK coders, written out: their gradients are sparse by latent, and automatic
//! differentiation would make them dense. The tests hold them against automatic differentiation of the same loss.

use burn::tensor::{Int, Tensor};
use lapidary_kernels::{SparseCodes, SparseGradient, encode_topk, latent_sums, reconstruct};

use crate::coder::{Architecture, SparseCoder};
use crate::{batchtopk, losses, topk};

/// AuxK, where there are dead latents.
pub(crate) struct Aux {
    pub(crate) dead: Tensor<1, Int>,
    pub(crate) k: usize,
    pub(crate) coefficient: f64,
}

/// One batch's loss, `fvu + coefficient * aux`, and its gradients.
pub(crate) struct SparseStep {
    pub(crate) total: Tensor<1>,
    pub(crate) mse: Tensor<1>,
    pub(crate) fvu: Tensor<1>,
    pub(crate) aux: Option<Tensor<1>>,
    pub(crate) codes: SparseCodes,
    /// BatchTopK: smallest value kept in this batch, 0 if none.
    pub(crate) threshold: Option<f32>,
    pub(crate) w_enc: SparseGradient,
    pub(crate) b_enc: Tensor<1>,
    pub(crate) w_dec: SparseGradient,
    pub(crate) b_dec: Tensor<1>,
}

/// `x` `[n, d_in]`; nothing tracks gradients.
pub(crate) fn sparse_step(coder: &SparseCoder, x: Tensor<2>, aux: Option<Aux>) -> SparseStep {
    let n = x.dims()[0].max(1) as f64;
    let centred = coder.centre(x.clone());
    let (codes, threshold) = match coder.architecture {
        Architecture::BatchTopK => {
            let batch = batchtopk::encode(coder, centred.clone());
            (batch.codes, Some(batch.threshold))
        }
        _ => (topk::encode(coder, centred.clone()), None),
    };
    let found = reconstruct(&codes, coder.w_dec.clone(), coder.b_dec.clone(), x.clone());
    let variance = losses::batch_variance(x);
    let mse = found.squares.sum() / n;
    let fvu = mse.clone() / variance.clone();
    // The gradient of fvu in the reconstruction is `error · factor`.
    let factor = (variance.recip() * (2.0 / n)).unsqueeze::<2>(); // [1, 1]
    let mut b_dec = found.error.clone().sum_dim(0) * factor.clone(); // [1, d_in]
    // A latent that is off passes nothing on.
    let on = codes.values.clone().greater_elem(0.0).float();
    let mut w_dec = SparseGradient {
        codes: SparseCodes {
            values: codes.values.clone() * factor.clone(),
            indices: codes.indices.clone(),
        },
        rows: found.error.clone(),
    };
    let mut w_enc = SparseGradient {
        codes: SparseCodes {
            values: found.along * on * factor,
            indices: codes.indices.clone(),
        },
        rows: centred.clone(),
    };

    let mut total = fvu.clone();
    let aux = aux.map(|aux| {
        let n_dead = aux.dead.dims()[0];
        let k = aux.k.min(n_dead);
        let scale = (n_dead as f64 / aux.k as f64).min(1.0);
        let residual = found.error.neg();
        let w_dead = coder.w_dec.clone().select(0, aux.dead.clone()); // [n_dead, d_in]
        let codes = encode_topk(
            centred.clone(),
            coder.w_enc.clone().select(0, aux.dead.clone()),
            coder.b_enc.clone().select(0, aux.dead.clone()),
            k,
        );
        let miss = reconstruct(&codes, w_dead, coder.b_dec.zeros_like(), residual.clone());
        let variance = losses::batch_variance(residual);
        let term = miss.squares.sum() / n / variance.clone() * scale;
        total = total.clone() + term.clone() * aux.coefficient;
        let factor = (variance.recip() * (2.0 / n * scale * aux.coefficient)).unsqueeze::<2>();
        let [rows, k] = codes.indices.dims();
        let indices = aux.dead.select(0, codes.indices.reshape([rows * k]));
        let of_dead = |values: Tensor<2>| SparseCodes {
            values,
            indices: indices.clone().reshape([rows, k]),
        };
        w_dec = both(
            &w_dec,
            SparseGradient {
                codes: of_dead(codes.values * factor.clone()),
                rows: miss.error,
            },
        );
        w_enc = both(
            &w_enc,
            SparseGradient {
                codes: of_dead(miss.along * factor),
                rows: centred,
            },
        );
        term
    });

    let b_enc = latent_sums(&w_enc.codes, coder.d_sae());
    if coder.apply_b_dec_to_input {
        // The input is x - b_dec: each pre-activation's gradient comes back through its encoder row.
        b_dec = b_dec - b_enc.clone().unsqueeze::<2>().matmul(coder.w_enc.clone());
    }
    SparseStep {
        total,
        mse,
        fvu,
        aux,
        codes,
        threshold,
        w_enc,
        b_enc,
        w_dec,
        b_dec: b_dec.squeeze_dim(0),
    }
}

/// The sum of two gradients: rows under rows, the narrower codes filled with zeros, which add nothing.
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

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

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
                w_enc: normal([F, D], 0.3),
                b_enc: normal([1, F], 0.2).squeeze_dim(0),
                w_dec: normal([F, D], 0.3),
                b_dec: normal([1, D], 0.2).squeeze_dim(0),
                threshold: None,
            };
            let x = normal([N, D], 1.0);
            let dead = Tensor::<1, Int>::from_ints([3, 9, 11, 40, 41, 42, 69], &device);
            let aux = || Aux {
                dead: dead.clone(),
                k: 9,
                coefficient: 0.4,
            };
            let step = sparse_step(&coder, x.clone(), with_aux.then(aux));

            let tracked = coder.tracked();
            let x = x.autodiff();
            let input = tracked.centre(x.clone());
            let forward = match architecture {
                Architecture::BatchTopK => batchtopk::forward(&tracked, input.clone()),
                _ => topk::forward(&tracked, input.clone()),
            };
            let mut total = losses::mse(x.clone(), forward.reconstruction.clone())
                / losses::batch_variance(x.clone());
            if with_aux {
                let residual = (x - forward.reconstruction).detach();
                let term = losses::aux_k(&tracked, input, residual, dead.clone(), 9);
                total = total + term * 0.4;
            }
            let gradients = total.backward();
            let what = format!("{architecture}, centred {centred}, aux {with_aux}");
            let host = |t: Option<Tensor<2>>| -> Vec<f32> { t.unwrap().to_data().iter().collect() };
            let vector =
                |t: Option<Tensor<1>>| -> Vec<f32> { t.unwrap().to_data().iter().collect() };
            let ours = |t: &Tensor<1>| -> Vec<f32> { t.to_data().iter().collect() };
            close(
                &format!("{what}: loss"),
                &ours(&step.total),
                &ours(&total.inner()),
            );
            close(
                &format!("{what}: w_enc"),
                &dense(&step.w_enc),
                &host(tracked.w_enc.grad(&gradients)),
            );
            close(
                &format!("{what}: w_dec"),
                &dense(&step.w_dec),
                &host(tracked.w_dec.grad(&gradients)),
            );
            close(
                &format!("{what}: b_enc"),
                &ours(&step.b_enc),
                &vector(tracked.b_enc.grad(&gradients)),
            );
            close(
                &format!("{what}: b_dec"),
                &ours(&step.b_dec),
                &vector(tracked.b_dec.grad(&gradients)),
            );
        }
    }
}
