//! The autoencoder over what heads write whose latents are their codes.

use crate::discrete_settings::{DiscreteSettings, INACTIVE};
use burn::tensor::{Tensor, TensorData, activation};
use lapidary_kernels::{
    AdamStep, Moments, RowUpdate, SparseCodes, SparseGradient, adam_step, encode_threshold,
    latent_sums, reconstruct, sparse_adam_step,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// The gradients of all parameters; that of `w_dec` is `w_dec_scale` times what is here.
struct Gradients {
    w_enc: SparseGradient,
    b_enc: Tensor<1>,
    w_dec: SparseGradient,
    w_dec_scale: f32,
    b: Tensor<1>,
}

/// `f = ReLU(W_enc (x − b) + b_enc)`, reconstruction `W_decᵀ f + b`. Rows of `w_enc` have
/// norm 1, those of `w_dec` at the start.
pub(crate) struct Autoencoder {
    /// `[latents, width]`.
    w_enc: Tensor<2>,
    /// `[latents]`.
    b_enc: Tensor<1>,
    /// `[latents, width]`.
    w_dec: Tensor<2>,
    /// `[width]`.
    b: Tensor<1>,
}

impl Autoencoder {
    /// On rows, `[n, width]`, all of them in each step.
    pub(crate) fn train(x: Tensor<2>, settings: &DiscreteSettings, rng: &mut ChaCha8Rng) -> Self {
        let (device, width) = (x.device(), x.dims()[1]);
        let latents = settings.latents;
        let mut matrix = || {
            // Sums of twelve uniform numbers are nearly normal; only directions matter.
            let normal = (0..latents * width)
                .map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0);
            let values = TensorData::new(normal.collect::<Vec<f32>>(), [latents, width]);
            unit_rows(Tensor::<2>::from_data(values, &device))
        };
        let (mut w_enc, mut w_dec) = (matrix(), matrix());
        let bound = 1.0 / (width as f32).sqrt();
        let b_enc: Vec<f32> = (0..latents)
            .map(|_| rng.random_range(-bound..bound))
            .collect();
        let mut b_enc = Tensor::<1>::from_data(TensorData::new(b_enc, [latents]), &device);
        let mut b = Tensor::<1>::zeros([width], &device);
        let mut moments = (zeros(&w_enc), zeros(&b_enc), zeros(&w_dec), zeros(&b));
        for epoch in 0..settings.epochs {
            let now = Self {
                w_enc,
                b_enc,
                w_dec,
                b,
            };
            let g = now.gradients(&x, settings.l1_coefficient);
            Self {
                w_enc,
                b_enc,
                w_dec,
                b,
            } = now;
            let adam = AdamStep {
                lr: settings.lr as f32,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
                step: epoch as u64 + 1,
            };
            let update = |scale, unit_rows| RowUpdate {
                adam,
                scale,
                unit_rows,
            };
            (w_enc, moments.0) = sparse_adam_step(w_enc, g.w_enc, moments.0, &update(1.0, true));
            (b_enc, moments.1) = adam_step(b_enc, g.b_enc, moments.1, &adam);
            let update = update(g.w_dec_scale, false);
            (w_dec, moments.2) = sparse_adam_step(w_dec, g.w_dec, moments.2, &update);
            (b, moments.3) = adam_step(b, g.b, moments.3, &adam);
        }
        Self {
            w_enc,
            b_enc,
            w_dec,
            b,
        }
    }

    /// Of `mean (x̂ − x)² + λ mean_rows Σ f`, the mean of the first term over all elements. The
    /// active latents of a row have a part in them.
    fn gradients(&self, x: &Tensor<2>, l1_coefficient: f64) -> Gradients {
        let [n, width] = x.dims();
        let centred = x.clone() - self.b.clone().unsqueeze();
        let zeros = self.b_enc.zeros_like();
        let (w_enc, b_enc) = (self.w_enc.clone(), self.b_enc.clone());
        let f = encode_threshold(centred.clone(), w_enc, b_enc, zeros); // [n, most active]
        let found = reconstruct(&f, self.w_dec.clone(), self.b.clone(), x.clone());
        let of_error = 2.0 / (n * width) as f64;
        // What stands where a row has no further latent is 0, as its value is.
        let active = f.values.clone().greater_elem(0.0).float();
        let grad_z = (found.along * of_error + l1_coefficient / n as f64) * active;
        let grad_z = SparseCodes {
            values: grad_z,
            indices: f.indices.clone(),
        };
        let b_enc = latent_sums(&grad_z, self.b_enc.dims()[0]); // [latents]
        let through_encoder = b_enc.clone().unsqueeze::<2>().matmul(self.w_enc.clone());
        let of_errors = found.error.clone().sum_dim(0) * of_error; // [1, width]
        Gradients {
            w_enc: SparseGradient {
                codes: grad_z,
                rows: centred,
            },
            b_enc,
            w_dec: SparseGradient {
                codes: f,
                rows: found.error,
            },
            w_dec_scale: of_error as f32,
            b: (of_errors - through_encoder).squeeze_dim::<1>(0),
        }
    }

    fn encode(&self, x: Tensor<2>) -> Tensor<2> {
        let x = x - self.b.clone().unsqueeze();
        let z = x.matmul(self.w_enc.clone().transpose()) + self.b_enc.clone().unsqueeze();
        activation::relu(z)
    }

    /// The strongest latent of each row.
    pub(crate) fn codes(&self, x: Tensor<2>) -> Vec<i32> {
        let (values, indices) = self.encode(x).max_dim_with_indices(1);
        let values = values.into_data();
        let indices = indices.into_data();
        let pairs = values.iter::<f32>().zip(indices.iter::<i32>());
        pairs
            .map(|(value, index)| if value > 0.0 { index } else { INACTIVE })
            .collect()
    }
}

