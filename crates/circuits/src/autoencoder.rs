//! The autoencoder over what heads write whose latents are their codes.

use crate::discrete::{DiscreteSettings, INACTIVE};
use burn::tensor::{Tensor, TensorData, activation};
use lapidary_kernels::{AdamStep, Moments, adam_step};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

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
        let mut moments = (
            Moments {
                m: w_enc.zeros_like(),
                v: w_enc.zeros_like(),
            },
            Moments {
                m: b_enc.zeros_like(),
                v: b_enc.zeros_like(),
            },
            Moments {
                m: w_dec.zeros_like(),
                v: w_dec.zeros_like(),
            },
            Moments {
                m: b.zeros_like(),
                v: b.zeros_like(),
            },
        );
        for epoch in 0..settings.epochs {
            let leaf = |t: &Tensor<2>| t.clone().autodiff().require_grad();
            let leaf1 = |t: &Tensor<1>| t.clone().autodiff().require_grad();
            let tracked = Self {
                w_enc: leaf(&w_enc),
                b_enc: leaf1(&b_enc),
                w_dec: leaf(&w_dec),
                b: leaf1(&b),
            };
            let input = x.clone().autodiff();
            let f = tracked.encode(input.clone());
            let reconstruction =
                f.clone().matmul(tracked.w_dec.clone()) + tracked.b.clone().unsqueeze();
            let l1 = f.sum_dim(1).mean();
            let loss = (reconstruction - input).square().mean() + l1 * settings.l1_coefficient;
            let mut gradients = loss.backward();
            let step = AdamStep {
                lr: settings.lr as f32,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
                step: epoch as u64 + 1,
            };
            let gradient = |w: &Tensor<2>, leaf: &Tensor<2>, gradients: &mut _| {
                leaf.grad_remove(gradients)
                    .unwrap_or_else(|| w.zeros_like())
            };
            let g = gradient(&w_enc, &tracked.w_enc, &mut gradients);
            let along = (g.clone() * w_enc.clone()).sum_dim(1);
            let g = g - w_enc.clone() * along;
            let (moved, moved_moments) = adam_step(w_enc, g, moments.0, &step);
            (w_enc, moments.0) = (unit_rows(moved), moved_moments);
            let g = gradient(&w_dec, &tracked.w_dec, &mut gradients);
            (w_dec, moments.2) = adam_step(w_dec, g, moments.2, &step);
            let mut vector = |v: Tensor<1>, leaf: &Tensor<1>, moments: Moments<1>| {
                let g = leaf
                    .grad_remove(&mut gradients)
                    .unwrap_or_else(|| v.zeros_like());
                adam_step(v, g, moments, &step)
            };
            (b_enc, moments.1) = vector(b_enc, &tracked.b_enc, moments.1);
            (b, moments.3) = vector(b, &tracked.b, moments.3);
        }
        Self {
            w_enc,
            b_enc,
            w_dec,
            b,
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