fn unit_rows(w: Tensor<2>) -> Tensor<2> {
    let norms = w.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    w / norms
}

fn zeros<const D: usize>(w: &Tensor<D>) -> Moments<D> {
    Moments {
        m: w.zeros_like(),
        v: w.zeros_like(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use rand::SeedableRng;

    /// Every parameter, against the automatic derivative.
    #[test]
    fn gradients_are_those_of_automatic_differentiation() {
        let device = Device::flex();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut random = |shape: [usize; 2]| {
            let values: Vec<f32> = (0..shape[0] * shape[1])
                .map(|_| rng.random_range(-1.0..1.0))
                .collect();
            Tensor::<2>::from_data(TensorData::new(values, shape), &device)
        };
        let (n, width, latents) = (7, 5, 9);
        let x = random([n, width]);
        let of = Autoencoder {
            w_enc: random([latents, width]),
            b_enc: random([1, latents]).squeeze_dim(0),
            w_dec: random([latents, width]),
            b: random([1, width]).squeeze_dim(0),
        };
        let found = of.gradients(&x, 0.3);
        let tracked = Autoencoder {
            w_enc: of.w_enc.clone().autodiff().require_grad(),
            b_enc: of.b_enc.clone().autodiff().require_grad(),
            w_dec: of.w_dec.clone().autodiff().require_grad(),
            b: of.b.clone().autodiff().require_grad(),
        };
        let input = x.autodiff();
        let f = tracked.encode(input.clone());
        let reconstruction =
            f.clone().matmul(tracked.w_dec.clone()) + tracked.b.clone().unsqueeze();
        let loss = (reconstruction - input).square().mean() + f.sum_dim(1).mean() * 0.3;
        let gradients = loss.backward();
        fn compare<const D: usize>(found: &Tensor<D>, expected: Tensor<D>) {
            let gap = (found.clone() - expected.clone()).abs().max();
            let largest = expected.abs().max().into_scalar::<f32>();
            assert!(largest > 0.0 && gap.into_scalar::<f32>() < 1e-5 * largest);
        }
        let dense = |gradient: &SparseGradient, scale: f32| {
            let mut sum = Tensor::<2>::zeros([latents, width], &device);
            let (values, indices) = (&gradient.codes.values, &gradient.codes.indices);
            for row in 0..n {
                for entry in 0..values.dims()[1] {
                    let at = |t: Tensor<2>| t.slice([row..row + 1, entry..entry + 1]);
                    let value = at(values.clone()).into_scalar::<f32>() * scale;
                    let index = indices.clone().slice([row..row + 1, entry..entry + 1]);
                    let latent = index.into_scalar::<i32>() as usize;
                    let part = gradient.rows.clone().narrow(0, row, 1) * value;
                    let old = sum.clone().narrow(0, latent, 1);
                    sum = sum.slice_assign([latent..latent + 1, 0..width], old + part);
                }
            }
            sum
        };
        let w_enc = dense(&found.w_enc, 1.0);
        let w_dec = dense(&found.w_dec, found.w_dec_scale);
        compare(&w_enc, tracked.w_enc.grad(&gradients).unwrap());
        compare(&found.b_enc, tracked.b_enc.grad(&gradients).unwrap());
        compare(&w_dec, tracked.w_dec.grad(&gradients).unwrap());
        compare(&found.b, tracked.b.grad(&gradients).unwrap());
    }
}
